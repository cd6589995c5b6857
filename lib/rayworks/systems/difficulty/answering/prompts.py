r"""The prompts of Easy2Hard-Bench's evaluation, zero-shot: one builder for each set, from a row to the text.

The wording follows the protocol as third parties report it: sections between START and END markers, and a final
answer in a LaTeX box wherever ``answer_scoring`` looks for one.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from rayworks.core.errors import ConfigError, DataError

Row = Mapping[str, Any]

_CODEFORCES_SECTIONS = ("problem_main", "problem_note", "input_spec", "output_spec", "sample_inputs", "sample_outputs")


def mathematics(row: Row, column: str = "problem") -> str:
    r"""AMC: step-by-step work on ``problem``, the answer in ``\boxed{}``; GSM8K has its problems in ``question``."""
    return (
        "Solve the following mathematics problem. Show your work in detail, step by step, and put the final answer "
        f"inside \\boxed{{}}.\n\n{_section('problem', field(row, column))}"
    )


def competition_problem(row: Row) -> str:
    """CHAMP: the problem's ``text``, and the final answer as the last number of the reply."""
    return (
        "Solve the following mathematics problem. Show your work in detail, step by step, and end with the final answer "
        f"as a single number on a line of its own.\n\n{_section('problem', field(row, 'text'))}"
    )


def program(row: Row) -> str:
    """Codeforces: one fenced block of Python that reads standard input, from the sections of the statement."""
    sections = [_section(name, field(row, name)) for name in _CODEFORCES_SECTIONS if _written(row.get(name))]
    if not sections:
        raise DataError(f"row: has no column {_CODEFORCES_SECTIONS[0]!r} with text; give a row of E2H-Codeforces")
    return (
        "Solve the following programming contest problem. Reply with executable Python 3.10 code only, in one fenced "
        "code block, without comments. Read the input with sys.stdin.readline and print the output as specified.\n\n"
        + "\n\n".join(sections)
    )


def chess_move(row: Row) -> str:
    """Lichess: the position in ``fen``, and in ``pgn`` where the row has it; one move in standard notation."""
    position = [_section("fen", field(row, "fen"))]
    if _written(row.get("pgn")):
        position.append(_section("pgn", row["pgn"]))
    return (
        "Find the best move for the side to move in the following chess position. Reply with that one move in standard "
        "algebraic notation, inside \\boxed{}.\n\n" + "\n\n".join(position)
    )


def multiple_choice(row: Row) -> str:
    """ARC: ``question`` and the labelled ``choices``; the label alone in the box."""
    choices = field(row, "choices")
    options = "\n".join(f"{label}. {text}" for label, text in zip(choices["label"], choices["text"], strict=True))
    return (
        "Answer the following multiple-choice question. Reply with the label of the right choice inside \\boxed{}.\n\n"
        f"{_section('question', field(row, 'question'))}\n\n{_section('choices', options)}"
    )


def fill_the_blank(row: Row) -> str:
    """Winogrande: ``sentence`` with a blank and two options; 1 or 2 in the box."""
    return (
        "Choose the option that fits the blank (_) in the following sentence. Reply with its number, 1 or 2, inside "
        f"\\boxed{{}}.\n\n{_section('sentence', field(row, 'sentence'))}\n\n"
        + _section("options", f"1. {field(row, 'option1')}\n2. {field(row, 'option2')}")
    )


PROMPTS: dict[str, Callable[[Row], str]] = {
    "E2H-AMC": mathematics,
    "E2H-ARC": multiple_choice,
    "E2H-Codeforces": program,
    "E2H-GSM8K": partial(mathematics, column="question"),
    "E2H-Lichess": chess_move,
    "E2H-Winogrande": fill_the_blank,
    "champ": competition_problem,
    "chess-mates": chess_move,
}
"""The builder of each benchmark; the same names as ``answer_scoring.SCORERS``."""


def build(benchmark: str, row: Row) -> str:
    """The prompt for a row of a benchmark, one of ``PROMPTS``.

    Raises:
        ConfigError: the benchmark does not exist.
        DataError: the row lacks a column the prompt needs.
    """
    if benchmark not in PROMPTS:
        raise ConfigError(f"benchmark {benchmark!r}: unknown; choose one of {', '.join(PROMPTS)}")
    return PROMPTS[benchmark](row)


def _section(name: str, content: object) -> str:
    text = content if isinstance(content, str) else "\n\n".join(map(str, _listed(content)))
    return f"[{name.upper()}_START]\n{text.strip()}\n[{name.upper()}_END]"


def _listed(content: object) -> Iterable[object]:
    return content if isinstance(content, Iterable) else [content]


def _written(content: object) -> bool:
    """Whether the value holds text: not missing, not empty; a list may come as an array."""
    return (
        bool(content.strip())
        if isinstance(content, str)
        else isinstance(content, Iterable) and any(True for _ in content)
    )


def field(row: Row, name: str) -> Any:
    """A column of a row.

    Raises:
        DataError: it has none of that name.
    """
    if name not in row:
        raise DataError(f"row: has no column {name!r}; it has {', '.join(map(str, row))}")
    return row[name]
