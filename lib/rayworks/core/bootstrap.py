"""Intervals by resampling: the mean of a handful of values, and of the differences of paired ones."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rayworks.core.seeds import Key, stream


def mean_interval(
    values: Sequence[float] | NDArray[np.float64], resamples: int, seed: int, *path: Key, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Mean, and the percentile interval of its bootstrap.

    Args:
        values: one or more; with one the interval is the value itself.
        resamples: of the bootstrap.
        seed: of the run.
        path: of what is resampled, so that quantities are drawn apart.
        confidence: of the interval.

    Returns:
        mean, lower end, upper end.
    """
    array = np.asarray(values, np.float64)
    draws = stream(seed, *path).integers(0, len(array), (resamples, len(array)))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(array[draws].mean(1), [tail, 1.0 - tail])
    return float(array.mean()), float(low), float(high)
