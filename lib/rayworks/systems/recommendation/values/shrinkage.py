"""Doubly robust estimation with weights that are shrunk where overlap is poor, as far as the log itself advises.

DRos (Su, Dimakopoulou, Krishnamurthy and Dudik 2020): a weight w becomes ``s w / (w^2 + s)``. With s infinite this is DR,
with s = 0 the reward model alone. The strength is that of the smallest estimated mean squared error, of which the part that
comes from the bias is kept in the interval. With two rows expected of the action that the target takes most, 95 % intervals
cover .88 in simulations, where those of DR cover .91: nothing in a log tells of actions that are not in it.
"""

import numpy as np

from rayworks.systems.recommendation.measures.estimates import NORMAL_QUANTILE, Estimate, SumOfRatios

SMALLEST = 1e-150
STRENGTHS = 24
"""Values of s that are tried, from the smallest positive weight squared to the largest, beside DR and the model alone."""


def shrunk(weight: np.ndarray, strength: float) -> np.ndarray:
    """Weights (N,) shrunk by ``strength``, from 0 to infinity."""
    if np.isinf(strength):
        return weight
    if strength == 0:
        return np.zeros_like(weight)
    with np.errstate(over="ignore"):
        return np.asarray(weight / (1 + weight * (weight / strength)))


def shrunk_doubly_robust(
    reward: np.ndarray,
    weight: np.ndarray,
    predicted: np.ndarray,
    expected: np.ndarray,
    group: np.ndarray | None = None,
) -> tuple[Estimate, float]:
    """The estimate, whose standard error is the root of its variance and its largest likely squared bias, and the strength.

    Args:
        reward: (N,).
        weight: (N,), raw.
        predicted: (N,), the reward model at the logged action.
        expected: (N,), its mean under the target policy.
        group: codes (N,) of dependent rows.
    """
    positive = weight[weight > 0]
    low, high = (float(positive.min()), float(positive.max())) if len(positive) else (1.0, 1.0)
    low, high = max(low, SMALLEST), min(max(high, SMALLEST), 1 / SMALLEST)
    errors = reward - predicted
    best: tuple[float, float, float, float] | None = None
    for strength in (np.inf, *(np.geomspace(low, high, STRENGTHS) ** 2)[::-1], 0.0):
        used = shrunk(weight, float(strength))
        form = SumOfRatios((expected + used * errors)[None])
        estimate = (form if group is None else form.by(group)).estimate()
        lost = SumOfRatios(((used - weight) * errors)[None])
        bias = (lost if group is None else lost.by(group)).estimate()
        squared = estimate.standard_error**2 + bias.value**2
        if best is None or squared < best[1]:
            largest = abs(bias.value) + 2 * bias.standard_error
            best = estimate.value, squared, float(np.sqrt(estimate.standard_error**2 + largest**2)), float(strength)
    assert best is not None
    value, _, error, chosen = best
    return Estimate(value, error, value - NORMAL_QUANTILE * error, value + NORMAL_QUANTILE * error), chosen
