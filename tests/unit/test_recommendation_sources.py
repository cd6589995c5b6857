"""What is read from event tables and released data sets, and what is refused by file, row and column."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rayworks.core.errors import DataError
from rayworks.systems.recommendation.logs.events import ACCEPTED, NATURAL, REJECTED, EventLog
from rayworks.systems.recommendation.sources import (
    KUAIRAND_CANDIDATES,
    ReadOptions,
    facts_of,
    read_bandit,
    read_events,
    read_sequences,
)

EVENTS = """user,item,time,shown,accepted,propensity,title
b,x,3,1,0,0.5,Heat
NA,x,2,0,,,Heat
b,y,1,0,1,,Up
NA,z,2,1,1,0.25,Cars
b,z,3,1,1,1,Cars
"""


@pytest.fixture
def table(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        (tmp_path / "events.csv").write_text(text)
        return str(tmp_path / "events.csv")

    return write


def assert_events(log: EventLog, expected: list[tuple[str, str, int]]) -> None:
    found = [(log.users[u], log.items[i], int(k)) for u, i, k in zip(log.user, log.item, log.kind, strict=True)]
    assert found == expected


def test_a_table_is_sorted_by_user_and_time_and_ties_keep_their_order(table: Callable[[str], str]) -> None:
    log = read_events(table(EVENTS))
    assert_events(
        log,
        [
            ("NA", "x", NATURAL),
            ("NA", "z", ACCEPTED),
            ("b", "y", NATURAL),
            ("b", "x", REJECTED),
            ("b", "z", ACCEPTED),
        ],
    )
    np.testing.assert_array_equal(log.propensity, [np.nan, 0.25, np.nan, 0.5, 1.0])
    facts = facts_of(log, "events.csv")
    assert (facts.rows, facts.users, facts.items, facts.natural, facts.recommended) == (5, 2, 3, 2, 3)
    assert facts.accepted_share == pytest.approx(2 / 3)
    assert facts.users_with_one_step == 1
    assert facts.notes == ()


def test_parquet_folders_and_other_names_and_dates_give_the_same_log(
    table: Callable[[str], str], tmp_path: Path
) -> None:
    expected = read_events(table(EVENTS))
    frame = pd.read_csv(tmp_path / "events.csv", keep_default_na=False, na_values=[""])
    frame["when"] = pd.to_datetime(frame.pop("time"), unit="s", utc=True)
    folder = tmp_path / "parts" / "day=1"
    folder.mkdir(parents=True)
    for number, start in enumerate((0, 2)):
        frame.iloc[start : (2, 5)[number]].to_parquet(folder / f"{number}.parquet")
    frame.to_csv(tmp_path / "dated.csv", index=False)
    for source in (tmp_path / "parts", tmp_path / "dated.csv"):
        log = read_events(str(source), ReadOptions(columns={"time": "when"}))
        for name in ("user", "item", "kind", "time", "propensity", "users", "items"):
            np.testing.assert_array_equal(getattr(log, name), getattr(expected, name))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("b,x,3,1,0", ",x,3,1,0", "row 1: user is empty; every event needs one"),
        ("b,y,1,0,1", "b,,1,0,1", "row 3: item is empty"),
        ("b,x,3,1,0", "b,x,soon,1,0", "row 1: time is soon; must be a number or a date"),
        ("b,x,3,1,0", "b,x,,1,0", "row 1: time is empty"),
        ("b,x,3,1,0", "b,x,inf,1,0", "row 1: time is inf"),
        ("b,x,3,1,0", "b,x,3,2,0", "row 1: shown is 2; must be 0 at a natural event, 1 at a recommendation"),
        ("b,y,1,0,1", "b,y,1,0,0", "row 3: accepted is 0; a decision without a recommendation"),
        ("b,x,3,1,0", "b,x,3,1,", "row 1: accepted is empty; a recommendation without a decision"),
        ("b,x,3,1,0", "b,x,3,1,0.5", "row 1: accepted is 0.5; must be 0 or 1"),
        ("b,x,3,1,0", "b,x,3,1,maybe", "row 1: accepted is maybe; must be 0 or 1"),
        ("b,x,3,1,0", "b,x,3,1,NA", "row 1: accepted is NA; must be 0 or 1"),
        ("b,z,3,1,1,1,", "b,z,3,1,1,0,", "row 5: propensity is 0; must be above 0 and at most 1"),
        ("b,z,3,1,1,1,", "b,z,3,1,1,1.01,", "row 5: propensity is 1.01"),
        (
            "b,z,3,1,1,1,",
            "b,z,3,1,1,,",
            "row 5: propensity is empty while other rows have one, such as row 1; fill in an",
        ),
        ("accepted,", "liked,", "has no column accepted; found user, item, time, shown, liked"),
    ],
)
def test_bad_events_are_refused_by_row(old: str, new: str, words: str, table: Callable[[str], str]) -> None:
    with pytest.raises(DataError, match=rf"events\.csv: {words}"):
        read_events(table(EVENTS.replace(old, new)))


def test_an_ordered_table_must_be(table: Callable[[str], str]) -> None:
    ordered = ReadOptions(ordered=True)
    with pytest.raises(DataError, match="row 3: time 1 goes backwards for user b; sort the table"):
        read_events(table(EVENTS), ordered)
    log = read_events(table(EVENTS.replace("b,y,1", "b,y,3")), ordered)
    assert [log.items[item] for item in log.item] == ["x", "z", "x", "y", "z"]


def test_sources_that_hold_nothing_are_refused(table: Callable[[str], str], tmp_path: Path) -> None:
    for source, words in (
        (table(EVENTS.splitlines()[0] + "\n"), "has no events"),
        (str(tmp_path), r"holds no \*\.parquet"),
        (str(tmp_path / "none.csv"), "does not exist"),
        (f"kuairand:{tmp_path}", r"holds no log_\*\.csv"),
    ):
        with pytest.raises(DataError, match=words):
            read_events(source)
    (tmp_path / "broken.parquet").write_text("no")
    with pytest.raises(DataError, match="cannot be read"):
        read_events(str(tmp_path / "broken.parquet"))
    for name, words in (
        ("events.tsv", "cannot be read"),
        ("events.xls", r"is no \.csv, \.csv\.gz, \.tsv or \.parquet file"),
    ):
        (tmp_path / name).write_text("")
        with pytest.raises(DataError, match=words):
            read_events(str(tmp_path / name))
    with pytest.raises(DataError, match="columns: who is not a column of events"):
        read_events(table(EVENTS), ReadOptions(columns={"who": "user"}))
    with pytest.raises(DataError, match="columns: two of ours are one of the file's"):
        read_events(table(EVENTS), ReadOptions(columns={"time": "user"}))
    with pytest.raises(DataError, match="has no column accepted"):
        read_sequences(table("user,item,time,shown\na,x,1,0\n"))
    natural = "user,item,time,shown,accepted\na,x,1,0,1\n"
    with pytest.raises(DataError, match="has no recommendations"):
        read_events(table(natural))


def save_kuairand(folder: Path) -> None:
    """Two logs as released, of which only columns that matter are filled."""
    (folder / "data").mkdir(parents=True)
    header = "user_id,video_id,date,hourmin,time_ms,is_click,is_like,long_view,play_time_ms,is_rand,tab\n"
    standard = "7,10,20220421,400,1650485801301,1,0,1,9,0,1\n7,30,20220421,400,1650485801305,0,0,0,1,0,1\n"
    drawn = "7,20,20220422,400,1650485801302,0,1,0,9,1,1\n12,10,20220422,400,1650485801302,1,0,0,9,1,1\n"
    (folder / "data/log_standard_4_08_to_4_21_pure.csv").write_text(header + standard)
    (folder / "data/log_random_4_22_to_5_08_pure.csv").write_text(header + drawn)


def test_kuairand_as_released(tmp_path: Path) -> None:
    save_kuairand(tmp_path / "pure")
    source = f"kuairand:{tmp_path / 'pure'}"
    log = read_events(source)
    assert_events(log, [("12", "10", ACCEPTED), ("7", "10", ACCEPTED), ("7", "20", REJECTED), ("7", "30", REJECTED)])
    assert np.isnan(log.propensity).all()
    assert "Only the random log has a known propensity" in facts_of(log, source).notes[1]
    drawn = read_events(source, ReadOptions(logs="random", signal="is_like"))
    assert_events(drawn, [("12", "10", REJECTED), ("7", "20", ACCEPTED)])
    np.testing.assert_array_equal(drawn.propensity, 1 / KUAIRAND_CANDIDATES)
    path = tmp_path / "pure/data/log_random_4_22_to_5_08_pure.csv"
    path.write_text(path.read_text().replace("9,1,1\n12", "9,0,1\n12"))
    with pytest.raises(DataError, match=r"log_random.*row 1: is_rand is not 1"):
        read_events(source, ReadOptions(logs="random"))
    with pytest.raises(DataError, match=r"has no column is_hate; give the file as its authors released it"):
        read_events(source, ReadOptions(signal="is_hate"))
    with pytest.raises(DataError, match="has recommendations only"):
        read_sequences(source)


def test_kuairec_as_released(tmp_path: Path) -> None:
    header = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
    rows = (
        "14,148,4381,6067,2020-07-05 05:27:48.378,20200705,1593898068.378,0.72\n"
        "14,183,11635,6100,,,,1.9\n"
        "14,181,20000,6100,2020-07-05 05:20:48.378,20200705,1593897648.378,3.27\n"
        "19,148,12134,6067,2020-07-05 05:27:48.378,20200705,1593898068.378,2.0\n"
    )
    path = tmp_path / "small_matrix.csv"
    path.write_text(header + rows)
    source = f"kuairec:{tmp_path}"
    assert_events(read_events(source), [("14", "181", ACCEPTED), ("14", "148", REJECTED), ("19", "148", REJECTED)])
    liked = read_events(source, ReadOptions(watch_ratio=0.5))
    assert (liked.kind == ACCEPTED).all()
    path.write_text(header + rows.replace("3.27", "-1"))
    with pytest.raises(DataError, match=r"small_matrix\.csv: row 3: watch_ratio -1\.0 is not 0 or more"):
        read_events(source)
    path.write_text(header + rows.replace("19,148", ",148"))
    with pytest.raises(DataError, match=r"small_matrix\.csv: row 4: user_id is empty"):
        read_events(source)


def test_movielens_histories_stand_in_for_recommendations() -> None:
    log = read_events("movielens-100k")
    facts = facts_of(log, "movielens-100k")
    assert (facts.rows, facts.users, facts.items) == (100_000, 943, 1682)
    assert "These are ratings, not recommendations" in facts.notes[0]
    counts = np.diff(log.offsets)
    np.testing.assert_array_equal(log.steps, counts - counts // 2)
    later = read_events("movielens-100k", ReadOptions(observed=0.0, min_rating=5.0))
    assert facts_of(later, "movielens-100k").natural == 0
    assert (later.kind == ACCEPTED).sum() == 21_201


def test_movielens_sequences_are_left_out_one_as_recbole_does() -> None:
    found = read_sequences("movielens-100k")
    assert len(found.item) == 100_000
    assert np.diff(found.offsets).min() == 20
    same = np.diff(found.user) == 0
    assert (np.diff(found.time)[same] >= 0).all()
    user = found.users.index("1")
    last = [found.items[found.targets(back)[user]] for back in (0, 1)]
    assert last == ["102", "74"]


def test_sequences_of_a_table_are_its_natural_events(table: Callable[[str], str]) -> None:
    found = read_sequences(table(EVENTS))
    assert [found.items[item] for item in found.item] == ["x", "y"]
    np.testing.assert_array_equal(found.targets(), [-1, -1])
    plain = read_sequences(table("user,item,time\nb,x,2\na,z,1\nb,y,1\nb,w,5\n"))
    assert plain.users == ("a", "b")
    np.testing.assert_array_equal(plain.offsets, [0, 1, 4])
    assert [plain.items[item] for item in plain.targets()[1:]] == ["w"]
    assert [plain.items[item] for item in plain.targets(1)[1:]] == ["x"]
    np.testing.assert_array_equal(plain.targets(2), [-1, -1])
    with pytest.raises(DataError, match="has no natural events"):
        read_sequences(table("user,item,time,shown,accepted\na,x,1,1,1\n"))


@pytest.mark.parametrize(
    ("campaign", "items", "clicks"), [("random/all", 80, 38), ("random/men", 34, 46), ("bts/women", 46, 46)]
)
def test_open_bandit_samples(campaign: str, items: int, clicks: int) -> None:
    log = read_bandit(f"open-bandit/{campaign}")
    assert (len(log.item), log.items, log.positions) == (10_000, items, 3)
    assert int(log.click.sum()) == clicks
    assert set(log.position.tolist()) == {0, 1, 2}
    assert (np.diff(log.time) >= 0).all()
    assert log.context is not None and log.context.shape == (10_000, 4)
    if campaign.startswith("random"):
        np.testing.assert_allclose(log.propensity, 1 / items)


FEATURES = ",".join(f"user_feature_{number}" for number in range(4))
IMPRESSIONS = f""",timestamp,item_id,position,click,propensity_score,{FEATURES}
0,2019-11-24 00:00:34.5+00:00,1,3,0,0.5,b,a,a,a
1,2019-11-24 00:00:14.25+00:00,0,1,1,0.25,a,a,a,b
"""


def save_bandit(folder: Path, text: str = IMPRESSIONS) -> str:
    (folder / "men").mkdir(exist_ok=True)
    (folder / "men/men.csv").write_text(text)
    (folder / "men/item_context.csv").write_text(",item_id,item_feature_0\n0,0,0.5\n1,1,0.25\n")
    return str(folder / "men")


def test_a_released_bandit_folder_is_coded_and_in_order_of_time(tmp_path: Path) -> None:
    log = read_bandit(save_bandit(tmp_path))
    assert log.item.tolist() == [0, 1]
    assert log.position.tolist() == [0, 2]
    assert log.propensity.tolist() == [0.25, 0.5]
    assert log.context is not None and log.context.tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]]
    np.testing.assert_allclose(np.diff(log.time), [20.25], atol=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("0,1,1,0.25", "0,1,1,0", r"row 2: propensity_score 0\.0 must be above 0 and at most 1"),
        ("0,1,1,0.25", "0,1,1,1.5", r"row 2: propensity_score 1\.5"),
        (",1,3,0,0.5", ",2,3,0,0.5", "row 1: item_id 2 is outside the catalogue of 2 items"),
        (",1,3,0,0.5", ",1,0,0,0.5", "row 1: position 0 must be 1, 2 or 3"),
        (",1,3,0,0.5", ",1,3,2,0.5", "row 1: click 2 must be 0 or 1"),
        ("click", "clicked", "has no column click; give the file"),
    ],
)
def test_bad_impressions_are_refused_by_row(old: str, new: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"men\.csv: {words}"):
        read_bandit(save_bandit(tmp_path, IMPRESSIONS.replace(old, new)))
    with pytest.raises(DataError, match=r"has no women\.csv; name open-bandit/"):
        read_bandit("open-bandit/random/none/women")
