"""The price of safety: M from compliance s in [0, 1] to cost M(s) in [0, 1], strictly increasing, and back.

Assumption 2 of the paper (arXiv 2410.01871) is that such a curve exists; here it is fitted to measured points, with the
spread of their seeds as a band, and answers only where it was measured and rises.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression

from rayworks.core.errors import DataError
from rayworks.systems.regulation.price_points import LEVEL, PricePoints, published_points

Kind = Literal["identity", "quadratic", "isotonic"]
Fit = Literal["quadratic", "isotonic"]
LEAST_RISE = 1e-6
"""Cost that a curve must rise by: less is rounding, of equal costs or at a vertex."""
BAND_POINTS = 101
RISING = 0.95
"""Share of resampled curves that must rise for the curve to carry no warning."""


@dataclass(frozen=True)
class Band:
    """Pointwise percentiles of the cost at each safety over resampled seeds.

    The least of several noisy gaps is the unit of safety, and is too small on average: resampled curves lie a little to the
    left of the fitted one, as the fitted one does of the truth.
    """

    level: float
    safety: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    rising: float
    """Share of the resampled curves that rise: a quadratic over the whole measured range, an isotonic one at all."""


@dataclass(frozen=True)
class PriceCurve:
    """A strictly increasing piece of a fitted curve.

    A quadratic has ``coefficients`` (of s squared, of s, constant); an isotonic curve runs straight between its ``knots``,
    the weighted centres of the pooled blocks, because a plateau has no inverse.
    """

    kind: Kind
    measured_range: tuple[float, float]
    """Least and largest safety measured."""
    increasing_range: tuple[float, float] | None
    """The safety for which the curve rises within [0, 1]: all that it answers for. None: it rises nowhere."""
    coefficients: tuple[float, float, float] | None = None
    knots: tuple[tuple[float, float], ...] = ()
    r_squared: float = 1.0
    points: tuple[tuple[float, float], ...] = ()
    """Safety and cost that were fitted."""
    band: Band | None = None

    @classmethod
    def identity(cls) -> Self:
        """Cost equal to compliance."""
        return cls("identity", (0.0, 1.0), (0.0, 1.0), coefficients=(0.0, 1.0, 0.0))

    @classmethod
    def fit(cls, points: PricePoints, kind: Fit = "quadratic") -> Self:
        """Least squares by a quadratic, or by any rising curve (pool adjacent violators).

        Raises:
            DataError: points outside [0, 1], or fewer than three different safeties.
        """
        safety, cost = np.asarray(points.safety, float), np.asarray(points.cost, float)
        if safety.shape != cost.shape or safety.ndim != 1:
            raise DataError(f"price points: safety has shape {safety.shape}, cost {cost.shape}; give one cost each")
        inside = (safety >= 0) & (safety <= 1) & (cost >= 0) & (cost <= 1)
        if not inside.all():
            at = int(np.argmin(inside))
            raise DataError(f"price points: ({safety[at]:g}, {cost[at]:g}) is outside [0, 1]; scale both axes")
        if len(np.unique(safety)) < 3:
            raise DataError(f"price points: {len(np.unique(safety))} different safeties; measure at least three shares")
        measured = (float(safety.min()), float(safety.max()))
        if kind == "quadratic":
            a, b, c = map(float, _quadratics(safety[None], cost)[0])
            curve = cls(kind, measured, _rising_part(a, b, c, *measured), coefficients=(a, b, c))
        else:
            knots = _isotonic_knots(safety, cost)
            ends = (float(knots[0, 0]), float(knots[-1, 0])) if np.ptp(knots[:, 1]) > LEAST_RISE else None
            curve = cls(kind, measured, ends, knots=tuple((float(s), float(m)) for s, m in knots))
        residual = cost - curve.fitted(safety)
        spread = float(((cost - cost.mean()) ** 2).sum())
        return replace(
            curve,
            r_squared=1 - float(residual @ residual) / spread if spread > LEAST_RISE**2 else 0.0,
            points=tuple((float(s), float(m)) for s, m in zip(safety, cost, strict=True)),
            band=None if points.resampled is None else _band(points.resampled, cost, kind, measured),
        )

    @property
    def cost_range(self) -> tuple[float, float] | None:
        """Costs of the ends of the increasing range."""
        if self.increasing_range is None:
            return None
        low, high = self.fitted(np.array(self.increasing_range)).clip(0, 1)
        return float(low), float(high)

    @property
    def warning(self) -> str:
        """What a reader must know before using the curve, or an empty text."""
        low, high = self.measured_range
        found = []
        if self.increasing_range is None:
            found.append(
                f"the {self.kind} curve rises nowhere in the measured [{low:.3f}, {high:.3f}]: no price of safety"
            )
        elif self.increasing_range != self.measured_range:
            start, end = self.increasing_range
            found.append(
                f"the {self.kind} curve rises within [0, 1] only for safety in [{start:.3f}, {end:.3f}] "
                f"of the measured [{low:.3f}, {high:.3f}]"
            )
        if self.band is not None and self.band.rising < RISING:
            found.append(
                f"only {self.band.rising:.0%} of the curves of resampled seeds rise "
                + ("at all" if self.kind == "isotonic" else "over all that was measured")
            )
        return "; ".join(found)

    def cost(self, safety: ArrayLike, *, saturate: bool = False) -> np.ndarray:
        """M(s), of the argument's shape.

        Args:
            safety: compliance inside the increasing range.
            saturate: take safety above the range as its top.

        Raises:
            DataError: a safety outside the increasing range.
        """
        (low, high), costs = self._ranges()
        inside = _inside(np.asarray(safety, float), low, high, "safety", saturate)
        return self.fitted(inside).clip(*costs)

    def compliance(self, cost: ArrayLike, *, saturate: bool = False) -> np.ndarray:
        """The inverse of M on its increasing range, of the argument's shape.

        Args:
            cost: what is spent, inside the costs of the increasing range.
            saturate: what is spent above the range's top buys the top.

        Raises:
            DataError: a cost outside that range.
        """
        safeties, (low, high) = self._ranges()
        spent = _inside(np.asarray(cost, float), low, high, "cost", saturate)
        if self.coefficients is not None:
            found = _inverse(*self.coefficients, spent)
        else:
            found = np.interp(spent, *np.array(self.knots).T[::-1])
        return np.asarray(found).clip(*safeties)

    def fitted(self, safety: np.ndarray) -> np.ndarray:
        """The fitted curve at any safety, with its falling parts: for drawing, not for pricing."""
        if self.coefficients is not None:
            a, b, c = self.coefficients
            return np.asarray((a * safety + b) * safety + c)
        return np.asarray(np.interp(safety, *np.array(self.knots).T))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The curve that :meth:`to_dict` wrote, also after a passage through JSON.

        Raises:
            DataError: fields are missing or unknown.
        """
        try:
            fields = {name: _tuples(value) for name, value in values.items() if name != "band"}
            band = values.get("band")
            made = None if band is None else Band(**{name: _tuples(value) for name, value in band.items()})
            curve = cls(**fields, band=made)
            if curve.kind not in get_args(Kind) or (curve.coefficients is None and not curve.knots):
                raise TypeError(f"a {curve.kind} curve with neither coefficients nor knots")
            return curve
        except (TypeError, AttributeError) as error:
            raise DataError(f"price curve: is not one that was saved ({error}); fit it again") from None

    def _ranges(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Safety and cost of the increasing range."""
        if self.increasing_range is None or self.cost_range is None:
            raise DataError(f"price curve: {self.warning}; measure with more seeds or take another curve")
        return self.increasing_range, self.cost_range


def published_curve(kind: Fit = "quadratic", *, resamples: int = 1000, seed: int = 0) -> PriceCurve:
    """The curve of the paper's ten points: -1.574 s^2 + 3.607 s - 1.080 for the quadratic."""
    return PriceCurve.fit(published_points(resamples=resamples, seed=seed), kind)


def _inside(values: np.ndarray, low: float, high: float, name: str, saturate: bool) -> np.ndarray:
    if saturate:
        values = np.minimum(values, high)
    inside = (values >= low) & (values <= high)
    if not inside.all():
        first = float(values[~inside].flat[0])
        raise DataError(
            f"price curve: {name} {first:.6g} is outside [{low:.6g}, {high:.6g}], where the curve was measured and rises; "
            "choose one inside"
        )
    return values


def _quadratics(safety: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Least-squares coefficients (B, 3), square first, for rows of safety (B, K) against one cost (K,)."""
    powers = safety[..., None] ** np.array([2, 1, 0])
    return np.asarray(np.linalg.pinv(powers) @ cost)


def _inverse(a: float, b: float, c: float, cost: np.ndarray) -> np.ndarray:
    """Where a s^2 + b s + c equals the cost on the branch that rises, in the form that does not cancel."""
    slope = np.sqrt(np.maximum(b * b - 4 * a * (c - cost), 0))
    if b > 0:
        return np.asarray(2 * (cost - c) / (b + slope))
    return np.asarray((slope - b) / (2 * a))


def _rising_part(a: float, b: float, c: float, low: float, high: float) -> tuple[float, float] | None:
    """The part of [low, high] in which a s^2 + b s + c rises and stays in [0, 1]."""
    if a:
        turn = -b / (2 * a)
        low, high = (max(low, turn), high) if a > 0 else (low, min(high, turn))
    elif b <= 0:
        return None
    least, largest = ((a * s + b) * s + c for s in (low, high))
    if low >= high or min(largest, 1) - max(least, 0) <= LEAST_RISE:
        return None
    if least < 0:
        low = float(_inverse(a, b, c, np.array(0.0)))
    if largest > 1:
        high = float(_inverse(a, b, c, np.array(1.0)))
    return low, high


def _isotonic_knots(safety: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Mean safety and cost of each pooled block, shape (blocks, 2), both strictly increasing."""
    distinct, position, weight = np.unique(safety, return_inverse=True, return_counts=True)
    mean = np.bincount(position, cost) / weight
    pooled = isotonic_regression(mean, weights=weight)
    starts = pooled.blocks[:-1]
    centre = np.add.reduceat(distinct * weight, starts) / np.add.reduceat(weight, starts)
    return np.stack([centre, pooled.x[starts]], axis=1)


def _band(resampled: np.ndarray, cost: np.ndarray, kind: Fit, measured: tuple[float, float]) -> Band:
    grid = np.linspace(*measured, BAND_POINTS)
    if kind == "quadratic":
        found = _quadratics(resampled, cost)
        curves = found @ (grid ** np.array([[2], [1], [0]]))
        slopes = 2 * found[:, :1] * np.array(measured) + found[:, 1:2]
        rising = float((slopes >= 0).all(axis=1).mean())
    else:
        knots = [_isotonic_knots(safety, cost) for safety in resampled]
        curves = np.stack([np.interp(grid, *found.T) for found in knots])
        rising = float(np.mean([np.ptp(found[:, 1]) > LEAST_RISE for found in knots]))
    low, high = np.quantile(curves, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    safety, least, largest = (tuple(map(float, values)) for values in (grid, low, high))
    return Band(LEVEL, safety, least, largest, rising)


def _tuples(value: Any) -> Any:
    """Lists as tuples, at every depth."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
