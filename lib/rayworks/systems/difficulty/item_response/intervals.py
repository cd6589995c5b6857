"""Intervals of difficulties: in a 2PL of the ratio ``-e / a``, which are Fieller's and may have no end."""

import numpy as np
from scipy.special import ndtri

from rayworks.systems.difficulty.item_response.marginal_likelihood import Calibration
from rayworks.systems.difficulty.item_response.standard_errors import StandardErrors, intervals

MOST_UNBOUNDED = 0.1
"""Share of a 2PL's items without a bounded interval above which the responses are too few for it without priors."""


def difficulty_intervals(
    calibration: Calibration, errors: StandardErrors, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends, shape (I,); infinite where the responses do not tell a discrimination from 0.

    Items that a prior holds, and all of other models than the 2PL, have normal intervals.
    """
    reach = float(ndtri(0.5 + confidence / 2))
    low, high = intervals(calibration.parameters.difficulty, errors.difficulty, confidence)
    free = ~(calibration.with_prior | calibration.extremes.mask)
    if calibration.parameters.model != "2PL" or errors.covariance is None or errors.intercept is None or not free.any():
        return low, high
    a, e = calibration.parameters.discrimination[free], calibration.parameters.intercept[free]
    found = fieller(a, e, errors.discrimination[free] ** 2, errors.intercept[free] ** 2, errors.covariance[free], reach)
    low[free], high[free] = found
    return low, high


def fieller(
    a: np.ndarray, e: np.ndarray, var_a: np.ndarray, var_e: np.ndarray, cov: np.ndarray, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """All ``b`` at which ``e + a b`` is within ``reach`` standard errors of 0 (Fieller 1954), for ``a > 0``.

    Where ``a`` may be 0 the set has no end on the side of ``b``, and where ``e`` may be 0 too on neither.
    """
    square = a**2 - reach**2 * var_a
    half = e * a - reach**2 * cov
    constant = e**2 - reach**2 * var_e
    root = np.sqrt(np.maximum(half**2 - square * constant, 0))
    bounded = square > 0
    divisor = np.where(square == 0, 1e-300, square)
    ends = np.sort(np.stack([(-half - root) / divisor, (-half + root) / divisor]), axis=0)
    sided = ~bounded & (constant > 0)
    low = np.where(bounded, ends[0], np.where(sided & (e < 0), ends[1], -np.inf))
    high = np.where(bounded, ends[1], np.where(sided & (e > 0), ends[0], np.inf))
    return low, high


def unbounded_share(low: np.ndarray, high: np.ndarray) -> float:
    """Share of the items whose interval has no end on some side."""
    return float(np.mean(~(np.isfinite(low) & np.isfinite(high)))) if len(low) else 0.0


def remarks_on_intervals(low: np.ndarray, high: np.ndarray) -> list[str]:
    """A sentence where intervals have no end."""
    count = int((~(np.isfinite(low) & np.isfinite(high))).sum())
    if not count:
        return []
    return [
        f"the 95 % intervals of {count} of {len(low)} difficulties have no end: so few answers do not tell their "
        "discrimination from 0, and standard errors of them mean little; say model.estimator: map (priors on all items) "
        "or model.name: 1PL"
    ]
