"""Metrics of probabilities and rankings: plain functions of arrays."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.recommendation.logs.events import refuse
from rayworks.systems.recommendation.measures.estimates import Bootstrap, Estimate

EPSILON = 1e-7
"""Probabilities are cut to [EPSILON, 1 - EPSILON] before their logarithm."""
BINS = 15
NEVER = float(np.nextafter(1.0, 2.0))
"""A threshold that no probability reaches."""

Binning = Literal["mass", "width"]
Ties = Literal["half", "worst"]
Seen = np.ndarray | tuple[np.ndarray, np.ndarray]


def auc(outcome: np.ndarray, score: np.ndarray) -> float:
    """Probability that an accepted row scores above a rejected one, ties counting half; exact, O(N log N).

    Args:
        outcome: 0 or 1, (N,).
        score: any order of preference, (N,).

    Returns:
        NaN where all outcomes are alike.

    Raises:
        DataError: no rows, lengths that differ, an outcome other than 0 and 1, a score that is NaN.
    """
    check(outcome, score)
    return float(_Ordered(outcome, score).weighted(np.ones((1, len(outcome))))[0])


def auc_interval(
    outcome: np.ndarray, score: np.ndarray, bootstrap: Bootstrap, user: np.ndarray | None = None
) -> Estimate:
    """AUC with a percentile interval over resampled users (codes, (N,)), or over rows where ``user`` is None."""
    check(outcome, score)
    ordered = _Ordered(outcome, score)
    group, units = _groups(user, len(outcome))
    found = [ordered.weighted(counts[:, group]) for counts in bootstrap.counts(units, len(outcome))]
    return bootstrap.estimate(auc(outcome, score), np.concatenate(found))


def auc_difference(
    outcome: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    bootstrap: Bootstrap,
    user: np.ndarray | None = None,
) -> Estimate:
    """AUC of ``first`` less that of ``second`` (scores of the same rows), paired: each resample serves both."""
    check(outcome, first)
    check(outcome, second)
    one, two = _Ordered(outcome, first), _Ordered(outcome, second)
    group, units = _groups(user, len(outcome))
    drawn = (counts[:, group] for counts in bootstrap.counts(units, len(outcome)))
    found = [one.weighted(weight) - two.weighted(weight) for weight in drawn]
    return bootstrap.estimate(auc(outcome, first) - auc(outcome, second), np.concatenate(found))


class _Ordered:
    """Rows in the order of their scores, so that weighted AUCs cost one pass each."""

    def __init__(self, outcome: np.ndarray, score: np.ndarray) -> None:
        self._order = np.argsort(score, kind="stable")
        ranked = np.asarray(score)[self._order]
        self._starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
        self._accepted = np.asarray(outcome, np.float64)[self._order]

    def weighted(self, weight: np.ndarray) -> np.ndarray:
        """AUC under each row of weights (R, N), (R,)."""
        ordered = weight[:, self._order].astype(np.float64)
        accepted = ordered * self._accepted
        ordered -= accepted
        if len(self._starts) < len(self._order):
            accepted = np.add.reduceat(accepted, self._starts, axis=1)
            ordered = np.add.reduceat(ordered, self._starts, axis=1)
        below = np.cumsum(ordered, axis=1)
        pairs = accepted.sum(axis=1) * below[:, -1]
        below -= ordered / 2
        wins = np.einsum("rn,rn->r", accepted, below)
        return np.asarray(np.divide(wins, pairs, out=np.full(len(weight), np.nan), where=pairs > 0))


def _groups(user: np.ndarray | None, rows: int) -> tuple[np.ndarray | slice, int]:
    if user is None:
        return slice(None), rows
    if len(user) != rows:
        raise DataError(f"user has {len(user):,} rows where {rows:,} are due; give one per outcome")
    found, group = np.unique(user, return_inverse=True)
    return group, len(found)


def bce(outcome: np.ndarray, probability: np.ndarray) -> float:
    """Binary cross-entropy in nats per row, probabilities (N,) cut to [1e-7, 1 - 1e-7].

    Raises:
        DataError: as of :func:`auc`; a probability outside [0, 1].
    """
    check(outcome, probability, probabilities=True)
    return float(_losses(outcome, probability).mean())


def _losses(outcome: np.ndarray, probability: np.ndarray) -> np.ndarray:
    chance = np.clip(probability.astype(np.float64), EPSILON, 1 - EPSILON)
    return np.asarray(-np.log(np.where(outcome == 1, chance, 1 - chance)))


@dataclass(frozen=True, eq=False)
class Reliability:
    """Predicted against observed, by bin of the prediction; empty bins are left out. Each (bins,)."""

    prediction: np.ndarray
    """Mean prediction."""
    outcome: np.ndarray
    """Share accepted."""
    count: np.ndarray

    @property
    def calibration_error(self) -> float:
        """ECE: mean distance of prediction and outcome, bins weighted by their rows."""
        return float(np.average(np.abs(self.prediction - self.outcome), weights=self.count))


def reliability(
    outcome: np.ndarray, probability: np.ndarray, bins: int = BINS, binning: Binning = "mass"
) -> Reliability:
    """The reliability curve.

    Args:
        outcome: 0 or 1, (N,).
        probability: (N,).
        bins: at most so many.
        binning: ``mass`` puts the same number of rows in each bin, save that equal predictions stay together (a row's bin
            is that of the first of its equals); ``width`` cuts [0, 1] into equal parts.

    Raises:
        DataError: as of :func:`bce`.
        ConfigError: less than one bin.
    """
    check(outcome, probability, probabilities=True)
    if bins < 1:
        raise ConfigError(f"bins is {bins}; give at least 1")
    if binning == "mass":
        smaller = np.searchsorted(np.sort(probability), probability, side="left")
        code = smaller * bins // len(probability)
    else:
        code = np.minimum((probability * bins).astype(np.int64), bins - 1)
    count = np.bincount(code, minlength=bins)
    used = count > 0
    means = [np.bincount(code, weights=v, minlength=bins)[used] / count[used] for v in (probability, outcome)]
    return Reliability(means[0], means[1], count[used])


def ece(outcome: np.ndarray, probability: np.ndarray, bins: int = BINS, binning: Binning = "mass") -> float:
    """Expected calibration error; see :func:`reliability`."""
    return reliability(outcome, probability, bins, binning).calibration_error


def accuracy(outcome: np.ndarray, probability: np.ndarray, threshold: float = 0.5) -> float:
    """Share of rows where accepting at ``probability >= threshold`` meets the outcome."""
    check(outcome, probability)
    return float(np.mean((probability >= threshold) == (outcome == 1)))


def best_threshold(outcome: np.ndarray, probability: np.ndarray) -> float:
    """The threshold of the highest :func:`accuracy`, the lowest of equals; choose it on validation rows.

    Returns:
        One of the probabilities, or a number just above 1 where it is best never to accept.
    """
    check(outcome, probability, probabilities=True)
    value, code = np.unique(probability, return_inverse=True)
    accepted = np.bincount(code, weights=outcome)
    rejected = np.bincount(code) - accepted
    # Accepting from value k up is right for the accepted there and the rejected below.
    right = np.r_[accepted[::-1].cumsum()[::-1], 0] + np.r_[0, rejected.cumsum()]
    return float(np.r_[value, NEVER][right.argmax()])


@dataclass(frozen=True, eq=False)
class StepTable:
    """Metrics by step, the steps in order; each (steps,)."""

    step: np.ndarray
    count: np.ndarray
    outcome: np.ndarray
    """Share accepted."""
    prediction: np.ndarray
    """Mean probability."""
    auc: np.ndarray
    """NaN where all outcomes are alike."""
    bce: np.ndarray
    accuracy: np.ndarray


def by_step(step: np.ndarray, outcome: np.ndarray, probability: np.ndarray, threshold: float = 0.5) -> StepTable:
    """The table of steps (int, (N,)) that occur.

    Raises:
        DataError: as of :func:`bce`.
    """
    check(outcome, probability, probabilities=True)
    steps, code, count = np.unique(step, return_inverse=True, return_counts=True)
    hits = (probability >= threshold) == (outcome == 1)
    columns = (outcome, probability, _losses(outcome, probability), hits)
    share, prediction, loss, hit = (np.bincount(code, weights=column) / count for column in columns)
    rows = np.split(np.argsort(code, kind="stable"), np.cumsum(count)[:-1])
    areas = np.array([auc(outcome[chosen], probability[chosen]) for chosen in rows])
    return StepTable(steps, count, share, prediction, areas, loss, hit)


def ranks(scores: np.ndarray, target: np.ndarray, seen: Seen | None = None, ties: Ties = "half") -> np.ndarray:
    """Rank of each row's target among all items, 1 is best.

    Args:
        scores: (B, I).
        target: item of each row, (B,); never masked, even where it has been seen.
        seen: items that cannot be recommended again, out of the ranking (score -inf): bool (B, I), or the pair (rows, items)
            of int codes.
        ties: with ``half`` each other item of the same score counts half, so a constant model gets the middle rank; with
            ``worst`` each counts whole.

    Returns:
        float64 (B,), halves possible.

    Raises:
        DataError: shapes that differ, a score that is NaN, a target outside the items or with a score of -inf.
    """
    if scores.ndim != 2 or target.shape != (len(scores),):
        raise DataError(f"target has shape {target.shape} and scores {scores.shape}; give (B,) and (B, I)")
    if ((target < 0) | (target >= scores.shape[1])).any():
        raise DataError(f"target has an item outside the {scores.shape[1]:,} of scores; codes start at 0")
    own = scores[np.arange(len(scores)), target]
    if np.isnan(scores).any() or np.isneginf(own).any():
        raise DataError("scores holds NaN, or -inf at a target; a model that gives that cannot be ranked")
    masked = scores if seen is None else scores.copy()
    if seen is not None:
        masked[seen] = -np.inf
        masked[np.arange(len(scores)), target] = own
    above = (masked > own[:, None]).sum(axis=1)
    equal = (masked == own[:, None]).sum(axis=1) - 1
    return np.asarray(1 + above + equal * (0.5 if ties == "half" else 1.0))


def hit_rate(rank: np.ndarray, k: int) -> float:
    """HR@k: share of ranks (B,) of at most k."""
    return float(np.mean(rank <= k))


def ndcg(rank: np.ndarray, k: int) -> float:
    """NDCG@k with one relevant item: mean of 1 / log2(rank + 1) where the rank (B,) is at most k, else 0."""
    return float(np.mean(np.where(rank <= k, 1 / np.log2(rank + 1), 0.0)))


def check(outcome: np.ndarray, score: np.ndarray, *, probabilities: bool = False) -> None:
    """Refuse outcomes and scores that no metric is defined for.

    Raises:
        DataError: names the field and the first bad row.
    """
    if not len(outcome) or len(outcome) != len(score):
        raise DataError(f"outcome has {len(outcome):,} rows and the scores {len(score):,}; give as many, at least one")
    refuse("outcome", outcome, ~((outcome == 0) | (outcome == 1)), "is neither 0 nor 1")
    if probabilities:
        refuse("probability", score, ~((score >= 0) & (score <= 1)), "is not between 0 and 1")
    refuse("score", score, np.isnan(score), "is not a number")
