"""Rules for right answers, on what models write and on what nobody should run."""

from fractions import Fraction
from pathlib import Path

import pytest

from rayworks.core.sandbox import Limits
from rayworks.systems.reasoning.tasks import symbolic_equality, verifiers
from rayworks.systems.reasoning.tasks.procedural import as_question, written_out
from rayworks.systems.reasoning.tasks.questions import Question, Verdict

SUM = as_question([3, 4, -7, -5], "?{question}\n")
BOMB = "9**9**9**9"


def question(answer: str, **data: object) -> Question:
    return Question("uid", "prompt", answer, data)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("so 5 + 7 = 12.", 12),
        ("The answer is 1,234,567 apples", 1234567),
        ("1,23", 23),
        ("$1,200.50", Fraction("1200.5")),
        ("-$5", -5),
        ("50%", 50),
        ("-0", 0),
        ("1e3", 1000),
        ("2.5E-1 kg", Fraction(1, 4)),
        ("3/4", Fraction(3, 4)),
        ("-3 / 4 of it", Fraction(-3, 4)),
        (".5", Fraction(1, 2)),
        ("−7", -7),
        ("10-3", 3),
        ("9apples", 9),
        ("nine apples", None),
        ("H2O", None),
        ("1/0", None),
        ("3/4.5", Fraction("4.5")),
        ("1,234,56", 56),
        ("", None),
        ("__import__('os')", None),
        ("1e999999999", None),
        ("9" * 10_000, None),
        ("9" * 10_000 + " is 7", 7),
        ("1,111" * 2_000, None),
        (BOMB, 9),
    ],
)
def test_the_last_number_is_read_exactly(text: str, value: Fraction | int | None) -> None:
    assert verifiers.last_number(text) == value


def test_number_compares_values_and_says_what_it_read() -> None:
    assert verifiers.number(question("9 apples"), "4 + 5 = 9.0 apples") == Verdict("9", True)
    assert verifiers.number(question("0.75"), "3/4").correct
    assert verifiers.number(question("9"), "it is 8") == Verdict("8", False, "says 8, not 9")
    assert verifiers.number(question("9"), "nine") == Verdict(None, False, "has no number for an answer")


def test_number_looks_where_the_pattern_says_at_its_last_match() -> None:
    pattern = r"answer: (.*)"
    assert verifiers.number(question("9"), "answer: 8\nanswer: 9\nchecked 2 times", pattern).correct
    assert verifiers.number(question("9"), "9", pattern).answer is None
    assert verifiers.number(question("9"), "9", "(8)?9").answer is None


def test_lines_wants_every_line_right_and_the_total() -> None:
    right = written_out([3, 4, -7, -5])
    assert right == "3+4=7\n7-7=0\n0-5=-5\n#-5"
    assert verifiers.lines(SUM, right) == Verdict("-5", True)


@pytest.mark.parametrize(
    ("response", "answer", "reason"),
    [
        ("3+4=8\n8-7=0\n0-5=-5\n#-5", "-5", "line 1 is wrong: 3+4=8"),  # two errors that cancel out
        ("3+4=7\n7-8=-1\n-1-4=-5\n#-5", "-5", "line 2 is wrong: 7-8=-1"),
        ("3+4=7\n7-7=0\n#0", "0", "has 2 steps, not 3"),
        ("3+4=7\n7-7=0\n0-5=-5\n0-5=-5\n#-5", "-5", "has 4 steps, not 3"),
        ("3+4=7\n7-7=0\n0-5=-5\n#5", "5", "gives 5, not -5"),
        ("3+4=7\n7-7=0\n0-5=-5\n", None, "does not end with # and a number"),
        ("3+4=7\n7-7=0\n0-5=-5\n#-5\n", None, "has 4 steps, not 3"),
        ("#-5", "-5", "has 0 steps, not 3"),
        ("", None, "has 0 steps, not 3"),
        ("3+4=٧\n7-7=0\n0-5=-5\n#-5", "-5", "line 1 is wrong: 3+4=٧"),
        (BOMB, None, "has 0 steps, not 3"),
        ("+" * 10_000 + "\n#-5", "-5", "line 1 is no step a+b=c"),
    ],
)
def test_lines_says_what_is_wrong(response: str, answer: str | None, reason: str) -> None:
    assert verifiers.lines(SUM, response) == Verdict(answer, False, reason)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2*(x+1)", "2x+2", True),
        ("sqrt(8)", "2 sqrt(2)", True),
        ("x^2-1", "(x-1)(x+1)", True),
        ("1/2", "0.5", True),
        ("x+1", "x", False),
        ("2x", "2*x", True),
        ("1 2", "12", False),
        ("1/0", "1", False),
    ],
)
def test_expressions_are_compared_by_algebra(first: str, second: str, same: bool) -> None:
    assert symbolic_equality.equal(first, second) is same


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch HERE')",
        "x.y",
        "lambda: 1",
        "'a'",
        "[1]",
        "((((",
        "x" * 10_000,
        "cosx",
        "1 2",
        "",
    ],
)
def test_what_is_no_expression_is_never_built(text: str, tmp_path: Path) -> None:
    assert not symbolic_equality.readable(text)
    assert verifiers.symbolic(question("x"), text).answer is None


def test_algebra_that_takes_for_ever_is_ended() -> None:
    assert symbolic_equality.readable(BOMB)
    assert verifiers.symbolic(question("x+1"), BOMB, seconds=1) == Verdict(BOMB, False, f"says {BOMB}, not x+1")


def test_symbolic_reads_the_last_line_behind_its_equals_sign() -> None:
    assert verifiers.symbolic(question("2x+2"), "Let us expand.\ny = 2x + 2.") == Verdict("2x + 2", True)


def test_programs_are_judged_by_their_tests() -> None:
    doubling = question("", inputs=["2", "5"], outputs=["4", "10"])
    limits = Limits(seconds=5)
    assert verifiers.unit_tests(doubling, "Here:\n```python\nprint(2 * int(input()))\n```", limits).correct
    assert verifiers.unit_tests(doubling, "print(4)", limits).reason == "fails a test"
    assert verifiers.unit_tests(doubling, "  ").answer is None


COUNTDOWN = question("", entry={"metadata": {"numbers": [2, 3, 7], "target": 13}})


@pytest.mark.parametrize(
    ("response", "answer", "reason"),
    [
        ("7 + 2*3", "7 + 2*3", ""),
        ("I try.\n(2 * 3) + 7", "(2 * 3) + 7", ""),
        ("7+3+3", "7+3+3", "does not use each number once"),
        ("7*2-3", "7*2-3", "does not make the target"),
        ("7/(2-2)+3", None, "has no arithmetic expression for an answer"),
        ("13", "13", "does not use each number once"),
        ("7**3**2", None, "has no arithmetic expression for an answer"),
        ("7//3", None, "has no arithmetic expression for an answer"),
        ("2(3)", None, "has no arithmetic expression for an answer"),
        ("__import__('os')", None, "has no arithmetic expression for an answer"),
        ("(" * 10_000, None, "has no arithmetic expression for an answer"),
        ("-" * 500, None, "has no arithmetic expression for an answer"),
        ("", None, "has no arithmetic expression for an answer"),
    ],
)
def test_countdown_is_calculated_not_run(response: str, answer: str | None, reason: str) -> None:
    assert verifiers.countdown(COUNTDOWN, response) == Verdict(answer, not reason, reason)
