"""Renyi accountant of the Gaussian mechanism under Poisson sampling, for encodings and updates."""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from rayworks.core.errors import DataError

ORDERS = np.array([*range(2, 65), 72, 80, 96, 112, 128, 160, 192, 256, 320, 384, 512, 768, 1024])
"""Renyi orders that are tried."""


def renyi_divergences(chance: float, multiplier: float) -> NDArray[np.float64]:
    """(orders,): Renyi divergence of one Poisson-sampled Gaussian release at each of ``ORDERS``.

    ``1/(a-1) log sum_j C(a,j) (1-q)^(a-j) q^j exp(j(j-1) / 2 z^2)`` (Mironov et al. 2019, equation 3, integer orders).
    """
    if chance == 0:
        return np.zeros(len(ORDERS))
    if multiplier == 0:
        return np.full(len(ORDERS), math.inf)
    if chance >= 1:
        return np.asarray(ORDERS / (2 * multiplier**2))
    j = np.arange(ORDERS[-1] + 1)
    rest = np.maximum(ORDERS[:, None] - j, 0)
    terms = _log_binomials() + rest * math.log1p(-chance) + j * math.log(chance) + j * (j - 1) / 2 / multiplier**2
    largest = terms.max(1, keepdims=True)
    sums = largest[:, 0] + np.log(np.exp(terms - largest).sum(1))
    divergences: NDArray[np.float64] = np.maximum(sums / (ORDERS - 1), 0.0)
    return divergences


@lru_cache(maxsize=1)
def _log_binomials() -> NDArray[np.float64]:
    """(orders, largest order + 1): log C(a, j), minus infinity for j above a."""
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, ORDERS[-1] + 1)))])
    j = np.arange(ORDERS[-1] + 1)
    rest = ORDERS[:, None] - j
    return np.where(rest >= 0, factorials[ORDERS][:, None] - factorials[j] - factorials[np.maximum(rest, 0)], -np.inf)


def epsilon_of(divergences: NDArray[np.float64], delta: float) -> float:
    """The smallest epsilon at ``delta`` over all orders (Canonne, Kamath and Steinke 2020, proposition 12)."""
    shift = np.log1p(-1 / ORDERS) - (math.log(delta) + np.log(ORDERS)) / (ORDERS - 1)
    return max(0.0, float(np.min(divergences + shift)))


def gaussian_epsilon(chance: float, multiplier: float, releases: int, delta: float) -> float:
    """Epsilon of ``releases`` Gaussian releases; ``multiplier`` is sigma over the weighted l2 distance."""
    return epsilon_of(releases * renyi_divergences(chance, multiplier), delta) if releases else 0.0


def gaussian_multiplier_for(epsilon: float, chance: float, releases: int, delta: float) -> float:
    """The smallest noise multiplier, to one in ten thousand, at which :func:`gaussian_epsilon` stays below ``epsilon``.

    Raises:
        DataError: more noise than a multiplier of a million would be needed.
    """
    low, high = 1e-3, 1e6
    if gaussian_epsilon(chance, high, releases, delta) > epsilon:
        raise DataError(f"epsilon {epsilon:g}: cannot be reached at delta {delta:g}; raise one of them")
    while high / low > 1.0001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if gaussian_epsilon(chance, middle, releases, delta) <= epsilon else (middle, high)
    return high
