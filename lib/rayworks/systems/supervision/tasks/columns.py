"""Columns of texts, of the tables that people give."""

from pathlib import Path

import pandas as pd

from rayworks.core import tables
from rayworks.core.errors import DataError


def read_table(name: str) -> pd.DataFrame:
    """What ``task.name`` names (see :func:`rayworks.core.tables.read_table`); an empty cell is an empty text."""
    written = dict.fromkeys(("uid", "text", "label", "prompt", "answer"), str)
    return tables.read_table(name, "task.name", na_values=[], dtype=written)


def texts_of(table: pd.DataFrame, column: str, name: str) -> list[str]:
    """A column of texts; numbers are written as such.

    Raises:
        DataError: it is missing, or a row of it empty or no text; the message names file, row and column.
    """
    if column not in table:
        raise DataError(f"task.name {name!r}: has no column {column}; it has {', '.join(map(str, table.columns))}")
    found = []
    for number, value in enumerate(table[column].tolist(), 1):
        if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
            raise DataError(f"{Path(name).name} row {number}, column {column}: must be a text that is not empty")
        if isinstance(value, float) and value != value:
            raise DataError(f"{Path(name).name} row {number}, column {column}: is not there")
        found.append(str(value))
    return found
