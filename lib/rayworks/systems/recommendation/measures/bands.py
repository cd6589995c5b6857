"""What came of held-out decisions with like chances: 95 % intervals for the mean chance of decisions such as one.

No interval for one user's own chance can be both narrow and valid whatever the truth, for each chance is seen to decide once
(Barber 2020, "Is distribution-free inference possible for binary regression?"). What can be known is the mean over decisions
that a model gives about the same chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rayworks.systems.recommendation.measures.calibration import effective
from rayworks.systems.recommendation.measures.estimates import SumOfRatios

MOST_BANDS = 10
DECISIONS = 50.0
"""Decisions that a band is worth where there is more than one."""
FEWEST_UNITS = 2.0
FEWEST = 20.0
"""Below these there is no band at all."""


@dataclass(frozen=True)
class Band:
    """Decisions with chances up to ``highest``, and how far what came of them is from what was said."""

    highest: float
    decisions: int
    effective: float
    """Equal decisions that they are worth (:func:`~.calibration.effective`), for the mean is weighted."""
    said: float
    """Their mean chance."""
    offset: float
    """Share that was accepted, less ``said``."""
    low: float
    """Lower end of the 95 % interval of ``offset``."""
    high: float

    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean chance of the band's decisions."""
        low, high = (min(max(self.said + offset, 0.0), 1.0) for offset in (self.low, self.high))
        return low, high


@dataclass(frozen=True)
class Bands:
    """Bands of a model's chances, the lowest first; none where there were too few decisions."""

    bands: tuple[Band, ...]

    def of(self, probability: float) -> Band | None:
        """The band of decisions that are given about ``probability``."""
        if not self.bands:
            return None
        return next((band for band in self.bands if probability <= band.highest), self.bands[-1])

    def as_json(self) -> list[dict[str, Any]]:
        """For results and exports."""
        return [asdict(band) for band in self.bands]


def from_json(stored: Sequence[Mapping[str, Any]]) -> Bands:
    """What :meth:`Bands.as_json` gave."""
    return Bands(tuple(Band(**band) for band in stored))


def bands(
    outcome: np.ndarray, probability: np.ndarray, weight: np.ndarray, user: np.ndarray, most: int = MOST_BANDS
) -> Bands:
    """Cut decisions into bands of about equal weight and compare what came of them with what was said.

    Intervals take users as the independent units (delta method, Student's t of as many units as their weights are worth), and
    never a variance below that of independent decisions at the chances given, or at the share accepted with one acceptance
    and one rejection more, so that a band of decisions all alike does not look certain. Users worth fewer than two have no
    band.

    Args:
        outcome: 0 or 1, (N,), of decisions that the model has not been fitted or calibrated on.
        probability: of the model, (N,).
        weight: how much each counts, (N,): 1, or the inverse of its propensity.
        user: codes, (N,).
        most: bands at most.
    """
    worth = effective(weight)
    if worth < FEWEST:
        return Bands(())
    order = np.argsort(probability, kind="stable")
    share = np.cumsum(weight[order]) / weight.sum()
    number = int(np.clip(worth / DECISIONS, 1, most))
    ends = probability[order][np.searchsorted(share, np.arange(1, number) / number)]
    ends = np.unique(np.append(ends[ends < probability.max()], probability.max()))
    code = np.searchsorted(ends, probability)
    found = [_band(outcome, probability, weight, user, code == each) for each in range(len(ends))]
    return Bands(tuple(band for band in found if band is not None))


def _band(
    outcome: np.ndarray, probability: np.ndarray, weight: np.ndarray, user: np.ndarray, inside: np.ndarray
) -> Band | None:
    from scipy.stats import t as student_t

    outcome, probability, weight = outcome[inside], probability[inside], weight[inside]
    if not len(outcome):
        return None
    _, unit = np.unique(user[inside], return_inverse=True)
    form = SumOfRatios((weight * (outcome - probability))[None], weight[None]).by(unit)
    worth, total = effective(weight), weight.sum()
    said = float(weight @ probability / total)
    smoothed = (worth * float(weight @ outcome / total) + 1) / (worth + 2)
    binomial = max(float((weight**2) @ (probability * (1 - probability))) / total**2, smoothed * (1 - smoothed) / worth)
    found, units = form.estimate(), effective(np.bincount(unit, weight))
    if units < FEWEST_UNITS:
        return None
    between, freedom = found.standard_error**2, units - 1
    reach = float(student_t.ppf(0.975, freedom)) * float(np.sqrt(max(between, binomial)))
    return Band(
        highest=float(probability.max()),
        decisions=len(outcome),
        effective=worth,
        said=said,
        offset=found.value,
        low=found.value - reach,
        high=found.value + reach,
    )
