"""Slates have one instant, windows one clock; MIND and RetailRocket are read in their own layout."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayworks.core.errors import DataError
from rayworks.systems.recommendation.config import Config, ReadOptions
from rayworks.systems.recommendation.evaluation import evaluate
from rayworks.systems.recommendation.logs.events import ACCEPTED, NATURAL, REJECTED, EventLog, TimeWindows, event_log
from rayworks.systems.recommendation.logs.slates import together
from rayworks.systems.recommendation.measures.audits import audit
from rayworks.systems.recommendation.models import fitting
from rayworks.systems.recommendation.sources import facts_of, read_events, read_sequences
from rayworks.systems.recommendation.values.policies import logged_policies

SLATES = """user,item,time,shown,accepted,slate
a,x,10,1,0,first
a,y,12,1,1,first
a,z,11,0,,
a,x,13,1,1,
b,x,10,1,0,first
b,y,30,1,1,7
b,z,20,1,0,7
"""


def rows(log: EventLog) -> list[tuple[str, str, int, float]]:
    columns = zip(log.user, log.item, log.kind, log.time, strict=True)
    return [(log.users[user], log.items[item], int(kind), float(time)) for user, item, kind, time in columns]


def test_events_of_a_slate_and_what_is_between_share_its_last_time(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(SLATES)
    log = read_events(str(tmp_path / "events.csv"))
    assert rows(log) == [
        ("a", "x", REJECTED, 12),
        ("a", "z", NATURAL, 12),
        ("a", "y", ACCEPTED, 12),
        ("a", "x", ACCEPTED, 13),
        ("b", "x", REJECTED, 10),
        ("b", "z", REJECTED, 30),
        ("b", "y", ACCEPTED, 30),
    ]
    assert log.instant.tolist() == [0, 0, 0, 3, 4, 5, 5]
    plain = read_events(str(tmp_path / "events.csv"), ReadOptions(columns={"slate": ""}))
    assert plain.instant.tolist() == list(range(7))


@pytest.mark.parametrize("seed", range(20))
def test_slates_are_merged_as_a_loop_merges_them(seed: int) -> None:
    draw = np.random.default_rng(seed)
    count = int(draw.integers(1, 40))
    user, time = draw.integers(0, 3, count), draw.integers(0, 15, count).astype(float)
    slate = draw.integers(-1, 4, count)
    expected = time.copy()
    for one in range(3):
        spans = [[at, at] for at in time[(user == one) & (slate < 0)]]
        for name in range(4):
            inside = time[(user == one) & (slate == name)]
            if len(inside):
                spans.append([inside.min(), inside.max()])
        merged: list[list[float]] = []
        for first, last in sorted(spans):
            if merged and first <= merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], last)
            else:
                merged.append([first, last])
        for first, last in merged:
            expected[(user == one) & (time >= first) & (time <= last)] = last
    np.testing.assert_array_equal(together(user, time, slate), expected)


def test_windows_by_time_hide_all_that_comes_later() -> None:
    draw = np.random.default_rng(0)
    user = np.sort(draw.integers(0, 20, 400))
    time = draw.permutation(400).astype(float)
    time = time[np.lexsort((time, user))]
    kind = draw.choice([NATURAL, REJECTED, ACCEPTED], 400)
    names = [str(number) for number in range(20)]
    log = event_log(user, draw.integers(0, 5, 400), kind, time, users=names, items=names[:5])
    split = TimeWindows(test=0.2, valid=0.1)
    train, valid, test = split.train_mask(log), split.valid_mask(log), split.test_mask(log)
    recommended = int(log.recommended.sum())
    assert test.sum() == pytest.approx(0.2 * recommended, abs=1.5)
    assert valid.sum() == pytest.approx(0.1 * recommended, abs=1.5)
    assert log.time[train].max() < log.time[valid].min() <= log.time[valid].max() < log.time[test].min()
    assert not (train & (valid | test)).any()
    assert (split.known_mask(log) == train).all()


def test_times_all_alike_leave_nothing_to_train_on() -> None:
    names = ["a", "b"]
    log = event_log(np.array([0, 1]), np.array([0, 1]), np.array([2, 3]), np.zeros(2), users=names, items=names)
    assert not TimeWindows(0.1, 0.1).train_mask(log).any()


def test_one_clock_is_refused_for_simulated_users() -> None:
    with pytest.raises(ValueError, match=r"split\.by: simulated users"):
        Config.model_validate({"run": {"name": "x"}, "split": {"by": "time"}})


MIND = (
    "1\tU1\t11/11/2019 9:05:58 AM\tN1 N2\tN3-1 N4-0\n"
    "2\tU2\t11/12/2019 6:11:30 PM\t\tN4-0\n"
    "3\tU1\t11/11/2019 1:00:00 PM\tN1 N2\tN-5-0\n"
)


def test_impressions_of_mind_are_slates_after_the_history(tmp_path: Path) -> None:
    (tmp_path / "behaviors.tsv").write_text(MIND)
    log = read_events(f"mind:{tmp_path}")
    assert [(user, item, kind) for user, item, kind, _ in rows(log)] == [
        ("U1", "N1", NATURAL),
        ("U1", "N2", NATURAL),
        ("U1", "N3", ACCEPTED),
        ("U1", "N4", REJECTED),
        ("U1", "N-5", REJECTED),
        ("U2", "N4", REJECTED),
    ]
    assert log.instant.tolist() == [0, 1, 2, 2, 4, 5]
    assert log.time[2] - log.time[1] == 1
    assert "not published" in facts_of(log, f"mind:{tmp_path}").notes[1]
    assert [read_sequences(f"mind:{tmp_path}").items[code] for code in read_sequences(f"mind:{tmp_path}").item] == [
        "N1",
        "N2",
    ]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("N4-0\n2", "N4\n2", "row 1 shows a news without a label"),
        ("11/12/2019 6:11:30 PM", "2019-11-12", "row 2 has a time"),
        ("\tU2", "\t", "row 2 has no user"),
        ("N4-0\n2", "N4-0\tN5-1\n2", "row 1 has more than five cells"),
    ],
)
def test_rows_of_mind_in_error_are_named(old: str, new: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "behaviors.tsv").write_text(MIND.replace(old, new, 1))
    with pytest.raises(DataError, match=words):
        read_events(f"mind:{tmp_path}")
    with pytest.raises(DataError, match=r"does not exist; name the folder of MIND"):
        read_events(f"mind:{tmp_path / 'nowhere'}")


HOUR, DAY = 3_600_000, 1_400_000_000_000
RETAIL: list[tuple[Any, ...]] = [
    (DAY + 2 * HOUR, "1", "view", "x"),
    (DAY, "1", "view", "x"),
    (DAY + 60_000, "1", "view", "y"),
    (DAY + 2 * HOUR + 1, "1", "addtocart", "x"),
    (DAY + 2 * HOUR + 2, "1", "view", "y"),
    (DAY + 2 * HOUR + 3, "1", "transaction", "x"),
    (DAY + 5, "2", "view", "z"),
]


def write_retail(folder: Path, events: list[tuple[Any, ...]]) -> str:
    lines = ["timestamp,visitorid,event,itemid,transactionid", *(",".join(map(str, (*one, ""))) for one in events)]
    (folder / "events.csv").write_text("\n".join([*lines, ""]))
    return f"retailrocket:{folder}"


def test_sessions_of_retailrocket_are_slates_whose_carts_are_acceptances(tmp_path: Path) -> None:
    source = write_retail(tmp_path, RETAIL)
    log = read_events(source)
    assert [(user, item, kind) for user, item, kind, _ in rows(log)] == [
        ("1", "x", NATURAL),
        ("1", "y", NATURAL),
        ("1", "x", ACCEPTED),
        ("1", "y", REJECTED),
        ("2", "z", REJECTED),
    ]
    assert log.instant.tolist() == [0, 1, 2, 2, 4]
    everything = read_events(source, ReadOptions(observed=0.0))
    assert everything.kind.tolist() == [REJECTED, REJECTED, ACCEPTED, REJECTED, REJECTED]
    assert everything.instant.tolist() == [0, 0, 2, 2, 4]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((1, "1", "click", "x"), "row 8 has an event that is none of"),
        (("", "1", "view", "x"), "row 8 has no timestamp"),
    ],
)
def test_rows_of_retailrocket_in_error_are_named(row: tuple[Any, ...], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        read_events(write_retail(tmp_path, [*RETAIL, row]))


def test_a_log_split_by_time_is_audited_and_scored(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    lines = ["user,item,time,shown,accepted,propensity"]
    for moment in range(900):
        item = int(draw.integers(6))
        accepted = int(draw.random() < 0.2 + 0.1 * item)
        lines.append(f"u{draw.integers(40)},i{item},{moment},1,{accepted},{1 / 6}")
    (tmp_path / "events.csv").write_text("\n".join([*lines, ""]))
    source = str(tmp_path / "events.csv")
    settings: dict[str, Any] = {"data": {"source": source}, "split": {"by": "time"}, "training": {"epochs": 3}}
    scope = {"stages": ["audit", "acceptance"]}
    config = Config.model_validate({"run": {"name": "x"}, "scope": scope, "policies": {"steps": 10}, **settings})
    log, split = read_events(source), fitting.windows(config)
    found = audit(log, split, 0)
    assert found.baselines.keys() == {"always accept", "item rate", "user and item"}
    trainer = fitting.make_trainer(fitting.Unit(fitting.MAIN, "acceptance"), config, log, None, fitting.Group())
    while not trainer.finished:
        trainer.epoch()
    model = trainer.trained()
    fitting.calibrate(model, config, log)
    scores = evaluate(config, log, model, {}, None, None)
    assert scores["decisions"] == int(split.test_mask(log).sum()) == 90
    assert scores["held_out"]["all"]
    assert logged_policies(config, [model], log, None)["uniform"]["imagined"]
