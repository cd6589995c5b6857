"""Names of rating periods as numbers on a line of time: integers count, texts are ordered as people read them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rayworks.core.errors import DataError

_NUMBER = re.compile(r"(\d+)")
_MONTHS = (190001, 210012)


@dataclass(frozen=True, eq=False)
class PeriodLabels:
    """The distinct periods in their order: (T,) numbers, which texts have only by rank, and names; and one number a game."""

    number: np.ndarray
    names: list[str]
    of_game: np.ndarray
    told: str
    """How the labels were taken, for people."""


def number_periods(labels: "Sequence[Any] | pd.Series[Any]") -> PeriodLabels:
    """Number the period of each game.

    Integers number the periods themselves: between 0 and 500 lie 499 periods in which ratings age. Integers that all read as
    years and months (202012, 202101) count months. Texts, dates and fractions tell an order only, that in which people count:
    W9 comes before W10; the periods between them are unknown and so do not age a rating.

    Raises:
        DataError: integers that are too far apart to be counted.
    """
    column = pd.Series(labels).reset_index(drop=True)
    code, distinct = pd.factorize(column)
    whole = _integers(distinct)
    if whole is None:
        order = sorted(range(len(distinct)), key=lambda at: _as_read(str(distinct[at])))
        number, told = np.arange(len(order)), f"{len(order)} periods, one after the other in the order of their names"
    else:
        months = bool(((whole >= _MONTHS[0]) & (whole <= _MONTHS[1]) & (whole % 100 >= 1) & (whole % 100 <= 12)).all())
        line = whole // 100 * 12 + whole % 100 - 1 if months else whole
        order = list(np.argsort(line, kind="stable"))
        number, passed = line[order], int(line.max() - line.min() + 1)
        told = f"{passed:,} {'months' if months else 'periods'}, {passed - len(order):,} of them without games"
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return PeriodLabels(number, [str(distinct[at]) for at in order], number[rank[code]], told)


def _integers(distinct: Any) -> np.ndarray | None:
    values = pd.to_numeric(pd.Series(np.asarray(distinct, dtype=object)), errors="coerce").to_numpy(float)
    if not np.isfinite(values).all() or not (values == np.round(values)).all():
        return None
    if np.abs(values).max(initial=0.0) > 2**53:
        raise DataError("period: holds integers beyond 2**53, which cannot be counted; number the periods from 0")
    return np.asarray(values.astype(np.int64))


def _as_read(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Digits compare as numbers, other parts as text."""
    parts = [part for part in _NUMBER.split(name) if part]
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts], name
