"""What experts say together: every number of rounds at once, as labels with probabilities."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

Vote = Literal["share", "linear", "log-linear"]
VOTES: tuple[Vote, ...] = ("share", "linear", "log-linear")
FLOOR = 1e-9
"""Least probability that a log-linear vote reads."""


def ensembles(probabilities: np.ndarray, alphas: np.ndarray, vote: Vote) -> np.ndarray:
    """The labels of the first 1, 2, ... experts, ``[experts, rows, classes]``, each a distribution.

    One expert alone keeps its own probabilities, whatever the vote: it is the single weak supervisor, bit for bit.

    Args:
        probabilities: ``[experts, rows, classes]``.
        alphas: ``[experts]``, above 0; only their proportions matter.
        vote: ``share``: how much of the weight has a class as its likeliest; ``linear``: the weighted mean (A2);
            ``log-linear``: the normalised weighted geometric mean.
    """
    if vote == "share":
        said = hardened(probabilities)
    else:
        said = np.log(np.maximum(probabilities, FLOOR)) if vote == "log-linear" else probabilities
    weights = (alphas / alphas.sum())[:, None, None] if len(alphas) else alphas[:, None, None]
    totals: np.ndarray = np.cumsum(weights * said, axis=0) / np.cumsum(weights, axis=0)
    if vote == "log-linear":
        totals = np.exp(totals - totals.max(axis=-1, keepdims=True))
        totals /= totals.sum(axis=-1, keepdims=True)
    if len(totals):
        totals[0] = probabilities[0]
    return totals


def hardened(probabilities: np.ndarray) -> np.ndarray:
    """1 at the likeliest class of each distribution, the first of several, and 0 elsewhere."""
    hard: np.ndarray = np.eye(probabilities.shape[-1])[probabilities.argmax(axis=-1)]
    return hard


def evidential(probabilities: np.ndarray) -> np.ndarray:
    """Mean of the Dirichlet posterior of equal votes and a flat prior, ``[rows, classes]``: ``(votes + 1) / (T + K)``."""
    experts, _, classes = probabilities.shape
    mean: np.ndarray = (hardened(probabilities).sum(axis=0) + 1) / (experts + classes)
    return mean


def error_correlations(wrong: np.ndarray) -> np.ndarray:
    """Correlation of errors ``[experts, experts]`` of ``wrong`` ``[experts, rows]``; NaN for one always or never wrong."""
    centred = wrong - wrong.mean(axis=1, keepdims=True)
    spread = np.sqrt(np.square(centred).sum(axis=1))
    spread[spread == 0] = np.nan
    scaled = centred / spread[:, None]
    found: np.ndarray = scaled @ scaled.T
    return found


def mean_correlation(wrong: np.ndarray) -> float | None:
    """Mean over pairs of experts that both err sometimes, but not always; None where there is no such pair."""
    matrix = error_correlations(np.asarray(wrong, float))
    pairs = matrix[np.triu_indices(len(matrix), 1)]
    pairs = pairs[np.isfinite(pairs)]
    return float(pairs.mean()) if len(pairs) else None


def chosen_rounds(accuracies: Sequence[float]) -> int:
    """The number of rounds that is best on validation, the fewest of several; ``accuracies`` begin with that of one."""
    return int(np.argmax(np.asarray(accuracies))) + 1
