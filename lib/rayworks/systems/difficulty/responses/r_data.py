"""Objects of R as pandas and numpy: one of a saved file (``.rda``) or of a package's lazy-load database.

The database is two files beside each other: ``NAME.rdx``, an index of offsets and lengths, and ``NAME.rdb``, the
compressed blocks (R Internals, section 1.8).
"""

import bz2
import lzma
import warnings
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

from rayworks.core.errors import DataError


def read_object(path: Path, name: str) -> Any:
    """The object ``name`` of an ``.rda`` file, or of the ``.rdx`` and ``.rdb`` files named by the former.

    A vector becomes an array, a factor a ``pandas.Categorical``, a matrix with row or column names an
    ``xarray.DataArray``, and a list or data frame the dict of its columns, because a column may itself be a matrix.

    Raises:
        DataError: ``rdata`` is not installed, a file cannot be read, or holds no such object.
    """
    try:
        import rdata
    except ImportError:
        raise DataError("R data: needs the rdata package; pip install rayworks[difficulty]") from None
    try:
        found = _convert(rdata, path.read_bytes())
        objects = {str(key): value for key, value in (found["variables"] if path.suffix == ".rdx" else found).items()}
        if name not in objects:
            raise DataError(f"{path}: holds no object {name!r}; it has {', '.join(sorted(objects))}")
        if path.suffix != ".rdx":
            return objects[name]
        offset, length = (int(number) for number in objects[name])
        with path.with_suffix(".rdb").open("rb") as database:
            database.seek(offset)
            return _convert(rdata, _decompress(database.read(length)))
    except (OSError, ValueError, LookupError, NotImplementedError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as R data ({error}); fetch it again") from None


def _convert(rdata: ModuleType, raw: bytes) -> Any:
    classes = {**rdata.conversion.DEFAULT_CLASS_MAP, "data.frame": lambda columns, attributes: columns}
    with warnings.catch_warnings():
        # A serialised object has no magic number of its own; of an object of an unknown class its value is wanted.
        warnings.filterwarnings("ignore", "Unknown file type|Missing constructor for R class", UserWarning)
        return rdata.conversion.convert(rdata.parser.parse_data(raw), constructor_dict=classes)


def _decompress(block: bytes) -> bytes:
    """A block is its length in 4 bytes, then a codec letter (``2`` bzip2, ``Z`` LZMA2) or at once a zlib stream."""
    if block[4:5] == b"2":
        return bz2.decompress(block[5:])
    if block[4:5] == b"Z":
        return lzma.decompress(block[5:], lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2}])
    return zlib.decompress(block[4:])
