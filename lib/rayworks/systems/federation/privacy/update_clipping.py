"""Clipped and noised updates (McMahan et al. 2018; adaptive bound: Andrew et al. 2021), and their epsilon.

The numerics are those of Flower's own wrappers, without their faults: an update of zero has factor 1, integer buffers are
neither clipped nor noised, and the noise comes from a generator that the caller seeds.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayworks.core.errors import ConfigError
from rayworks.systems.federation.privacy.gaussian_accountant import gaussian_epsilon
from rayworks.systems.federation.training.aggregation import Arrays
from rayworks.systems.federation.training.local_training import Weights


def update_norm(after: Weights, before: Weights) -> float:
    """l2 norm of the change over all floating-point arrays together."""
    squares = sum(
        float(np.square(after[name].astype(np.float64) - before[name]).sum())
        for name in before
        if before[name].dtype.kind == "f"
    )
    return math.sqrt(squares)


def clipped(after: Weights, before: Weights, bound: float) -> tuple[Arrays, float]:
    """``before + delta * min(1, bound / |delta|)`` and the norm before clipping; integer buffers stay as they came."""
    norm = update_norm(after, before)
    factor = 1.0 if norm <= bound else bound / norm
    if factor == 1.0:
        return dict(after), norm
    return _changed(after, lambda name, value: before[name] + factor * (value.astype(np.float64) - before[name])), norm


def noise_deviation(multiplier: float, bound: float, clients: int) -> float:
    """Standard deviation of the noise on a plain mean of ``clients`` updates: ``z C / n``."""
    return multiplier * bound / clients


def noised(weights: Weights, deviation: float, generator: np.random.Generator) -> Arrays:
    """Gaussian noise on every floating-point array."""
    return _changed(weights, lambda _, value: value + deviation * generator.standard_normal(value.shape))


def _changed(weights: Weights, change: Callable[[str, NDArray[Any]], NDArray[Any]]) -> Arrays:
    """Floating-point arrays changed, each in its own kind, and integer buffers as they are."""
    return {
        name: change(name, value).astype(value.dtype) if value.dtype.kind == "f" else value
        for name, value in weights.items()
    }


def adaptive_multiplier(multiplier: float, clients: int) -> float:
    """Noise multiplier left for the updates when the count of unclipped clients has noise of its own.

    ``(z^-2 - (2 s)^-2)^(-1/2)`` with ``s = clients / 20``, the deviation of the count's noise.

    Raises:
        ConfigError: the count's noise alone is weaker than asked.
    """
    if multiplier == 0:
        return 0.0
    rest = multiplier**-2 - (2 * clients / 20) ** -2
    if rest <= 0:
        raise ConfigError(
            f"privacy.noise_multiplier: {multiplier:g} is too much for an adaptive bound with {clients} clients in a round; "
            "use fixed clipping, or more clients"
        )
    return float(rest**-0.5)


def adapted_bound(
    bound: float, within: int, clients: int, quantile: float, rate: float, generator: np.random.Generator | None
) -> float:
    """The next bound, ``C exp(-rate (b - quantile))``: b is the share of clients within it, noised with a generator."""
    count = within + (generator.normal(0.0, clients / 20) if generator is not None else 0.0)
    return float(bound * math.exp(-rate * (count / clients - quantile)))


def epsilon(multiplier: float, rate: float, rounds: int, delta: float) -> float:
    """Epsilon of the noised updates of ``rounds`` rounds, at ``delta``; infinite without noise.

    Clients are drawn without replacement, the accountant assumes that each is drawn on its own with probability ``rate``.
    It says nothing of pseudo-images, whose epsilon adds to it.
    """
    return gaussian_epsilon(rate, multiplier, rounds, delta)
