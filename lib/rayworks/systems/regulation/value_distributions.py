"""Distributions of a builder's private value and of the premium that follows (arXiv 2410.01871, assumptions of section 4).

A builder's type is its total value ``V`` on [0, 1] and, independent of it, the share ``lambda ~ Uniform[0, L]`` of it that
the premium makes up. The premium is worth ``z = c U V`` to it, with ``U ~ Uniform[0, 1]`` and ``c`` the largest worth.
Three tail moments of ``V`` give the distribution of ``z`` exactly; see :class:`PremiumDistribution`.
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from rayworks.core.errors import DataError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
POINTS = 1 << 16
"""Equally spaced points that stand for a density."""


@dataclass(frozen=True)
class Tail:
    """Moments of a value above points ``t``, each of the shape of ``t``."""

    reciprocal: Any
    """``E[1/V; V >= t]``."""
    probability: Any
    """``P(V >= t)``."""
    first: Any
    """``E[V; V >= t]``."""


class ValueDistribution(abc.ABC):
    """A distribution of total value on [0, 1]."""

    name: str

    @abc.abstractmethod
    def tail(self, t: Any) -> Tail:
        """Moments above ``t`` in (0, 1], scalar or array."""

    @abc.abstractmethod
    def quantile(self, uniform: FloatArray) -> FloatArray:
        """Values at uniforms in [0, 1): how a population is drawn."""


@dataclass(frozen=True)
class UniformValues(ValueDistribution):
    """``V ~ Uniform[0, 1]``."""

    name: str = "uniform"

    def tail(self, t: Any) -> Tail:
        """Closed forms."""
        return Tail(-np.log(t), 1 - t, (1 - t * t) / 2)

    def quantile(self, uniform: FloatArray) -> FloatArray:
        """The uniforms themselves."""
        return uniform


@dataclass(frozen=True)
class SymmetricBetaValues(ValueDistribution):
    """``V ~ Beta(2, 2)``, density ``6 x (1 - x)``."""

    name: str = "beta22"

    def tail(self, t: Any) -> Tail:
        """Closed forms."""
        left = 1 - t
        square = left * left
        return Tail(3 * square, square * (1 + 2 * t), square * (1 + 2 * t + 3 * t * t) / 2)

    def quantile(self, uniform: FloatArray) -> FloatArray:
        """The root in [0, 1] of ``3 x^2 - 2 x^3 = u``."""
        root: FloatArray = 0.5 - np.sin(np.arcsin(1 - 2 * uniform) / 3)
        return root


@dataclass(frozen=True)
class BetaValues(ValueDistribution):
    """``V ~ Beta(a, b)`` through the regularised incomplete beta function.

    With ``a`` of at most 1 the mean reciprocal of all values is infinite, but that of values above a price is not.

    Raises:
        DataError: ``a`` or ``b`` is not positive.
    """

    a: float
    b: float
    name: str = field(init=False)

    def __post_init__(self) -> None:
        if not (self.a > 0 and self.b > 0):
            raise DataError(f"distribution beta({self.a:g}, {self.b:g}): needs a > 0 and b > 0")
        object.__setattr__(self, "name", f"beta({self.a:g},{self.b:g})")

    def tail(self, t: Any) -> Tail:
        """Incomplete beta functions with ``a`` shifted by one; below zero, by a hypergeometric function."""
        a, b = self.a, self.b
        if a > 1:
            reciprocal = (a + b - 1) / (a - 1) * special.betaincc(a - 1, b, t)
        else:
            left = 1 - np.asarray(t, dtype=float)
            reciprocal = left**b / b * special.hyp2f1(b, 2 - a, b + 1, left) / special.beta(a, b)
        return Tail(
            reciprocal,
            special.betaincc(a, b, t),
            a / (a + b) * special.betaincc(a + 1, b, t),
        )

    def quantile(self, uniform: FloatArray) -> FloatArray:
        """Inverse of the incomplete beta function."""
        root: FloatArray = special.betaincinv(self.a, self.b, uniform)
        return root


class SampleValues(ValueDistribution):
    """The distribution of a sample, or of weighted points.

    Costs O(n log n) once and O(log n) per point asked for.

    Args:
        values: total values on [0, 1], shape (n,), in any order.
        weights: positive weight of each; equal where not given.
        name: for tables.

    Raises:
        DataError: naming the row of a value that is not a number, below 0 or above 1, or if there are fewer than two.
    """

    def __init__(self, values: Any, weights: Any = None, name: str = "sample") -> None:
        points = np.asarray(values, dtype=float)
        mass = np.full(len(points), 1.0) if weights is None else np.asarray(weights, dtype=float)
        self.name = name
        _check_points(points, mass, name)
        order = np.argsort(points, kind="stable")
        self.points, mass = points[order], mass[order] / mass.sum()
        # A value of zero never enters at a price above zero, so what stands for its reciprocal is never read.
        safe = np.maximum(self.points, np.finfo(float).tiny)
        moments = mass * np.array([1 / safe, np.ones_like(safe), safe])
        self._suffix = np.pad(np.cumsum(moments[:, ::-1], axis=1)[:, ::-1], ((0, 0), (0, 1)))
        self._cumulative = np.cumsum(mass)

    def tail(self, t: Any) -> Tail:
        """Sums over the points from ``t`` on."""
        first = np.searchsorted(self.points, t, side="left")
        return Tail(*self._suffix[:, first])

    def quantile(self, uniform: FloatArray) -> FloatArray:
        """The point at which the cumulative weight passes the uniform."""
        position = np.searchsorted(self._cumulative, uniform, side="right")
        drawn: FloatArray = self.points[np.minimum(position, len(self.points) - 1)]
        return drawn


def distribution_of_density(density: Callable[[FloatArray], FloatArray], name: str = "density") -> SampleValues:
    """A distribution from its density on [0, 1], at equally spaced points; its moments are right to about 1e-5.

    Raises:
        DataError: the density is negative or not finite somewhere, or has no mass.
    """
    points = (np.arange(POINTS) + 0.5) / POINTS
    height = np.asarray(density(points), dtype=float)
    if not np.all(np.isfinite(height)) or height.min() < 0 or height.max() <= 0:
        raise DataError(
            f"distribution {name}: its density must be finite, nowhere negative and somewhere positive on [0, 1]"
        )
    kept = height > 0
    return SampleValues(points[kept], height[kept], name)


def _check_points(points: FloatArray, mass: FloatArray, name: str) -> None:
    if points.ndim != 1 or len(points) < 2:
        raise DataError(f"distribution {name}: has {points.size} values; give at least two in one column")
    if mass.shape != points.shape or not np.all(np.isfinite(mass)) or mass.min() <= 0:
        raise DataError(f"distribution {name}: weights must be positive, one per value")
    wrong = ~(np.isfinite(points) & (points >= 0) & (points <= 1))
    if wrong.any():
        row = int(np.argmax(wrong))
        if not np.isfinite(points[row]):
            raise DataError(f"distribution {name}: the value in row {row} is not a number; correct or drop it")
        where = "has mass below zero" if points[row] < 0 else "must lie on [0, 1]"
        raise DataError(
            f"distribution {name}: value {points[row]:g} in row {row} {where}; divide values by the largest possible"
        )


@dataclass(frozen=True)
class PremiumDistribution:
    """What the premium is worth to those whose value is at least the price.

    With ``m = max(p, z/c)``, ``A, P, M`` the three tail moments, and everything given ``V >= p``::

        f(z) = A(m) / (c P(p))                                            0 < z <= c
        F(z) = (P(p) - P(m) + z A(m) / c) / P(p)
        int_0^z y f(y) dy = (c (M(p) - M(m)) + z^2 A(m) / c) / (2 P(p))   the surplus

    For ``V`` uniform or Beta(2, 2) and ``c = 1/2`` these are the paper's formulas.

    Args:
        price: ``p``, in (0, 1).
        top: ``c``, the largest worth of a premium.

    Raises:
        DataError: nobody's value reaches the price.
    """

    distribution: ValueDistribution
    price: float
    top: float = 0.5

    def __post_init__(self) -> None:
        if not float(self.distribution.tail(self.price).probability) > 0:
            raise DataError(
                f"price {self.price:g}: no value of distribution {self.distribution.name} reaches it; lower the price"
            )

    def density(self, z: Any) -> Any:
        """``f``, in units of 1 / worth."""
        return self.distribution.tail(self._value(z)).reciprocal / (self.top * self._above.probability)

    def cdf(self, z: Any) -> Any:
        """``F``."""
        tail = self.distribution.tail(self._value(z))
        above = self._above.probability
        return np.clip((above - tail.probability + z * tail.reciprocal / self.top) / above, 0.0, 1.0)

    def surplus(self, z: Any) -> Any:
        """``int_0^z y f(y) dy``: what a type bids above the price."""
        tail = self.distribution.tail(self._value(z))
        gained = self.top * (self._above.first - tail.first) + z * z * tail.reciprocal / self.top
        return gained / (2 * self._above.probability)

    def rent(self, z: Any) -> Any:
        """``int_0^z F = z F(z) - surplus(z)``: what the premium adds to a type's utility."""
        return z * self.cdf(z) - self.surplus(z)

    @property
    def participation(self) -> float:
        """Share of all builders whose value is at least the price."""
        return float(self._above.probability)

    @property
    def mean(self) -> float:
        """``E[z] = surplus(c)``."""
        return float(self.top * self._above.first / (2 * self._above.probability))

    @property
    def _above(self) -> Tail:
        return self.distribution.tail(self.price)

    def _value(self, z: Any) -> Any:
        return np.maximum(self.price, np.asarray(z) / self.top)
