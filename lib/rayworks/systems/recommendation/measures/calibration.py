"""Calibrate probabilities by scaling and shifting logits (Platt 1999), beside simpler predictors that may be surer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from rayworks.core.errors import DataError

LOWEST, HIGHEST = 0.05, 20.0
MOST_OF_OTHERS = 5.0
LEAST_EFFECTIVE = 100.0
"""Decisions that weighted ones must be worth, for a calibration to rest on them."""


@dataclass(frozen=True)
class Calibration:
    """``scale x (logit + sum_k others_k x_k) + shift``."""

    scale: float
    shift: float
    others: tuple[float, ...] = ()
    """Weights of the other predictors, in units of the logit's."""


def effective(weight: np.ndarray) -> float:
    """How many equal weights tell as much as these (N,): the square of their sum over the sum of their squares (Kish)."""
    largest = weight.max(initial=0.0)
    if not largest:
        return 0.0
    share = weight / largest
    return float(share.sum() ** 2 / (share**2).sum())


def calibration(
    logits: np.ndarray,
    outcome: np.ndarray,
    others: Sequence[np.ndarray] = (),
    weight: np.ndarray | None = None,
) -> Calibration:
    """The scale, shift and weights of other predictors with the lowest cross-entropy on a validation window.

    The scale is kept within [.05, 20], for a calibration must never turn an order around, and the weights of others within
    [0, 5 / scale], with a standard normal prior on their products with it; decisions all alike leave them at 1 and 0. Labels
    are Platt's (n + 1) / (n + 2) and 1 / (n + 2), so that decisions all alike give finite numbers.

    Args:
        logits: of the model, (N,).
        outcome: 0 or 1, (N,).
        others: logits of simpler predictors, each (N,); where the model has little to say, they take over.
        weight: how much each decision counts, (N,); all alike if None. Together they count as :func:`effective` says.

    Raises:
        DataError: no outcome.
    """
    from scipy.optimize import Bounds, minimize

    if not len(outcome):
        raise DataError("calibration: the validation window has no decision")
    weight = np.ones(len(outcome)) if weight is None else weight * (effective(weight) / weight.sum())
    positive, count = float(weight @ outcome), float(weight.sum())
    label = np.where(outcome > 0, (positive + 1) / (positive + 2), 1 / (count - positive + 2))
    alike = bool(np.ptp(outcome[weight > 0]) == 0)
    spread = float(np.std(logits)) or 1.0
    x = np.stack([np.asarray(logits, np.float64) / spread, np.ones(len(outcome)), *others])

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = at @ x
        penalty = np.concatenate([[0.0, 0.0], at[2:]]) / count
        value = weight @ (np.logaddexp(0, scaled) - label * scaled) / count + penalty @ at / 2
        return float(value), x @ (weight * (expit(scaled) - label)) / count + penalty

    low, high = (spread, spread) if alike else (LOWEST * spread, HIGHEST * spread)
    most = 0.0 if alike else MOST_OF_OTHERS
    bounds = Bounds(
        np.array([low, -np.inf, *np.zeros(len(others))]), np.array([high, np.inf, *np.full(len(others), most)])
    )
    level = np.log((positive + 1) / (count - positive + 1))
    start = np.array([np.clip(spread, low, high), level, *np.zeros(len(others))])
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-16, "gtol": 1e-10, "maxiter": 1000}
    ).x
    scale = float(np.clip(found[0] / spread, LOWEST, HIGHEST))
    return Calibration(1.0 if alike else scale, float(found[1]), tuple((found[2:] / scale).tolist()))
