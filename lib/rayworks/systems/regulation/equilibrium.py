"""Bids that no builder gains by leaving: the symmetric equilibrium of the all-pay auction (arXiv 2410.01871, theorem 2).

A type ``z`` (what the premium is worth to it) that mimics ``w`` wins with chance ``G(Q(w))``, where ``Q`` is the distribution
of a rival's type. The first-order condition ``b'(w) = w dG(Q(w))`` with ``b(0) = price`` gives the bid
``b(z) = price + int_0^z y dG(Q(y))``, and single crossing makes it a global maximum. The deployment value shifts utility by
a constant, so it decides entry only. Three modes:

- ``paper``: ``Q`` is the distribution of ``z`` given ``V >= price``; bids above the cap are cut to it.
- ``capped``: the same rivals; types from the cutoff on bid the cap, and the cutoff type is indifferent.
- ``fixed_point``: ``Q`` is the distribution of those who enter against ``Q``; capped too.

Of finitely many builders some are left without a group, whatever they bid, and win at the rate of one: with the chance ``pi``
of that, a type wins with chance ``(1 - pi) G + pi k / n``, and bids ``price + (1 - pi) int_0^z y dG(Q(y))``. ``paper`` knows
infinitely many only.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from rayworks.core.errors import DataError
from rayworks.systems.regulation.contests import (
    ByeRule,
    TieRule,
    bye_probability,
    pooled_win_probability,
    win_integral,
    win_probability,
)
from rayworks.systems.regulation.entry import Entrants, entrants
from rayworks.systems.regulation.value_distributions import (
    BoolArray,
    FloatArray,
    Tail,
    ValueDistribution,
)

Mode = Literal["paper", "capped", "fixed_point"]
MOST_BUILDERS = 1_000_000
BLOCK = 1 << 14
"""Types evaluated at a time, so that intermediate arrays stay in the processor's cache."""


@dataclass(frozen=True)
class Auction:
    """The rules, and what is known about the builders.

    Raises:
        DataError: naming the field that is out of its range.
    """

    distribution: ValueDistribution
    """Of a builder's total value."""
    price: float
    """What the threshold costs to reach, in (0, 1)."""
    largest_share: float = 0.5
    """``L``: the premium share of a value is Uniform[0, L]."""
    premium_scale: float = 1.0
    """What the premium is worth over what the paper's is: the regulator's budget."""
    group_size: int = 2
    """Cleared models that compete with each other."""
    prizes: int = 1
    """Premiums per group."""
    tie: TieRule = "coin"
    cap: float | None = 1.0
    """The most that can be spent; ``None`` for no bound."""
    bye: ByeRule = "chance"
    """What becomes of those for whom there is no group."""
    builders: int | None = None
    """How many may enter, each by its own type; ``None`` for so many that groups fill."""

    def __post_init__(self) -> None:
        if not 0 < self.price < 1:
            raise DataError(f"price {self.price:g}: must lie strictly between 0 and 1")
        if not 0 < self.largest_share <= 1:
            raise DataError(f"largest_share {self.largest_share:g}: must be above 0 and at most 1")
        if not (self.premium_scale > 0 and np.isfinite(self.premium_scale)):
            raise DataError(
                f"premium_scale {self.premium_scale:g}: must be above 0; no premium is the reserve threshold"
            )
        if self.group_size < 2:
            raise DataError(f"group_size {self.group_size}: a contest needs at least two participants")
        if not 1 <= self.prizes < self.group_size:
            raise DataError(f"prizes {self.prizes}: must be at least 1 and below the group size {self.group_size}")
        if self.cap is not None and not self.cap > self.price:
            raise DataError(f"cap {self.cap:g}: must be above the price {self.price:g}")
        if self.builders is not None and not 2 <= self.builders <= MOST_BUILDERS:
            raise DataError(
                f"builders {self.builders}: must be between 2 and {MOST_BUILDERS}, or None for ever so many"
            )

    @property
    def top(self) -> float:
        """The largest worth of a premium."""
        return self.premium_scale * self.largest_share

    def bye_probability(self, entering: float) -> float:
        """Chance of an entrant to have no group, when each other builder enters with this chance."""
        return bye_probability(entering, self.builders, self.group_size, self.bye)

    def win(self, below: Any, bye: float) -> Any:
        """Chance of a prize when a rival is below with that chance, and there is no group with chance ``bye``."""
        return self.or_bye(win_probability(below, self.group_size, self.prizes), bye)

    def pooled_win(self, below: Any, bye: float) -> Any:
        """The same with a bid that every rival who is not below makes too."""
        return self.or_bye(pooled_win_probability(below, self.group_size, self.prizes, self.tie), bye)

    def or_bye(self, contested: Any, bye: float) -> Any:
        """A chance of a prize in a group, where with chance ``bye`` there is none."""
        return (1 - bye) * contested + bye * self.prizes / self.group_size if bye else contested

    def types(self, value: FloatArray, share: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Deployment value and worth of the premium of builders with these total values and premium shares."""
        premium = share * value
        return value - premium, self.premium_scale * premium


class Rivals(Protocol):
    """What a type expects of a rival, and so of its own rank; of one rival and one prize a :class:`PremiumDistribution`."""

    def cdf(self, z: Any) -> Any:
        """Chance that a rival's type is below."""

    def surplus(self, z: Any) -> Any:
        """``int_0^z y dG``: the bid above the price."""


@dataclass(frozen=True)
class TabulatedRivals:
    """Any distribution of a rival's type, any group: tables over equally spaced types, straight lines between them."""

    top: float
    below_at: FloatArray
    surplus_at: FloatArray

    @classmethod
    def of(cls, below: FloatArray, auction: Auction) -> "TabulatedRivals":
        """The surplus ``sum_i int y dG`` with ``Q`` linear between grid points, which integrates exactly."""
        n, k = auction.group_size, auction.prizes
        z = np.linspace(0, auction.top, len(below))
        win, integral = win_probability(below, n, k), win_integral(below, n, k)
        rise = np.diff(below)
        flat = rise < 1e-12
        mean_win = np.where(flat, win[:-1], np.diff(integral) / np.where(flat, 1.0, rise))
        rent = np.concatenate([[0.0], np.cumsum(np.diff(z) * mean_win)])
        return cls(auction.top, below, np.maximum.accumulate(z * win - rent))

    def cdf(self, z: Any) -> Any:
        """The chance, by interpolation."""
        return self._at(z, self.below_at)

    def surplus(self, z: Any) -> Any:
        """The surplus, by interpolation."""
        return self._at(z, self.surplus_at)

    def _at(self, z: Any, table: FloatArray) -> Any:
        position = np.clip(np.asarray(z) * ((len(table) - 1) / self.top), 0, len(table) - 1)
        left = np.minimum(position.astype(np.intp), len(table) - 2)
        low = table[left]
        return low + (position - left) * (table[left + 1] - low)


@dataclass(frozen=True)
class Equilibrium:
    """A bid for every type, what it wins and what it is left with."""

    auction: Auction
    mode: Mode
    rivals: Rivals
    pool: float = float("inf")
    """The type from which on all bid the cap; infinite if the cap does not bind."""
    pool_win: float = 1.0
    """Their chance of a prize."""
    left_over: float = 0.0
    """Chance to have no group."""
    rounds: int = 0
    """Of the entry-consistent iteration."""

    def bid(self, z: Any) -> FloatArray:
        """What a type spends, in units of value; shape of ``z``. A million types take about 10 ms."""
        z = np.asarray(z, dtype=float)
        if z.size <= BLOCK:
            return self._bid(z)
        flat, spent = z.reshape(-1), np.empty(z.size)
        for start in range(0, z.size, BLOCK):
            spent[start : start + BLOCK] = self._bid(flat[start : start + BLOCK])
        return spent.reshape(z.shape)

    def win(self, z: Any) -> FloatArray:
        """Chance of a prize; shape of ``z``."""
        z = np.asarray(z, dtype=float)
        ranked = self.auction.win(self.rivals.cdf(z), self.left_over)
        return np.where(z >= self.pool, self.pool_win, ranked)

    def rent(self, z: Any) -> FloatArray:
        """What a type expects of the premium, its bid above the price paid: its gain over a bare threshold."""
        z = np.asarray(z, dtype=float)
        rent: FloatArray = z * self.win(z) - (self.bid(z) - self.auction.price)
        return rent

    def entry_value(self, z: Any) -> FloatArray:
        """The total value above which a type enters: ``price + z / scale - rent(z)``; shape of ``z``."""
        z = np.asarray(z, dtype=float)
        least: FloatArray = self.auction.price + z / self.auction.premium_scale - self.rent(z)
        return least

    def participates(self, deployment_value: Any, z: Any) -> BoolArray:
        """Whether deployment value and rent exceed the price."""
        return np.asarray(deployment_value) + self.rent(z) > self.auction.price

    def entrants(self) -> Entrants:
        """Who enters, and in which numbers."""
        return entrants(self.auction.distribution, self.auction.top, self.entry_value)

    def uncapped(self, z: Any) -> FloatArray:
        """The bid if more than the cap could be spent; shape of ``z``."""
        surplus: FloatArray = self.rivals.surplus(z)
        return self.auction.price + (surplus if not self.left_over else (1 - self.left_over) * surplus)

    def _bid(self, z: FloatArray) -> FloatArray:
        spent = self.uncapped(z)
        if np.isfinite(self.pool):
            assert self.auction.cap is not None
            spent = np.where(z >= self.pool, self.auction.cap, spent)
        return spent


def reserve_participation(auction: Auction) -> float:
    """Share of builders who enter without a premium: bid the price iff deployment alone is worth it.

    ``P(m) + (P(p) - P(m) - p (A(p) - A(m))) / L`` with ``m = p / (1 - L)``, from which on all enter; at ``L = 1/2`` the
    paper's closed forms.
    """
    price, share = auction.price, auction.largest_share
    sure = price / (1 - share) if share < 1 else float("inf")
    low = auction.distribution.tail(price)
    high = auction.distribution.tail(sure) if sure <= 1 else Tail(0.0, 0.0, 0.0)
    between = low.probability - high.probability - price * (low.reciprocal - high.reciprocal)
    return float(high.probability + between / share)
