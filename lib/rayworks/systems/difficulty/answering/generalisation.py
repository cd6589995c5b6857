"""The generalisation heatmap of Easy2Hard-Bench: accuracy on bin j after training on bin i, minus the untuned model's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.95
ROUNDING = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its interval; unknown values are None."""

    value: float | None
    low: float | None = None
    high: float | None = None
    error: float | None = None
    """Standard error over seeds."""
    seeds: int = 0


@dataclass(frozen=True, eq=False)
class Heatmap:
    """Gains M over seeds S and bins B; NaN where a trial did not finish."""

    gain: np.ndarray
    """(S, B, B): seed, training bin, evaluation bin."""
    base: np.ndarray
    """(S, B): accuracy of the untuned model."""
    seeds: tuple[int, ...]

    @property
    def mean(self) -> np.ndarray:
        """(B, B): mean over the seeds that have the cell; NaN where none has."""
        counted = np.isfinite(self.gain).sum(0)
        return np.where(counted > 0, np.nansum(self.gain, 0) / np.maximum(counted, 1), np.nan)

    def cell(self, row: int, column: int) -> Estimate:
        """One gain with its interval."""
        return _finite_mean(self.gain[:, row, column])

    def untuned(self, column: int) -> Estimate:
        """The untuned model's accuracy on a bin, with its interval."""
        return _finite_mean(self.base[:, column])

    def summaries(self) -> dict[str, Estimate]:
        """See :func:`summarise_gains`; over the seeds whose rows are all there."""
        return summarise_gains(self.gain[np.isfinite(self.gain).all(axis=(1, 2))])


def heatmap(rows: Sequence[Mapping[str, Any]]) -> Heatmap:
    """Heatmap of the rows that trials found: ``seed``, ``train_bin``, ``base`` and ``tuned`` accuracies by bin."""
    seeds = tuple(sorted({row["seed"] for row in rows}))
    bins = len(rows[0]["base"])
    gain, base = np.full((len(seeds), bins, bins), np.nan), np.full((len(seeds), bins), np.nan)
    for row in rows:
        position = seeds.index(row["seed"])
        base[position] = row["base"]
        gain[position, row["train_bin"]] = np.subtract(row["tuned"], row["base"])
    return Heatmap(gain, base, seeds)


def summarise_gains(gain: np.ndarray) -> dict[str, Estimate]:
    """Summaries of gains (S, B, B), each a mean over seeds with a 95 % interval.

    - ``diagonal``, ``easy_to_hard`` (j > i), ``hard_to_easy`` (j < i): mean gains.
    - ``decay``, ``asymmetry``: least-squares coefficients of M on |i - j| and on the sign of j - i.
    - ``gap_recovered``: of what training on the evaluated bin itself gains, the share that training on an easier one
      does, as the ratio of the mean of M[i, j] to that of M[j, j] over all i < j.
    - ``gap_recovered_extremes``: the same for the easiest and the hardest bin alone.
    """
    if not len(gain):
        return {name: Estimate(None) for name in SUMMARIES}
    bins = gain.shape[1]
    i, j = np.indices((bins, bins))
    harder, easier, own = j > i, j < i, i == j
    design = np.stack([np.ones(bins * bins), np.abs(i - j).ravel(), np.sign(j - i).ravel()], axis=1)
    coefficients = np.linalg.lstsq(design, gain.reshape(len(gain), -1).T, rcond=None)[0]
    diagonal = np.diagonal(gain, axis1=1, axis2=2)
    return {
        "diagonal": mean_estimate(gain[:, own].mean(1)),
        "easy_to_hard": mean_estimate(gain[:, harder].mean(1)),
        "hard_to_easy": mean_estimate(gain[:, easier].mean(1)),
        "decay": mean_estimate(coefficients[1]),
        "asymmetry": mean_estimate(coefficients[2]),
        "gap_recovered": ratio_estimate(gain[:, harder].mean(1), diagonal[:, j[harder]].mean(1)),
        "gap_recovered_extremes": ratio_estimate(gain[:, 0, -1], gain[:, -1, -1]),
    }


SUMMARIES = {
    "diagonal": "trained and evaluated on the same bin",
    "easy_to_hard": "evaluated on a harder bin",
    "hard_to_easy": "evaluated on an easier bin",
    "decay": "change of the gain per bin of distance",
    "asymmetry": "half the lead of harder over easier evaluation bins at equal distance",
    "gap_recovered": "share of a bin's own gain that training on easier bins recovers",
    "gap_recovered_extremes": "the same, easiest to hardest bin alone",
}
"""What each summary says."""


def mean_estimate(values: np.ndarray) -> Estimate:
    """Mean of one value per seed (S,) with Student's interval.

    No interval of one seed, nor of seeds that agree exactly, such as all at zero: those say nothing of the spread.
    """
    from scipy.stats import t as student

    count = len(values)
    if count == 0:
        return Estimate(None)
    value = float(values.mean().round(12))
    error = float(values.std(ddof=1) / np.sqrt(count)) if count > 1 else 0.0
    if error < ROUNDING:
        return Estimate(value, seeds=count)
    reach = float(student.ppf((1 + LEVEL) / 2, count - 1)) * error
    return Estimate(value, value - reach, value + reach, error, count)


def _finite_mean(values: np.ndarray) -> Estimate:
    return mean_estimate(values[np.isfinite(values)])


def ratio_estimate(numerator: np.ndarray, denominator: np.ndarray) -> Estimate:
    """Ratio of the means of one pair per seed, with Fieller's interval.

    No value where the mean denominator is not positive; no interval where it cannot be told from zero, nor of one seed
    or of seeds that agree exactly.
    """
    from scipy.stats import t as student

    count = len(numerator)
    top, bottom = float(numerator.mean()), float(denominator.mean())
    if bottom <= 0:
        return Estimate(None, seeds=count)
    value = top / bottom
    if count == 1:
        return Estimate(value, seeds=1)
    critical = float(student.ppf((1 + LEVEL) / 2, count - 1)) ** 2 / count
    (v11, v12), (_, v22) = np.cov(numerator, denominator, ddof=1)
    # Where (top - ratio * bottom)^2 = critical * variance(numerator - ratio * denominator).
    a, b, c = bottom**2 - critical * v22, top * bottom - critical * v12, top**2 - critical * v11
    if a <= 0:
        return Estimate(value, seeds=count)
    reach = float(np.sqrt(max(b * b - a * c, 0.0)) / a)
    if reach < ROUNDING:
        return Estimate(value, seeds=count)
    return Estimate(value, float(b / a) - reach, float(b / a) + reach, seeds=count)
