"""Cells of event tables as numbers: times in any of their forms, yes and no, and names.

What a time means may depend on the whole column, of which a part sees some rows. So a part keeps what each cell may mean,
and :func:`seconds_of` decides for all parts together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rayworks.core.errors import DataError

UNREADABLE, NUMBER, ISO, MONTH_FIRST, DAY_FIRST, EITHER, SAME = range(7)
FORMS = ("", "a number", "a date of ISO 8601", "a date, month first", "a date, day first", "a date", "a date")
"""What a cell of a time is. EITHER is another day when read the other way, SAME is not."""
DAY = r"^\s*(?P<one>\d{1,2})[/.-](?P<two>\d{1,2})[/.-](?P<year>\d{4})"
CLOCK = r"(?:,?[ T]+(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d(?:\.\d+)?))?\s*(?P<half>[AaPp][Mm])?)?\s*$"
UNITS = (
    ("a day as YYYYMMDD", 19_700_101, 21_001_231),
    ("seconds", 6.3e8, 4.2e9),
    ("milliseconds", 6.3e11, 4.2e12),
    ("a moment as YYYYMMDDhhmmss", 19_700_101_000_000, 21_001_231_235_959),
    ("microseconds", 6.3e14, 4.2e15),
    ("nanoseconds", 6.3e17, 4.2e18),
)
"""Numbers that times from 1990 to 2100 have, by unit, in rising order."""
WORDS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}


@dataclass(frozen=True, eq=False)
class Times:
    """Times of N rows."""

    seconds: np.ndarray
    """float64 (N,): numbers as they are, dates in seconds since 1970, the month first where it is not known; NaN where
    unreadable."""
    day_first: np.ndarray | None
    """float64 (N,): the same with the day first; None where no cell is such a date."""
    first: Mapping[int, tuple[int, str]]
    """Of each form that occurs the number of the first row and what is written there."""


def numbers(column: "pd.Series[Any]") -> np.ndarray:
    """float64 (N,), NaN where a cell is none."""
    return pd.to_numeric(column, errors="coerce").to_numpy(float, na_value=np.nan)


def flags(column: "pd.Series[Any]") -> np.ndarray:
    """float64 (N,): numbers, and 1 or 0 for the words of :data:`WORDS` in any case; NaN where a cell is neither."""
    found = numbers(column).copy()
    other = np.isnan(found) & column.notna().to_numpy()
    if other.any():
        found[other] = column[other].astype(str).str.strip().str.lower().map(WORDS).to_numpy(float)
    return found


def nested(column: "pd.Series[Any]") -> np.ndarray:
    """Bool (N,): cells that are lists, records or bytes."""
    if column.dtype != object or not pd.api.types.infer_dtype(column).startswith(("mixed", "bytes")):
        return np.zeros(len(column), bool)
    return np.array([isinstance(cell, (list, tuple, set, dict, bytes, np.ndarray)) for cell in column])


def fractional(column: "pd.Series[Any]") -> np.ndarray:
    """Bool (N,): names stored as floats that are no whole numbers, or so large that neighbours are the same float."""
    if not pd.api.types.is_float_dtype(column):
        return np.zeros(len(column), bool)
    values = column.to_numpy(float, na_value=np.nan)
    most = 2.0**24 if column.dtype.name.lower() == "float32" else 2.0**53
    return np.asarray(~np.isnan(values) & ((values != np.round(values)) | (np.abs(values) >= most)))


def name_codes(column: "pd.Series[Any]") -> tuple[np.ndarray, np.ndarray]:
    """Codes int32 (N,) and sorted names; whole floats are named as integers."""
    indices, found = pd.factorize(column)
    found = found.astype("int64") if pd.api.types.is_float_dtype(found) else found
    names, codes = np.unique(np.asarray(found.astype(str), dtype=object), return_inverse=True)
    return codes[indices].astype(np.int32), names


def times(column: "pd.Series[Any]", first_row: int = 1) -> Times:
    """Read times, each cell by itself; the index counts rows from ``first_row``."""
    dated = pd.api.types.is_datetime64_any_dtype(column)
    seconds = np.full(len(column), np.nan) if dated else numbers(column).copy()
    form = np.where(np.isfinite(seconds), NUMBER, UNREADABLE).astype(np.int8)
    other = np.isnan(seconds) & column.notna().to_numpy()
    day_first = None
    if other.any():
        dates = pd.to_datetime(column[other], utc=True, errors="coerce", format=None if dated else "ISO8601")
        seconds[other] = _since_1970(dates)
        form[other & np.isfinite(seconds)] = ISO
        other &= np.isnan(seconds)
    if other.any():
        month, day = _both_ways(column[other].astype(str))
        day_first = seconds.copy()
        seconds[other], day_first[other] = np.where(np.isnan(month), day, month), np.where(np.isnan(day), month, day)
        known = [np.isnan(month) & np.isnan(day), np.isnan(day), np.isnan(month), month == day]
        form[other] = np.select(known, [UNREADABLE, MONTH_FIRST, DAY_FIRST, SAME], EITHER)
    found, rows = np.unique(form, return_index=True)
    at = [(first_row + int(column.index[row]), str(column.iloc[row])) for row in rows]
    first = dict(zip(found.tolist(), at, strict=True))
    return Times(seconds, day_first, first)


def _since_1970(dates: "pd.Series[Any]") -> np.ndarray:
    return ((dates - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)).to_numpy(float)


def _both_ways(texts: "pd.Series[str]") -> tuple[np.ndarray, np.ndarray]:
    """Seconds of dates as 11/30/2019 9:05:58 AM, the month first and the day first, NaN where there is no such date."""
    cells = texts.str.extract(DAY + CLOCK)
    hour, minute, second = (numbers(cells[name].fillna("0")) for name in ("hour", "minute", "second"))
    half = cells["half"].str.lower()
    twelve = half.notna().to_numpy()
    possible = np.where(twelve, (hour >= 1) & (hour <= 12), hour < 24) & (minute < 60) & (second < 60)
    hour = np.where(twelve, hour % 12 + 12 * (half == "pm").to_numpy(bool), hour)
    clock = np.where(possible, hour * 3600 + minute * 60 + second, np.nan)
    one, two = cells["one"].str.zfill(2), cells["two"].str.zfill(2)
    pairs = ((one, two), (two, one))
    days = (cells["year"] + "-" + month + "-" + day for month, day in pairs)
    month, day = (_since_1970(pd.to_datetime(one, utc=True, errors="coerce", format="%Y-%m-%d")) for one in days)
    return month + clock, day + clock


def seconds_of(parts: Sequence[Times], source: str) -> np.ndarray:
    """float64 (N,): the times of a column, of which the parts follow each other and are readable.

    Args:
        parts: as :func:`times` reads them.
        source: what messages call the data.

    Raises:
        DataError: two cells are of different forms or units, or all dates may be read in two ways; it names the cells.
    """
    first = {form: cell for part in reversed(parts) for form, cell in part.first.items()}
    _require_one_form(first, source)
    day_first = DAY_FIRST in first
    found = [part.seconds if part.day_first is None or not day_first else part.day_first for part in parts]
    seconds = np.concatenate(found)
    if NUMBER in first:
        _require_one_unit(seconds, source)
    return np.asarray(seconds)


def _require_one_form(first: Mapping[int, tuple[int, str]], source: str) -> None:
    kinds = ({NUMBER}, {ISO}, {MONTH_FIRST, DAY_FIRST, EITHER, SAME})
    met = [min(kind & {*first}, key=lambda form: first[form]) for kind in kinds if kind & {*first}]
    if {MONTH_FIRST, DAY_FIRST} <= {*first}:
        met = [MONTH_FIRST, DAY_FIRST]
    if len(met) > 1:
        (one, text), (two, other) = first[met[0]], first[met[1]]
        raise DataError(
            f"{source}: row {one}: time is {text}, {FORMS[met[0]]}, but that of row {two} is {other}, {FORMS[met[1]]}; "
            "write all in one form"
        )
    if EITHER in first and not {MONTH_FIRST, DAY_FIRST} & {*first}:
        row, text = first[EITHER]
        raise DataError(
            f"{source}: row {row}: time is {text}, and no row tells whether the month or the day is first; write dates as "
            "ISO 8601, such as 2019-11-30T09:05:58"
        )


def _require_one_unit(seconds: np.ndarray, source: str) -> None:
    """Refuse numbers of two units with nothing between them: a counter that runs through both has something there."""
    before: tuple[str, float, int] | None = None
    for unit, low, high in UNITS:
        inside = (seconds >= low) & (seconds <= high)
        if not inside.any():
            continue
        row = int(inside.argmax())
        if before is not None and not ((seconds > before[1]) & (seconds < low)).any():
            name, _, other = before
            raise DataError(
                f"{source}: row {1 + other}: time {seconds[other]:.15g} looks like {name}, but {seconds[row]:.15g} of "
                f"row {1 + row} like {unit}; write all in one unit"
            )
        before = (unit, high, row)
