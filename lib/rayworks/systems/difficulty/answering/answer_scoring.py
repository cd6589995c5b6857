r"""Score a model's output: one scorer per benchmark, 1.0 or 0.0 for an output and the row it answers.

Whatever the output is, a scorer returns a score: an unreadable one is wrong. The rules are those of
Easy2Hard-Bench's protocol; where a model is asked for a LaTeX box, the last box is its answer.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING

from rayworks.core.errors import ConfigError, DataError
from rayworks.core.sandbox import Limits, passes_tests
from rayworks.systems.difficulty.answering import symbolic_equality
from rayworks.systems.difficulty.answering.prompts import Row, field

if TYPE_CHECKING:
    import chess

Scorer = Callable[[str, Row], float]

_NUMBER = re.compile(r"(?<![\w.)\]}])-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:/\d+(?!\.?\d))?|(?<![\w.])-?\.\d+")
_FENCE = re.compile(r"```[^\S\n]*(?:py(?:thon[\d.]*)?[^\S\n]*)?\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_LAST_CHARACTERS = 400


def last_number(text: str) -> Fraction | None:
    """The last number written in a text, exactly: an integer, decimal or fraction, with or without thousands commas."""
    found = _NUMBER.findall(text.replace("−", "-"))
    try:
        return Fraction(found[-1].replace(",", "")) if found else None
    except (ValueError, ZeroDivisionError):
        return None


def last_box(text: str) -> str | None:
    r"""What is in the last complete ``\boxed{...}`` of a text, with braces balanced; None where there is none."""
    last: tuple[int, int] | None = None
    opened: list[tuple[bool, int]] = []
    for brace in re.finditer(r"(\\f?boxed\s*)?\{|\}", text):
        if brace[0] != "}":
            opened.append((brace[1] is not None, brace.end()))
        elif opened:
            is_box, start = opened.pop()
            if is_box and (last is None or start > last[0]):
                last = (start, brace.start())
    return text[slice(*last)].strip() if last else None


def score_expression(output: str, row: Row, seconds: float = 5.0) -> float:
    """AMC: the boxed answer equals ``answer`` symbolically; the comparison may take ``seconds`` of CPU."""
    given, gold = last_box(output), str(field(row, "answer")).strip()
    if given is None:
        return 0.0
    gold = last_box(gold) or gold
    try:
        return float(_compact(given) == _compact(gold) or symbolic_equality.equal(given, gold, seconds))
    except ModuleNotFoundError as error:
        raise DataError(str(error)) from None


def score_word_problem(output: str, row: Row) -> float:
    """GSM8K: the number after the last ``####``, or in the last box, or the last one, equals that of ``answer``."""
    gold = last_number(str(field(row, "answer")).rpartition("####")[2])
    _, mark, after = output.rpartition("####")
    candidate = after.strip().partition("\n")[0] if mark else last_box(output) or output
    return _equal_numbers(last_number(candidate), gold)


def score_number(output: str, row: Row) -> float:
    """CHAMP and others with a plain number in ``answer``: the last number in the last 400 characters equals it."""
    return _equal_numbers(last_number(output[-_LAST_CHARACTERS:]), last_number(str(field(row, "answer"))))


def score_program(output: str, row: Row, limits: Limits | None = None) -> float:
    """Codeforces: the program in the last fenced block (all of the output if there is none) passes every stored test.

    The tests are ``inputs`` and ``answers``, or the samples where the row has no others.
    """
    blocks = _FENCE.findall(output)
    source = blocks[-1] if blocks else output
    names = ("inputs", "answers") if row.get("inputs") is not None else ("sample_inputs", "sample_outputs")
    inputs, outputs = (list(field(row, name)) for name in names)
    if not inputs or len(inputs) != len(outputs):
        raise DataError(f"{names[0]}, {names[1]}: {len(inputs)} and {len(outputs)} tests; drop the row")
    return float(passes_tests(source, inputs, outputs, limits))


def score_move(output: str, row: Row) -> float:
    """Lichess: the boxed move, or the last word that is one, is ``answer_uci`` or ``answer_san``; either is enough.

    Where the answer mates at once, so may any other move.
    """
    board = _board(row)
    answer = next((move for key in ("answer_uci", "answer_san") if (move := _move(board, _first(row.get(key))))), None)
    if answer is None:
        raise DataError(f"answer_uci, answer_san: neither is a legal move in fen {board.fen()!r}; drop the row")
    words = (last_box(output) or output).split()
    played = next((move for word in reversed(words) if (move := _move(board, word))), None)
    if played is None:
        return 0.0
    return float(played == answer or (_mates(board, answer) and _mates(board, played)))


def score_letter(output: str, row: Row) -> float:
    """ARC: the label chosen is ``answerKey``."""
    return _chosen(output, [str(label) for label in field(row, "choices")["label"]], str(field(row, "answerKey")))


def score_option(output: str, row: Row) -> float:
    """Winogrande: the option chosen, 1 or 2, is ``answer``."""
    return _chosen(output, ["1", "2"], str(field(row, "answer")))


SCORERS: dict[str, Scorer] = {
    "E2H-AMC": score_expression,
    "E2H-ARC": score_letter,
    "E2H-Codeforces": score_program,
    "E2H-GSM8K": score_word_problem,
    "E2H-Lichess": score_move,
    "E2H-Winogrande": score_option,
    "champ": score_number,
    "chess-mates": score_move,
}
"""The scorer of each benchmark."""


def score(benchmark: str, output: str, row: Row) -> float:
    """The score of an output under the rule of its benchmark, one of ``SCORERS``.

    Raises:
        ConfigError: the benchmark does not exist.
        DataError: the row lacks a column that the rule needs, or holds no usable answer.
    """
    if benchmark not in SCORERS:
        raise ConfigError(f"benchmark {benchmark!r}: unknown; choose one of {', '.join(SCORERS)}")
    return SCORERS[benchmark](output, row)


def _compact(text: str) -> str:
    return re.sub(r"[\s$]+", "", text).rstrip(".")


def _equal_numbers(given: Fraction | None, gold: Fraction | None) -> float:
    if gold is None:
        raise DataError("answer: has no number in it; drop the row")
    return float(given == gold)


def _chosen(output: str, labels: list[str], answer: str) -> float:
    """A label in the last box, otherwise after the last "answer is" or "answer:", otherwise the last that stands alone."""
    label = "|".join(map(re.escape, labels))
    alone = rf"(?<![\w.])(?:{label})(?!\w|\.\d)"
    named = re.findall(rf"(?i:answer(?:\s{{1,3}}is)?)\s{{0,3}}:?\s{{0,3}}[(*\"]{{0,3}}({alone})", output)
    found = re.findall(alone, last_box(output) or "") or named or re.findall(alone, output)
    return float(bool(found) and found[-1] == answer)


def _board(row: Row) -> "chess.Board":
    try:
        import chess
    except ImportError:
        raise DataError("chess puzzles: need the chess package; pip install rayworks[difficulty]") from None
    try:
        return chess.Board(str(field(row, "fen")))
    except ValueError as error:
        raise DataError(f"fen: is not a position ({error}); drop the row") from None


def _first(moves: object) -> str:
    return str(moves).split()[0] if str(moves or "").strip() else ""


def _move(board: "chess.Board", word: str) -> "chess.Move | None":
    """The legal move that a word names in UCI or standard notation, whatever dots and numbers surround it."""
    bare = re.sub(r"^\d+\.+", "", word.strip("\"'`*_$,;:.!?()[]{}"))
    for parse in (board.parse_uci, board.parse_san):
        try:
            return parse(bare.lower() if parse == board.parse_uci else bare)
        except ValueError:
            continue
    return None


def _mates(board: "chess.Board", move: "chess.Move") -> bool:
    after = board.copy(stack=False)
    after.push(move)
    return after.is_checkmate()
