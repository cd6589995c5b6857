"""One number that makes probabilities honest: log odds divided by a temperature (Guo et al. 2017)."""

import numpy as np

from rayworks.core.errors import DataError

LOWEST, HIGHEST = 0.05, 20.0
GOLDEN = (np.sqrt(5) - 1) / 2
TOLERANCE = 1e-6


def temperature(logits: np.ndarray, outcome: np.ndarray) -> float:
    """The divisor in [.05, 20] of ``logits`` (N,) that gives ``outcome`` (0 or 1, (N,)) the lowest cross-entropy.

    The cross-entropy is convex in its inverse, so a golden-section search finds the minimum.

    Raises:
        DataError: no outcome.
    """
    if not len(outcome):
        raise DataError("calibration: the validation window has no decision")
    logits = np.asarray(logits, np.float64)

    def loss(inverse: float) -> float:
        scaled = logits * inverse
        return float(np.mean(np.logaddexp(0, scaled) - outcome * scaled))

    low, high = 1 / HIGHEST, 1 / LOWEST
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > TOLERANCE:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = loss(right)
    return 2 / (low + high)
