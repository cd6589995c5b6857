"""Entrants: builders of total value ``V`` above what its premium type asks for, given how much the premium is worth to it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayworks.systems.regulation.value_distributions import FloatArray, ValueDistribution

GRID = 8193
"""Types a distribution is tabulated at, equally spaced."""
FLAT = 1e-9
"""Rise of the least value between two types below which it is taken for constant."""


@dataclass(frozen=True)
class Entrants:
    """Those who enter, by the worth ``z`` of their premium on an even grid.

    ``mass[i]`` is the share of all builders, those who stay out included, that enters with a premium worth between ``z[i]``
    and ``z[i + 1]``.
    """

    z: FloatArray
    mass: FloatArray
    participation: float
    """Share of all builders."""
    below: FloatArray
    """Distribution of an entrant's ``z``."""

    def total(self, quantity: FloatArray) -> float:
        """Integral over entrants of a quantity given at ``z``, per builder of the whole population."""
        return float(self.mass @ (quantity[1:] + quantity[:-1])) / 2

    def chance_below(self, z: Any) -> FloatArray:
        """Chance that an entrant's worth is below; shape of ``z``."""
        return np.asarray(np.interp(z, self.z, self.below))

    @property
    def density(self) -> FloatArray:
        """Of entrants per worth, at ``z``: the mean of the two cells beside it."""
        padded = np.pad(self.mass / np.diff(self.z), 1, mode="edge")
        density: FloatArray = (padded[1:] + padded[:-1]) / 2
        return density

    def mean(self, quantity: FloatArray) -> float:
        """Mean over entrants."""
        return self.total(quantity) / self.participation


def entrants(
    distribution: ValueDistribution, top: float, entry_value: Callable[[FloatArray], Any], grid: int = GRID
) -> Entrants:
    """Those whose value exceeds ``entry_value(z)``.

    ``z = top U V`` has, at each ``V``, density ``1 / (top V)`` up to ``top V``; so the entrants' density at ``z`` is
    ``E[1/V; V >= least(z)] / top`` with ``least(z) = max(entry_value(z), z/top)``. Between two grid points ``least`` is
    taken for a straight line, and the integral over it is exact, ``E[min(V, t) / V]`` being the antiderivative of the tail
    moment: values with atoms, whose density jumps, are as well off as smooth ones.

    Args:
        top: largest worth of a premium.
        entry_value: of types, shape (grid,) to the value above which they enter.
        grid: points.
    """
    z = np.linspace(0, top, grid)
    least = np.maximum(entry_value(z), z / top)
    moments = distribution.tail(np.clip(least, np.finfo(float).tiny, 1.0))
    # At the largest value itself nobody is above; beyond it the antiderivative stays 1.
    reciprocal = np.where(least <= 1, moments.reciprocal, 0.0)
    upto = np.where(least < 1, 1 - moments.probability + least * moments.reciprocal, 1.0)
    rise = np.diff(least)
    flat = np.abs(rise) < FLAT
    mean = np.where(flat, reciprocal[:-1], np.diff(upto) / np.where(flat, 1.0, rise))
    mass: FloatArray = np.maximum(mean, 0.0) * np.diff(z) / top
    cumulative = np.concatenate([[0.0], np.cumsum(mass)])
    participation = float(cumulative[-1])
    below = cumulative / participation if participation > 0 else np.linspace(0, 1, grid)
    return Entrants(z, mass, participation, below)
