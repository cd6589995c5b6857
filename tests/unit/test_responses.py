"""The response store: what it keeps, and how it names what it can not take."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.difficulty.config import DataSection
from rayworks.systems.difficulty.responses.response_matrix import ByteMatrix, SparseMatrix, as_matrix
from rayworks.systems.difficulty.responses.response_store import from_matrix, from_table
from rayworks.systems.difficulty.responses.sources import read_games, read_responses

GOOD = [("ann", "q1", 1.0), ("ann", "q2", 0.0), ("bob", "q1", 0.0), ("bob", "q2", 1.0)]


def table(*rows: tuple[Any, ...], **columns: list[Any]) -> pd.DataFrame:
    frame = pd.DataFrame([*GOOD, *rows], columns=["subject", "item", "score"], dtype=object)
    return frame.assign(**columns)


def test_a_store_gives_back_its_rows() -> None:
    columns = {
        "weight": [1.0, 2.0, 0.5, 1.0],
        "family": ["f", "f", "g", "g"],
        "period": ["1", "2", "1", "2"],
        "split": ["train", "eval", "train", "eval"],
    }
    found = from_table(table(**columns))
    assert found.shape == (2, 2)
    expected = table(**columns).astype({"score": float})
    pd.testing.assert_frame_equal(
        found.table()[expected.columns].astype({"subject": object, "item": object, "family": object}),
        expected,
        check_dtype=False,
    )
    assert found.solve_rates() == pytest.approx([1 / 1.5, 1 / 3])
    assert found.subject_means() == pytest.approx([1 / 3, 1 / 1.5])


def test_ids_may_be_anything_that_prints() -> None:
    found = from_table(pd.DataFrame({"subject": [7, 7, 8, 8], "item": ["ä b", "#", "ä b", "#"], "score": [1, 0, 0, 1]}))
    assert found.subjects.tolist() == ["7", "8"]
    assert found.items.tolist() == ["ä b", "#"]
    assert found.is_binary and found.density == 1


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (table(("ann", "q2", 1.0)), r"row 5 repeats subject ann, item q2 \(1 such rows\); say data.duplicates"),
        (
            table(("cid", "q1", 1.5), ("cid", "q2", -1)),
            r"row 5 \(cid, q1\) has score 1.5; must be a number in \[0, 1\]",
        ),
        (table(("cid", "q1", -0.1)), r"row 5 \(cid, q1\) has score -0.1"),
        (table(("cid", "q1", float("nan"))), r"row 5 \(cid, q1\) has score nan; .* leave an unobserved cell out"),
        (table(("cid", "q1", None)), r"row 5 \(cid, q1\) has score None"),
        (table(("cid", "q1", "right")), r"row 5 \(cid, q1\) has score 'right'"),
        (table(weight=[1, -2, 1, 1]), r"row 2 \(ann, q2\) has weight -2; must be a number above 0.*\(1 such rows\)"),
        (table(weight=[1, 1, float("inf"), 1]), r"row 3 \(bob, q1\) has weight inf;"),
        (table(weight=[1, 1, 1, float("nan")]), r"row 4 \(bob, q2\) has weight nan"),
        (table((None, "q1", 1.0)), "row 5 has no subject; give every response one"),
        (table(("cid", float("nan"), 1.0)), "row 5 has no item"),
        (table(family=["f", None, "g", "g"]), "row 2 has no family"),
        (table(family=["f", "g", "g", "g"]), "subject ann stands in two families"),
        (table(weight=[0, 1, 0, 1]), r"row 1 \(ann, q1\) has weight .*0.*; must be a number above 0"),
        (table().drop(columns="score"), "has no column score; found subject, item"),
        (table().iloc[:0], "holds no response"),
        (table().iloc[:2], r"has one subject \(ann\); a difficulty needs at least two"),
    ],
)
def test_bad_tables_are_refused_by_row_and_name(frame: pd.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=f"exam: .*{message}"):
        from_table(frame, "exam")


def test_an_item_nobody_saw_is_named() -> None:
    with pytest.raises(DataError, match="nobody saw item q4, q3; leave it out of the list"):
        from_table(table(), items=["q1", "q2", "q4", "q3"])


def test_parts_that_share_no_subject_are_listed() -> None:
    frame = table(("cid", "q3", 1), ("dan", "q3", 0), ("cid", "q4", 0), ("eve", "q9", 1))
    with pytest.raises(
        DataError, match=r"falls into 3 parts .*: 2 items \(q1, q2\); 2 items \(q3, q4\); 1 items \(q9\)"
    ):
        from_table(frame)
    found = from_table(frame, allow_disconnected=True)
    assert [found.items[part].tolist() for part in found.components()] == [["q1", "q2"], ["q3", "q4"], ["q9"]]


def test_duplicates_are_merged_as_asked() -> None:
    frame = table(("ann", "q1", 0.0)).assign(weight=[1.0, 1.0, 1.0, 1.0, 3.0])
    merged = from_table(frame, duplicates="mean").table().set_index(["subject", "item"])
    assert merged.loc[("ann", "q1"), "score"] == pytest.approx(0.25)
    assert merged.loc[("ann", "q1"), "weight"] == 4.0, "two responses tell as much as two"
    assert from_table(frame, duplicates="first").table()["score"].sum() == 2
    assert from_table(frame, duplicates="last").table()["score"].sum() == 1


def test_parts_keep_names_and_scores() -> None:
    found = from_matrix(np.array([[1, 0, -1], [0, 1, 1], [1, 1, 0]]), ["a", "b", "c"], ["x", "y", "z"])
    part = found.take_subjects(np.array([2, 0]))
    assert part.subjects.tolist() == ["c", "a"]
    assert part.table()[["subject", "item", "score"]].to_numpy().tolist() == [
        ["a", "x", 1.0],
        ["a", "y", 0.0],
        ["c", "x", 1.0],
        ["c", "y", 1.0],
        ["c", "z", 0.0],
    ]
    column = found.take_items(np.array([2]))
    assert column.items.tolist() == ["z"] and column.score.tolist() == [1.0, 0.0]
    assert np.isnan(column.subject_means()).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.array([1, 0]), "has 1 axes; give subjects x items"),
        (np.array([[1, 2], [0, 1]]), "has score 2"),
        (np.array([[1, -9], [0, 1]]), "has score -9"),
        (np.array([[1.0, -1.0], [0.0, 1.0]]), r"has score -1\.0"),
        (np.array([[1, -1], [0, -1]]), "nobody saw item i000001"),
        (np.array([[1.0, np.nan], [0.0, 1.0], [np.nan, np.nan]]), "subject s000002 answered nothing"),
    ],
)
def test_bad_matrices_are_refused(matrix: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_matrix(matrix)


def test_names_must_fit_the_matrix() -> None:
    with pytest.raises(DataError, match="but there are 1 subjects and 2 items"):
        from_matrix(np.ones((2, 2)), subjects=["only"])


def test_names_that_sort_otherwise_keep_their_columns() -> None:
    found = from_matrix(np.array([[1, 0], [1, 0], [0, 0]]), ["s10", "s9", "s1"], ["i2", "i10"])
    rates = dict(zip(found.items, found.solve_rates(), strict=True))
    assert rates == {"i2": pytest.approx(2 / 3), "i10": 0.0}


def test_the_smaller_form_is_chosen() -> None:
    dense = from_matrix((np.random.default_rng(0).random((30, 30)) < 0.5).astype(int))
    assert isinstance(as_matrix(dense), ByteMatrix)
    codes = np.full((60, 60), -1)
    codes[np.arange(60), np.arange(60)] = 1
    codes[:, 0], codes[0, :] = 0, 1
    assert isinstance(as_matrix(from_matrix(codes)), SparseMatrix)
    assert isinstance(as_matrix(from_matrix(np.full((4, 4), 0.5))), SparseMatrix)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_files_are_read_with_ids_as_they_stand(tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame(
        {
            "subject": ["007", "007", "8", "8"],
            "item": ["01", "1", "01", "1"],
            "score": [1, 0, 0, 1],
            "age": [3, 3, 4, 4],
        }
    )
    path = tmp_path / f"answers.{suffix}"
    if suffix == "csv":
        frame.to_csv(path, index=False)
    elif suffix == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    found = read_responses(str(path), DataSection())
    assert found.responses.subjects.tolist() == ["007", "8"]
    assert found.responses.items.tolist() == ["01", "1"]
    assert found.focal("age=4").tolist() == [False, True]
    with pytest.raises(ConfigError, match="no attribute height; known: age"):
        found.focal("height=1")
    with pytest.raises(ConfigError, match="holds for no subjects"):
        found.focal("age=9")


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_text("no parquet")
    for source, message in (
        (str(broken), "cannot be read"),
        (str(tmp_path / "none.csv"), "cannot be read"),
        (str(tmp_path / "table.xlsx"), "is no .csv, .tsv"),
    ):
        with pytest.raises(DataError, match=message):
            read_responses(source, DataSection())


def games(tmp_path: Path, **columns: list[Any]) -> str:
    frame = {"period": [1, 1, 2], "player": ["a", "b", "c"], "opponent": ["b", "c", "a"], "score": [1, 0.5, 0]}
    path = tmp_path / "games.csv"
    pd.DataFrame({**frame, **columns}).to_csv(path, index=False)
    return str(path)


def test_games_are_read(tmp_path: Path) -> None:
    players, labels, found = read_games(games(tmp_path))
    periods = labels.names
    assert (players, periods) == (["a", "b", "c"], ["1", "2"])
    assert found.player.tolist() == [0, 1, 2] and found.opponent.tolist() == [1, 2, 0]
    assert found.period.tolist() == [1, 1, 2]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"period": [2, 1, 3]}, "row 2 is of period 1, after one of 2; sort the games by period"),
        ({"period": [None, 1, 2]}, "row 1 has no period"),
        ({"player": ["a", None, "c"]}, "row 2 has no player"),
        ({"opponent": ["b", "c", None]}, "row 3 has no opponent"),
        ({"score": [1, 2, 0]}, r"row 2 has score 2.*; must be in \[0, 1\]"),
        ({"score": [1, None, 0]}, "row 2 has score nan"),
        ({"opponent": ["b", "b", "a"]}, "row 2: b meets itself"),
    ],
)
def test_bad_games_are_refused_by_row(tmp_path: Path, columns: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_games(games(tmp_path, **columns))
