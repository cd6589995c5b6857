"""One game set: ratings by period, their history, capped updates, and how well each rating system predicts results."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from rayworks.systems.difficulty.config import RatingSection
from rayworks.systems.difficulty.ratings.glicko2 import SCALE, deviation_impact, rate_period
from rayworks.systems.difficulty.ratings.period_labels import PeriodLabels
from rayworks.systems.difficulty.ratings.rating_baselines import rate_elo, rate_glicko1
from rayworks.systems.difficulty.ratings.rating_games import Ratings
from rayworks.systems.difficulty.ratings.rating_periods import (
    Games,
    RatePeriod,
    chronological,
    converged,
    rating_history,
)

HISTORY = 8
"""Players whose history is kept: those with the most games."""


def rate_of(section: RatingSection, system: str) -> RatePeriod:
    """The rating system by its name, with the section's starting values."""
    systems: dict[str, RatePeriod] = {
        "glicko2": partial(rate_period, options=section.glicko2),
        "glicko1": partial(rate_glicko1, options=section.glicko1),
        "elo": partial(rate_elo, options=section.elo),
    }
    return systems[system]


def rate_games(
    name: str, players: Sequence[str], periods: PeriodLabels, games: Games, section: RatingSection
) -> dict[str, Any]:
    """Ratings of a game set as plain values."""
    start = section.glicko2.start(len(players))
    rate = rate_of(section, section.system)
    snapshots = list(chronological(start, games, rate))
    ratings, reports = snapshots[-1].ratings, [snapshot.report for snapshot in snapshots]
    passes, unanimous, moving = 1, np.zeros(0, dtype=int), np.zeros(0, dtype=int)
    if section.mode == "converged":
        found = converged(start, games, rate)
        ratings, reports = found.ratings, list(found.reports)
        passes, unanimous, moving = found.passes, found.unanimous, found.moving
    count = np.bincount(games.player, minlength=len(players)) + np.bincount(games.opponent, minlength=len(players))
    kept = np.argsort(-count, kind="stable")[:HISTORY]
    numbers, rating, deviation = rating_history(snapshots, kept)
    named = dict(zip(periods.number.tolist(), periods.names, strict=True))
    order = np.argsort(-ratings.rating, kind="stable")
    return {
        "name": name,
        "system": section.system,
        "mode": section.mode,
        "passes": passes,
        "games": len(games.score),
        "periods": len(snapshots),
        "elapsed": periods.told,
        "unanimous": [players[index] for index in unanimous],
        "moving": [players[index] for index in moving],
        "capped": {
            kind: int(sum(len(report.capped.get(kind, ())) for report in reports))
            for kind in sorted({kind for report in reports for kind in report.capped})
        },
        "table": {
            "player": [players[index] for index in order],
            **{name: values[order].tolist() for name, values in vars(ratings).items()},
            "games": count[order].tolist(),
        },
        "history": {
            "period": [named[int(number)] for number in numbers],
            "player": [players[index] for index in kept],
            "rating": rating.T.tolist(),
            "deviation": deviation.T.tolist(),
        },
        "foretold": {
            system: _finite(prequential_log_loss(start, games, rate_of(section, system), certain=system == "elo"))
            for system in ("glicko2", "glicko1", "elo")
        },
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def prequential_log_loss(start: Ratings, games: Games, rate: RatePeriod, *, certain: bool = False) -> float:
    """Mean log-loss of every result, predicted from the ratings before its period; the first period is left out.

    A draw counts as half a win and half a loss. NaN where there is one period only. ``certain`` takes ratings at face value,
    as Elo does.
    """
    total, count = 0.0, 0.0
    ratings = start
    parts = dict(games.periods())
    for snapshot in chronological(start, games, rate):
        played = parts[snapshot.period]
        if snapshot.period != next(iter(parts)):
            expected = expected_score(ratings, played.player, played.opponent, certain=certain)
            loss = -(played.score * np.log(expected) + (1 - played.score) * np.log1p(-expected))
            weight = np.ones(len(loss)) if played.weight is None else played.weight
            total, count = total + float(loss @ weight), count + float(weight.sum())
        ratings = snapshot.ratings
    return total / count if count > 0 else float("nan")


def expected_score(ratings: Ratings, player: np.ndarray, opponent: np.ndarray, *, certain: bool = False) -> np.ndarray:
    """Expected score of each game, both sides' uncertainty taken in (Glickman 1999, equation 16)."""
    variance = (ratings.deviation[player] ** 2 + ratings.deviation[opponent] ** 2) / SCALE**2
    impact = 1.0 if certain else deviation_impact(np.sqrt(variance))
    z = impact * (ratings.rating[player] - ratings.rating[opponent]) / SCALE
    return np.asarray(np.clip(1 / (1 + np.exp(-z)), 1e-9, 1 - 1e-9))
