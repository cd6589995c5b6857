"""Arrays in Flower's records, and the size of messages."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from rayworks.core.errors import DataError

ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"
"""Names of records, those of Flower's own strategies."""
NUMBER_BYTES = 8
Record = ArrayRecord | ConfigRecord | MetricRecord


def to_record(arrays: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    """A record of the same names; arrays are copied."""
    return ArrayRecord({name: Array(np.ascontiguousarray(value)) for name, value in arrays.items()})


def to_arrays(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    """The arrays of a record, as copies.

    Raises:
        DataError: an array is not numpy's, or is broken.
    """
    found = {}
    for name, value in record.items():
        try:
            found[name] = value.numpy()
        except (TypeError, ValueError, OSError, EOFError) as error:
            raise DataError(f"message: array {name!r} cannot be read ({error}); send it as a numpy array") from None
    return found


def arrays_of(content: RecordDict, name: str = ARRAYS) -> dict[str, NDArray[Any]]:
    """The arrays of one record of a message.

    Raises:
        DataError: the record is missing.
    """
    if name not in content.array_records:
        raise DataError(f"message: the record {name!r} is missing; use the strategy and the client app of one version")
    return to_arrays(content.array_records[name])


def numbers(content: RecordDict, record: str, name: str) -> list[int]:
    """A list of whole numbers of a record; empty where it is missing."""
    found: Any = content[record].get(name, []) if record in content else []
    return [int(value) for value in found]


def number(record: MetricRecord | ConfigRecord, name: str) -> float:
    """A number of a record.

    Raises:
        DataError: it is missing or no number.
    """
    found = record.get(name)
    if not isinstance(found, int | float):
        raise DataError(f"message: {name!r} must be a number, not {found!r}")
    return float(found)


def private(record: Record) -> Record:
    """A copy that its owner may change in any way; the bytes of arrays, which nobody can change, are shared."""
    if isinstance(record, ArrayRecord):
        arrays = {name: Array(one.dtype, tuple(one.shape), one.stype, one.data) for name, one in record.items()}
        return ArrayRecord(arrays)
    values: dict[str, Any] = {name: list(one) if isinstance(one, list) else one for name, one in record.items()}
    return type(record)(values)


def all_private(content: RecordDict) -> RecordDict:
    """The same for every record of a message or a state."""
    return RecordDict({name: private(record) for name, record in content.items()})


def content_bytes(message: Message) -> int:
    """Bytes of a message's arrays, names and values; an error has none.

    Flower's own count fails on empty lists, which secure aggregation sends.
    """
    if not message.has_content():
        return 0
    return sum(
        len(name) + (len(value.data) if isinstance(value, Array) else _value_bytes(value))
        for record in message.content.values()
        for name, value in record.items()
    )


def _value_bytes(value: Any) -> int:
    if isinstance(value, list):
        return sum(map(_value_bytes, value))
    return len(value) if isinstance(value, str | bytes) else NUMBER_BYTES
