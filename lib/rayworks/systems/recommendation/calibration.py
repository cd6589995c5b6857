"""Two numbers that make probabilities honest: log odds scaled and shifted (Platt 1999)."""

import numpy as np

from rayworks.core.errors import DataError

STEPS = 100
TOLERANCE = 1e-10
RIDGE = 1e-9


def platt(logits: np.ndarray, outcome: np.ndarray) -> tuple[float, float]:
    """The scale a and shift b for which sigma(a x + b) has the lowest cross-entropy on a validation window.

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

    def loss(found: np.ndarray) -> float:
        scaled = found @ x
        return float(np.mean(np.logaddexp(0, scaled) - label * scaled))

    found = np.array([1.0, 0.0])
    for _ in range(STEPS):
        chance = 1 / (1 + np.exp(-(found @ x)))
        gradient = x @ (chance - label) / len(label)
        curvature = (x * (chance * (1 - chance))) @ x.T / len(label) + RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        before, length = loss(found), 1.0
        while loss(found - length * step) > before and length > TOLERANCE:
            length /= 2
        found = found - length * step
        if np.abs(length * step).max() < TOLERANCE:
            break
    return float(found[0]), float(found[1])
