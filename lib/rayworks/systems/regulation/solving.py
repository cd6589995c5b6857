"""From the rules to the equilibrium: closed forms, tables, and the iteration for entry that is consistent with the bids."""

from dataclasses import replace

import numpy as np
from scipy import optimize

from rayworks.core.errors import DataError
from rayworks.systems.regulation.certificate import certify
from rayworks.systems.regulation.entry import GRID
from rayworks.systems.regulation.equilibrium import (
    Auction,
    Equilibrium,
    Mode,
    Rivals,
    TabulatedRivals,
    reserve_participation,
)
from rayworks.systems.regulation.value_distributions import FloatArray, PremiumDistribution

TOLERANCE = 1e-11
"""Largest change of the rivals' distribution at which the entry-consistent iteration stops."""
PLAIN_ROUNDS, MAX_ROUNDS = 60, 5000
"""Rounds before the iteration counts as swinging, and in all."""
SMALL_STEP, SMALL_ROUNDS = 0.05, 500
WELCOME, ACCEPTED = 1e-6, 1e-4
"""Gain from leaving, by its certificate, below which no better solution is sought, and below which the best passes."""
TINY = 1e-12
ROUNDING = 1e-9
"""Changes below this that do not shrink any more are rounding: few enter at a price near 1, and all is divided by them."""


def solve(auction: Auction, mode: Mode = "paper", near: Equilibrium | None = None) -> Equilibrium:
    """The bid of every type.

    Pairs under ``paper`` and ``capped`` are closed forms; everything else a table over ``GRID`` types, some milliseconds per
    round of the entry-consistent iteration.

    Args:
        mode: who is expected to compete, and how the cap is treated.
        near: where to start the entry-consistent iteration: the solution of a similar auction.

    Raises:
        DataError: nobody's value reaches the price, or nothing is found that nobody gains by leaving.
    """
    believed = PremiumDistribution(auction.distribution, auction.price, auction.top)
    left_over = 0.0 if mode == "paper" else auction.bye_probability(believed.participation)
    if mode == "fixed_point":
        if near is not None and isinstance(near.rivals, TabulatedRivals):
            return _entry_consistent(auction, near.rivals.below_at, near.left_over)
        return _entry_consistent(auction, believed.cdf(np.linspace(0, auction.top, GRID)), left_over)
    if (auction.group_size, auction.prizes) == (2, 1):
        return _with_cap(auction, mode, believed, left_over)
    table = believed.cdf(np.linspace(0, auction.top, GRID))
    return _with_cap(auction, mode, TabulatedRivals.of(table, auction), left_over)


def _entry_consistent(auction: Auction, below: FloatArray, left_over: float) -> Equilibrium:
    """Plain iteration, which settles in 5 to 50 rounds at most prices; where it swings, two ways that do not.

    Raises:
        DataError: nobody enters, or some type gains by leaving what is found.
    """
    found, below, left_over, change = _iterate(auction, below, left_over, PLAIN_ROUNDS, step=1.0)
    if change < TOLERANCE:
        return found
    least = float("inf")
    for settle in (_by_participation, _by_small_steps):
        again = settle(auction, below, left_over)
        if again is not None:
            certificate = certify(again)
            gain = max(certificate.max_gain, certificate.entry_gain)
            found, least = (again, gain) if gain < least else (found, least)
        if least < WELCOME:
            break
    if least < ACCEPTED:
        return found
    raise DataError(
        f"mode fixed_point: entry at price {auction.price:g} does not settle (some type gains {least:.2g} "
        "by leaving the best that was found); lower the price, the premium or the group size, or use mode capped"
    )


def _iterate(
    auction: Auction, below: FloatArray, left_over: float, rounds: int, step: float
) -> tuple[Equilibrium, FloatArray, float, float]:
    """Let those who enter become what is believed, as far as ``step`` goes, until nothing moves or the rounds are over."""
    change, number = float("inf"), 0
    while change >= TOLERANCE and number < rounds:
        found = _with_cap(auction, "fixed_point", TabulatedRivals.of(below, auction), left_over)
        pool = found.entrants()
        if not pool.participation > 0:
            raise DataError(f"price {auction.price:g}: nobody enters; lower the price or raise the premium")
        bye = auction.bye_probability(pool.participation)
        change, number = max(float(np.max(np.abs(pool.below - below))), abs(bye - left_over)), number + 1
        below, left_over = below + step * (pool.below - below), left_over + step * (bye - left_over)
    return replace(found, rounds=number), below, left_over, change


def _by_small_steps(auction: Auction, below: FloatArray, left_over: float) -> Equilibrium:
    """Half a thousand rounds of a twentieth of the way: where the cap binds, full steps swing across it."""
    return _iterate(auction, below, left_over, SMALL_ROUNDS, SMALL_STEP)[0]


def _by_participation(auction: Auction, below: FloatArray, left_over: float) -> Equilibrium | None:
    """The same fixed point as a root in one number; ``None`` if there is none in its reach.

    Given participation ``P``, the entrants below ``z`` depend on those below ``y < z`` only: an initial-value problem, so
    iteration settles. Without a pool at the cap, the participation that results falls as ``P`` grows, and the root is the
    only one; with a pool, types further up matter too and the caller has to check.
    """
    rounds = PLAIN_ROUNDS
    found = _with_cap(auction, "fixed_point", TabulatedRivals.of(below, auction), left_over)

    def excess(log_participation: float) -> float:
        nonlocal below, rounds, found
        share = np.exp(log_participation)
        change = float("inf")
        while change > TOLERANCE and rounds < MAX_ROUNDS:
            rivals = TabulatedRivals.of(below, auction)
            found = _with_cap(auction, "fixed_point", rivals, auction.bye_probability(share))
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


def _with_cap(auction: Auction, mode: Mode, rivals: Rivals, left_over: float) -> Equilibrium:
    """Find from where on types bid the cap, and with which chance they win then."""
    free = Equilibrium(auction, mode, rivals, left_over=left_over)
    cap, top = auction.cap, auction.top
    if cap is None or float(free.uncapped(top)) <= cap:
        return free

    def pooled(z: float) -> float:
        return float(auction.pooled_win(rivals.cdf(z), left_over))

    def excess(z: float) -> float:
        # The exact cutoff gives up its place just below the pool for the pool's chance at the cap.
        gained = z * (pooled(z) - float(free.win(z))) if mode != "paper" else 0.0
        return float(free.uncapped(z)) + gained - cap

    pool = float(optimize.brentq(excess, 0.0, top, xtol=1e-15, rtol=4 * np.finfo(float).eps))
    return replace(free, pool=pool, pool_win=pooled(pool))
