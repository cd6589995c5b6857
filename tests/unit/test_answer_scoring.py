from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.difficulty.answering import symbolic_equality
from rayworks.systems.difficulty.answering.answer_scoring import SCORERS, last_box, last_number, score
from rayworks.systems.difficulty.answering.prompts import PROMPTS, build

MATE_IN_ONE = "6k1/5ppp/8/8/8/8/8/R3R1K1 w - - 0 1"
ROWS: dict[str, dict[str, Any]] = {
    "E2H-AMC": {"problem": "p", "answer": r"\frac{3}{2}"},
    "E2H-ARC": {"question": "q", "choices": {"label": ["A", "B", "C"], "text": ["x", "y", "z"]}, "answerKey": "B"},
    "E2H-Codeforces": {
        "problem_main": "add",
        "inputs": ["1 2", "3 4"],
        "answers": ["3", "7"],
        "sample_inputs": ["1 2"],
    },
    "E2H-GSM8K": {"question": "q", "answer": "So 3 * 416 = 1248.\n#### 1,248"},
    "E2H-Lichess": {"fen": MATE_IN_ONE, "pgn": "1. e4", "answer_uci": "a1a8", "answer_san": "Ra8#"},
    "E2H-Winogrande": {"sentence": "The _ fell.", "option1": "cup", "option2": "cat", "answer": "2"},
    "champ": {"text": "t", "answer": "-1/2"},
    "chess-mates": {"fen": MATE_IN_ONE, "answer_uci": "a1a8"},
}

RIGHT = {
    "E2H-AMC": [r"so \boxed{1.5}", r"\boxed{1} no, $\boxed{ \dfrac32 }$.", r"\boxed{1\frac{1}{2}}"],
    "E2H-ARC": ["B", r"It can not be A. \boxed{B}", "The answer is (B), not C.", "**Answer:** B", "A guess: B."],
    "E2H-Codeforces": [
        "Here:\n```python\nprint(sum(map(int, input().split())))\n```\nDone",
        "print(sum(map(int, input().split())))",
        "```py\nprint(0)\n```\n```\nimport sys\nprint(sum(int(x) for x in sys.stdin.readline().split()))",
    ],
    "E2H-GSM8K": ["3 x 416 = 1248", "#### $1,248\nI checked 2 times.", r"\boxed{1248} after 5 tries", "1248.00"],
    "E2H-Lichess": ["Ra8#", "a1a8", r"\boxed{Re8#}", "I play 1. Ra8#.", "Best is **Ra8**!"],
    "E2H-Winogrande": ["2", "Option 1 is wrong; the answer is 2.", r"\boxed{2}"],
    "champ": ["The minimum is -1/2.", "so -0.5", "1 then -1/2"],
    "chess-mates": ["Ra8#", "e1e8"],
}

WRONG = {
    "E2H-AMC": ["1.5", r"\boxed{2}", r"\boxed{", r"\boxed{\frac{3}{}}", r"\boxed{__import__('os')}"],
    "E2H-ARC": ["", "C", "B or rather C", "Because", "b"],
    "E2H-Codeforces": ["", "```python\nprint(3)\n```", "I can not.", "print("],
    "E2H-GSM8K": ["", "1249", "#### 1249\n1248", "1248.5"],
    "E2H-Lichess": ["", "Kf1", "a1a7", "Qh5", "♜"],
    "E2H-Winogrande": ["", "1", "12", "2.5"],
    "champ": ["1/2", "-1/2 or 3", "-1/0", "x"],
    "chess-mates": ["Kf1"],
}

hostile = st.one_of(
    st.text(max_size=200),
    st.lists(
        st.sampled_from(
            [r"\boxed{", "}", "{", r"\frac", "####", "```", "```python\n", "9" * 5000, "1/0", "-", "^", "(", "B", "2"]
        ),
        max_size=8,
    ).map("".join),
)


@pytest.mark.parametrize(("benchmark", "output"), [(name, text) for name in RIGHT for text in RIGHT[name]])
def test_right_answers(benchmark: str, output: str) -> None:
    assert score(benchmark, output, ROWS[benchmark]) == 1.0


@pytest.mark.parametrize(("benchmark", "output"), [(name, text) for name in WRONG for text in WRONG[name]])
def test_wrong_answers(benchmark: str, output: str) -> None:
    assert score(benchmark, output, ROWS[benchmark]) == 0.0


@pytest.mark.parametrize("benchmark", sorted(set(SCORERS) - {"E2H-AMC", "E2H-Codeforces"}))
@given(output=hostile)
def test_whatever_the_output_is_there_is_a_score(benchmark: str, output: str) -> None:
    assert score(benchmark, output, ROWS[benchmark]) in (0.0, 1.0)


@settings(max_examples=300)
@given(latex=hostile)
def test_whatever_the_answer_is_it_is_translated_or_not_understood(latex: str) -> None:
    translated = symbolic_equality.translate(latex)
    assert translated is None or "_" not in translated


def test_a_move_that_does_not_mate_is_no_substitute() -> None:
    row = {"fen": MATE_IN_ONE, "answer_uci": "g1f1"}
    assert score("E2H-Lichess", "Kf1", row) == 1.0
    assert score("E2H-Lichess", "Ra8#", row) == 0.0


@given(st.fractions(max_denominator=10**6), st.text("ab .:=\n", max_size=20))
def test_the_last_number_is_read_exactly(number: Fraction, before: str) -> None:
    assert last_number(f"7 {before} {number}") == number
    assert last_number(f"{int(number):,}.") == int(number)


@given(st.recursive(st.text("abc1+", max_size=5), lambda inner: st.builds(lambda a, b: f"{a}{{{b}}}", inner, inner)))
def test_the_last_box_keeps_its_braces(content: str) -> None:
    assert last_box(rf"\boxed{{x}} and \boxed{{{content}}} then \boxed{{open") == content.strip()


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (r"\frac{1}{2}", "0.5", True),
        (r"2\sqrt{3}", r"\sqrt{12}", True),
        (r"\dfrac{\sqrt{2}}{2}", r"\frac1{\sqrt2}", False),
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", True),
        ("1,234", "1234", True),
        (r"45^\circ", "45", True),
        (r"25\%", "25", True),
        ("x = 5", "5", True),
        ("(1, 2)", r"\left(1, \frac{4}{2}\right)", True),
        ("(1, 2)", "(2, 1)", False),
        (r"x^2+2x+1", r"(x+1)^{2}", True),
        (r"\binom{6}{2}", "15", True),
        ("5!", "120", True),
        (r"2^{10}", "1024", True),
        (r"\pi r^2", r"r^2\pi", True),
        (r"\text{5 cm}", "5", False),
        (r"5\text{ cm}", "5", True),
        ("1/0", "1", False),
        ("1 1/2", "11/2", False),
        ("", "", False),
        ("import os", "1", False),
    ],
)
def test_symbolic_equality(first: str, second: str, same: bool) -> None:
    assert symbolic_equality.equal(first, second) is same


@pytest.mark.parametrize("part", ["\\boxed{", "```", "```\n", "answer", "1,234", "{", " ", "####", "(", "h1h8 ", "9"])
def test_long_outputs_are_read_in_linear_time(part: str) -> None:
    for benchmark, row in ROWS.items():
        assert score(benchmark, "```" + part * 20_000 + "\nanswer" + " " * 50_000, row) == 0.0


def test_a_comparison_without_end_is_given_up() -> None:
    assert not symbolic_equality.equal("9^{9^{9^{9}}}", "1", seconds=1)


def test_rows_without_a_usable_answer_are_named() -> None:
    for benchmark, row, message in [
        ("E2H-GSM8K", {"answer": "none"}, "no number"),
        ("E2H-ARC", {"choices": {"label": ["A"]}}, "no column 'answerKey'"),
        ("E2H-Lichess", {"fen": MATE_IN_ONE, "answer_uci": "h7h5"}, "neither is a legal move"),
        ("E2H-Lichess", {"fen": "nothing", "answer_uci": "h7h5"}, "not a position"),
        ("E2H-Codeforces", {"inputs": ["1"], "answers": []}, "1 and 0 tests"),
    ]:
        with pytest.raises(DataError, match=message):
            score(benchmark, "1", row)
    with pytest.raises(ConfigError, match="E2H-AMC"):
        score("nothing", "1", {})


@pytest.mark.parametrize("benchmark", PROMPTS)
def test_prompts_hold_the_row_and_never_the_answer(benchmark: str) -> None:
    row = {**ROWS[benchmark], **({"answer": "secret"} if "answer" in ROWS[benchmark] else {"answer_uci": "secret"})}
    prompt = build(benchmark, row)
    assert "secret" not in prompt
    for column in ("problem", "question", "sentence", "option1", "fen", "text", "problem_main"):
        if column in row:
            assert row[column] in prompt
    with pytest.raises(DataError, match="has no column"):
        build(benchmark, {})


def test_codeforces_sections_have_markers_and_empty_ones_are_left_out() -> None:
    prompt = build("E2H-Codeforces", {"problem_main": "Add.", "problem_note": "", "sample_inputs": ["1 2", "3 4"]})
    assert "[PROBLEM_MAIN_START]\nAdd.\n[PROBLEM_MAIN_END]" in prompt
    assert "[SAMPLE_INPUTS_START]\n1 2\n\n3 4\n[SAMPLE_INPUTS_END]" in prompt
    assert "NOTE" not in prompt
    with pytest.raises(ConfigError, match="champ"):
        build("nothing", {})
