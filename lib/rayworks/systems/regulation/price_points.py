"""The price of safety from training runs: points of safety against cost, and a test of whether there is a price.

A run has the minority's share of its training data and the equalised-odds gap of its model (arXiv 2410.01871, section on
Assumption 2). The share is the cost, the inverse of the gap the safety. Seeds are resampled within each share.
"""

from dataclasses import dataclass

import numpy as np

from rayworks.core import seeds
from rayworks.core.errors import DataError

EVEN_SHARE = 0.5
"""The minority's share that costs 1: as many rows as the majority has."""
LEVEL = 0.95
"""Of every interval over resamples."""

PUBLISHED_SHARES = (0.05, 0.10, 0.15, 0.20, 0.25, 0.30, 0.35, 0.40, 0.45, 0.50)
PUBLISHED_GAPS = (22.55, 22.32, 18.97, 17.47, 15.79, 15.44, 13.09, 11.01, 9.83, 9.38)
"""Equalised-odds gaps in percentage points on FairFace, means over ten seeds of the authors' released runs."""
PUBLISHED_SPREADS = (2.71, 4.00, 2.38, 2.65, 3.28, 4.76, 4.74, 3.46, 3.58, 3.32)
"""Their standard deviations over the seeds."""
PUBLISHED_SEEDS = 10
PUBLISHED_SAFETY = (0.416, 0.420, 0.495, 0.537, 0.594, 0.607, 0.716, 0.852, 0.954, 1.0)
"""The safety of the means before they were rounded to the gaps above."""


@dataclass(frozen=True, eq=False)
class PricePoints:
    """Safety against cost, shape (K,), one point per share; the cost rises along the points, the safety should.

    ``resampled`` (B, K) is the safety of the same points in each resample of the seeds, or None where there is one seed.
    """

    safety: np.ndarray
    cost: np.ndarray
    resampled: np.ndarray | None = None


@dataclass(frozen=True)
class GapTrend:
    """Spearman correlation of share and gap over all runs, with its 95 % interval over resamples.

    No curve is worth fitting to gaps that do not fall: their safety is in the order of the noise.
    """

    correlation: float
    low: float
    high: float

    @property
    def falls(self) -> bool:
        """Whether a larger share means a smaller gap, beyond the noise of the seeds."""
        return self.high < 0


def points_from_gaps(share: np.ndarray, gap: np.ndarray, *, resamples: int = 1000, seed: int = 0) -> PricePoints:
    """Points from one equalised-odds gap per training run: safety is (1/gap) / max(1/gap) of the mean gaps, cost share/0.5.

    Resamples in which a mean gap is 0 are left out.

    Args:
        share: minority share of each run, shape (N,), in (0, 1/2].
        gap: its gap, shape (N,), in percentage points or any other unit.
        resamples: how often the seeds are drawn anew.

    Raises:
        DataError: shares or gaps are out of range, or the mean gap of a share is 0.
    """
    shares, gap, first, count = _by_share(share, gap)
    mean = np.add.reduceat(gap, first) / count
    if (mean == 0).any():
        raise DataError(
            f"price points: the mean gap at share {shares[mean == 0][0]:g} is 0, which no safety can be measured against; "
            "give more seeds or a larger test set"
        )
    resampled = None
    if count.max() > 1 and resamples:
        means = np.add.reduceat(gap[_resampled(first, count, resamples, seed)], first, axis=1) / count
        usable = (means > 0).all(axis=1)
        resampled = _safety(means[usable]) if usable.any() else None
    return PricePoints(_safety(mean), shares / EVEN_SHARE, resampled)


def gap_trend(share: np.ndarray, gap: np.ndarray, *, resamples: int = 1000, seed: int = 0) -> GapTrend:
    """Whether the gap falls with the share; arguments as for :func:`points_from_gaps`.

    Raises:
        DataError: shares or gaps are out of range, or there is but one share.
    """
    shares, gap, first, count = _by_share(share, gap)
    if len(shares) < 2:
        raise DataError(f"price points: share {shares[0]:g} alone has no trend; measure at least two shares")
    runs = _resampled(first, count, resamples, seed)
    from scipy.stats import rankdata

    by_share = rankdata(np.repeat(shares, count))
    found = _correlation(by_share, rankdata(np.concatenate([gap[None], gap[runs]]), axis=1))
    low, high = np.quantile(found[1:] if resamples else found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return GapTrend(float(found[0]), float(low), float(high))


def published_points(*, resamples: int = 1000, seed: int = 0) -> PricePoints:
    """The ten published points; without the runs, resampled means are normal with the published spread over root ten."""
    mean = np.array(PUBLISHED_GAPS)
    error = np.array(PUBLISHED_SPREADS) / np.sqrt(PUBLISHED_SEEDS)
    draws = seeds.stream(seed, "price", "published").standard_normal((resamples, len(mean)))
    # Nine errors lie between the least mean and 0.
    resampled = _safety(mean + error * draws) if resamples else None
    return PricePoints(np.array(PUBLISHED_SAFETY), np.array(PUBLISHED_SHARES) / EVEN_SHARE, resampled)


def _by_share(share: np.ndarray, gap: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The different shares, all gaps ordered by share, and where each share's gaps start and how many they are."""
    share, gap = np.asarray(share, float), np.asarray(gap, float)
    if not len(share) or share.shape != gap.shape:
        raise DataError(
            f"price points: {share.shape} shares and {gap.shape} gaps; give one gap per share, at least one"
        )
    for name, values, wrong, bounds in (
        ("share", share, ~((share > 0) & (share <= EVEN_SHARE)), "(0, 0.5]"),
        ("gap", gap, ~((gap >= 0) & np.isfinite(gap)), "[0, infinity)"),
    ):
        if wrong.any():
            raise DataError(f"price points: {name} {values[wrong][0]:g} is outside {bounds}; measure that run again")
    order = np.argsort(share, kind="stable")
    shares, first, count = np.unique(share[order], return_index=True, return_counts=True)
    return shares, gap[order], first, count


def _resampled(first: np.ndarray, count: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Positions (B, N) of runs drawn with replacement within each share."""
    draws = seeds.stream(seed, "price", "resamples").random((resamples, int(count.sum())))
    return np.asarray(np.repeat(first, count) + (draws * np.repeat(count, count)).astype(int))


def _safety(gap: np.ndarray) -> np.ndarray:
    """(1/gap) / max(1/gap) along the last axis."""
    return np.asarray(gap.min(axis=-1, keepdims=True) / gap)


def _correlation(one: np.ndarray, many: np.ndarray) -> np.ndarray:
    """Pearson correlation of (N,) with each row of (B, N); 0 where a row is constant."""
    one, many = one - one.mean(), many - many.mean(axis=1, keepdims=True)
    norm = np.sqrt((one @ one) * (many**2).sum(axis=1))
    return np.asarray(many @ one / np.where(norm > 0, norm, np.inf))
