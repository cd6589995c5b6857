"""A value with its 95 % interval, from influence values or by resampling, for everything that is a sum of ratios of means."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from rayworks.core import seeds
from rayworks.core.errors import ConfigError

NORMAL_QUANTILE = 1.959963984540054
"""Normal quantile of .975."""
LEVELS = (0.025, 0.975)
BLOCK_CELLS = 4_000_000
"""Cells of resamples that are held at a time: 32 MB."""


@dataclass(frozen=True)
class Estimate:
    """A value, its standard error and its 95 % interval, all in the unit of the value."""

    value: float
    standard_error: float
    low: float
    high: float

    def holds(self, truth: float) -> bool:
        """Whether the interval holds ``truth``."""
        return self.low <= truth <= self.high


@dataclass(frozen=True)
class Bootstrap:
    """Resampling of independent units with replacement (Efron 1979); intervals are percentiles of what is found."""

    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 2:
            raise ConfigError(f"resamples is {self.resamples}; at least 2 are needed for an interval")

    def counts(self, units: int, width: int = 0) -> Iterator[np.ndarray]:
        """Draws of each unit: int64 (b, units), in blocks of resamples, never all at once.

        ``width`` is the number of cells that the caller makes of a resample, where that is more than ``units``.
        """
        draw = seeds.stream(self.seed, "bootstrap", units)
        block = max(1, min(self.resamples, BLOCK_CELLS // max(units, width)))
        for start in range(0, self.resamples, block):
            size = min(block, self.resamples - start)
            drawn = draw.integers(0, units, (size, units))
            drawn += units * np.arange(size)[:, None]
            yield np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units)

    def estimate(self, value: float, found: np.ndarray) -> Estimate:
        """The estimate of ``value`` from those of resamples, ``found`` (resamples,), NaN where one has none."""
        found = found[np.isfinite(found)]
        if len(found) < 2:
            return Estimate(value, np.nan, np.nan, np.nan)
        low, high = np.quantile(found, LEVELS)
        return Estimate(value, float(found.std(ddof=1)), float(low), float(high))


@dataclass(frozen=True, eq=False)
class SumOfRatios:
    """``sum_k mean(numerator_k) / mean(denominator_k)`` over N independent units.

    Every estimator of a policy's value has this form, and with it its influence values (delta method), its normal interval
    and its bootstrap.
    """

    numerator: np.ndarray
    """float64 (K, N)."""
    denominator: np.ndarray | None = None
    """float64 (K, N); None where all are 1."""

    @property
    def value(self) -> float:
        """NaN where a denominator's mean is 0."""
        return float(_ratios(self.numerator.mean(axis=1), self._denominators()).sum())

    def influence(self) -> np.ndarray:
        """Float64 (N,), mean 0: to first order, how far each unit moves the value, times N."""
        if self.denominator is None:
            return np.asarray((self.numerator - self.numerator.mean(axis=1, keepdims=True)).sum(axis=0))
        means = self._denominators()
        ratios = _ratios(self.numerator.mean(axis=1), means)
        with np.errstate(divide="ignore", invalid="ignore"):
            weights = 1 / means
            return np.asarray(weights @ self.numerator - (weights * ratios) @ self.denominator)

    def by(self, group: np.ndarray) -> "SumOfRatios":
        """The same value with groups as the independent units; ``group`` holds int codes (N,), each of 0..G-1 in use."""
        denominator = np.ones_like(self.numerator) if self.denominator is None else self.denominator
        sums = [[np.bincount(group, weights=row) for row in part] for part in (self.numerator, denominator)]
        return SumOfRatios(np.array(sums[0]), np.array(sums[1]))

    def estimate(self) -> Estimate:
        """The value with its normal interval, from the influence values; one unit has none, its ends are NaN."""
        value, units = self.value, self.numerator.shape[1]
        if units < 2:
            return Estimate(value, np.nan, np.nan, np.nan)
        influence = self.influence()
        error = float(np.sqrt(influence @ influence / (units - 1) / units))
        return Estimate(value, error, value - NORMAL_QUANTILE * error, value + NORMAL_QUANTILE * error)

    def _denominators(self) -> np.ndarray:
        return np.ones(len(self.numerator)) if self.denominator is None else self.denominator.mean(axis=1)

    def reweighted(self, weight: np.ndarray) -> np.ndarray:
        """The value under each row of weights (R, N), (R,)."""
        numerators = weight @ self.numerator.T
        if self.denominator is None:
            return np.asarray(numerators.sum(axis=1) / weight.sum(axis=1))
        return np.asarray(_ratios(numerators, weight @ self.denominator.T).sum(axis=1))


def estimate_all(forms: Mapping[str, SumOfRatios], bootstrap: Bootstrap | None = None) -> dict[str, Estimate]:
    """Values of the same units with normal intervals, or with percentiles over resamples that all share."""
    units = {form.numerator.shape[1] for form in forms.values()}
    if bootstrap is None or units == {1}:
        return {name: form.estimate() for name, form in forms.items()}
    found: dict[str, list[np.ndarray]] = {name: [] for name in forms}
    for counts in bootstrap.counts(*units):
        weight = counts.astype(np.float64)
        for name, form in forms.items():
            found[name].append(form.reweighted(weight))
    return {name: bootstrap.estimate(form.value, np.concatenate(found[name])) for name, form in forms.items()}


def _ratios(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    undefined = np.full_like(numerator, np.nan)
    return np.asarray(np.divide(numerator, denominator, out=undefined, where=denominator != 0))
