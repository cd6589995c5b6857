"""What every rating system shares: players' ratings, games between them, and the sums over games that an update needs."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rayworks.core.errors import DataError

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.integer]
MaskArray = npt.NDArray[np.bool_]
Players = npt.NDArray[np.intp]

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
    rated: Players
    """Players who had a game that counted."""
    variance: FloatArray
    """(P,) v: estimated variance of the rating from the games alone, in units of mu squared; infinite without games."""
    improvement: FloatArray
    """(P,) Delta: estimated improvement from the games alone, in units of mu; 0 without games."""
    iterations: int
    """The most that one player's volatility took."""
    capped: Mapping[str, Players]
    """What was capped, to the players it happened to."""

    @classmethod
    def of(
        cls,
        games: int,
        information: FloatArray,
        surprise: FloatArray,
        capped: Mapping[str, Players],
        iterations: int = 0,
    ) -> "PeriodReport":
        """From what :func:`sum_games` found."""
        rated = np.flatnonzero(information)
        variance, improvement = np.full(len(information), np.inf), np.zeros(len(information))
        variance[rated] = 1 / information[rated]
        improvement[rated] = variance[rated] * surprise[rated]
        return cls(games, rated, variance, improvement, iterations, capped)

    @property
    def capped_updates(self) -> int:
        """Players with at least one capped value."""
        return len(np.unique(np.concatenate(list(self.capped.values())))) if self.capped else 0


def check_columns(
    ratings: Ratings,
    player: IndexArray,
    opponent: IndexArray,
    score: FloatArray,
    weight: FloatArray | None,
    fixed: MaskArray | None,
) -> None:
    """Refuse columns of the wrong shape or kind; their values are left to :func:`sum_games`, which reads them anyway.

    Raises:
        DataError: naming the column.
    """
    players, games = len(ratings), len(score)
    columns = {"player": player, "opponent": opponent, "score": score, "weight": weight}
    for name, column in columns.items():
        if column is not None and column.shape != (games,):
            raise DataError(f"{name}: has shape {column.shape}; give one value per game, ({games},)")
    if fixed is not None and fixed.shape != (players,):
        raise DataError(f"fixed: has shape {fixed.shape}; give one flag per player, ({players},)")
    for name, column in (("player", player), ("opponent", opponent)):
        if games and column.dtype.kind not in "iu":
            raise DataError(f"{name}: holds {column.dtype} values; give indices of players as integers")


def check_block(
    players: int, player: IndexArray, opponent: IndexArray, score: FloatArray, weight: FloatArray | None, before: int
) -> tuple[slice, slice]:
    """Refuse games at fault, numbered from ``before``; the ranges of players on either side.

    Raises:
        DataError: naming the column, the first game at fault and what would be right.
    """
    ranges = []
    for name, column in (("player", player), ("opponent", opponent)):
        low, high = int(column.min()), int(column.max())
        if low < 0 or high >= players:
            game = int(np.flatnonzero((column < 0) | (column >= players))[0])
            raise DataError(
                f"{name}: {column[game]} in game {before + game} is unknown; players are 0 to {players - 1}"
            )
        ranges.append(slice(low, high + 1))
    if not (score.min() >= 0 and score.max() <= 1):
        game = int(np.flatnonzero(~((score >= 0) & (score <= 1)))[0])
        raise DataError(f"score: is {score[game]} in game {before + game}; give a number in [0, 1]")
    if weight is not None and not (weight.min() >= 0 and np.isfinite(weight.max())):
        game = int(np.flatnonzero(~((weight >= 0) & np.isfinite(weight)))[0])
        raise DataError(f"weight: is {weight[game]} in game {before + game}; give a finite number that is not negative")
    apart = ranges[0].stop <= ranges[1].start or ranges[1].stop <= ranges[0].start
    if not apart and (itself := player == opponent).any():
        game = int(np.flatnonzero(itself)[0])
        raise DataError(f"opponent: player {player[game]} meets itself in game {before + game}; drop the game")
    return ranges[0], ranges[1]


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

    Raises:
        DataError: as :func:`check_block`.
    """
    players = len(mu)
    information, surprise = np.zeros(players), np.zeros(players)
    bounded = bool(len(mu)) and float(np.ptp(mu)) * float(impact.max()) < LARGEST_EXPONENT
    size = min(max(BLOCK, players), len(score))
    buffers = np.empty((4, size))
    for start in range(0, len(score), max(size, 1)):
        rows = slice(start, start + size)
        one, two, scored = player[rows], opponent[rows], score[rows]
        weighted = None if weight is None else weight[rows]
        ranges = check_block(players, one, two, scored, weighted, start)
        gap, odds, g, part = buffers[:, : len(one)]
        # Indices are in range, which spares take the slower mode that looks for others.
        mu.take(two, out=gap, mode="clip")
        mu.take(one, out=odds, mode="clip")
        gap -= odds
        for own, other, among, mirrored in ((one, two, ranges[0], False), (two, one, ranges[1], True)):
            if not free[among].any():
                continue
            impact.take(other, out=g, mode="clip")
            np.multiply(gap, g, out=odds)
            if mirrored:
                np.negative(odds, out=odds)
            if not bounded:
                np.clip(odds, -LARGEST_EXPONENT, LARGEST_EXPONENT, out=odds)
            np.exp(odds, out=odds)
            # part = g E; then odds becomes g^2 E (1 - E), which must not vanish where E rounds to 1; and g becomes g (s - E).
            np.add(odds, 1.0, out=part)
            np.divide(g, part, out=part)
            odds *= part
            odds *= part
            g *= 1 - scored if mirrored else scored
            g -= part
            if weighted is not None:
                odds *= weighted
                g *= weighted
            information += np.bincount(own, odds, players)
            surprise += np.bincount(own, g, players)
    return np.where(free, information, 0.0), np.where(free, surprise, 0.0)


def limit(values: FloatArray, low: float | None, high: float | None, free: MaskArray) -> tuple[FloatArray, Players]:
    """``values`` within the bounds that are given, and the free players whose value was outside."""
    bounded: FloatArray = np.clip(values, -np.inf if low is None else low, np.inf if high is None else high)
    return bounded, np.flatnonzero((bounded != values) & free)
