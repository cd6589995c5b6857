"""Bids that no builder gains by leaving: the symmetric equilibrium of the all-pay auction (arXiv 2410.01871, theorem 2).

A type ``z`` (what the premium is worth to it) that mimics ``w`` wins with chance ``G(Q(w))``, where ``Q`` is the distribution
of a rival's type. The first-order condition ``b'(w) = w dG(Q(w))`` with ``b(0) = price`` gives the bid
``b(z) = price + int_0^z y dG(Q(y))``, and single crossing makes it a global maximum. The deployment value shifts utility by
a constant, so it decides entry only. Three modes:

- ``paper``: ``Q`` is the distribution of ``z`` given ``V >= price``; bids above the cap are cut to it.
- ``capped``: the same rivals; types from the cutoff on bid the cap, and the cutoff type is indifferent.
- ``fixed_point``: ``Q`` is the distribution of those who enter against ``Q``; capped too.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from scipy import optimize

from rayworks.core.errors import DataError
from rayworks.systems.regulation.contests import (
    TieRule,
    pooled_win_probability,
    win_integral,
    win_probability,
)
from rayworks.systems.regulation.entry import GRID, Entrants, entrants
from rayworks.systems.regulation.value_distributions import (
    BoolArray,
    FloatArray,
    PremiumDistribution,
    Tail,
    ValueDistribution,
)

Mode = Literal["paper", "capped", "fixed_point"]
BLOCK = 1 << 14
"""Types evaluated at a time, so that intermediate arrays stay in the processor's cache."""
TOLERANCE = 1e-11
"""Largest change of the rivals' distribution at which the entry-consistent iteration stops."""
PLAIN_ROUNDS, MAX_ROUNDS = 60, 5000
"""Rounds before the iteration counts as swinging, and in all."""
SMALL_STEP, SMALL_ROUNDS = 0.05, 500
CONSISTENT = 1e-4
"""Largest difference of believed and real rivals that passes; for pairs at prices up to .9 it is below 1e-9."""
TINY = 1e-12
ROUNDING = 1e-9
"""Changes below this that do not shrink any more are rounding: few enter at a price near 1, and all is divided by them."""


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

    @property
    def top(self) -> float:
        """The largest worth of a premium."""
        return self.premium_scale * self.largest_share

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
        ranked = win_probability(self.rivals.cdf(z), self.auction.group_size, self.auction.prizes)
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

    def _bid(self, z: FloatArray) -> FloatArray:
        spent: FloatArray = self.auction.price + self.rivals.surplus(z)
        if np.isfinite(self.pool):
            assert self.auction.cap is not None
            spent = np.where(z >= self.pool, self.auction.cap, spent)
        return spent


def solve(auction: Auction, mode: Mode = "paper", near: Equilibrium | None = None) -> Equilibrium:
    """The bid of every type.

    Pairs under ``paper`` and ``capped`` are closed forms; everything else a table over ``GRID`` types, some milliseconds per
    round of the entry-consistent iteration.

    Args:
        mode: who is expected to compete, and how the cap is treated.
        near: where to start the entry-consistent iteration: the solution of a similar auction.

    Raises:
        DataError: nobody's value reaches the price, or the iteration does not settle.
    """
    believed = PremiumDistribution(auction.distribution, auction.price, auction.top)
    if mode == "fixed_point":
        start = near.rivals.below_at if near is not None and isinstance(near.rivals, TabulatedRivals) else None
        return _entry_consistent(auction, believed, start)
    if (auction.group_size, auction.prizes) == (2, 1):
        return _with_cap(auction, mode, believed)
    table = believed.cdf(np.linspace(0, auction.top, GRID))
    return _with_cap(auction, mode, TabulatedRivals.of(table, auction))


def _entry_consistent(auction: Auction, believed: PremiumDistribution, start: FloatArray | None) -> Equilibrium:
    """Plain iteration, which settles in 5 to 50 rounds at most prices; where it swings, two ways that do not.

    Raises:
        DataError: nobody enters, or what is found is not consistent with who enters.
    """
    below = believed.cdf(np.linspace(0, auction.top, GRID)) if start is None else start
    found, below, change = _iterate(auction, below, PLAIN_ROUNDS, step=1.0)
    if change < TOLERANCE:
        return found
    for settle in (_by_participation, _by_small_steps):
        again = settle(auction, below)
        if again is not None and _inconsistency(again) < CONSISTENT:
            return again
    raise DataError(
        f"mode fixed_point: entry at price {auction.price:g} does not settle; lower the price, the premium or the group "
        "size, or use mode capped"
    )


def _iterate(auction: Auction, below: FloatArray, rounds: int, step: float) -> tuple[Equilibrium, FloatArray, float]:
    """Let those who enter become what is believed, as far as ``step`` goes, until nothing moves or the rounds are over."""
    change, number = float("inf"), 0
    while change >= TOLERANCE and number < rounds:
        found = _with_cap(auction, "fixed_point", TabulatedRivals.of(below, auction))
        pool = found.entrants()
        if not pool.participation > 0:
            raise DataError(f"price {auction.price:g}: nobody enters; lower the price or raise the premium")
        change, number = float(np.max(np.abs(pool.below - below))), number + 1
        below = below + step * (pool.below - below)
    return replace(found, rounds=number), below, change


def _by_small_steps(auction: Auction, below: FloatArray) -> Equilibrium:
    """Half a thousand rounds of a twentieth of the way: where the cap binds, full steps swing across it."""
    return _iterate(auction, below, SMALL_ROUNDS, SMALL_STEP)[0]


def _inconsistency(found: Equilibrium) -> float:
    """How far those who enter are from those whom the bids expect: largest difference of the two distributions."""
    entering = found.entrants()
    return float(np.max(np.abs(entering.below - np.asarray(found.rivals.cdf(entering.z)))))


def _by_participation(auction: Auction, below: FloatArray) -> Equilibrium | None:
    """The same fixed point as a root in one number; ``None`` if there is none in its reach.

    Given participation ``P``, the entrants below ``z`` depend on those below ``y < z`` only: an initial-value problem, so
    iteration settles. Without a pool at the cap, the participation that results falls as ``P`` grows, and the root is the
    only one; with a pool, types further up matter too and the caller has to check.
    """
    rounds = PLAIN_ROUNDS
    found = _with_cap(auction, "fixed_point", TabulatedRivals.of(below, auction))

    def excess(log_participation: float) -> float:
        nonlocal below, rounds, found
        share = np.exp(log_participation)
        change = float("inf")
        while change > TOLERANCE and rounds < MAX_ROUNDS:
            found = _with_cap(auction, "fixed_point", TabulatedRivals.of(below, auction))
            pool = found.entrants()
            following = np.minimum(1.0, pool.below * (pool.participation / share))
            last, change = change, float(np.max(np.abs(following - below)))
            below, rounds = following, rounds + 1
            if last <= change < ROUNDING:
                break
        return float(np.log(max(found.entrants().participation, TINY)) - log_participation)

    low = np.log(max(reserve_participation(auction), TINY)) - 1e-3
    high = np.log(auction.distribution.tail(auction.price / 2).probability)
    if not excess(low) > 0 > excess(high):
        return None
    root = optimize.brentq(excess, low, high, xtol=1e-11)
    excess(root)
    return replace(found, rounds=rounds)


def _with_cap(auction: Auction, mode: Mode, rivals: Rivals) -> Equilibrium:
    """Find from where on types bid the cap, and with which chance they win then."""
    free = Equilibrium(auction, mode, rivals)
    cap, top = auction.cap, auction.top
    if cap is None or auction.price + float(rivals.surplus(top)) <= cap:
        return free
    room = cap - auction.price

    def pooled(z: float) -> float:
        return float(pooled_win_probability(rivals.cdf(z), auction.group_size, auction.prizes, auction.tie))

    def excess(z: float) -> float:
        # The exact cutoff gives up its place just below the pool for the pool's chance at the cap.
        gained = z * (pooled(z) - float(free.win(z))) if mode != "paper" else 0.0
        return float(rivals.surplus(z)) + gained - room

    pool = float(optimize.brentq(excess, 0.0, top, xtol=1e-15, rtol=4 * np.finfo(float).eps))
    return replace(free, pool=pool, pool_win=pooled(pool))


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
