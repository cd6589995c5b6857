"""Arithmetic problems on a ladder of difficulty: how many columns the written method works through, and how many carries.

A problem's rating is the number of digits of its longer operand plus the number of carries (borrows in a subtraction):
``3+4`` has rating 1, ``47+25`` rating 3. Multiplications are by one digit, so that one rule rates all three operations.
"""

from collections.abc import Callable, Sequence

import numpy as np

from rayworks.core import seeds
from rayworks.core.errors import DataError

ATTEMPTS_PER_PROBLEM = 2000
"""Draws without a new problem after which a level counts as used up."""

Problem = tuple[str, str]
"""The question, such as ``47+25=``, and its answer."""


def carries(operation: str, left: int, right: int) -> int:
    """How often the written method carries (``+``, ``*`` by one digit) or borrows (``-``), right to left."""
    count = carry = 0
    factor = right
    while left or right or carry:
        one, two = left % 10, right % 10
        if operation == "+":
            carry = (one + two + carry) // 10
        elif operation == "-":
            carry = int(one - two - carry < 0)
        else:
            if not left:
                break
            carry = (one * factor + carry) // 10
        count += carry > 0
        left, right = left // 10, right // 10 if operation != "*" else right
    return count


def rating(operation: str, left: int, right: int) -> int:
    """Columns of the longer operand plus carries; at least 1."""
    return len(str(max(left, right))) + carries(operation, left, right)


SYMBOLS = {"addition": "+", "subtraction": "-", "multiplication": "*"}
_RESULTS: dict[str, Callable[[int, int], int]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
}


def problems(level: int, count: int, operations: Sequence[str], seed: int, digits: int | None = None) -> list[Problem]:
    """``count`` distinct problems whose rating is ``level``; a longer list begins with the shorter one.

    Args:
        level: from 1.
        operations: names of :data:`SYMBOLS`, drawn from evenly.
        digits: of the longer operand; None draws them from what the level allows.

    Raises:
        DataError: there are not that many.
    """
    draw = seeds.stream(seed, "arithmetic", level)
    found: dict[str, str] = {}
    misses = 0
    while len(found) < count:
        symbol = SYMBOLS[operations[int(draw.integers(len(operations)))]]
        columns = digits or int(draw.integers((level + 1) // 2, level + 1))
        left, right = _operands(symbol, columns, draw)
        question = f"{left}{symbol}{right}="
        if question in found or rating(symbol, left, right) != level:
            misses += 1
            if misses > ATTEMPTS_PER_PROBLEM:
                raise DataError(
                    f"arithmetic: level {level} has about {len(found)} problems, {count} were asked for; ask for fewer "
                    "items per bin, or for more operations"
                )
            continue
        misses = 0
        found[question] = str(_RESULTS[symbol](left, right))
    return list(found.items())


def _operands(symbol: str, digits: int, draw: np.random.Generator) -> tuple[int, int]:
    low, high = (10 ** (digits - 1) if digits > 1 else 0), 10**digits
    left = int(draw.integers(low, high))
    if symbol == "*":
        return left, int(draw.integers(0, 10))
    right = int(draw.integers(low, high))
    return (max(left, right), min(left, right)) if symbol == "-" else (left, right)
