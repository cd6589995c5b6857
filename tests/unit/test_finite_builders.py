"""Auctions of finitely many builders: some have no group, and every number says so. Oracle: the mechanism, played."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import integrate, stats

from rayworks.core.config import resolve
from rayworks.core.errors import DataError
from rayworks.systems.regulation.bidding_game import entry_game, premium_game
from rayworks.systems.regulation.certificate import certify, gains
from rayworks.systems.regulation.config import Config
from rayworks.systems.regulation.contests import ByeRule, bye_probability
from rayworks.systems.regulation.design import make_design, measure_design, value_distribution
from rayworks.systems.regulation.entry import GRID
from rayworks.systems.regulation.equilibrium import Auction, Equilibrium, Mode
from rayworks.systems.regulation.learning import learn
from rayworks.systems.regulation.mechanism import BYE_LOST, BYE_WON, Rules, run_mechanism, run_rounds
from rayworks.systems.regulation.price_curve import PriceCurve
from rayworks.systems.regulation.simulation import play_round
from rayworks.systems.regulation.solving import solve
from rayworks.systems.regulation.stress import rings
from rayworks.systems.regulation.value_distributions import (
    BetaValues,
    FloatArray,
    SampleValues,
    UniformValues,
    ValueDistribution,
)

UNIFORM = UniformValues()


def test_the_chance_to_have_no_group_is_that_of_all_cases() -> None:
    """Three builders who enter with chance p, pairs: alone always; of three, one of three is left over."""
    for p in (0.0, 0.3, 1.0):
        alone, of_three = (1 - p) ** 2, p * p / 3
        assert bye_probability(p, 3, 2, "chance") == pytest.approx(alone + of_three)
        assert bye_probability(p, 3, 2, "redraw") == pytest.approx(alone)
    assert bye_probability(0.4, None, 8, "chance") == 0
    assert bye_probability(0.4, 100_000, 4, "chance") == pytest.approx(1.5 / 40_000, rel=0.01)


@pytest.mark.parametrize(("builders", "size"), [(6, 4), (10, 4), (10, 8), (20, 3), (100, 4)])
@pytest.mark.parametrize("bye", ["chance", "redraw"])
def test_the_mechanism_leaves_as_many_over(builders: int, size: int, bye: ByeRule) -> None:
    draw = np.random.default_rng(builders + size)
    left = entered = 0
    for _ in range(3000):
        count = draw.binomial(builders, 0.4)
        outcome = run_mechanism(draw.random(count), Rules(0.0, size, bye=bye), draw.random(count), draw.random(count))
        entered += count
        if bye == "chance" or count < size:
            left += int(np.isin(outcome.status, [BYE_LOST, BYE_WON]).sum())
    # The mean over entrants is that of one entrant: each counts in the cases in which it enters.
    assert left / entered == pytest.approx(
        bye_probability(0.4, builders, size, bye), abs=4 * 0.5 / np.sqrt(entered / 3)
    )


def played_chances(equilibrium: Equilibrium, bids: FloatArray, repeats: int, seed: int) -> FloatArray:
    """How often each bid of one builder wins against others who draw types, enter, bid and are grouped, shape (bids,)."""
    auction, draw = equilibrium.auction, np.random.default_rng(seed)
    assert auction.builders is not None
    values, shares, order = draw.random((3, repeats, auction.builders - 1))
    deployment, premium = auction.types(values, auction.largest_share * shares)
    entered = equilibrium.participates(deployment, premium)
    spent, count, size = equilibrium.bid(premium), entered.sum(axis=1) + 1, auction.group_size
    # Rivals of its group are the first entrants in a random order, and its own place among all is as random.
    met = np.argsort(np.where(entered, order, 2.0), axis=1)[:, : size - 1]
    best = np.take_along_axis(np.where(entered, spent, -1.0), met, axis=1).max(axis=1)
    place = np.floor(draw.random(repeats) * count)
    grouped = count >= size if auction.bye == "redraw" else place < count // size * size
    luck = draw.random(repeats) < 1 / size
    return np.array([np.where(grouped, bid > best, luck).mean() for bid in bids])


@pytest.mark.parametrize("builders", [6, 10, 20, 100])
@pytest.mark.parametrize(
    ("size", "bye", "mode"), [(4, "chance", "paper"), (4, "redraw", "fixed_point"), (8, "chance", "capped")]
)
def test_the_certificate_is_the_best_response_by_playing(builders: int, size: int, bye: ByeRule, mode: Mode) -> None:
    """Of 41 types, by 81 bids; 20,000 rounds are right to .0035 of a chance, of which a premium is worth half at most."""
    equilibrium = solve(Auction(UNIFORM, 0.5, group_size=size, bye=bye, builders=builders), mode)
    auction, certificate = equilibrium.auction, certify(equilibrium)
    z = np.linspace(0, auction.top, 41)
    own = equilibrium.bid(z)
    bids = np.concatenate([own, np.linspace(0.5, own[-1] + 0.01, 81)])
    chance = played_chances(equilibrium, bids, 20_000, seed=builders)
    payoff = z[:, None] * chance - bids
    gain = float(np.max(payoff.max(axis=1) - payoff[np.arange(41), np.arange(41)]))
    assert gain == pytest.approx(certificate.max_gain, abs=0.5 * 3 * 0.0035)
    assert certificate.builders == builders
    if mode == "fixed_point":
        assert max(certificate.max_gain, certificate.entry_gain) < 1e-9


def test_ten_builders_gain_where_ever_so_many_would_not() -> None:
    """At the bid for infinitely many .03 in groups of four and .327 in groups of eight; none at their own equilibrium."""
    for size, found in ((4, 0.03), (8, 0.327)):
        unlimited = solve(Auction(UNIFORM, 0.4, group_size=size), "fixed_point")
        assert certify(unlimited).max_gain < 1e-9
        ten = replace(unlimited.auction, builders=10)
        assert certify(replace(unlimited, auction=ten)).max_gain == pytest.approx(found, abs=0.005)
        assert certify(solve(ten, "fixed_point")).max_gain < 1e-9


def test_ever_so_many_are_the_limit() -> None:
    limit = solve(Auction(UNIFORM, 0.4, group_size=3, prizes=2), "fixed_point")
    z = np.linspace(0, 0.5, 101)
    off = [
        float(np.max(np.abs(solve(replace(limit.auction, builders=count), "fixed_point").bid(z) - limit.bid(z))))
        for count in (10, 100, 1000, 100_000)
    ]
    assert off == sorted(off, reverse=True)
    assert off[-1] < 2e-5


@pytest.mark.parametrize("mode", ["paper", "capped", "fixed_point"])
def test_two_builders_in_groups_of_three_never_compete(mode: Mode) -> None:
    auction = Auction(UNIFORM, 0.3, group_size=3, builders=2)
    equilibrium = solve(auction, mode)
    assert certify(equilibrium).left_over == 1
    if mode != "paper":
        np.testing.assert_allclose(equilibrium.bid(np.linspace(0, 0.5, 11)), 0.3)
        np.testing.assert_allclose(equilibrium.win([0.0, 0.5]), 1 / 3)
        return
    # The published bid pays for a contest that does not come: the top type gains all of it by the bare price.
    assert certify(equilibrium).max_gain == pytest.approx(float(equilibrium.bid(0.5)) - 0.3, abs=1e-9)


def test_a_cap_is_shared_with_who_has_no_group() -> None:
    unlimited = solve(Auction(UNIFORM, 0.9), "capped")
    equilibrium = solve(replace(unlimited.auction, builders=100), "capped")
    assert np.isfinite(equilibrium.pool)
    assert 0.01 < equilibrium.left_over < 0.2
    assert certify(equilibrium, "premise").max_gain < 1e-9
    assert equilibrium.pool > unlimited.pool, "less is won at the cap"


def test_rounds_by_themselves_are_rounds_one_by_one() -> None:
    draw = np.random.default_rng(5)
    rounds = np.repeat(np.arange(6), [3, 1, 7, 2, 4, 9])
    columns = draw.random((3, len(rounds)))
    rules = Rules(0.3, 3, bye="redraw")
    found = run_rounds(columns[0], rules, rounds, columns[1], columns[2])
    for number in range(6):
        inside = rounds == number
        alone = run_mechanism(columns[0, inside], rules, columns[1, inside], columns[2, inside])
        np.testing.assert_array_equal(found.status[inside], alone.status)
        np.testing.assert_array_equal(found.premium[inside], alone.premium)
        groups = found.group[inside]
        assert len(np.unique(groups[groups >= 0])) == len(np.unique(alone.group[alone.group >= 0]))
    assert not set(found.group[rounds == 0]) & set(found.group[rounds == 5]) - {-1}


def test_a_played_round_agrees_with_the_equilibrium() -> None:
    """Ten builders at a time, 10,000 rounds: participation, bids and premiums come out as the equilibrium says."""
    section = resolve(
        Config, overrides={"auction.builders": 10, "auction.group_size": 4, "auction.mode": "fixed_point"}
    )
    design = make_design(section.auction, PriceCurve.identity())
    played = play_round(design.equilibrium, design.curve, design.rules, 100_000, seed=1)
    found = measure_design(design, section.certificate, 100_000, seed=1)
    assert played.builders == 100_000
    assert played.participation_auction == pytest.approx(found["participation"], abs=0.006)
    assert played.mean_bid_auction == pytest.approx(found["mean_bid"], abs=0.001)
    assert played.premium_paid == pytest.approx(found["premiums"], rel=0.03)
    byes = np.isin(played.outcome.status, [BYE_LOST, BYE_WON]).mean()
    assert byes == pytest.approx(found["left_over"], abs=0.01)
    assert found["certificates"]["entrants"]["max_gain"] < 1e-9


def test_learners_of_ten_come_to_the_bid_of_ten() -> None:
    auction = Auction(UNIFORM, 0.5, group_size=4, builders=10)
    equilibrium = solve(auction, "capped")
    game = premium_game(auction, 40, 160)
    learned = learn(game, "hedge", 400, equilibrium.bid(game.premium))
    unlimited = solve(replace(auction, builders=None), "capped").bid(game.premium)
    assert learned.distance[-1] < 0.02 < 0.05 < np.max(np.abs(learned.bid - unlimited))


def test_the_game_of_all_builders_counts_who_stays_out() -> None:
    """With and without a hair of noise: the same chances."""
    game = entry_game(Auction(UNIFORM, 0.5, group_size=3, builders=7), 10, 5, 40)
    mixture = np.full(41, 0.5 / 40)
    mixture[0] = 0.5
    cleared, won = game.chances(mixture)
    left_over = bye_probability(0.5, 7, 3, "chance")
    assert won[1] == pytest.approx(left_over / 3 + (1 - left_over) * (1 / 40) ** 2 / 3, rel=1e-6)
    assert won[0] == cleared[0] == 0
    np.testing.assert_allclose(replace(game, noise=1e-4).chances(mixture)[1][2:], won[2:], atol=0.02)


# Values with atoms, and densities without a mean reciprocal.


def test_atoms_settle_and_are_certified() -> None:
    """One value; two; and 120 samples of hundredths, most of which have ties."""
    found = [certified(SampleValues([0.81, 0.81]), 0.65), certified(SampleValues([0.6, 0.62]), 0.5)]
    for seed in range(0, 120, 8):
        draw = np.random.default_rng(seed)
        values, price = np.round(draw.random(int(draw.integers(2, 30))), 2), float(draw.uniform(0.1, 0.8))
        if values.max() > price:
            found.append(certified(SampleValues(values), price, group_size=int(draw.integers(2, 6))))
    assert max(found) < 1e-4
    assert np.median(found) < 1e-9


def certified(distribution: ValueDistribution, price: float, group_size: int = 2) -> float:
    certificate = certify(solve(Auction(distribution, price, group_size=group_size), "fixed_point"))
    return max(certificate.max_gain, certificate.entry_gain)


def test_entrants_of_one_value_are_those_that_drawing_gives() -> None:
    """All builders are worth .81: exactly the share of premium shares with which entry pays."""
    equilibrium = solve(Auction(SampleValues([0.81, 0.81]), 0.65), "fixed_point")
    share = (np.arange(400_000) + 0.5) / 800_000
    deployment, premium = equilibrium.auction.types(np.full(400_000, 0.81), share)
    entered = equilibrium.participates(deployment, premium)
    pool = equilibrium.entrants()
    assert pool.participation == pytest.approx(entered.mean(), abs=1 / GRID), "within a cell of the grid"
    assert pool.mean(pool.z) == pytest.approx(premium[entered].mean(), abs=1 / GRID)


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (1.0, 3.0), (0.5, 0.5), (0.2, 2.0), (2.5, 0.7)])
def test_tails_of_beta_are_integrals_of_its_density(a: float, b: float) -> None:
    law, distribution = BetaValues(a, b), stats.beta(a, b)
    for at in (0.02, 0.3, 0.9):
        tail = law.tail(at)
        for power, moment in ((-1, tail.reciprocal), (0, tail.probability), (1, tail.first)):
            # By the quantiles, which have no singularity at 1.
            expected, _ = integrate.quad(
                lambda u, k=power: distribution.ppf(u) ** k, distribution.cdf(at), 1, limit=200
            )
            assert float(moment) == pytest.approx(expected, rel=1e-6)
    assert certified(law, 0.5) < 1e-9


def test_uniform_is_beta_of_ones() -> None:
    z = np.linspace(0, 0.5, 51)
    one, other = (solve(Auction(law, 0.5, group_size=3), "fixed_point").bid(z) for law in (UNIFORM, BetaValues(1, 1)))
    np.testing.assert_allclose(one, other, atol=1e-12)


def test_numbers_of_builders_that_are_none() -> None:
    for wrong in (0, 1, 10**7):
        with pytest.raises(DataError, match=f"builders {wrong}: must be between 2"):
            Auction(UNIFORM, 0.5, builders=wrong)


@pytest.mark.parametrize(
    "auction",
    [
        Auction(UNIFORM, 0.5, group_size=8, builders=10),
        Auction(UNIFORM, 0.9, group_size=4),
        Auction(UNIFORM, 0.25, group_size=8, builders=10, premium_scale=2.0),
        Auction(UNIFORM, 0.3, premium_scale=5.0, cap=None),
    ],
)
def test_the_gain_from_entry_is_the_largest_of_all_types(auction: Auction) -> None:
    """Against every pair of a value and a worth on a grid."""
    equilibrium = solve(auction, "paper")
    profile = gains(equilibrium, "entrants", 201, 401)
    value, at = np.meshgrid(np.linspace(0, 1, 1001), np.arange(201), indexing="ij")
    z = profile.z[at]
    deployment = value - z / auction.premium_scale
    exists = (z <= auction.top * value) & (value > 0)
    entered = value > equilibrium.entry_value(profile.z)[at]
    gain = np.where(entered, -(deployment + profile.current[at]), deployment + profile.best[at])
    brute = float(np.max(np.where(exists, gain, 0.0), initial=0.0))
    stated = certify(equilibrium, types=201, deviations=401).entry_gain
    assert stated >= brute - 1e-9
    assert stated == pytest.approx(brute, abs=0.002)


def test_who_is_alone_in_the_game_wins_at_a_groups_rate() -> None:
    for builders, noise in ((10, 0.0), (None, 0.0), (10, 0.01)):
        game = replace(entry_game(Auction(UNIFORM, 0.5, builders=builders), 4, 4, 6), noise=noise)
        nobody = np.eye(7)[0]
        cleared, won = game.chances(nobody)
        assert won[-1] == pytest.approx(cleared[-1] / 2)


def test_rings_share_by_the_tie_rule() -> None:
    """All in the ring: a contested prize is drawn by a coin, or given to nobody."""
    equilibrium = solve(Auction(UNIFORM, 0.5, tie="void"), "fixed_point")
    entering = equilibrium.entrants()
    [point], _ = rings(equilibrium, [1.0])
    rent = entering.mean(equilibrium.rent(entering.z))
    assert point.member_gain == pytest.approx(-rent, abs=1e-9)
    coin = solve(Auction(UNIFORM, 0.5), "fixed_point")
    [shared], _ = rings(coin, [1.0])
    assert shared.member_gain == pytest.approx(coin.entrants().mean(coin.entrants().z) / 2 - rent, abs=1e-6)


def test_spellings_of_beta() -> None:
    for text in ("beta(.5,.5)", "beta(0.5, 0.50)", "beta(5e-1,5e-1)"):
        assert value_distribution(text).name == "beta(0.5,0.5)"
