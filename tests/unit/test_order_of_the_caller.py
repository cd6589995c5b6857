"""Names go in and numbers come out in one order: that of the caller."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rayworks.systems.difficulty.calibration import calibrate
from rayworks.systems.difficulty.config import Config, DataSection
from rayworks.systems.difficulty.exported import exported_sets, read_export, write_export
from rayworks.systems.difficulty.item_response.marginal_likelihood import fit
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.item_response.sharded_fit import Shard
from rayworks.systems.difficulty.responses.response_matrix import as_matrix
from rayworks.systems.difficulty.responses.response_store import from_matrix, from_table
from rayworks.systems.difficulty.responses.sources import read_games, read_responses
from tests.simulated_responses import simulated

ITEMS = [f"q{n}" for n in np.random.default_rng(1).permutation(30)]
"""Sorted as text they are in no order of anybody."""


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_the_nth_difficulty_is_that_of_the_nth_column(missing: float) -> None:
    """Sorted by name, difficulties beside the caller's columns were noise (r = -.03)."""
    data = simulated(0, subjects=400, items=30, missing=missing)
    subjects = [f"m{n}" for n in np.random.default_rng(2).permutation(400)]
    responses = from_matrix(data.scores, subjects, ITEMS)
    assert responses.items.tolist() == ITEMS
    assert responses.subjects.tolist() == subjects
    found = fit(as_matrix(responses), FitOptions(model="1PL")).parameters.difficulty
    assert np.corrcoef(found, data.truth.difficulty)[0, 1] > 0.98
    assert responses.solve_rates() == pytest.approx(
        [np.mean(column[column >= 0]) for column in data.scores.T.astype(float)]
    )


def long_table(rows: int = 60) -> pd.DataFrame:
    scores = simulated(3, subjects=rows, items=len(ITEMS)).scores
    columns = [
        (f"m{rows - n}", item, score) for n, row in enumerate(scores) for item, score in zip(ITEMS, row, strict=True)
    ]
    return pd.DataFrame(columns, columns=["subject", "item", "score"])


def test_rows_number_items_as_they_come() -> None:
    responses = from_table(long_table())
    assert responses.items.tolist() == ITEMS
    assert responses.subjects[:2].tolist() == ["m60", "m59"]
    told = from_table(long_table(), items=ITEMS[::-1])
    assert told.items.tolist() == ITEMS[::-1]


def test_exports_keep_the_order_of_the_file(tmp_path: Path) -> None:
    long_table().to_csv(tmp_path / "board.csv", index=False)
    config = Config()
    found = calibrate("board", read_responses(str(tmp_path / "board.csv"), DataSection()), config)
    assert found["items"] == ITEMS
    assert found["labels"]["item"] == ITEMS
    assert found["labels"]["unnorm_rating"] == found["parameters"]["difficulty"]
    written: dict[str, bytes] = {}
    write_export(exported_sets({"board": found}), written.__setitem__)
    for name, content in written.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert list(read_export(tmp_path).sets["board"].items) == ITEMS
    assert pd.read_parquet(tmp_path / "board" / "labels.parquet")["item"].tolist() == ITEMS


def test_a_shard_numbers_items_as_the_whole_table_does() -> None:
    table = long_table()
    part = table[table["item"].isin(ITEMS[4:9])]
    shard = Shard(part, np.array(ITEMS), "board", 0, "error")
    assert sorted(np.unique(shard.responses.item)) == list(range(4, 9))


def test_players_come_as_the_games_name_them(tmp_path: Path) -> None:
    path = tmp_path / "league.csv"
    path.write_text("period,player,opponent,score\n1,zoe,bob,1\n1,ann,bob,0\n")
    assert read_games(str(path))[0] == ["zoe", "ann", "bob"]
