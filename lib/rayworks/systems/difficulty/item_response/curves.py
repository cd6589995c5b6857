"""Item response curves of one to four parameters, their information, and the ability grid they are integrated over.

``P(theta) = c + (d - c) * sigmoid(a * theta + e)`` with discrimination ``a``, intercept ``e``, guessing ``c`` and ceiling
``d``; difficulty is ``b = -e / a``. Abilities are N(0, 1), and in the 1PL, where ``a = 1``, N(0, ``population_sd**2``).
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import expit

FloatArray = npt.NDArray[np.float64]
Model = Literal["1PL", "2PL", "3PL", "4PL"]
MODELS: tuple[Model, ...] = ("1PL", "2PL", "3PL", "4PL")
GRID_EDGE = 4.5
"""Population standard deviations on either side that the equispaced grid covers."""


@dataclass(frozen=True, eq=False)
class ItemParameters:
    """Parameters of ``I`` items, each an array of shape (I,)."""

    model: Model
    discrimination: FloatArray
    intercept: FloatArray
    guessing: FloatArray
    ceiling: FloatArray
    population_sd: float = 1.0

    @classmethod
    def from_difficulty(
        cls,
        model: Model,
        difficulty: FloatArray,
        discrimination: FloatArray | float = 1.0,
        guessing: FloatArray | float = 0.0,
        ceiling: FloatArray | float = 1.0,
        population_sd: float = 1.0,
    ) -> "ItemParameters":
        """From ``b`` instead of the intercept; scalars are spread over the items."""
        b = np.asarray(difficulty, dtype=float)
        a, c, d = (
            np.broadcast_to(np.asarray(v, dtype=float), b.shape).copy() for v in (discrimination, guessing, ceiling)
        )
        return cls(model, a, -a * b, c, d, population_sd)

    def __len__(self) -> int:
        return len(self.discrimination)

    @property
    def difficulty(self) -> FloatArray:
        """``b``, in units of ability: where the curve is half way between guessing and ceiling."""
        return -self.intercept / self.discrimination

    def take(self, items: FloatArray) -> "ItemParameters":
        """Those of some items, by position or mask."""
        names = ("discrimination", "intercept", "guessing", "ceiling")
        return replace(self, **{name: getattr(self, name)[items] for name in names})

    def probability(self, ability: FloatArray) -> FloatArray:
        """``P(theta)`` of every item at every ability: abilities (N,) to (I, N)."""
        curve = expit(self.discrimination[:, None] * np.asarray(ability) + self.intercept[:, None])
        return self.guessing[:, None] + (self.ceiling - self.guessing)[:, None] * curve

    def slope(self, ability: FloatArray) -> FloatArray:
        """``dP/dtheta``, shape (I, N)."""
        curve = expit(self.discrimination[:, None] * np.asarray(ability) + self.intercept[:, None])
        return (self.discrimination * (self.ceiling - self.guessing))[:, None] * curve * (1 - curve)

    def information(self, ability: FloatArray) -> FloatArray:
        """Fisher information ``P'(theta)**2 / (P (1 - P))`` of every item at every ability, shape (I, N)."""
        p = self.probability(ability)
        return np.asarray(self.slope(ability) ** 2 / np.maximum(p * (1 - p), 1e-300))

    def expected_score(self, ability: FloatArray) -> FloatArray:
        """Test characteristic curve: expected number solved at each ability, shape (N,)."""
        total: FloatArray = self.probability(ability).sum(0)
        return total


@dataclass(frozen=True, eq=False)
class Quadrature:
    """Nodes and normalised weights of the standard normal population, both of shape (Q,)."""

    nodes: FloatArray
    weights: FloatArray

    @property
    def log_weights(self) -> FloatArray:
        """Logarithms of the weights; minus infinity where a density is too small for a number."""
        with np.errstate(divide="ignore"):
            return np.log(self.weights)

    @property
    def edge(self) -> float:
        """The farthest node."""
        return float(np.abs(self.nodes).max())

    def finer(self, edge: float = 0.0) -> "Quadrature":
        """A seventh wider, or as wide as ``edge``, at three quarters of the spacing, equispaced."""
        wide = max(self.edge * 8 / 7, edge)
        spacing = 0.75 * float(np.diff(self.nodes).min(initial=2 * self.edge))
        return equispaced(int(np.ceil(2 * wide / spacing)) | 1, wide)


def equispaced(count: int, edge: float = GRID_EDGE) -> Quadrature:
    """``count`` equispaced nodes on ``[-edge, edge]`` with normal density weights."""
    nodes = np.linspace(-edge, edge, count)
    density = np.exp(-0.5 * nodes**2)
    return Quadrature(nodes, density / density.sum())


def gauss_hermite(count: int) -> Quadrature:
    """The nodes and weights exact for polynomials up to degree ``2 count - 1``."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    kept = weights > 1e-300
    return Quadrature(nodes[kept], weights[kept] / weights[kept].sum())


def fitting_grid(items: int, slope: float = 1.2, edge: float = GRID_EDGE) -> Quadrature:
    """A grid fine enough for the posterior of one subject: spacing at most 0.7 of its smallest standard deviation.

    Long tests know a subject's ability far better than 41 nodes can tell apart.
    """
    smallest_sd = 1.0 / np.sqrt(1.0 + items * slope**2 / 4)
    return equispaced(max(41, int(np.ceil(2 * edge / (0.7 * smallest_sd))) | 1), edge)


def simulate(parameters: ItemParameters, ability: FloatArray, uniform: FloatArray) -> npt.NDArray[np.int8]:
    """Scores 0 or 1 of abilities (J,) on the items from uniforms (J, I)."""
    return (uniform < parameters.probability(ability).T).astype(np.int8)
