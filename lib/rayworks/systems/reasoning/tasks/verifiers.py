"""Rules for right answers. Each is a pure function of texts, and whatever a model wrote, it returns a verdict.

A response is right only if it says the answer; one in which no answer can be found has none, and is wrong.
"""

import ast
import operator
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from rayworks.core.sandbox import Limits, passes_tests
from rayworks.systems.reasoning.tasks import symbolic_equality
from rayworks.systems.reasoning.tasks.questions import Question, Verdict

_LONGEST = 2000
"""Characters at the end of a response in which its answer is looked for."""
_NUMBER = re.compile(
    r"(?<![\w.)\]}])-?(?:\d{1,3}(?:,\d{3})++(?![,\d])|\d++)(?:\.\d++)?+"
    r"(?:[eE][+-]?\d{1,3}(?!\d)|\s?/\s?\d++(?!\.\d))?+(?![eE][+-]?\d)"
    r"|(?<![\w.])-?\.\d+"
)
_LINE = re.compile(r"(-?\d+)([+-]\d+)=(-?\d+)")
_FINAL = re.compile(r"#(-?\d+)")
_FENCE = re.compile(r"```[^\S\n]*(?:py(?:thon[\d.]*)?[^\S\n]*)?\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_ARITHMETIC: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def written_numbers(text: str) -> list[str]:
    """The numbers written in digits in the last 2,000 characters: integers, decimals, fractions ``3/4`` and ``1e3``.

    Thousands commas, units, ``$`` and ``%`` are read over: 50% is 50. Words are no numbers.
    """
    end = text if len(text) <= _LONGEST else re.sub(r"^\S+", "", text[-_LONGEST:])
    return _NUMBER.findall(re.sub(r"[$€£]", "", end.replace("−", "-")))


def last_number(text: str) -> Fraction | None:
    """The last of :func:`written_numbers`, exactly; None where there is none, or it divides by 0."""
    found = written_numbers(text)
    try:
        return Fraction(re.sub(r"[,\s]", "", found[-1])) if found else None
    except (ValueError, ZeroDivisionError):
        return None


def answer_text(response: str, pattern: str | None, lines: int = 1) -> str | None:
    """The group of the pattern's last match, or the last lines, from the last that is not empty; None where there is none."""
    if pattern is None:
        return "\n".join(response.strip()[-_LONGEST:].splitlines()[-lines:]) or None
    matches = list(re.finditer(pattern, response))
    return (matches[-1][1] or "").strip()[-_LONGEST:] or None if matches else None


def number(question: Question, response: str, pattern: str | None = None) -> Verdict:
    """Whether the response's last number, or that in the pattern's group, is the answer's."""
    text = response if pattern is None else answer_text(response, pattern)
    given = None if text is None else last_number(text)
    if given is None:
        return Verdict(None, False, "has no number for an answer")
    return _verdict(str(given), given == last_number(question.answer), question)


def symbolic(question: Question, response: str, pattern: str | None = None, seconds: float = 5.0) -> Verdict:
    """Whether the response's last line, or the pattern's group, is the same expression as the answer."""
    given = answer_text(response, pattern)
    expression = None if given is None else given.rpartition("=")[2].strip(" .$")
    if not expression or not symbolic_equality.readable(expression):
        return Verdict(None, False, "has no expression for an answer")
    return _verdict(expression, symbolic_equality.equal(expression, question.answer, seconds), question)


def unit_tests(question: Question, response: str, limits: Limits | None = None) -> Verdict:
    """Whether the program in the last fenced block, or that is the response, prints what ``outputs`` says for ``inputs``.

    Raises:
        ConfigError: this machine refuses a part of the sandbox.
        InfrastructureError: it has too little left just now.
    """
    program = program_of(response)
    if program is None:
        return Verdict(None, False, "has no program for an answer")
    passes = passes_tests(program, question.data["inputs"], question.data["outputs"], limits)
    return Verdict(program, passes, "" if passes else "fails a test")


def program_of(response: str) -> str | None:
    """The last fenced block, or where there is none all of the response; None where that is blank."""
    blocks = _FENCE.findall(response)
    program: str = blocks[-1] if blocks else response
    return program if program.strip() else None


def lines(question: Question, response: str) -> Verdict:
    """Whether every line ``a+b=c`` of a chain sum is true and goes on from the one before, and ``#`` gives the last total.

    Errors that cancel out are errors.
    """
    *steps, last = response.split("\n")
    final = _FINAL.fullmatch(last)
    answer = final[1] if final else None
    terms: Sequence[int] = question.data["terms"]
    total = terms[0]
    for at, (step, term) in enumerate(zip(steps, terms[1:], strict=False), 1):
        if not _LINE.fullmatch(step):
            return Verdict(answer, False, f"line {at} is no step a+b=c")
        if step != f"{total}{term:+d}={total + term}":
            return Verdict(answer, False, f"line {at} is wrong: {step[:60]}")
        total += term
    if len(steps) != len(terms) - 1:
        return Verdict(answer, False, f"has {len(steps)} steps, not {len(terms) - 1}")
    if answer is None:
        return Verdict(None, False, "does not end with # and a number")
    return Verdict(answer, answer == str(total), "" if answer == str(total) else f"gives {answer[:60]}, not {total}")


def countdown(question: Question, response: str, pattern: str | None = None) -> Verdict:
    """Whether the last line, or the pattern's group, makes the target of each number once, by ``+ - * /``.

    The rule of reasoning-gym, whose own check would run the response as code.
    """
    given, asked = answer_text(response, pattern), question.data["entry"]["metadata"]
    try:
        used, value = arithmetic(given or "")
    except ValueError:
        return Verdict(None, False, "has no arithmetic expression for an answer")
    if sorted(used) != sorted(asked["numbers"]):
        return Verdict(given, False, "does not use each number once")
    right = value == asked["target"]
    return Verdict(given, right, "" if right else "does not make the target")


def arithmetic(text: str) -> tuple[list[int], Fraction]:
    """The whole numbers that an expression uses, and its value.

    Raises:
        ValueError: it is longer than 500 characters, holds more than numbers, ``+ - * /`` and brackets, or divides by 0.
    """
    used: list[int] = []

    def value(node: ast.AST) -> Fraction:
        match node:
            case ast.Expression(body):
                return value(body)
            case ast.Constant(int() as whole):
                used.append(whole)
                return Fraction(whole)
            case ast.UnaryOp(ast.USub(), operand):
                return -value(operand)
            case ast.BinOp(left, kind, right) if type(kind) in _ARITHMETIC:
                return _ARITHMETIC[type(kind)](value(left), value(right))
        raise ValueError("more than arithmetic")

    if not re.fullmatch(r"[\d\s+\-*/()]{1,500}", text):
        raise ValueError("not an expression")
    try:
        return used, value(ast.parse(text.strip(), mode="eval"))
    except (SyntaxError, ZeroDivisionError, RecursionError, MemoryError) as error:
        raise ValueError(str(error)) from None


def _verdict(given: str, right: bool, question: Question) -> Verdict:
    return Verdict(given, right, "" if right else f"says {given[:60]}, not {question.answer[:60]}")
