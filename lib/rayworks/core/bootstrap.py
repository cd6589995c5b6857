"""Intervals of a handful of values: by resampling, for any statistic and for paired values, and by Student's t, for means."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rayworks.core.seeds import Key, stream

Values = NDArray[np.float64]
Statistic = Callable[[Values], Values]
"""Of the last axis, or of the last two."""


def interval(
    statistic: Statistic, values: Values, resamples: int, seed: int, *path: Key, confidence: float = 0.95
) -> tuple[Values, Values, Values]:
    """A statistic, and the percentile interval of its bootstrap.

    Args:
        statistic: of values (..., resamples, S), over S.
        values: (..., S), one or more; with one the interval is the value itself.
        resamples: of the bootstrap.
        seed: of the run.
        path: of what is resampled, so that quantities are drawn apart.
        confidence: of the interval.

    Returns:
        the statistic, its lower and its upper end.
    """
    count = values.shape[-1]
    drawn = stream(seed, *path).integers(0, count, (resamples, count))
    levels = [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0]
    low, high = np.quantile(statistic(values[..., drawn]), levels, axis=-1)
    return statistic(values[..., None, :])[..., 0], low, high


def mean_interval(
    values: Sequence[float] | Values, resamples: int, seed: int, *path: Key, confidence: float = 0.95
) -> tuple[float, float, float]:
    """The mean with its interval; see :func:`interval`."""
    array = np.asarray(values, np.float64)
    found = interval(lambda drawn: drawn.mean(-1), array, resamples, seed, *path, confidence=confidence)
    mean, low, high = (float(value) for value in found)
    return mean, low, high


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float | None, float | None]:
    """Mean of a few independent values with the interval of Student's t; one value has none."""
    from scipy.special import stdtrit

    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return mean, None, None
    half = float(stdtrit(count - 1, (1 + confidence) / 2) * np.std(values, ddof=1) / np.sqrt(count))
    return mean, mean - half, mean + half
