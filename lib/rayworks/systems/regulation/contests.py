"""Who wins a group: the chance of a prize from the rank of a score among its rivals, and the chance to have no group."""

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

TieRule = Literal["coin", "split", "void"]
"""A prize that equal scores contest goes to one of them at random, is shared, or is not given."""
ByeRule = Literal["chance", "redraw"]
"""Whoever is left over when the cleared models do not fill the last group wins at the rate of a group, or competes with
cleared models taken again from the front of the order, whose own result stands."""


def bye_probability(entering: float, builders: int | None, group_size: int, rule: ByeRule) -> float:
    """Chance of one who enters to win at a group's rate without a contest, for want of rivals.

    The other entrants are ``Binomial(builders - 1, entering)``. Among ``m`` who entered the last ``m mod n`` in a random
    order are left over; under ``redraw`` they meet others again, unless there is no whole group at all.

    Args:
        entering: chance of each other builder to enter and be cleared.
        builders: all there are; ``None`` for so many that groups fill: 0.
        group_size: ``n``.
    """
    if builders is None:
        return 0.0
    count = np.arange(builders) + 1
    alone = (count < group_size) if rule == "redraw" else (count % group_size) / count
    return float(binomial(builders - 1, entering) @ alone)


def binomial(trials: int, chance: float) -> NDArray[np.float64]:
    """Chances of 0 to ``trials`` successes, shape (trials + 1,)."""
    count = np.arange(trials + 1)
    ways = special.gammaln(trials + 1) - special.gammaln(count + 1) - special.gammaln(trials - count + 1)
    chance = min(max(chance, 0.0), 1.0)
    found: NDArray[np.float64] = np.exp(ways + special.xlogy(count, chance) + special.xlog1py(trials - count, -chance))
    return found


def win_probability(below: Any, group_size: int, prizes: int) -> Any:
    """Chance to be among the best ``prizes`` of a group when each rival is below with that probability.

    ``sum_{j < k} C(n-1, j) (1-q)^j q^(n-1-j)``, the regularised incomplete beta ``I_q(n-k, k)``; ``q`` itself for pairs.

    Args:
        below: ``q``, in [0, 1].
        group_size: ``n``, at least 2.
        prizes: ``k``, at least 1 and below ``n``.
    """
    return below if group_size == 2 else _fewer_above(below, group_size - 1, prizes)


def win_integral(below: Any, group_size: int, prizes: int) -> Any:
    """Antiderivative of :func:`win_probability` that is 0 at 0: ``q G(q) - (n-k)/n I_q(n-k+1, k)``."""
    share = (group_size - prizes) / group_size
    ranked = _fewer_above(below, group_size, prizes)
    return below * win_probability(below, group_size, prizes) - share * ranked


def _fewer_above(below: Any, rivals: int, count: int) -> Any:
    """Chance that fewer than ``count`` of so many rivals are above."""
    below = np.asarray(below, dtype=float)
    chance = below**rivals
    for above in range(1, count):
        chance = chance + math.comb(rivals, above) * (1 - below) ** above * below ** (rivals - above)
    return chance


def pooled_win_probability(below: Any, group_size: int, prizes: int, tie: TieRule) -> Any:
    """Chance to win with a score that every rival who is not below has too.

    Args:
        below: chance that a rival is below, in [0, 1].
        group_size: ``n``.
        prizes: ``k``.
    """
    below = np.asarray(below, dtype=float)
    equals = np.arange(group_size)
    chance = special.binom(group_size - 1, equals) * (
        (1 - below[..., None]) ** equals * below[..., None] ** (group_size - 1 - equals)
    )
    contested = np.where(equals < prizes, 1.0, 0.0 if tie == "void" else prizes / (equals + 1))
    return chance @ contested
