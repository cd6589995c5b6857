"""How fast, and how right, is a Glicko-2 rating period against the package that the registry offers?

The peer is ``glicko2`` 2.1.0, scalar Python, in this process: the same games, with its lists made before the clock starts.
CPU seconds of one thread. ``python -m benchmarks.rating_period [--games N] [--problems N] [--repeats N]``.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType

import numpy as np

from benchmarks import peers
from benchmarks.results import ratios, spread, store
from rayworks.core import seeds
from rayworks.systems.difficulty.ratings.glicko2 import GLICKO2, rate_period
from rayworks.systems.difficulty.ratings.rating_games import FloatArray, IndexArray, Ratings

PEER = "glicko2==2.1.0"
CONTESTANTS = 5_000
UPSETS = {
    "2400/60 loses 8 games to 2300/50": ((2400.0, 60.0), (2300.0, 50.0), 0.0, 8),
    "1500/50 wins 29 games against 2500/50": ((1500.0, 50.0), (2500.0, 50.0), 1.0, 29),
}
"""Where the peer, which uses the rating where the deviation belongs, gives another volatility than Glickman's paper."""


def workload(problems: int, games: int) -> tuple[Ratings, tuple[IndexArray, IndexArray, FloatArray]]:
    """New problems met by known contestants, each attempt drawn at random."""
    draw = seeds.stream(0, "benchmark", "rating-period")
    ratings = GLICKO2.start(problems + CONTESTANTS)
    ratings.rating[problems:] = draw.normal(1500, 300, CONTESTANTS)
    ratings.deviation[problems:] = 60
    difficulty = draw.normal(1500, 400, problems)
    player, contestant = draw.integers(0, problems, games), draw.integers(0, CONTESTANTS, games)
    gap = ratings.rating[problems + contestant] - difficulty[player]
    unsolved = (draw.random(games) < 1 / (1 + 10 ** (gap / 400))).astype(np.float64)
    return ratings, (player, problems + contestant, unsolved)


def peer_period(peer: ModuleType, problems: int, games: Sequence[Sequence[list[float]]]) -> list[float]:
    """The peer's rating of each problem; ``games`` holds each problem's opponents, their deviations and the scores."""
    found = []
    for problem in range(problems):
        player = peer.Player()
        if games[problem][0]:
            player.update_player(*games[problem])
        found.append(player.rating)
    return found


def lists_of(
    problems: int, ratings: Ratings, player: IndexArray, opponent: IndexArray, score: FloatArray
) -> list[list[list[float]]]:
    """The games as the peer wants them."""
    order = np.argsort(player, kind="stable")
    ends = np.cumsum(np.bincount(player, minlength=problems))[:-1]
    columns = (ratings.rating[opponent], ratings.deviation[opponent], score)
    split = [np.split(column[order], ends) for column in columns]
    return [[column[problem].tolist() for column in split] for problem in range(problems)]


def volatilities(peer: ModuleType) -> dict[str, tuple[float, float]]:
    """Ours and the peer's volatility after each of :data:`UPSETS`."""
    found = {}
    for name, (own, other, score, games) in UPSETS.items():
        ratings = Ratings(*np.array([[*own, 0.06], [*other, 0.06]]).T)
        one = np.zeros(games, np.int64)
        ours, _ = rate_period(ratings, one, one + 1, np.full(games, score), fixed=np.array([False, True]))
        player = peer.Player(*own, 0.06)
        player.update_player([other[0]] * games, [other[1]] * games, [score] * games)
        found[name] = (float(ours.volatility[0]), float(player.vol))
    return found


def cpu_seconds(run: Callable[[], object]) -> float:
    """Of this process, for one run."""
    started = time.process_time()
    run()
    return time.process_time() - started


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure in alternation, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--games", type=int, default=1_000_000)
    parser.add_argument("--problems", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    peer = peers.module("glicko2", PEER)
    ratings, games = workload(options.problems, options.games)
    lists = lists_of(options.problems, ratings, *games)
    fixed = np.arange(len(ratings)) >= options.problems
    after, report = rate_period(ratings, *games, fixed=fixed)
    theirs = np.array(peer_period(peer, options.problems, lists))
    values: dict[str, list[float]] = {"ours": [], "ours_both_sides": [], "peer": []}
    for repeat in range(options.repeats):
        values["ours"].append(cpu_seconds(lambda: rate_period(ratings, *games, fixed=fixed)))
        values["ours_both_sides"].append(cpu_seconds(lambda: rate_period(ratings, *games)))
        values["peer"].append(cpu_seconds(lambda: peer_period(peer, options.problems, lists)))
        print(
            f"repeat {repeat + 1}: " + "  ".join(f"{name} {seen[-1]:.3f}" for name, seen in values.items()), flush=True
        )
    size = f"{options.games:,} games x {options.problems:,} problems"
    rows: dict[str, Sequence[float]] = {
        f"CPU s, {size} (goal < 0.1)": values["ours"],
        "CPU s, contestants rated too": values["ours_both_sides"],
        f"times as fast per game as {PEER}": ratios(values["peer"], values["ours"]),
    }
    upsets = volatilities(peer)
    for name, (mine, its) in upsets.items():
        rows[f"volatility after {name}: ours, as in the paper"] = [mine]
        rows[f"volatility after {name}: {PEER}"] = [its]
    difference = np.abs(after.rating[: options.problems] - theirs)
    extra = {
        "peer_package": PEER,
        "volatilities": upsets,
        "largest_difference_of_a_rating": float(difference.max()),
        "capped_updates": report.capped_updates,
    }
    store("rating_period", __doc__ or "", rows, {**values, **extra})
    for name, value in rows.items():
        print(f"{name}: {spread(value)}")
    print(f"largest difference of a rating: {difference.max():.3g} points")
    return 0


if __name__ == "__main__":
    sys.exit(main())
