"""Builders drawn at random, who bid, enter and compete: the mechanism and the bare threshold on the same population."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rayworks.core import seeds
from rayworks.systems.regulation.equilibrium import Auction, Equilibrium, Mode, reserve_participation
from rayworks.systems.regulation.mechanism import Outcome, Rules, run_mechanism, run_rounds
from rayworks.systems.regulation.price_curve import PriceCurve
from rayworks.systems.regulation.solving import solve
from rayworks.systems.regulation.value_distributions import BoolArray, FloatArray, ValueDistribution

NAN = float("nan")
MOST_ROUNDS = 10_000
"""That are played of an auction with finitely many builders."""


@dataclass(frozen=True)
class Population:
    """Builders by private type; arrays of shape (builders,)."""

    value: FloatArray
    """Total value, in [0, 1]."""
    share: FloatArray
    """Premium share of it, in [0, L]."""


def draw_population(distribution: ValueDistribution, builders: int, largest_share: float, seed: int) -> Population:
    """Independent types; the first n are the same for every number of builders."""
    value = distribution.quantile(seeds.uniforms(seed, builders, "population", distribution.name, "value"))
    return Population(value, largest_share * seeds.uniforms(seed, builders, "population", distribution.name, "share"))


@dataclass(frozen=True)
class Curves:
    """Both mechanisms against the price; arrays of shape (prices,). A mean over nobody is NaN."""

    price: FloatArray
    participation: FloatArray
    """Share of all builders that enters the auction."""
    participation_reserve: FloatArray
    """Share that enters under a bare threshold."""
    mean_bid: FloatArray
    """Of those who enter the auction; under a bare threshold all bid the price."""
    compliance: FloatArray
    """Mean of those who enter; NaN where the price lies outside the curve."""
    compliance_reserve: FloatArray
    """Under a bare threshold: what the price buys."""

    @property
    def spend(self) -> FloatArray:
        """What builders spend on compliance in all, per builder: participation x mean bid."""
        return np.nan_to_num(self.participation * self.mean_bid)

    @property
    def spend_reserve(self) -> FloatArray:
        """The same under a bare threshold."""
        return self.participation_reserve * self.price


def reachable(auction: Auction, price: float) -> bool:
    """Whether anybody can spend the price, and has a value that reaches it."""
    affordable = auction.cap is None or price < auction.cap
    return affordable and float(auction.distribution.tail(price).probability) > 0


def exact_curves(auction: Auction, prices: Sequence[float], mode: Mode, curve: PriceCurve) -> Curves:
    """By quadrature over types; some milliseconds per price, more under ``fixed_point``.

    Args:
        auction: the rules; its own price is not used.
        prices: to evaluate at, each in (0, 1).
        curve: what spending buys.
    """
    rows = []
    for price in prices:
        if not reachable(auction, price):
            rows.append((price, 0.0, 0.0, NAN, NAN, NAN))
            continue
        at = replace(auction, price=price)
        equilibrium = solve(at, mode)
        entering = equilibrium.entrants()
        some = entering.participation > 0
        spent = equilibrium.bid(entering.z)
        bid = entering.mean(spent) if some else NAN
        low, high = curve.cost_range or (NAN, NAN)
        measured = low <= price <= high
        bought = entering.mean(curve.compliance(spent, saturate=True)) if some and measured else NAN
        least = float(curve.compliance(price)) if measured else NAN
        rows.append((price, entering.participation, reserve_participation(at), bid, bought, least))
    return Curves(*np.array(rows, dtype=float).T)


def simulated_curves(auction: Auction, prices: Sequence[float], mode: Mode, builders: int, seed: int) -> Curves:
    """The same by drawing builders, but for compliance: 99 prices x 100,000 builders take about half a second on one core.

    All prices see the same builders, so that differences between prices are not noise.
    """
    population = draw_population(auction.distribution, builders, auction.largest_share, seed)
    rows = []
    for price in prices:
        if not reachable(auction, price):
            rows.append((price, 0.0, 0.0, NAN, NAN, NAN))
            continue
        equilibrium = solve(replace(auction, price=price), mode)
        deployment, premium = _contenders(population, equilibrium.auction)
        spent, entered = _play(equilibrium, deployment, premium)
        count = int(np.count_nonzero(entered))
        bid = float(spent[entered].sum() / count) if count else NAN
        alone = np.count_nonzero((1 - population.share) * population.value >= price)
        rows.append((price, count / builders, alone / builders, bid, NAN, NAN))
    return Curves(*np.array(rows, dtype=float).T)


def _contenders(population: Population, auction: Auction) -> tuple[FloatArray, FloatArray]:
    """Types that may enter: the rent never exceeds the premium's worth, so most others need no further look."""
    could_gain = max(0.0, 1 - 1 / auction.premium_scale) * auction.top
    possible = population.value >= auction.price - could_gain
    return auction.types(population.value[possible], population.share[possible])


def _play(equilibrium: Equilibrium, deployment: FloatArray, premium: FloatArray) -> tuple[FloatArray, BoolArray]:
    """Bids, and who enters: as ``Equilibrium.participates``, with the bid used twice."""
    spent = equilibrium.bid(premium)
    entered: BoolArray = deployment + premium * equilibrium.win(premium) > spent
    return spent, entered


@dataclass(frozen=True)
class Round:
    """One run of the mechanism on drawn builders, and the bare threshold on the same."""

    builders: int
    participation_auction: float
    participation_reserve: float
    mean_bid_auction: float
    """Of those who enter."""
    compliance_auction: float
    """Mean measured compliance of cleared models."""
    compliance_reserve: float
    """The threshold."""
    beyond_curve: float
    """Share of cleared models that spend more than the price curve's range; they count with its best compliance."""
    premium_paid: float
    """Worth of all premiums, per builder of the population."""
    utility_auction: float
    """Mean over all builders; those who stay out have none."""
    utility_reserve: float
    outcome: Outcome

    @property
    def compliance_gain(self) -> float:
        """Mean compliance over the threshold's, minus 1."""
        return self.compliance_auction / self.compliance_reserve - 1

    @property
    def participation_compliance(self) -> float:
        """What the regulator maximises: participation x mean compliance of those who take part."""
        return self.participation_auction * self.compliance_auction


def play_round(equilibrium: Equilibrium, curve: PriceCurve, rules: Rules, builders: int, seed: int) -> Round:
    """Draw, bid, enter, measure, clear, group, award. A round that nobody enters has means of 0.

    Args:
        curve: what their spending buys.
        rules: of the mechanism; the threshold is the compliance that costs the auction's price.
        builders: drawn in all. Where the auction has finitely many, they play as many rounds as they make up, at least one
            and at most ``MOST_ROUNDS``, and the means are over all.
        seed: of types, pairing and ties.

    Raises:
        DataError: the price lies outside the curve.
    """
    auction = equilibrium.auction
    builders, rounds = rounds_of(auction, builders)
    population = draw_population(auction.distribution, builders, auction.largest_share, seed)
    deployment, premium = auction.types(population.value, population.share)
    spent, entered = _play(equilibrium, deployment, premium)
    spent, premium_in, deployment_in = spent[entered], premium[entered], deployment[entered]
    count = len(spent)
    pairing, ties = (seeds.uniforms(seed, count, "mechanism", what) for what in ("pairing", "ties"))
    outcome = clear(curve.compliance(spent, saturate=True), rules, rounds[entered], pairing, ties)
    worth = outcome.premium * premium_in
    alone = deployment >= auction.price
    highest = curve.cost_range[1] if curve.cost_range else 0.0
    return Round(
        builders=builders,
        participation_auction=count / builders,
        participation_reserve=float(alone.mean()),
        mean_bid_auction=float(spent.mean()) if count else 0.0,
        compliance_auction=float(outcome.scores[outcome.cleared].mean()) if outcome.cleared.any() else 0.0,
        compliance_reserve=rules.threshold,
        beyond_curve=float((spent > highest).mean()) if count else 0.0,
        premium_paid=float(worth.sum() / builders),
        utility_auction=float((np.where(outcome.cleared, deployment_in, 0.0) + worth - spent).sum() / builders),
        utility_reserve=float((deployment[alone] - auction.price).sum() / builders),
        outcome=outcome,
    )


def rounds_of(auction: Auction, builders: int) -> tuple[int, NDArray[np.int64]]:
    """How many builders to draw, at most ``MOST_ROUNDS`` whole rounds and at least one, and each one's round."""
    size = auction.builders or builders
    drawn = size * min(MOST_ROUNDS, max(1, builders // size))
    return drawn, np.arange(drawn) // size


def clear(
    scores: FloatArray, rules: Rules, rounds: NDArray[np.int64], pairing: FloatArray, ties: FloatArray
) -> Outcome:
    """The mechanism on the entrants of one round or of many."""
    many = len(rounds) > 0 and rounds[0] != rounds[-1]
    return run_rounds(scores, rules, rounds, pairing, ties) if many else run_mechanism(scores, rules, pairing, ties)
