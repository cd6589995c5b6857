"""Builders who learn to bid without knowing the equilibrium: fictitious play and no-regret learners.

Both keep the average of what was played, later rounds weighing more (``2 / (t + 1)`` for round ``t``): that converges.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rayworks.systems.regulation.bidding_game import BiddingGame
from rayworks.systems.regulation.value_distributions import FloatArray

Learner = Literal["fictitious_play", "hedge"]
RATE = 16.0
"""Of hedge, over the textbook ``sqrt(8 ln K / t)``: predicting the next payoff (optimism) lets it be larger."""


@dataclass(frozen=True)
class Learned:
    """What the population plays in the end."""

    learner: Learner
    strategies: FloatArray
    """Average play of each type, shape (types, bids); rows sum to 1."""
    bid: FloatArray
    """Its mean bid, shape (types,)."""
    rounds: tuple[int, ...]
    """Rounds at which the distance was measured: powers of two, and the last."""
    distance: tuple[float, ...]
    """Largest difference of a type's mean bid from the target then; empty without a target."""
    max_gain: float
    """Of any type by its best bid against the average play."""
    mean_gain: float


def learn(game: BiddingGame, learner: Learner, rounds: int, target: FloatArray | None = None) -> Learned:
    """Let a population learn against itself. ``O(rounds x types x bids)``: 1,000 rounds of 200 x 400 take about a second.

    Args:
        learner: ``fictitious_play``: each type answers the average play so far with its best bid. ``hedge``: each type weighs
            bids by their exponentiated past payoffs, whose regret vanishes whatever the others do.
        rounds: at least 1.
        target: the bid of each type that play should come to, shape (types,).
    """
    play = {"fictitious_play": _fictitious_play, "hedge": _hedge}[learner]
    measured: list[tuple[int, float]] = []
    average = np.zeros((len(game.premium), len(game.bids)))
    for number, average in zip(range(1, rounds + 1), play(game), strict=False):
        if target is not None and (number & (number - 1) == 0 or number == rounds):
            measured.append((number, float(np.max(np.abs(average @ game.bids - target)))))
    gains = game.exploitability(average)
    numbers, distances = zip(*measured, strict=True) if measured else ((), ())
    return Learned(learner, average.copy(), average @ game.bids, numbers, distances, *gains)


def _fictitious_play(game: BiddingGame) -> Iterator[FloatArray]:
    types = np.arange(len(game.premium))
    average = np.full((len(types), len(game.bids)), 1 / len(game.bids))
    number = 0
    while True:
        number += 1
        best = np.argmax(game.payoffs(game.mixture(average)), axis=1)
        step = min(1.0, 2 / (number + 1))
        average *= 1 - step
        average[types, best] += step
        yield average


def _hedge(game: BiddingGame) -> Iterator[FloatArray]:
    bids = len(game.bids)
    past = np.zeros((len(game.premium), bids))
    average = np.zeros_like(past)
    mixture = np.full(bids, 1 / bids)
    number = 0
    while True:
        number += 1
        payoff = game.payoffs(mixture)
        past += payoff
        # The last payoff counted twice is the guess of the next one.
        strategies = softmax(RATE * np.sqrt(8 * np.log(bids) / number) * (past + payoff))
        mixture = game.mixture(strategies)
        average += min(1.0, 2 / (number + 1)) * (strategies - average)
        yield average


def softmax(scores: FloatArray) -> FloatArray:
    """Rows that sum to 1."""
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    normalised: FloatArray = shifted / shifted.sum(axis=1, keepdims=True)
    return normalised


@dataclass(frozen=True)
class NoisePoint:
    """What readings with this much noise do to builders who answer it as well as they can."""

    noise: float
    """Standard deviation of a reading of compliance."""
    participation: float
    cleared: float
    """Share of those who enter that is cleared."""
    mean_bid: float
    """Of those who enter."""
    surplus: float
    """Mean bid above the price."""
    naive_gain: float
    """What the type that gains most by knowing of the noise gains over the bid for exact readings."""
    max_gain: float
    """Certificate: of any type over its play, on this grid."""
    mean_gain: float


def noise_response(
    make_game: Callable[[float], BiddingGame], levels: tuple[float, ...], rounds: int, naive: FloatArray
) -> list[NoisePoint]:
    """Learn the bids under each level of noise, and measure what is lost.

    Args:
        make_game: the game at a level of noise; the same types and bids at all.
        rounds: of hedge, per level.
        naive: bid of each type for exact readings, 0 for those who stay out, shape (types,).
    """
    points = []
    for level in levels:
        game = replace(make_game(level), noise=level)
        learned = learn(game, "hedge", rounds)
        entering = 1 - learned.strategies[:, 0]
        mixture = game.mixture(learned.strategies)
        inside = 1 - float(mixture[0])
        cleared, _ = game.chances(mixture)
        spent = float(mixture @ game.bids)
        positions = np.argmin(np.abs(game.bids - naive[:, None]), axis=1)
        payoff = game.payoffs(game.mixture(np.eye(len(game.bids))[positions]))
        gain = payoff.max(axis=1) - payoff[np.arange(len(positions)), positions]
        means = (0.0, 0.0, 0.0)
        if inside > 0:
            means = (float(mixture @ cleared) / inside, spent / inside, spent / inside - game.auction.price)
        lost = (float(gain.max()), learned.max_gain, learned.mean_gain)
        points.append(NoisePoint(level, float(entering @ game.weight), *means, *lost))
    return points
