"""The exploitability of an equilibrium: the most that a builder gains by deviating, on a stated grid."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy import integrate

from rayworks.systems.regulation.entry import GRID, Entrants
from rayworks.systems.regulation.equilibrium import Equilibrium
from rayworks.systems.regulation.value_distributions import FloatArray, PremiumDistribution

Against = Literal["premise", "entrants", "given"]
Below = Callable[[Any], FloatArray]
TYPES = DEVIATIONS = 2001
BLOCK = 256
"""Types compared with all deviations at a time."""


@dataclass(frozen=True)
class Certificate:
    """The gains found, in units of value; 0 everywhere is a Nash equilibrium on this grid."""

    against: Against
    """``premise``: rivals are all with ``V >= price``, as the paper supposes. ``entrants``: those who enter under this very
    strategy, the honest reading. ``given``: a population handed over."""
    types: int
    deviations: int
    max_gain: float
    """Of any type of that population, from any other bid."""
    mean_gain: float
    """Over that population."""
    worst_type: float
    """Worth of the premium to the type that gains most."""
    entry_gain: float
    """Of any type, from entering when it should stay out or the reverse."""
    builders: int | None
    """How many there are; ``None``: infinitely many, so that every group fills."""
    left_over: float
    """Chance of an entrant to have no group."""

    @property
    def grid(self) -> str:
        """``2001 types x 2003 deviations``."""
        return f"{self.types} types x {self.deviations} deviations"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "grid": self.grid}


def certify(
    equilibrium: Equilibrium,
    against: Literal["premise", "entrants"] | Entrants = "entrants",
    types: int = TYPES,
    deviations: int = DEVIATIONS,
) -> Certificate:
    """Search all deviations of all types.

    Deviations are the bids of ``deviations`` equally spaced types, which cover every bid that somebody makes, a bid just
    below a pool at the cap, and the cap. Below the price a builder spends in vain, which staying out beats; above the highest
    bid it spends more for the same chance. ``O(types x deviations)``, about 30 ms.

    Args:
        against: who the rivals are, all of them bidding as ``equilibrium`` says.
        types: equally spaced types whose gains are measured.
        deviations: equally spaced types whose bids are tried.
    """
    profile = gains(equilibrium, against, types, deviations)
    gain, worst = profile.gain, int(np.argmax(profile.gain))
    mean = float(gain @ profile.weight / profile.weight.sum())
    found = (types, profile.deviations, float(gain[worst]), mean, float(profile.z[worst]))
    name: Against = against if isinstance(against, str) else "given"
    entry_gain = _entry_gain(equilibrium, profile)
    return Certificate(name, *found, entry_gain, equilibrium.auction.builders, profile.left_over)


@dataclass(frozen=True)
class Profile:
    """Each type's best deviation; arrays of shape (types,)."""

    z: FloatArray
    """Worth of the premium."""
    weight: FloatArray
    """How common the type is in the population."""
    best: FloatArray
    """What the best bid brings beyond deployment."""
    current: FloatArray
    """What its own bid does."""
    deviations: int
    left_over: float
    """Chance of an entrant to have no group."""

    @property
    def gain(self) -> FloatArray:
        """Gains of types that occur; 0 for others."""
        return np.where(self.weight > 0, np.maximum(self.best - self.current, 0.0), 0.0)


def gains(
    equilibrium: Equilibrium, against: Literal["premise", "entrants"] | Entrants, types: int, deviations: int
) -> Profile:
    """The search behind :func:`certify`, type by type."""
    auction = equilibrium.auction
    premise = PremiumDistribution(auction.distribution, auction.price, auction.top)
    population = equilibrium.entrants() if isinstance(against, str) else against

    below: Below = premise.cdf if against == "premise" else population.chance_below
    entering = premise.participation if against == "premise" else population.participation
    left_over = auction.bye_probability(entering)
    z, mimicked = np.linspace(0, auction.top, types), np.linspace(0, auction.top, deviations)
    spent, won = _menu(equilibrium, mimicked, below, left_over)
    parts = np.split(z, range(BLOCK, types, BLOCK))
    best = np.concatenate([np.max(part[:, None] * won - spent, axis=1) for part in parts])
    current = z * _chance(equilibrium, z, below, left_over) - equilibrium.bid(z)
    weight = premise.density(z) if against == "premise" else np.interp(z, population.z, population.density)
    return Profile(z, weight, best, current, len(spent), left_over)


def _menu(
    equilibrium: Equilibrium, mimicked: FloatArray, below: Below, left_over: float
) -> tuple[FloatArray, FloatArray]:
    """Bids one can make and the chance of a prize with each."""
    spent, won = equilibrium.bid(mimicked), _chance(equilibrium, mimicked, below, left_over)
    if np.isfinite(equilibrium.pool):
        auction, under = equilibrium.auction, below(equilibrium.pool)
        assert auction.cap is not None
        spent = np.append(spent, [float(equilibrium.uncapped(equilibrium.pool)), auction.cap])
        won = np.append(won, [auction.win(under, left_over), auction.pooled_win(under, left_over)])
    return spent, won


def winning_chance(equilibrium: Equilibrium, entering: Entrants) -> FloatArray:
    """Chance of a prize of those who enter, against each other; of the shape of ``entering.z``."""
    left_over = equilibrium.auction.bye_probability(entering.participation)
    return _chance(equilibrium, entering.z, entering.chance_below, left_over)


def _chance(equilibrium: Equilibrium, z: FloatArray, below: Below, left_over: float) -> FloatArray:
    auction = equilibrium.auction
    won: FloatArray = np.asarray(auction.win(below(z), left_over))
    if np.isfinite(equilibrium.pool):
        won = np.where(z >= equilibrium.pool, auction.pooled_win(below(equilibrium.pool), left_over), won)
    return won


def _entry_gain(equilibrium: Equilibrium, profile: Profile) -> float:
    """Largest gain at the margin: the last to enter may regret it, the first to stay out may too."""
    auction, z = equilibrium.auction, profile.z
    marginal = equilibrium.entry_value(z)
    least, paid = z / auction.top, z / auction.premium_scale
    # The lowest value that enters may regret it, and the highest that stays out.
    inside, outside = np.maximum(marginal, least), np.minimum(marginal, 1.0)
    leaving = np.where(inside < 1, -(inside - paid + profile.current), 0.0)
    coming = np.where(outside > least, outside - paid + profile.best, 0.0)
    return float(max(0.0, np.max(leaving), np.max(coming)))


def utility_by_deviation(equilibrium: Equilibrium, factors: FloatArray) -> FloatArray:
    """Mean utility of all with ``V >= price`` if one of them multiplies its bid, shape of ``factors``: the paper's check.

    Rivals are as the paper supposes. A weak test, for it asks all types for the same percentage; see :func:`certify`.
    """
    auction = equilibrium.auction
    premise = PremiumDistribution(auction.distribution, auction.price, auction.top)
    z = np.linspace(0, auction.top, GRID)
    density, spent, won = premise.density(z), equilibrium.bid(z), equilibrium.win(z)
    tail = auction.distribution.tail(np.maximum(auction.price, z / auction.top))
    deployment = tail.probability / np.where(tail.reciprocal > 0, tail.reciprocal, 1.0) - z / auction.premium_scale
    means = []
    for factor in factors:
        bid = factor * spent
        cleared = bid >= auction.price
        utility = np.where(cleared, deployment + z * np.interp(bid, spent, won), 0.0) - bid
        means.append(integrate.simpson(utility * density, x=z) / integrate.simpson(density, x=z))
    return np.array(means)
