"""Tables from files and hubs, as all systems read them."""

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayworks.core.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

HUB = "hub:"
SEPARATORS = ",;\t|"
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
_SNIFFED = 2**16
"""Bytes whose first row tells what separates its cells."""


def read_table(
    source: str | Path, field: str, *, quoted: bool = True, split: str = "train", **cells: Any
) -> "pd.DataFrame":
    """A file (:data:`SUFFIXES`), a folder of Parquet, or ``hub:OWNER/NAME`` or ``hub:OWNER/NAME:CONFIG``.

    A .csv may be compressed (.csv.gz), in UTF-8 or with the byte order mark of UTF-16, and separated by any of
    :data:`SEPARATORS`: the one that its first row holds most often.

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
    except (ConnectionError, TimeoutError):
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0] if quoted else ""
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

    content = path.read_bytes()
    if path.name.lower().endswith(".gz"):
        import gzip

        content = gzip.decompress(content)
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    text = content.decode(encoding)
    given: dict[str, Any] = {"sep": separator_of(text), "keep_default_na": False, "na_values": [""]} | dict(cells)
    table: pd.DataFrame = pd.read_csv(io.StringIO(text), **given)
    return table


def separator_of(text: str) -> str:
    """What separates the cells of a text's first row: the most frequent of :data:`SEPARATORS` outside quotes."""
    header = next(iter(text[:_SNIFFED].splitlines()), "")
    return max(SEPARATORS, key=lambda one: len(next(csv.reader([header], delimiter=one), [])))


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
