"""Tables of examples from files and hubs."""

from pathlib import Path
from typing import Any

import pandas as pd

from rayworks.core.errors import DataError

HUB = "hub:"
_READERS: dict[str, Any] = {
    ".csv": lambda path: pd.read_csv(path, keep_default_na=False),
    ".jsonl": lambda path: pd.read_json(path, lines=True, dtype=False, convert_dates=False),
    ".parquet": pd.read_parquet,
}
SUFFIXES = tuple(_READERS)


def read_table(name: str, split: str = "train") -> pd.DataFrame:
    """A .csv, .jsonl or .parquet file, or ``hub:OWNER/NAME`` or ``hub:OWNER/NAME:CONFIG``.

    Raises:
        DataError: it cannot be read, or has no rows.
    """
    try:
        table = _hub(name, split) if name.startswith(HUB) else _READERS[Path(name).suffix](Path(name).expanduser())
    except (ConnectionError, TimeoutError, DataError):
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"task.name {name!r}: cannot be read ({reason})") from None
    if not len(table):
        raise DataError(f"task.name {name!r}: has no rows")
    return pd.DataFrame(table)


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


def _hub(name: str, split: str) -> pd.DataFrame:
    try:
        from datasets import load_dataset
    except ImportError:
        raise DataError(f"task.name {name!r}: needs the datasets package; pip install rayworks[supervision]") from None
    repository, _, config = name.removeprefix(HUB).partition(":")
    table: pd.DataFrame = load_dataset(repository, config or None, split=split).to_pandas()
    return table
