"""Event tables as people have them: separators, forms of time, yes and no, types of Parquet; read, or refused by the cell."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rayworks.core.errors import DataError
from rayworks.systems.recommendation.config import ReadOptions
from rayworks.systems.recommendation.logs.event_tables import encode, join
from rayworks.systems.recommendation.logs.events import ACCEPTED, NATURAL, REJECTED, EventLog
from rayworks.systems.recommendation.sources import read_events, read_sequences

ROWS = ["user,item,time,shown,accepted", "a,x,3,1,0", "b,y,2,1,1", "a,z,1,0,"]


def with_times(folder: Path, *times: str) -> str:
    """One user's recommendations of items 0, 1, 2, ... at these times."""
    rows = [f"a;{number};{time};1;1" for number, time in enumerate(times)]
    (folder / "events.csv").write_text("\n".join(["user;item;time;shown;accepted", *rows, ""]))
    return str(folder / "events.csv")


def order(log: EventLog) -> list[str]:
    return [log.items[item] for item in log.item]


def assert_same(one: EventLog, two: EventLog) -> None:
    for name in ("user", "item", "kind", "time", "propensity", "users", "items"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def events(**columns: list[Any]) -> pd.DataFrame:
    """Two recommendations, but for the columns given."""
    table = {"user": ["a", "a"], "item": ["x", "y"], "time": [1, 2], "shown": [1, 1], "accepted": [0, 1]}
    return pd.DataFrame(table | columns)


@pytest.mark.parametrize("suffix", [".csv", ".CSV", ".csv.gz", ".tsv"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separators_and_suffixes_give_one_log(suffix: str, separator: str, tmp_path: Path) -> None:
    (tmp_path / "plain.csv").write_text("\n".join(ROWS))
    expected = read_events(str(tmp_path / "plain.csv"))
    assert order(expected) == ["z", "x", "y"]
    text = "\r\n".join(ROWS).replace(",", "\t" if suffix == ".tsv" else separator).encode()
    path = tmp_path / f"my events{suffix}"
    path.write_bytes(gzip.compress(text) if suffix == ".csv.gz" else text)
    assert_same(read_events(str(path)), expected)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("events.csv", "\n".join(ROWS).encode("utf-16"), "cannot be read .*utf-8"),
        ("events.csv.gz", "\n".join(ROWS).encode(), "cannot be read"),
        ("events.csv", b"user;item,time\n", "has no column user, item, shown, accepted"),
        ("events.csv", ("\n".join(ROWS) + ",9").encode(), "cannot be read .*Expected 5 columns, got 6"),
    ],
)
def test_unreadable_files_are_refused(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_events(str(tmp_path / name))


def test_a_large_file_is_sniffed_by_its_head(tmp_path: Path) -> None:
    times = [str(number) for number in range(20_000)]
    assert len(read_events(with_times(tmp_path, *times))) == 20_000


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (
            ["20240102", "2024-01-03"],
            "row 1: time is 20240102, a number, but that of row 2 is 2024-01-03, a date of ISO",
        ),
        (
            ["2024-01-03", "2024-01-04", "20240102"],
            "row 3: time is 20240102, a number, but that of row 1 is 2024-01-03",
        ),
        (
            ["1704153600", "1704153600000"],
            "row 1: time 1704153600 looks like seconds, but 1704153600000 of row 2 like milli",
        ),
        (
            ["1704153600000", "1704153600"],
            "row 2: time 1704153600 looks like seconds, but 1704153600000 of row 1 like milli",
        ),
        (
            ["1704153600000000", "1704153600000"],
            "row 2: time 1704153600000 looks like milliseconds, .* of row 1 like micro",
        ),
        (
            ["20240102", "1704153600"],
            "row 1: time 20240102 looks like a day as YYYYMMDD, but 1704153600 of row 2 like sec",
        ),
        (
            ["11/12/2019", "12/11/2019"],
            "row 1: time is 11/12/2019, and no row tells whether the month or the day is first",
        ),
        (
            ["11/30/2019", "30/11/2019"],
            "row 1: time is 11/30/2019, a date, month first, but that of row 2 is 30/11/2019",
        ),
        (
            ["11/12/2019", "2019-11-30"],
            "row 2: time is 2019-11-30, a date of ISO 8601, but that of row 1 is 11/12/2019",
        ),
        (["1", "11/11/2019"], "row 1: time is 1, a number, but that of row 2 is 11/11/2019"),
        (["11/11/2019", "31/31/2019"], "row 2: time is 31/31/2019; must be a number or a date of ISO 8601, such as"),
        (["11/11/2019 9:05 AM", "11/11/2019 13:05 PM"], "row 2: time is 11/11/2019 13:05 PM; must be"),
        (["11/11/2019 24:00", "11/11/2019"], "row 1: time is 11/11/2019 24:00; must be"),
        (["11/11/19", "11/12/19"], "row 1: time is 11/11/19; must be"),
    ],
)
def test_times_of_two_meanings_are_refused_by_both_cells(times: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        read_events(with_times(tmp_path, *times))


@pytest.mark.parametrize(
    ("times", "iso"),
    [
        (["11/11/2019 9:05:58 AM", "11/11/2019 12:00:01 AM"], ["2019-11-11T09:05:58", "2019-11-11T00:00:01"]),
        (["11/11/2019, 1:00 PM", "11/11/2019 12:30 pm"], ["2019-11-11T13:00", "2019-11-11T12:30"]),
        (["3/1/2019", "2/28/2019 23:59:59.5", "1/2/2019"], ["2019-03-01", "2019-02-28T23:59:59.5", "2019-01-02"]),
        (["1/3/2019", "28/2/2019 23:59", "2/1/2019"], ["2019-03-01", "2019-02-28T23:59", "2019-01-02"]),
        (["01.03.2019", "28.02.2019"], ["2019-03-01", "2019-02-28"]),
    ],
)
def test_dates_are_read_where_the_column_can_be_read_in_one_way(
    times: list[str], iso: list[str], tmp_path: Path
) -> None:
    found = read_events(with_times(tmp_path, *times))
    expected = read_events(with_times(tmp_path, *iso))
    assert_same(found, expected)
    assert order(found) != [str(number) for number in range(len(times))]


def test_a_part_may_tell_how_the_dates_of_another_are_read() -> None:
    one, two = events(time=["2/1/2019", "1/3/2019"]), events(time=["28/2/2019", "28/2/2019"])
    parts = [encode(one, "log"), encode(two, "log", first_row=3)]
    assert join(parts, "log", ordered=False).time.max() == pd.Timestamp("2019-03-01").timestamp()
    with pytest.raises(DataError, match=r"row 3: time .* goes backwards"):
        join(parts, "log", ordered=True)
    other = encode(events(time=["2/28/2019", "1/1/2019"]), "log", first_row=3)
    assert join([parts[0], other], "log", ordered=False).time.max() == pd.Timestamp("2019-02-28").timestamp()
    days, months = events(time=["1/1/2019", "30/1/2019"]), events(time=["1/1/2019", "2/28/2019"])
    parts = [encode(days, "log"), encode(months, "log", first_row=3)]
    with pytest.raises(DataError, match="row 4: time is 2/28/2019, a date, month first, but that of row 2 is 30/1"):
        join(parts, "log", ordered=False)
    with pytest.raises(DataError, match="row 1: time is 1, a number, but that of row 3 is 2/28/2019"):
        join([encode(events(), "log"), other], "log", ordered=False)


@pytest.mark.parametrize(
    "times", [["0", "5000000"], ["20240102", "20231231"], ["-1", "0"], ["1", "1e6", "1e9", "1e11", "1e12"]]
)
def test_numbers_that_only_count_are_read(times: list[str], tmp_path: Path) -> None:
    log = read_events(with_times(tmp_path, *times))
    np.testing.assert_array_equal(log.time, sorted(float(time) for time in times))


@pytest.mark.parametrize(
    "words", [("true", "false"), ("True", "False"), ("YES", "No"), (" yes", "no "), ("1.0", "0.0")]
)
def test_yes_and_no_are_one_and_zero(words: tuple[str, str], tmp_path: Path) -> None:
    yes, no = words
    rows = [
        "user,item,time,shown,accepted",
        f"a,x,1,{yes},{no}",
        f"a,y,2,{yes},{yes}",
        f"a,z,3,{no},",
        f"a,w,4,{no},{yes}",
    ]
    (tmp_path / "events.csv").write_text("\n".join(rows))
    assert read_events(str(tmp_path / "events.csv")).kind.tolist() == [REJECTED, ACCEPTED, NATURAL, NATURAL]


def test_parquet_types_are_read_as_what_they_mean(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    table = events(user=[5.0, 12.0], item=[7.0, 3e9], shown=[True, False], accepted=[False, None])
    for column in ("user", "item"):
        table[column] = table[column].astype("float64" if column == "item" else "float32")
    table.to_parquet(path)
    log = read_events(str(path))
    assert (log.users, log.items, log.kind.tolist()) == (("12", "5"), ("3000000000", "7"), [NATURAL, REJECTED])
    table.astype({"user": "Float64", "item": "Int64"}).to_parquet(path)
    assert_same(read_events(str(path)), log)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"item": [["x"], ["y"]]}, r"row 1: item is \['x'\]; a cell must be one number or text"),
        ({"item": [None, ["y"]]}, r"row 2: item is \['y'\]; a cell must"),
        ({"user": [{"id": 1}, {"id": 2}]}, r"row 1: user is \{'id': 1\}; a cell must"),
        ({"time": [[1], [2]]}, r"row 1: time is \[1\]; a cell must"),
        ({"shown": [[1], [1]]}, r"row 1: shown is \[1\]; a cell must"),
        ({"propensity": [[0.5, 1], None]}, r"row 1: propensity is \[0.5 1. \]; a cell must"),
        ({"accepted": [[], [1]]}, r"row 1: accepted is \[\]; a cell must"),
        ({"propensity": [[0.5], [0.5]]}, r"row 1: propensity is \[0.5\]; a cell must"),
        ({"item": [b"x", b"y"]}, r"row 1: item is b'x'; a cell must"),
        ({"item": [1.0, 2.5]}, r"row 2: item is 2\.5; a name must be a text or a whole number"),
        ({"item": [1.0, 2.0**53]}, r"row 2: item is 9007199254740992\.0; a name must"),
        ({"item": [1.0, np.inf]}, r"row 2: item is inf; a name must"),
    ],
)
def test_cells_that_are_no_values_are_refused(columns: dict[str, list[Any]], words: str, tmp_path: Path) -> None:
    events(**columns).to_parquet(tmp_path / "events.parquet")
    with pytest.raises(DataError, match=words):
        read_events(str(tmp_path / "events.parquet"))


def test_partly_missing_propensities_can_be_left_out(tmp_path: Path) -> None:
    path = str(tmp_path / "events.parquet")
    events(propensity=[0.5, None]).to_parquet(path)
    with pytest.raises(DataError, match=r'row 2: propensity is empty .* row 1; .* by columns=\{propensity: ""\}'):
        read_events(path)
    assert np.isnan(read_events(path, ReadOptions(columns={"propensity": ""})).propensity).all()
    natural = read_sequences(path, ReadOptions(columns={"shown": "", "accepted": "", "propensity": ""}))
    assert order(natural) == ["x", "y"]
    with pytest.raises(DataError, match="has no column item"):
        read_events(path, ReadOptions(columns={"item": ""}))
