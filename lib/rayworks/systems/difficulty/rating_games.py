"""What every rating system shares: players' ratings, games between them, and the sums over games that an update needs."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rayworks.core.errors import DataError

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.integer]
MaskArray = npt.NDArray[np.bool_]

BLOCK = 32_768
"""Games summed at a time: the temporaries stay in the processor's cache, which is twice as fast as whole columns."""
LARGEST_EXPONENT = 150.0
"""Gaps of more than 26,000 rating points count as this many units of mu, so that nothing overflows."""


@dataclass(frozen=True, eq=False)
class Ratings:
    """Ratings of P players: ``rating`` and ``deviation`` in rating points, ``volatility`` per period; each (P,).

    Raises:
        DataError: the shapes differ, a value is not finite, or a deviation or volatility is not positive.
    """

    rating: FloatArray
    deviation: FloatArray
    volatility: FloatArray

    def __post_init__(self) -> None:
        for name in ("rating", "deviation", "volatility"):
            values = getattr(self, name)
            if values.shape != self.rating.shape or values.ndim != 1:
                raise DataError(f"{name}: has shape {values.shape}; give one value per player, {self.rating.shape}")
            wrong = np.flatnonzero(~np.isfinite(values) | ((values <= 0) & (name != "rating")))
            if len(wrong):
                raise DataError(f"{name}: is {values[wrong[0]]} for player {wrong[0]}; give a finite, positive number")

    def __len__(self) -> int:
        return len(self.rating)


@dataclass(frozen=True, eq=False)
class PeriodReport:
    """How one rating period went."""

    games: int
    rated: npt.NDArray[np.intp]
    """Players who had a game that counted."""
    variance: FloatArray
    """(P,) v: estimated variance of the rating from the games alone, in units of mu squared; infinite without games."""
    improvement: FloatArray
    """(P,) Delta: estimated improvement from the games alone, in units of mu; 0 without games."""
    iterations: int
    """The most that one player's volatility took."""
    capped: Mapping[str, npt.NDArray[np.intp]]
    """What was capped, to the players it happened to."""

    @property
    def capped_updates(self) -> int:
        """Players with at least one capped value."""
        return len(np.unique(np.concatenate(list(self.capped.values())))) if self.capped else 0


def check_games(
    ratings: Ratings,
    player: IndexArray,
    opponent: IndexArray,
    score: FloatArray,
    weight: FloatArray | None,
    fixed: MaskArray | None,
) -> None:
    """Refuse games that can not be rated.

    Raises:
        DataError: naming the column, the first game at fault and what would be right.
    """
    players, games = len(ratings), len(score)
    columns = {"player": player, "opponent": opponent, "score": score, "weight": weight}
    for name, column in columns.items():
        if column is not None and column.shape != (games,):
            raise DataError(f"{name}: has shape {column.shape}; give one value per game, ({games},)")
    if fixed is not None and fixed.shape != (players,):
        raise DataError(f"fixed: has shape {fixed.shape}; give one flag per player, ({players},)")
    if not games:
        return
    for name, column in (("player", player), ("opponent", opponent)):
        if column.dtype.kind not in "iu":
            raise DataError(f"{name}: holds {column.dtype} values; give indices of players as integers")
        if column.min() < 0 or column.max() >= players:
            game = int(np.flatnonzero((column < 0) | (column >= players))[0])
            raise DataError(f"{name}: {column[game]} in game {game} is unknown; players are 0 to {players - 1}")
    if not (score.min() >= 0 and score.max() <= 1):
        game = int(np.flatnonzero(~((score >= 0) & (score <= 1)))[0])
        raise DataError(f"score: is {score[game]} in game {game}; give a number in [0, 1]")
    if weight is not None and not (weight.min() >= 0 and np.isfinite(weight.max())):
        game = int(np.flatnonzero(~((weight >= 0) & np.isfinite(weight)))[0])
        raise DataError(f"weight: is {weight[game]} in game {game}; give a finite number that is not negative")
    if (itself := player == opponent).any():
        game = int(np.flatnonzero(itself)[0])
        raise DataError(f"opponent: player {player[game]} meets itself in game {game}; drop the game")


def sum_games(
    mu: FloatArray,
    impact: FloatArray,
    player: IndexArray,
    opponent: IndexArray,
    score: FloatArray,
    weight: FloatArray | None,
    free: MaskArray,
) -> tuple[FloatArray, FloatArray]:
    """The two sums over a player's games that Glickman's v and Delta are made of; 0 for players who are not free.

    Args:
        mu: (P,) ratings in units where odds are e to one.
        impact: (P,) g of each player as an opponent; 0 makes games against it count for nothing.
        player: (G,) one side of each game.
        opponent: (G,) the other side.
        score: (G,) of ``player``.
        weight: (G,) or ``None`` for 1.
        free: (P,) whose sums are asked for; a side on which nobody is free costs nothing.

    Returns:
        (P,) information, sum of g^2 E (1 - E), which is 1 / v; and (P,) surprise, sum of g (s - E).
    """
    players = len(mu)
    information, surprise = np.zeros(players), np.zeros(players)
    size = max(BLOCK, players)
    for own, other, mirrored in ((player, opponent, False), (opponent, player, True)):
        if not (free.all() or free[own].any()):
            continue
        for start in range(0, len(score), size):
            block = slice(start, start + size)
            one, two = own[block], other[block]
            g = impact[two]
            odds_against = np.exp(np.clip(g * (mu[two] - mu[one]), -LARGEST_EXPONENT, LARGEST_EXPONENT))
            expected = 1 / (1 + odds_against)
            scored = 1 - score[block] if mirrored else score[block]
            difference = g * (scored - expected)
            # E (1 - E), which must not vanish where E rounds to 1.
            precision = g**2 * odds_against * expected**2
            if weight is not None:
                difference, precision = weight[block] * difference, weight[block] * precision
            information += np.bincount(one, precision, players)
            surprise += np.bincount(one, difference, players)
    return np.where(free, information, 0.0), np.where(free, surprise, 0.0)


def limit(
    values: FloatArray, low: float | None, high: float | None, free: MaskArray
) -> tuple[FloatArray, npt.NDArray[np.intp]]:
    """``values`` within the bounds that are given, and the free players whose value was outside."""
    bounded: FloatArray = np.clip(values, -np.inf if low is None else low, np.inf if high is None else high)
    return bounded, np.flatnonzero((bounded != values) & free)
