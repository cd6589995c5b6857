"""What runs on the cluster: event tables read and encoded block by block through Ray Data."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import ray

from rayworks.runtime.failures import Failure, classify
from rayworks.runtime.placement import keep_ray_data_in_the_placement_group
from rayworks.systems.recommendation.event_tables import (
    EncodedEvents,
    as_log,
    column_names,
    csv_as_text,
    encode,
    files_of,
    is_csv,
    join,
    projection,
    reading,
)
from rayworks.systems.recommendation.events import EventLog
from rayworks.systems.recommendation.sources import DEFAULTS, ReadOptions


def read_events_distributed(source: str, options: ReadOptions = DEFAULTS) -> EventLog:
    """The same log as :func:`~.sources.read_events` makes of a generic table, read by the whole cluster.

    Only the columns of events are read. Each block is checked and encoded where it is; what comes back is 25 bytes an event
    and the names of the block.

    Args:
        source: a CSV or Parquet file, a folder of Parquet files, or an address of one; every node must see it.
        options: ``columns`` and ``ordered`` count.

    Raises:
        DataError: as :func:`~.sources.read_events`.
    """
    files = files_of(source)
    names = projection(column_names(files), options.columns, source)
    keep_ray_data_in_the_placement_group()
    with reading(source):
        data = _read(files, list(names.values()))
        # Events of the same time keep the order of the file.
        data.context.execution_options.preserve_order = True
        blocks = data.materialize().to_arrow_refs()
    sizes = ray.get([_rows.remote(block) for block in blocks])
    first = 1 + np.cumsum(sizes) - sizes
    parts: list[EncodedEvents] = []
    asked = [_encode.remote(block, source, int(row), names) for block, row in zip(blocks, first, strict=True)]
    for found in ray.get(asked):
        if isinstance(found, Failure):
            raise found.as_error()
        parts.append(found)
    return as_log(join(parts, source, ordered=options.ordered), source)


def _read(files: list[str], columns: list[str]) -> ray.data.Dataset:
    if not is_csv(files):
        return ray.data.read_parquet(files, columns=columns)
    options = csv_as_text(columns)
    options.include_columns = columns
    return ray.data.read_csv(files, convert_options=options)


@ray.remote
def _rows(block: Any) -> int:
    return int(block.num_rows)


@ray.remote
def _encode(block: Any, source: str, first_row: int, names: Mapping[str, str]) -> EncodedEvents | Failure:
    try:
        table = block.to_pandas().rename(columns={theirs: ours for ours, theirs in names.items()})
        return encode(table, source, first_row, names)
    except Exception as error:
        return classify(error)
