"""The auction on a grid, its payoffs against direct counting, and learners that come to the equilibrium bid."""

import math
from dataclasses import replace

import numpy as np
import pytest

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.systems.regulation.bidding_game import entry_game, premium_game
from rayworks.systems.regulation.equilibrium import Auction
from rayworks.systems.regulation.learning import learn, noise_response
from rayworks.systems.regulation.price_curve import published_curve
from rayworks.systems.regulation.solving import solve
from rayworks.systems.regulation.value_distributions import (
    SymmetricBetaValues,
    UniformValues,
    ValueDistribution,
)


@pytest.mark.parametrize(("group_size", "prizes"), [(2, 1), (4, 2)])
def test_chances_are_those_of_drawn_rivals(group_size: int, prizes: int) -> None:
    auction = Auction(UniformValues(), 0.5, group_size=group_size, prizes=prizes)
    game = entry_game(auction, 4, 4, 5)
    mixture = np.array([0.4, 0.1, 0.2, 0.0, 0.2, 0.1])
    cleared, won = game.chances(mixture)
    assert cleared.tolist() == [0, 1, 1, 1, 1, 1]
    draw = seeds.stream(0, "test", "rivals")
    entering = mixture[1:] / mixture[1:].sum()
    rivals = draw.choice(np.arange(1, 6), size=(200_000, group_size - 1), p=entering)
    for bid in range(1, 6):
        own = np.full((len(rivals), 1), bid) + draw.random((len(rivals), 1)) / 2
        better = (rivals + draw.random(rivals.shape) / 2 > own).sum(axis=1)
        assert won[bid] == pytest.approx((better < prizes).mean(), abs=0.006)


def test_noisy_chances_are_those_of_drawn_readings() -> None:
    game = replace(entry_game(Auction(UniformValues(), 0.5), 4, 4, 6), noise=0.08)
    mixture = np.array([0.3, 0.1, 0.1, 0.2, 0.1, 0.1, 0.1])
    cleared, won = game.chances(mixture)
    draw = seeds.stream(0, "test", "readings")
    size = 400_000
    rivals = game.compliance[draw.choice(np.arange(1, 7), size=size, p=mixture[1:] / mixture[1:].sum())]
    reading = rivals + 0.08 * draw.standard_normal(size)
    reading = reading[reading >= game.threshold]
    own_noise = 0.08 * draw.standard_normal(len(reading))
    for bid in range(1, 7):
        own = game.compliance[bid] + own_noise
        passed = own >= game.threshold
        assert cleared[bid] == pytest.approx(passed.mean(), abs=0.004)
        assert won[bid] == pytest.approx((passed & (own > reading)).mean(), abs=0.004)


def test_little_noise_is_no_noise() -> None:
    game = premium_game(Auction(UniformValues(), 0.5), 10, 40)
    mixture = np.full(40, 1 / 40)
    _, exact = game.chances(mixture)
    _, noisy = replace(game, noise=1e-3).chances(mixture)
    np.testing.assert_allclose(noisy[5:], exact[5:], atol=0.02)
    for noise in (1e-4, 1e-6):
        _, fine = replace(game, noise=noise).chances(mixture)
        np.testing.assert_allclose(fine[5:], exact[5:], atol=0.02)
    with pytest.raises(DataError, match="noise -1"):
        replace(game, noise=-1.0)


@pytest.mark.parametrize(
    "distribution", [UniformValues(), SymmetricBetaValues()], ids=lambda distribution: distribution.name
)
@pytest.mark.parametrize(("learner", "rounds", "distance"), [("hedge", 300, 0.008), ("fictitious_play", 2000, 0.04)])
def test_learners_come_to_the_bid(distribution: ValueDistribution, learner: str, rounds: int, distance: float) -> None:
    auction = Auction(distribution, 0.5)
    game = premium_game(auction, 50, 200)
    target = solve(auction).bid(game.premium)
    found = learn(game, learner, rounds, target)
    assert found.distance[-1] < distance
    assert found.distance[-1] < found.distance[0] / 2
    assert found.rounds[-1] == rounds
    assert found.max_gain < 0.02
    np.testing.assert_allclose(found.strategies.sum(axis=1), 1)
    assert np.max(np.abs(found.bid - target)) == found.distance[-1]


def test_learners_who_may_stay_out_find_the_entry_consistent_equilibrium() -> None:
    auction = Auction(UniformValues(), 0.5)
    expected = solve(auction, "fixed_point")
    entering = expected.entrants()
    game = entry_game(auction, 24, 12, 100)
    found = learn(game, "hedge", 400)
    taking_part = float((1 - found.strategies[:, 0]) @ game.weight)
    assert taking_part == pytest.approx(entering.participation, abs=0.02)
    spent = float(game.mixture(found.strategies) @ game.bids) / taking_part
    assert spent == pytest.approx(entering.mean(expected.bid(entering.z)), abs=0.01)


def test_noise_keeps_builders_out() -> None:
    auction, curve = Auction(UniformValues(), 0.5), published_curve()
    equilibrium = solve(auction, "fixed_point")

    def game(noise: float) -> object:
        return entry_game(auction, 12, 6, 60, curve, noise)

    types = game(0.0)
    entered = equilibrium.participates(types.deployment, types.premium)
    naive = np.where(entered, equilibrium.bid(types.premium), 0.0)
    exact, noisy = noise_response(game, (0.0, 0.05), 200, naive)
    assert noisy.participation < exact.participation
    assert noisy.mean_bid > exact.mean_bid
    assert noisy.cleared < 1
    assert exact.cleared == pytest.approx(1)
    assert noisy.max_gain < 0.01
    assert math.isclose(noisy.surplus, noisy.mean_bid - 0.5)
