"""Cells of a table as scores: numbers, percentages, words for right and wrong, and the many ways to write nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rayworks.core.errors import DataError

MISSING = frozenset(("", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "--", ".", "?", "missing", "<na>"))
RIGHT = frozenset(("1", "true", "t", "yes", "y", "correct", "right", "pass", "passed", "solved", "success", "✓", "✔"))
WRONG = frozenset(
    ("0", "false", "f", "no", "n", "incorrect", "wrong", "fail", "failed", "unsolved", "failure", "✗", "✘")
)
LEAST_PERCENT = 10.0
"""Numbers above 1 are percentages where one is above this; up to it they are grades, whose maximum nobody said."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores in [0, 1] as given, NaN where missing; and a sentence for what was not plainly a number in [0, 1]."""

    values: np.ndarray
    told: list[str]


def words_to_numbers(cells: "Sequence[Any] | pd.Series[Any] | np.ndarray") -> np.ndarray:
    """Each cell as a number as it is written, NaN where missing, infinite where it is no score; percent signs divide."""
    found, codes = _distinct(cells)
    return np.array([_number(one) for one in found], dtype=float)[codes] if len(codes) else np.zeros(0)


def read_scores(
    cells: "Sequence[Any] | pd.Series[Any] | np.ndarray", where: str, columns: Sequence[Any] = ()
) -> Scores:
    """Scores of all cells of a table, on one scale.

    Args:
        where: what messages call the table.
        columns: names of a wide table's columns, its cells coming row by row.

    Raises:
        DataError: a cell is no score, or the scale cannot be known; names the cell.
    """
    found, codes = _distinct(cells)
    numbers = np.array([_number(one) for one in found], dtype=float)
    told = []
    if np.isin(numbers, (-1.0, 0.0, 1.0)).sum() == np.isfinite(numbers).sum() and (numbers == -1).any():
        numbers[numbers == -1] = np.nan
        told.append("-1 taken as not observed")
    wrong = np.flatnonzero(np.isinf(numbers) | (numbers < 0) | (numbers > 100))
    if len(wrong):
        raise DataError(
            f"{where}: {_first(found, codes, wrong, columns)}; a score is a number in [0, 1], a percentage, or right or "
            "wrong; leave an unobserved cell empty"
        )
    largest = float(np.nanmax(numbers, initial=0.0))
    if largest > LEAST_PERCENT and not _written_percent(found):
        numbers = numbers / 100
        told.append(f"scores run to {largest:g}, taken as percentages")
    elif largest > 1:
        first = _first(found, codes, np.flatnonzero(numbers > 1), columns)
        raise DataError(
            f"{where}: {first}, outside [0, 1], and scores run to {largest:g}, which is no percentage; divide graded scores "
            "by their maximum"
        )
    if any(str(one).strip().lower() in (RIGHT | WRONG) - {"0", "1"} for one in found):
        names = sorted({str(one).strip() for one in found if str(one).strip().lower() in (RIGHT | WRONG) - {"0", "1"}})
        told.append(f"{', '.join(names)} taken as 1 and 0")
    if _written_percent(found):
        told.append("percent signs taken as hundredths")
    return Scores(numbers[codes] if len(codes) else np.zeros(0), told)


def _distinct(cells: Any) -> tuple[list[Any], np.ndarray]:
    codes, found = pd.factorize(np.asarray(cells, dtype=object), use_na_sentinel=False)
    return list(found), np.asarray(codes)


def _first(found: Sequence[Any], codes: np.ndarray, wrong: np.ndarray, columns: Sequence[Any]) -> str:
    """The first cell that holds one of these values, by its row and column."""
    at = int(np.flatnonzero(np.isin(codes, wrong))[0])
    row, column = divmod(at, max(1, len(columns)))
    named = f", column {columns[column]}" if len(columns) else ""
    return f"row {row + 1}{named} of the scores is {str(found[codes[at]])!r}"


def _written_percent(found: Sequence[Any]) -> bool:
    return any(isinstance(one, str) and one.strip().endswith("%") for one in found)


def _number(cell: Any) -> float:
    if cell is None or cell is pd.NA or cell is pd.NaT:
        return np.nan
    if isinstance(cell, bool | np.bool_):
        return float(cell)
    if isinstance(cell, int | float | np.number):
        return float(cell)
    text = str(cell).strip().lower()
    if text in MISSING:
        return np.nan
    if text in RIGHT or text in WRONG:
        return float(text in RIGHT)
    share = 0.01 if text.endswith("%") else 1.0
    plain = text.rstrip("% ")
    # A decimal comma, as tables of semicolons have.
    plain = plain.replace(",", ".") if plain.count(",") == 1 and "." not in plain else plain
    try:
        return float(plain) * share
    except ValueError:
        return np.inf
