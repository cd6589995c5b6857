"""Event tables read through Ray Data on a real cluster: the same log, the same refusals."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.systems.recommendation.actors import read_events_distributed
from rayworks.systems.recommendation.config import ReadOptions
from rayworks.systems.recommendation.logs.events import EventLog
from rayworks.systems.recommendation.sources import read_events


def events_table(rows: int = 600) -> pd.DataFrame:
    """Events of 20 users that alternate, with many equal times."""
    draw = seeds.stream(0, "events")
    shown = draw.integers(0, 2, rows)
    return pd.DataFrame(
        {
            "user": draw.integers(0, 20, rows),
            "item": [f"film {number}" for number in draw.integers(0, 30, rows)],
            "time": draw.integers(0, 40, rows),
            "shown": shown,
            "accepted": np.where(shown == 1, draw.integers(0, 2, rows), 1),
            "propensity": np.where(shown == 1, draw.uniform(0.1, 1, rows), np.nan),
            "title": "not an event's business",
        }
    )


def assert_same(one: EventLog, two: EventLog) -> None:
    for field in fields(EventLog):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(two, field.name))


@pytest.mark.usefixtures("cluster")
def test_ray_data_gives_the_log_that_pandas_gives(tmp_path: Path) -> None:
    table = events_table()
    folder, sheet = tmp_path / "parts", tmp_path / "events.csv"
    folder.mkdir()
    for number, start in enumerate(range(0, len(table), 150)):
        table.iloc[start : start + 150].to_parquet(folder / f"{number}.parquet", row_group_size=40)
    renamed = {"shown": "was_shown", "time": "when"}
    table.rename(columns=renamed).to_csv(sheet, index=False)
    found = read_events_distributed(str(folder))
    assert_same(found, read_events(str(folder)))
    options = ReadOptions(columns=renamed)
    assert_same(found, read_events_distributed(str(sheet), options))
    assert_same(found, read_events(str(sheet), options))
    table.rename(columns=renamed).to_csv(tmp_path / "events.csv.gz", index=False, sep=";")
    assert_same(found, read_events_distributed(str(tmp_path / "events.csv.gz"), options))
    table.loc[437, "propensity"] = 1.5
    table.loc[437, ["shown", "accepted"]] = 1
    table.iloc[300:].to_parquet(folder / "2.parquet")
    (folder / "3.parquet").unlink()
    for read in (read_events, read_events_distributed):
        with pytest.raises(DataError, match=r"parts: row 438: propensity is 1\.5; must be above 0"):
            read(str(folder))
    (folder / "2.parquet").write_bytes((folder / "1.parquet").read_bytes()[:-50])
    with pytest.raises(DataError, match="parts: cannot be read"):
        read_events_distributed(str(folder))
