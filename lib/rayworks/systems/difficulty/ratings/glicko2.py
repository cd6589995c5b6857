"""Glicko-2: one rating period, vectorised over all players and games.

Mark Glickman, "Example of the Glicko-2 system" (glicko.net/glicko/glicko2.pdf), with the 2022 revision of step 5. Ratings
and deviations are on the public scale (1500 is the centre, 400 points are odds of ten to one); mu and phi below are theirs.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from rayworks.core.config import Section
from rayworks.core.errors import DataError
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

SCALE = 173.7178
"""Rating points per unit of mu, as Glickman prints it (400 / ln 10)."""
SMALLEST_TAU = 1e-3
SMALLEST, LARGEST = 1e-3, 1e12
"""Rating points that any setting may have: squares and inverse squares of them are numbers still."""
TOLERANCE = 1e-6
MAX_ITERATIONS = 1000
"""Of the volatility's root search; a handful is usual."""


class Glicko2Options(Section):
    """Parameters and production guards. ``None`` switches a guard off."""

    start_rating: float = Field(1500.0, ge=-LARGEST, le=LARGEST, description="rating of a new player")
    start_deviation: float = Field(
        350.0, ge=SMALLEST, le=LARGEST, description="rating deviation of a new player, in rating points"
    )
    start_volatility: float = Field(0.06, ge=1e-6, le=LARGEST, description="volatility of a new player")
    tau: float = Field(0.5, ge=0, le=5, description="how freely the volatility moves; 0 keeps it as it is")
    elapsed_periods: float = Field(
        1.0,
        ge=0,
        le=LARGEST,
        description="share of a period that passed, for the growth of deviations; 0 if each game is rated at once",
    )
    max_volatility: float | None = Field(
        0.1, ge=1e-6, le=LARGEST, description="ceiling of every volatility; higher ones may keep a rating from settling"
    )
    max_rating_change: float | None = Field(
        700.0, ge=SMALLEST, le=LARGEST, description="largest change in one update, in rating points"
    )
    min_rating: float | None = Field(None, ge=-LARGEST, le=LARGEST, description="floor of every rating")
    min_deviation: float = Field(0.0, ge=0, le=LARGEST, description="floor of every deviation, in rating points")
    max_deviation: float = Field(
        500.0, ge=SMALLEST, le=LARGEST, description="ceiling of every deviation, in rating points"
    )
    clueless_deviation: float | None = Field(
        None, ge=SMALLEST, le=LARGEST, description="an opponent whose deviation is this or more does not move a rating"
    )

    @model_validator(mode="after")
    def _searchable(self) -> "Glicko2Options":
        if 0 < self.tau < SMALLEST_TAU:
            raise ValueError(
                f"glicko2.tau: is 0, which keeps volatilities, or at least {SMALLEST_TAU}; the search steps by it"
            )
        if self.min_deviation >= self.max_deviation:
            raise ValueError(
                f"glicko2.min_deviation: {self.min_deviation:g} is not below max_deviation {self.max_deviation:g}"
            )
        return self

    def start(self, players: int) -> Ratings:
        """Ratings of new ``players``."""
        return Ratings(
            np.full(players, self.start_rating),
            np.full(players, self.start_deviation),
            np.full(players, self.start_volatility),
        )


GLICKO2 = Glicko2Options()
"""Glickman's defaults, with caps against the blow-up of the volatility."""
LICHESS = Glicko2Options(
    start_deviation=500.0,
    start_volatility=0.09,
    tau=0.75,
    elapsed_periods=0.0,
    min_rating=400.0,
    min_deviation=45.0,
    clueless_deviation=230.0,
)
"""The guards that Lichess runs its puzzles with. Each attempt is a period of its own there."""
LICHESS_BLEND: Mapping[str, tuple[float, float]] = {
    "answer given away": (0.1, 0.4),
    "hinting": (0.2, 0.7),
    "neutral": (0.7, 0.8),
    "mix": (1.0, 1.0),
}
"""Share of an update that Lichess takes over, by what the puzzle's shown theme gives away: after a win, after a loss."""


def rate_period(
    ratings: Ratings,
    player: IndexArray,
    opponent: IndexArray,
    score: FloatArray,
    weight: FloatArray | None = None,
    options: Glicko2Options = GLICKO2,
    *,
    fixed: MaskArray | None = None,
    idle: IndexArray | int = 0,
) -> tuple[Ratings, PeriodReport]:
    """Ratings after one period of games, all rated against the ratings before it (Glickman, steps 2 to 8).

    Args:
        ratings: of P players.
        player: (G,) indices into the players.
        opponent: (G,) likewise; both sides of a game are updated. The same pair may meet many times.
        score: (G,) of ``player``, in [0, 1]; a win is 1, a draw 1/2.
        weight: (G,) how many games each counts for; all 1 if ``None``.
        fixed: (P,) players whose rating is known and stays as it is, such as contestants that problems are rated against.
        idle: (P,) or one number: periods without any game that passed before this one; deviations grow in each.

    Returns:
        the new ratings, and what was capped. Players without games only get a larger deviation.

    Raises:
        DataError: an index, score or weight is out of its range, or a player meets itself.
    """
    check_columns(ratings, player, opponent, score, weight, fixed)
    free = np.ones(len(ratings), bool) if fixed is None else ~fixed
    mu, phi = (ratings.rating - options.start_rating) / SCALE, ratings.deviation / SCALE
    if np.any(idle):
        grown = np.sqrt(phi**2 + idle * options.elapsed_periods * ratings.volatility**2)
        phi = np.where(free, np.minimum(grown, np.maximum(phi, options.max_deviation / SCALE)), phi)
    impact = deviation_impact(phi)
    if options.clueless_deviation is not None:
        impact = np.where(SCALE * phi >= options.clueless_deviation, 0.0, impact)
    information, surprise = sum_games(mu, impact, player, opponent, score, weight, free)

    rated = np.flatnonzero(information)
    variance = 1 / information[rated]
    improvement = variance * surprise[rated]
    volatility, iterations = ratings.volatility.copy(), 0
    if options.tau > 0 and len(rated):
        found = new_volatility(improvement, phi[rated], variance, volatility[rated], options.tau)
        volatility[rated], iterations = found
    volatility, capped_volatility = limit(volatility, None, options.max_volatility, free)

    variance_before = phi**2 + options.elapsed_periods * volatility**2
    variance_after = 1 / (1 / variance_before + information)
    deviation, capped_deviation = limit(
        SCALE * np.sqrt(variance_after), options.min_deviation, options.max_deviation, free
    )
    most = options.max_rating_change
    change, capped_change = limit(SCALE * variance_after * surprise, most and -most, most, free)
    rating, capped_rating = limit(ratings.rating + change, options.min_rating, None, free)
    after = Ratings(
        rating=np.where(free, rating, ratings.rating),
        deviation=np.where(free, deviation, ratings.deviation),
        volatility=np.where(free, volatility, ratings.volatility),
    )
    capped = {
        "volatility": capped_volatility,
        "rating change": capped_change,
        "rating": capped_rating,
        "deviation": capped_deviation,
    }
    return after, PeriodReport.of(len(score), information, surprise, capped, iterations)


def deviation_impact(phi: FloatArray) -> FloatArray:
    """g: how much a game against an opponent of deviation ``phi`` counts, in (0, 1] (Glickman, step 3)."""
    return 1 / np.sqrt(1 + 3 * phi**2 / np.pi**2)


def new_volatility(
    improvement: FloatArray, phi: FloatArray, variance: FloatArray, volatility: FloatArray, tau: float
) -> tuple[FloatArray, int]:
    """Root of Glickman's f by the Illinois method (step 5), for all players at once; those that are done drop out.

    Args:
        improvement: (P,) Delta.
        phi: (P,) deviations before the period.
        variance: (P,) v, finite.
        volatility: (P,) sigma before the period.
        tau: above 0.

    Returns:
        sigma' of each player and the largest number of iterations that one took.

    Raises:
        DataError: no root within :data:`MAX_ITERATIONS`; the inputs are far outside what ratings can be.
    """
    spread = phi**2 + variance
    excess = improvement**2 - spread
    start = 2 * np.log(volatility)

    def slope(x: FloatArray, at: npt.NDArray[np.intp]) -> FloatArray:
        exponential = np.exp(x)
        found: FloatArray = (
            exponential * (excess[at] - exponential) / (2 * (spread[at] + exponential) ** 2) - (x - start[at]) / tau**2
        )
        return found

    first, second = start.copy(), np.log(excess, where=excess > 0, out=start - tau)
    steps, searching = 1, np.flatnonzero(excess <= 0)
    while len(searching := searching[slope(second[searching], searching) < 0]):
        steps += 1
        second[searching] = start[searching] - steps * tau

    active = np.arange(len(start))
    slope_first, slope_second = slope(first, active), slope(second, active)
    for iteration in range(MAX_ITERATIONS):
        active = active[np.abs(second[active] - first[active]) > TOLERANCE]
        if not len(active):
            return np.exp(first / 2), iteration
        a, b, f_a, f_b = first[active], second[active], slope_first[active], slope_second[active]
        c = a + (a - b) * f_a / (f_b - f_a)
        f_c = slope(c, active)
        crosses = f_c * f_b <= 0
        first[active], slope_first[active] = np.where(crosses, b, a), np.where(crosses, f_b, f_a / 2)
        second[active], slope_second[active] = c, f_c
    raise DataError(
        f"ratings: the volatility of {len(active)} players does not settle; check deviations and volatilities"
    )


def blend(before: Ratings, after: Ratings, share: FloatArray | float) -> Ratings:
    """Take over only a ``share`` in [0, 1] of an update, as Lichess does where a theme gave the answer away."""
    return Ratings(
        (1 - share) * before.rating + share * after.rating,
        (1 - share) * before.deviation + share * after.deviation,
        (1 - share) * before.volatility + share * after.volatility,
    )


def even_odds_rating(group_rating: npt.ArrayLike, solve_rate: npt.ArrayLike) -> FloatArray:
    """The rating at which a group has even odds: D = R + 400 log10((1 - p) / p), the simplest oracle.

    Args:
        group_rating: R, rating points.
        solve_rate: p, the share of the group that solves the problem, strictly between 0 and 1.

    Raises:
        DataError: a solve rate is not strictly between 0 and 1, where the answer would be infinite.
    """
    rate = np.asarray(solve_rate, float)
    if not ((rate > 0) & (rate < 1)).all():
        raise DataError(
            "solve_rate: must lie strictly between 0 and 1; use (solved + 0.5) / (attempts + 1) for problems that all or "
            "none solved"
        )
    found: FloatArray = np.asarray(group_rating, float) + 400 * np.log10((1 - rate) / rate)
    return found
