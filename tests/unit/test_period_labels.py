"""Periods as people name them: numbers count, texts have an order, gaps age a rating."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayworks.core.errors import DataError
from rayworks.systems.difficulty.config import RatingSection
from rayworks.systems.difficulty.rating_run import rate_games
from rayworks.systems.difficulty.ratings.glicko2 import GLICKO2, rate_period
from rayworks.systems.difficulty.ratings.period_labels import number_periods
from rayworks.systems.difficulty.ratings.rating_baselines import rate_glicko1
from rayworks.systems.difficulty.ratings.rating_periods import Games, RatePeriod, chronological
from rayworks.systems.difficulty.responses.sources import read_games

NOBODY = np.zeros(0, dtype=np.int64)


def two_games(gap: int) -> Games:
    one, two = np.array([0, 0]), np.array([1, 1])
    return Games(one, two, np.array([1.0, 0.0]), np.array([0, gap]))


@pytest.mark.parametrize("rate", [rate_period, rate_glicko1])
@pytest.mark.parametrize("gap", [1, 2, 500])
def test_a_gap_ages_as_so_many_periods_without_games(rate: RatePeriod, gap: int) -> None:
    """Periods 0 and 500 aged a rating like 0 and 1."""
    start = GLICKO2.start(3)
    *_, last = chronological(start, two_games(gap), rate)
    ratings, _ = rate(start, np.array([0]), np.array([1]), np.array([1.0]))
    third = ratings.deviation[2]
    for _ in range(gap - 1):
        ratings, _ = rate(ratings, NOBODY, NOBODY, np.zeros(0))
    expected, _ = rate(ratings, np.array([0]), np.array([1]), np.array([0.0]))
    assert last.ratings.rating[:2] == pytest.approx(expected.rating[:2], abs=1e-9)
    assert last.ratings.deviation[:2] == pytest.approx(expected.deviation[:2], abs=1e-9)
    assert last.ratings.deviation[2] <= np.hypot(third, 35), "who has not played yet does not age in the gap"


def test_a_replay_from_a_snapshot_ages_the_same() -> None:
    games = Games(np.array([0, 0, 0]), np.array([1, 1, 1]), np.array([1.0, 0.0, 1.0]), np.array([3, 10, 40]))
    snapshots = list(chronological(GLICKO2.start(2), games))
    (last,) = chronological(snapshots[1].ratings, games, after=10)
    assert last.ratings.deviation == pytest.approx(snapshots[2].ratings.deviation, abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "names", "numbers", "told"),
    [
        ([0, 500, 0], ["0", "500"], [0, 500, 0], "501 periods, 499 of them without games"),
        (["W9", "W10", "W11"], ["W9", "W10", "W11"], [0, 1, 2], "in the order of their names"),
        (["W10", "W9"], ["W9", "W10"], [1, 0], "in the order of their names"),
        ([202012, 202101], ["202012", "202101"], [24251, 24252], "2 months, 0 of them without games"),
        (["2024-01-31", "2023-12-01"], ["2023-12-01", "2024-01-31"], [1, 0], "in the order of their names"),
        (["9", "10"], ["9", "10"], [9, 10], "2 periods, 0 of them"),
        ([1.5, 0.5], ["0.5", "1.5"], [1, 0], "in the order of their names"),
    ],
)
def test_labels_are_read_as_people_read_them(
    labels: list[Any], names: list[str], numbers: list[int], told: str
) -> None:
    found = number_periods(labels)
    assert found.names == names
    assert found.of_game.tolist() == numbers
    assert told in found.told


def test_integers_that_cannot_be_counted_are_refused() -> None:
    with pytest.raises(DataError, match="number the periods from 0"):
        number_periods([0, 2**60])


def test_week_ten_follows_week_nine_in_a_file(tmp_path: Path) -> None:
    """They were reversed silently where they were sorted, and refused where they were in order."""
    path = tmp_path / "league.csv"
    path.write_text("period,player,opponent,score\nW9,a,b,1\nW10,a,b,0\nW11,a,b,1\n")
    players, periods, games = read_games(str(path))
    found = rate_games("league", players, periods, games, RatingSection())
    assert found["history"]["period"] == ["W9", "W10", "W11"]
    assert "3 periods" in found["elapsed"]
