"""Entrants: builders of total value ``V`` above what its premium type asks for, given how much the premium is worth to it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import integrate

from rayworks.systems.regulation.value_distributions import FloatArray, ValueDistribution

GRID = 8193
"""Types a distribution is tabulated at, equally spaced."""


@dataclass(frozen=True)
class Entrants:
    """Those who enter, by the worth ``z`` of their premium on an even grid.

    ``density[i] dz`` is the share of all builders, those who stay out included, that enters with a premium worth ``z[i]``.
    """

    z: FloatArray
    density: FloatArray
    participation: float
    """Share of all builders."""
    below: FloatArray
    """Distribution of an entrant's ``z``."""

    def total(self, quantity: FloatArray) -> float:
        """Integral over entrants of a quantity given at ``z``, per builder of the whole population."""
        return float(integrate.simpson(quantity * self.density, x=self.z))

    def mean(self, quantity: FloatArray) -> float:
        """Mean over entrants."""
        return self.total(quantity) / self.participation


def entrants(
    distribution: ValueDistribution, top: float, entry_value: Callable[[FloatArray], Any], grid: int = GRID
) -> Entrants:
    """Those whose value exceeds ``entry_value(z)``.

    ``z = top U V`` has, at each ``V``, density ``1 / (top V)`` up to ``top V``; so the entrants' density at ``z`` is
    ``E[1/V; V >= max(entry_value(z), z/top)] / top``, one tail moment per point.

    Args:
        top: largest worth of a premium.
        entry_value: of types, shape (grid,) to the value above which they enter.
        grid: points, odd.
    """
    z = np.linspace(0, top, grid)
    least = np.clip(np.maximum(entry_value(z), z / top), np.finfo(float).tiny, None)
    density: FloatArray = np.where(least <= 1, distribution.tail(np.minimum(least, 1.0)).reciprocal / top, 0.0)
    cumulative = np.maximum.accumulate(integrate.cumulative_simpson(density, x=z, initial=0))
    participation = float(cumulative[-1])
    below = cumulative / participation if participation > 0 else np.linspace(0, 1, grid)
    return Entrants(z, density, participation, below)
