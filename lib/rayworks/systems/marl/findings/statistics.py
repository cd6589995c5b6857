"""Statistics over a few trainings: interquartile means with intervals, and steps to a threshold."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rayworks.core import bootstrap


def interquartile_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the middle half along the last axis; the values at its ends count in part (Agarwal et al. 2021)."""
    ordered = np.sort(values, -1)
    count = ordered.shape[-1]
    edges = np.arange(count + 1) / count
    weight = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0, None) * 2
    result: NDArray[np.float64] = ordered @ weight
    return result


def interval(values: Sequence[float], resamples: int, seed: int, name: str) -> tuple[float, float, float]:
    """Interquartile mean of one value per training, and its interval; see :mod:`rayworks.core.bootstrap`."""
    found = bootstrap.interval(interquartile_mean, np.asarray(values, np.float64), resamples, seed, "interval", name)
    middle, low, high = (float(value) for value in found)
    return middle, low, high


def smoothed(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Mean of each value and up to ``window - 1`` before it, along the last axis."""
    total = np.cumsum(values, -1)
    total[..., window:] -= total[..., :-window].copy()
    counted = np.minimum(np.arange(values.shape[-1]) + 1, window)
    result: NDArray[np.float64] = total / counted
    return result


def steps_to(threshold: float, steps: NDArray[np.float64], returns: NDArray[np.float64]) -> float | None:
    """Environment steps after which a curve first is at the threshold, between two points linearly; None if it never is."""
    above = np.nonzero(returns >= threshold)[0]
    if not len(above):
        return None
    at = int(above[0])
    if at == 0:
        return float(steps[0])
    rise = (threshold - returns[at - 1]) / (returns[at] - returns[at - 1])
    return float(steps[at - 1] + rise * (steps[at] - steps[at - 1]))


def area(steps: NDArray[np.float64], returns: NDArray[np.float64]) -> float:
    """Mean return over the steps of a curve, trapezoidal."""
    if len(steps) < 2:
        return float(returns[-1])
    return float(np.trapezoid(returns, steps) / (steps[-1] - steps[0]))
