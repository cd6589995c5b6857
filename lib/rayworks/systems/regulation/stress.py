"""The mechanism under violated assumptions: rings, false identities, other test data, values not known in advance.

In all of it the others bid as the equilibrium says: what is measured is the first builder's temptation, and its harm.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rayworks.core import seeds
from rayworks.systems.regulation.certificate import winning_chance
from rayworks.systems.regulation.contests import binomial
from rayworks.systems.regulation.equilibrium import Auction, Equilibrium
from rayworks.systems.regulation.mechanism import BYE_LOST, BYE_WON, REJECTED, Outcome, Rules
from rayworks.systems.regulation.price_curve import PriceCurve
from rayworks.systems.regulation.simulation import clear, draw_population, rounds_of
from rayworks.systems.regulation.value_distributions import FloatArray


@dataclass(frozen=True)
class RingPoint:
    """A bidding ring: entrants who all bid the bare price, not knowing whom they will meet."""

    share: float
    """Of those who enter."""
    member_gain: float
    """Mean change of a member's utility; below 0 the ring does not pay."""
    outsider_gain: float
    """Mean change for everybody else."""
    mean_bid: float
    """Of all who enter."""


def rings(equilibrium: Equilibrium, shares: Sequence[float]) -> tuple[list[RingPoint], float]:
    """The ring's gain by its share, and the share from which it pays (NaN if it never does).

    A member loses to every outsider and shares with other members what is left, whatever it is worth to whom. Exact, by
    quadrature over those who enter.
    """
    auction = equilibrium.auction
    entering = equilibrium.entrants()
    z, spent = entering.z, equilibrium.bid(entering.z)
    won_before = winning_chance(equilibrium, entering)
    left_over = auction.bye_probability(entering.participation)
    worth, rent = entering.mean(z), entering.mean(z * won_before - (spent - auction.price))
    points = []
    for share in shares:
        inside = auction.or_bye(_last_place_chance(share, auction), left_over)
        # Among outsiders the order is as before; a rival from the ring is below for sure.
        outside = winning_chance(equilibrium, replace(entering, below=share + (1 - share) * entering.below))
        bid = share * auction.price + (1 - share) * entering.mean(spent)
        points.append(RingPoint(share, worth * inside - rent, entering.mean(z * (outside - won_before)), bid))
    return points, _break_even(worth, rent, auction, left_over)


def _last_place_chance(share: float, auction: Auction) -> float:
    """Chance of a prize for one of those at the bottom, who tie and whose number among the rivals is binomial."""
    equals = np.arange(auction.group_size)
    left = np.clip(auction.prizes - (auction.group_size - 1 - equals), 0, equals + 1)
    part = left / (equals + 1)
    return float(binomial(auction.group_size - 1, share) @ (np.floor(part) if auction.tie == "void" else part))


def _break_even(worth: float, rent: float, auction: Auction, left_over: float) -> float:
    grid = np.linspace(0, 1, 1001)
    won = np.array([_last_place_chance(share, auction) for share in grid])
    gain = worth * auction.or_bye(won, left_over) - rent
    return float(grid[np.argmax(gain >= 0)]) if (gain >= 0).any() else float("nan")


@dataclass(frozen=True)
class Sybils:
    """A second identity of the same builder: its deployment brings nothing more, its premium does."""

    rebuilt_gain: float
    """Largest gain of any type that enters when the second model costs its bid: ``z win(z) - bid(z)``, at least 0."""
    rebuilt_share: float
    """Share of those who enter that gains by it."""
    copied_gain: float
    """The same when the second model is a copy of the first and costs nothing: ``z win(z)``. Refuse copies."""


def sybils(equilibrium: Equilibrium) -> Sybils:
    """Temptation to enter twice; exact in a large population: of few builders a second model fills groups, and may meet the
    first, which is not counted. Rebuilding never pays once ``rent(top) <= price``.
    """
    entering = equilibrium.entrants()
    inside = entering.density > 0
    copied = entering.z * winning_chance(equilibrium, entering)
    gain = copied - equilibrium.bid(entering.z)
    return Sybils(
        rebuilt_gain=float(max(0.0, np.max(gain[inside], initial=0.0))),
        rebuilt_share=entering.mean((gain > 0).astype(float)),
        copied_gain=float(np.max(copied[inside], initial=0.0)),
    )


@dataclass(frozen=True)
class MeasuredRound:
    """A round in which something is not as builders believed; means over those who enter."""

    level: float
    participation: float
    rejected: float
    """Share of those who enter that is not cleared."""
    misranked: float
    """Share of whole groups whose best model by true compliance got no premium."""
    compliance: float
    """True compliance of cleared models."""
    utility: float
    """Mean over those who enter."""
    at_a_loss: float
    """Share of those who enter whose utility is below 0; without any trouble, those who lose their group by little."""


def other_test_data(
    equilibrium: Equilibrium, curve: PriceCurve, rules: Rules, spreads: Sequence[float], builders: int, seed: int
) -> list[MeasuredRound]:
    """The regulator's data differ from a builder's own: what it reads is compliance plus ``Normal(0, spread)``."""
    return _rounds(equilibrium, curve, rules, spreads, builders, seed, "test data")


def uncertain_values(
    equilibrium: Equilibrium, curve: PriceCurve, rules: Rules, spreads: Sequence[float], builders: int, seed: int
) -> list[MeasuredRound]:
    """Builders act on a guess of their total value, off by a factor ``exp(Normal(-spread^2 / 2, spread))``, cut at 1."""
    return _rounds(equilibrium, curve, rules, spreads, builders, seed, "values")


def _rounds(
    equilibrium: Equilibrium,
    curve: PriceCurve,
    rules: Rules,
    spreads: Sequence[float],
    builders: int,
    seed: int,
    what: Literal["test data", "values"],
) -> list[MeasuredRound]:
    """A round per spread, with noise on what is read, or on what builders believe their value to be."""
    auction = equilibrium.auction
    builders, number = rounds_of(auction, builders)
    population = draw_population(auction.distribution, builders, auction.largest_share, seed)
    deployment, premium = auction.types(population.value, population.share)
    noise = seeds.stream(seed, "stress", what).standard_normal(builders)
    rounds = []
    for level in spreads:
        believed = population.value
        if what == "values":
            believed = np.minimum(believed * np.exp(level * noise - level**2 / 2), 1.0)
        guessed = auction.types(believed, population.share)
        entered = equilibrium.participates(*guessed)
        spent = equilibrium.bid(guessed[1][entered])
        true = curve.compliance(spent, saturate=True)
        reading = true if what == "values" else true + level * noise[entered]
        pairing, ties = (seeds.uniforms(seed, len(true), "mechanism", draw) for draw in ("pairing", "ties"))
        outcome = clear(reading, rules, number[entered], pairing, ties)
        worth = np.where(outcome.cleared, deployment[entered], 0.0) + outcome.premium * premium[entered]
        rounds.append(_measured(level, outcome, true, worth - spent, builders))
    return rounds


def _measured(level: float, outcome: Outcome, true: FloatArray, utility: FloatArray, builders: int) -> MeasuredRound:
    cleared = outcome.cleared
    # Members of whole groups, group by group.
    whole = np.flatnonzero(cleared & (outcome.status != BYE_LOST) & (outcome.status != BYE_WON))
    members = whole[np.argsort(outcome.group[whole], kind="stable")].reshape(-1, outcome.rules.group_size)
    best = np.argmax(true[members], axis=1) if len(members) else np.zeros(0, dtype=int)
    awarded = outcome.premium[members[np.arange(len(members)), best]]
    return MeasuredRound(
        level=level,
        participation=len(true) / builders,
        rejected=_mean(outcome.status == REJECTED),
        misranked=_mean(awarded == 0),
        compliance=_mean(true[cleared]),
        utility=_mean(utility),
        at_a_loss=_mean(utility < 0),
    )


def _mean(column: np.ndarray) -> float:
    return float(column.mean()) if len(column) else 0.0
