"""Sequences of rating periods: chronological replay, and the converged ratings that calibrated labels need.

Problems are players: each attempt is a game between a problem and a contestant, and the problem wins when it is not solved.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rayworks.core.errors import DataError
from rayworks.systems.difficulty.ratings.glicko2 import rate_period
from rayworks.systems.difficulty.ratings.rating_games import (
    BLOCK,
    FloatArray,
    IndexArray,
    MaskArray,
    PeriodReport,
    Ratings,
    check_block,
    check_columns,
)


class RatePeriod(Protocol):
    """What rates one period: :func:`glicko2.rate_period` or a baseline, with its options bound."""

    def __call__(
        self,
        ratings: Ratings,
        player: IndexArray,
        opponent: IndexArray,
        score: FloatArray,
        weight: FloatArray | None = None,
        *,
        fixed: MaskArray | None = None,
        idle: IndexArray | int = 0,
    ) -> tuple[Ratings, PeriodReport]:
        """As :func:`glicko2.rate_period`."""


@dataclass(frozen=True, eq=False)
class Games:
    """G games in the order of their periods; each column (G,).

    ``period`` holds integers that never fall. A number between two of them without games is a period in which ratings age.
    """

    player: IndexArray
    opponent: IndexArray
    score: FloatArray
    period: IndexArray
    weight: FloatArray | None = None

    def check(self, ratings: Ratings, fixed: MaskArray | None) -> None:
        """Refuse games that cannot be replayed against ``ratings``.

        Raises:
            DataError: naming the column, the first game at fault and what would be right.
        """
        check_columns(ratings, self.player, self.opponent, self.score, self.weight, fixed)
        for start in range(0, len(self.score), BLOCK):
            rows = slice(start, start + BLOCK)
            weight = None if self.weight is None else self.weight[rows]
            check_block(len(ratings), self.player[rows], self.opponent[rows], self.score[rows], weight, start)
        if self.period.shape != self.score.shape or self.period.dtype.kind not in "iu":
            raise DataError("period: must hold one integer per game; number the periods in their order")
        if len(backwards := np.flatnonzero(self.period[1:] < self.period[:-1])):
            game = int(backwards[0]) + 1
            raise DataError(
                f"period: goes back from {self.period[game - 1]} to {self.period[game]} at game {game}; "
                "sort the games by period"
            )

    def periods(self, after: int | None = None) -> Iterator[tuple[int, "Games"]]:
        """Each period's number and games, in order; only those later than ``after`` if given."""
        numbers, starts = np.unique(self.period, return_index=True)
        ends = np.append(starts[1:], len(self.period))
        for number, start, end in zip(numbers.tolist(), starts.tolist(), ends.tolist(), strict=True):
            if after is None or number > after:
                rows = slice(start, end)
                weight = None if self.weight is None else self.weight[rows]
                yield number, Games(self.player[rows], self.opponent[rows], self.score[rows], self.period[rows], weight)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The state after one period; a replay that starts from it gives what the uninterrupted one would have."""

    period: int
    ratings: Ratings
    report: PeriodReport


@dataclass(frozen=True, eq=False)
class Converged:
    """Ratings that their own games no longer move."""

    ratings: Ratings
    passes: int
    changes: tuple[float, ...]
    """Largest change of a rating in each pass, in rating points."""
    moving: npt.NDArray[np.intp]
    """Players whose last change was above the tolerance; none unless the passes ran out."""
    unanimous: npt.NDArray[np.intp]
    """Players with only wins or only losses, whose games alone put no bound on the rating."""
    reports: tuple[PeriodReport, ...]
    """One per period of the last pass."""


def problem_games(
    problems: Sequence[str],
    contestants: Sequence[str],
    problem: Sequence[str],
    contestant: Sequence[str],
    solved: npt.ArrayLike,
    period: npt.ArrayLike,
    weight: FloatArray | None = None,
) -> Games:
    """Attempts as games: the players are the problems, then the contestants, and a problem's score is 1 - solved.

    A contestant who enters each contest with another known rating is one contestant per contest, with an id that says so.

    Args:
        problems: ids of all problems; their position is their index as a player.
        contestants: ids of all contestants; their indices follow those of the problems.
        problem: (G,) id of the problem of each attempt.
        contestant: (G,) id of who tried.
        solved: (G,) in [0, 1]; True, False or partial credit.
        period: (G,) integers in order.
        weight: (G,) how many games each attempt counts for.

    Raises:
        DataError: an id is unknown or not unique, or ``solved`` is not a number in [0, 1].
    """
    score = 1 - np.asarray(solved, np.float64)
    if len(wrong := np.flatnonzero(~((score >= 0) & (score <= 1)))):
        raise DataError(f"solved: is {1 - score[wrong[0]]} in attempt {wrong[0]}; give a number in [0, 1]")
    player, opponent = _indices("problem", problems, problem), _indices("contestant", contestants, contestant)
    return Games(player, len(problems) + opponent, score, np.asarray(period), weight)


def chronological(
    ratings: Ratings,
    games: Games,
    rate: RatePeriod = rate_period,
    *,
    fixed: MaskArray | None = None,
    after: int | None = None,
) -> Iterator[Snapshot]:
    """Rate period after period, each against the ratings that the one before left.

    Args:
        ratings: before the first period that is rated.
        fixed: (P,) players whose rating stays as it is.
        after: continue after this period, with its snapshot's ratings.

    Yields:
        a snapshot after each period; keep those that are needed.

    Raises:
        DataError: the games are not in the order of their periods, or cannot be rated.
    """
    games.check(ratings, fixed)
    before, met = after, np.zeros(len(ratings), dtype=np.int64)
    if after is not None:
        earlier = games.period <= after
        met[games.player[earlier]] = met[games.opponent[earlier]] = 1
    for number, played in games.periods(after):
        # Who has not played yet does not age.
        idle = 0 if before is None else (number - before - 1) * met
        columns = (played.player, played.opponent, played.score, played.weight)
        ratings, report = rate(ratings, *columns, fixed=fixed, idle=idle)
        before = number
        met[played.player] = met[played.opponent] = 1
        yield Snapshot(number, ratings, report)


def converged(
    start: Ratings,
    games: Games,
    rate: RatePeriod = rate_period,
    *,
    fixed: MaskArray | None = None,
    tolerance: float = 0.5,
    max_passes: int = 100,
) -> Converged:
    """Replay the periods from the ratings they led to, with uncertainty reset, until no rating moves.

    One replay is one Newton step from the starting rating and stops short of ratings far from it: with 50 attempts per
    problem the spread comes out as 0.7 of the true one. The fixed point of a single period is the maximum of the likelihood,
    with the deviation that belongs to it. Who only won or only lost has none: half a draw is mixed into such a player's
    scores, which keeps the rating finite, beyond that of anybody who did one game worse, and its deviation large.

    Args:
        start: where the first pass begins; its deviations and volatilities are those every pass begins with.
        fixed: (P,) players whose rating stays as it is. Without any, only differences of ratings mean something.
        tolerance: rating points that the largest change of a pass must stay below.
        max_passes: when to stop anyway.

    Raises:
        DataError: the games are not in the order of their periods, or cannot be rated.
    """
    games.check(start, fixed)
    free = np.ones(len(start), bool) if fixed is None else ~fixed
    score, unanimous = _soften_unanimous(len(start), games, free)
    games = replace(games, score=score)
    # Where both sides of a game move, each answers the other's step as well as its own: half a step settles, a whole swings.
    step = 0.5 if bool((free[games.player] & free[games.opponent]).any()) else 1.0
    ratings, changes, reports = start, list[float](), list[PeriodReport]()
    change = np.zeros(len(start))
    while len(changes) < max_passes:
        snapshots = list(chronological(replace(start, rating=ratings.rating), games, rate, fixed=fixed))
        reports = [snapshot.report for snapshot in snapshots]
        after = snapshots[-1].ratings if snapshots else start
        if free.all():
            # Replays of many periods push the origin, which nothing holds, a little further every time.
            after = replace(after, rating=after.rating + (start.rating.mean() - after.rating.mean()))
        change = np.abs(after.rating - ratings.rating)
        ratings = replace(after, rating=(1 - step) * ratings.rating + step * after.rating)
        changes.append(float(change.max(initial=0.0)))
        if changes[-1] < tolerance:
            break
    moving = np.flatnonzero(change >= tolerance)
    return Converged(ratings, len(changes), tuple(changes), moving, unanimous, tuple(reports))


def rating_history(snapshots: Iterable[Snapshot], players: IndexArray) -> tuple[IndexArray, FloatArray, FloatArray]:
    """Curves for figures.

    Returns:
        (T,) period numbers, (T, K) ratings and (T, K) deviations of the K ``players`` after each period.
    """
    kept = [(s.period, s.ratings.rating[players], s.ratings.deviation[players]) for s in snapshots]
    shape = (len(kept), len(players))
    return (
        np.array([period for period, _, _ in kept], np.int64),
        np.array([rating for _, rating, _ in kept]).reshape(shape),
        np.array([deviation for _, _, deviation in kept]).reshape(shape),
    )


def _indices(column: str, known: Sequence[str], ids: Sequence[str]) -> npt.NDArray[np.intp]:
    positions = {name: position for position, name in enumerate(known)}
    if len(positions) < len(known):
        twice = next(name for position, name in enumerate(known) if positions[name] != position)
        raise DataError(f"{column}: the id {twice!r} is given twice; ids must be unique")
    try:
        return np.fromiter((positions[name] for name in ids), np.intp, len(ids))
    except KeyError as error:
        raise DataError(
            f"{column}: {error.args[0]!r} is unknown; add it to the {column}s or drop its attempts"
        ) from None


def _soften_unanimous(players: int, games: Games, free: MaskArray) -> tuple[FloatArray, npt.NDArray[np.intp]]:
    """Scores with half a draw per player that only won or only lost, and those players."""
    weight = np.ones(len(games.score)) if games.weight is None else games.weight
    won = np.bincount(games.player, weight * games.score, players)
    won += np.bincount(games.opponent, weight * (1 - games.score), players)
    played = np.bincount(games.player, weight, players) + np.bincount(games.opponent, weight, players)
    unanimous = free & (played > 0) & ((won == 0) | (won == played))
    share = np.where(unanimous, 1 / (played + 1), 0.0)
    score = games.score
    for side in (games.player, games.opponent):
        score = score + share[side] * (0.5 - score)
    return score, np.flatnonzero(unanimous)
