"""Glicko-1 and Elo under the interface of :func:`glicko2.rate_period`.

Glicko-1: Mark Glickman, "The Glicko system" (glicko.net/glicko/glicko.pdf). Elo: with one K, the whole period at once.
"""

import numpy as np
from pydantic import Field

from rayworks.core.config import Section
from rayworks.systems.difficulty.ratings.glicko2 import LARGEST, SCALE, SMALLEST, deviation_impact
from rayworks.systems.difficulty.ratings.rating_games import (
    FloatArray,
    IndexArray,
    MaskArray,
    PeriodReport,
    Ratings,
    check_columns,
    limit,
    sum_games,
)


class GlickoOptions(Section):
    """Parameters of Glicko-1. It has no volatility: deviations of all players grow alike."""

    growth: float = Field(
        34.6, ge=0, le=LARGEST, description="c: how much a deviation grows per period, in rating points"
    )
    min_deviation: float = Field(30.0, ge=0, le=LARGEST, description="floor of every deviation, in rating points")
    max_deviation: float = Field(
        350.0, ge=SMALLEST, le=LARGEST, description="ceiling of every deviation and that of a new player"
    )


class EloOptions(Section):
    """The one parameter of Elo."""

    k: float = Field(20.0, gt=0, le=LARGEST, description="rating points that a win against all expectation is worth")


GLICKO1 = GlickoOptions()
ELO = EloOptions()


def rate_glicko1(
    ratings: Ratings,
    player: IndexArray,
    opponent: IndexArray,
    score: FloatArray,
    weight: FloatArray | None = None,
    options: GlickoOptions = GLICKO1,
    *,
    fixed: MaskArray | None = None,
    idle: IndexArray | int = 0,
) -> tuple[Ratings, PeriodReport]:
    """One period of Glicko-1: deviations grow by c first, then every player is rated against the grown ones.

    Volatilities stay as they are. Arguments, results and errors as of :func:`glicko2.rate_period`.
    """
    check_columns(ratings, player, opponent, score, weight, fixed)
    free = np.ones(len(ratings), bool) if fixed is None else ~fixed
    grown = np.minimum(np.sqrt(ratings.deviation**2 + (1 + idle) * options.growth**2), options.max_deviation)
    phi = np.where(free, grown, ratings.deviation) / SCALE
    information, surprise = sum_games(
        ratings.rating / SCALE, deviation_impact(phi), player, opponent, score, weight, free
    )
    variance_after = 1 / (1 / phi**2 + information)
    deviation, capped = limit(SCALE * np.sqrt(variance_after), options.min_deviation, options.max_deviation, free)
    after = Ratings(
        rating=ratings.rating + SCALE * variance_after * surprise,
        deviation=np.where(free, deviation, ratings.deviation),
        volatility=ratings.volatility,
    )
    return after, PeriodReport.of(len(score), information, surprise, {"deviation": capped})


def rate_elo(
    ratings: Ratings,
    player: IndexArray,
    opponent: IndexArray,
    score: FloatArray,
    weight: FloatArray | None = None,
    options: EloOptions = ELO,
    *,
    fixed: MaskArray | None = None,
    idle: IndexArray | int = 0,
) -> tuple[Ratings, PeriodReport]:
    """One period of Elo: r' = r + K sum (s - E). Deviations and volatilities neither count nor change.

    Arguments, results and errors as of :func:`glicko2.rate_period`.
    """
    check_columns(ratings, player, opponent, score, weight, fixed)
    free = np.ones(len(ratings), bool) if fixed is None else ~fixed
    information, surprise = sum_games(
        ratings.rating / SCALE, np.ones(len(ratings)), player, opponent, score, weight, free
    )
    after = Ratings(ratings.rating + options.k * surprise, ratings.deviation, ratings.volatility)
    return after, PeriodReport.of(len(score), information, surprise, {})
