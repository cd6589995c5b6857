"""Calibrate probabilities by scaling and shifting logits (Platt 1999)."""

import numpy as np
from scipy.special import expit

from rayworks.core.errors import DataError

LOWEST, HIGHEST = 0.05, 20.0
STEPS = 100
TOLERANCE = 1e-10
RIDGE = 1e-9


def platt(logits: np.ndarray, outcome: np.ndarray) -> tuple[float, float]:
    """The scale a and shift b for which sigma(a x + b) has the lowest cross-entropy on a validation window.

    The scale is kept within [.05, 20], for a calibration must never turn an order around; decisions all alike leave it at 1.
    Labels are Platt's (n + 1) / (n + 2) and 1 / (n + 2), so that decisions all alike give finite numbers. Newton's method on
    a convex loss, with halved steps where a whole one does not lower it.

    Args:
        logits: x, (N,).
        outcome: 0 or 1, (N,).

    Raises:
        DataError: no outcome.
    """
    if not len(outcome):
        raise DataError("calibration: the validation window has no decision")
    x = np.stack([np.asarray(logits, np.float64), np.ones(len(outcome))])
    positive = float(outcome.sum())
    negative = len(outcome) - positive
    label = np.where(outcome > 0, (positive + 1) / (positive + 2), 1 / (negative + 2))

    both = _newton(x, label, np.array([1.0, 0.0]), np.array([True, True]))
    if min(positive, negative) > 0 and LOWEST <= both[0] <= HIGHEST:
        return float(both[0]), float(both[1])
    scale = float(np.clip(both[0], LOWEST, HIGHEST)) if min(positive, negative) > 0 else 1.0
    return scale, float(_newton(x, label, np.array([scale, 0.0]), np.array([False, True]))[1])


def _newton(x: np.ndarray, label: np.ndarray, found: np.ndarray, free: np.ndarray) -> np.ndarray:
    """(2,) at the lowest cross-entropy of sigma(found @ x) over the coordinates that are ``free``."""

    def loss(at: np.ndarray) -> float:
        scaled = at @ x
        return float(np.mean(np.logaddexp(0, scaled) - label * scaled))

    for _ in range(STEPS):
        chance = expit(found @ x)
        gradient = x @ (chance - label) / len(label)
        curvature = (x * (chance * (1 - chance))) @ x.T / len(label) + RIDGE * np.eye(2)
        step = np.zeros(2)
        step[free] = np.linalg.solve(curvature[np.ix_(free, free)], gradient[free])
        before, length = loss(found), 1.0
        while loss(found - length * step) > before and length > TOLERANCE:
            length /= 2
        found = found - length * step
        if np.abs(step).max() < TOLERANCE or length <= TOLERANCE:
            break
    return found
