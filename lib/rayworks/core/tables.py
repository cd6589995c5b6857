"""Tables from files and hubs, as all systems read them."""

import codecs
import csv
import gzip
import io
import re
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayworks.core.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

HUB = "hub:"
SEPARATORS = ",;\t|"
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
_SNIFFED = 2**16
"""Bytes whose rows tell what separates their cells."""
_LOOKED_AT = 200
"""Of these rows."""


class _Malformed(ValueError):
    """With a message that quotes nothing of the file."""


def read_table(
    source: str | Path, field: str, *, quoted: bool = True, split: str = "train", **cells: Any
) -> "pd.DataFrame":
    """A file (:data:`SUFFIXES`), a folder of Parquet, or ``hub:OWNER/NAME`` or ``hub:OWNER/NAME:CONFIG``.

    A .csv may be compressed (.csv.gz), in UTF-8 or with the byte order mark of UTF-16, and separated by any of
    :data:`SEPARATORS` (see :func:`separator_of`), or what a first line ``sep=`` says; a .tsv by tabs.

    Args:
        field: what messages call the source, such as ``task.name``.
        quoted: whether they may quote what a parser says, which may quote the file.
        split: of a data set of a hub.
        cells: further arguments of :func:`pandas.read_csv`; by default only an empty cell is missing, whatever a text says.

    Raises:
        DataError: it cannot be read, or has no rows.
        ConnectionError: the hub cannot be reached.
    """
    import pandas as pd

    path, named = Path(source).expanduser(), str(source).startswith(HUB)
    suffix = ".parquet" if path.is_dir() else suffix_of(path)
    if not named and not suffix:
        raise DataError(f"{field} {str(source)!r}: is no {', '.join(SUFFIXES)} file")
    try:
        table = _from_hub(str(source).removeprefix(HUB), split) if named else _READERS[suffix](path, cells)
    except ModuleNotFoundError as error:
        raise DataError(f"{field} {str(source)!r}: needs a package; pip install {error.name}") from None
    except (ConnectionError, TimeoutError, MemoryError):
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0] if quoted or isinstance(error, _Malformed) else ""
        raise DataError(f"{field} {str(source)!r}: cannot be read ({reason or type(error).__name__})") from None
    if not len(table):
        raise DataError(f"{field} {str(source)!r}: has no rows")
    return pd.DataFrame(table)


def suffix_of(path: str | Path) -> str:
    """How the name of a table ends, one of :data:`SUFFIXES`; empty for others."""
    name = str(path).lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def _from_hub(name: str, split: str) -> "pd.DataFrame":
    from datasets import load_dataset

    repository, _, config = name.partition(":")
    table: pd.DataFrame = load_dataset(repository, config or None, split=split).to_pandas()
    return table


def _separated(path: Path, cells: Mapping[str, Any]) -> "pd.DataFrame":
    import pandas as pd

    squeezed = path.name.lower().endswith(".gz")
    with gzip.open(path) if squeezed else path.open("rb") as opened:
        head = opened.read(_SNIFFED)
    encoding = next((name for mark, name in _MARKS.items() if head.startswith(mark)), "utf-8")
    text = codecs.getincrementaldecoder(encoding)().decode(head)
    if "\0" in text:
        raise _Malformed("it holds zero bytes, and no mark of UTF-16 at its start")
    announced = re.match(r"\s*sep=(.)\r?\n", text)
    skipped = 1 if announced else 0
    text = text[announced.end() :] if announced else text
    # What is cut off at the end of the head says nothing.
    whole = text.rpartition("\n")[0] if len(head) == _SNIFFED else text
    tabs = path.name.lower().endswith(".tsv")
    separator = announced[1] if announced else "\t" if tabs else separator_of(whole)
    _check_width(whole, separator, skipped)
    given: dict[str, Any] = {"keep_default_na": False, "na_values": [""], "skiprows": skipped} | dict(cells)
    table: pd.DataFrame = pd.read_csv(path, sep=separator, encoding=encoding, index_col=False, **given)
    return table


def separator_of(text: str) -> str:
    """What separates the cells of a text: of :data:`SEPARATORS` the first by which its first rows have as many cells as its
    header, and more than one; a comma where none has.
    """
    for separator in SEPARATORS:
        widths = [len(row) for row in _rows(text, separator)]
        if widths and widths[0] > 1 and all(width == widths[0] for width in widths):
            return separator
    return SEPARATORS[0]


def _rows(text: str, separator: str) -> list[list[str]]:
    return list(islice((row for row in csv.reader(io.StringIO(text), delimiter=separator) if row), _LOOKED_AT))


def _check_width(text: str, separator: str, skipped: int) -> None:
    """Refuse a text of which a row has more cells than the header: they would move to other columns."""
    rows = _rows(text, separator)
    for number, row in enumerate(rows[1:], 1):
        if any(row[len(rows[0]) :]):
            raise _Malformed(
                f"row {number} has {len(row)} cells, the header {len(rows[0])}; put texts that hold {separator!r} in quotes"
            )


def _lines(path: Path, cells: Mapping[str, Any]) -> "pd.DataFrame":
    import pandas as pd

    return pd.read_json(path, lines=True, dtype=False, convert_dates=False)


def _columns(path: Path, cells: Mapping[str, Any]) -> "pd.DataFrame":
    import pandas as pd

    return pd.read_parquet(path)


_READERS: dict[str, Callable[[Path, Mapping[str, Any]], "pd.DataFrame"]] = {
    ".csv": _separated,
    ".tsv": _separated,
    ".csv.gz": _separated,
    ".jsonl": _lines,
    ".parquet": _columns,
}
SUFFIXES = tuple(_READERS)
