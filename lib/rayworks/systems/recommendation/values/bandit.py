"""Value a policy on logged bandit data (the Open Bandit samples), with policies and rates as item x position tables.

Saito et al. 2021 (Open Bandit Pipeline) is the model: what the log of one policy says of another is held against the mean
click of that other policy's own log.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rayworks.core import seeds
from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.recommendation.measures.estimates import Bootstrap, Estimate, SumOfRatios
from rayworks.systems.recommendation.values import off_policy

FOLDS = 5


@dataclass(frozen=True, eq=False)
class BanditLog:
    """N impressions of items at positions by one policy, each with its click.

    Raises:
        DataError: as of :class:`LoggedActions`; a code outside its count, a click other than 0 and 1.
    """

    item: np.ndarray
    """int (N,), codes 0..items-1."""
    position: np.ndarray
    """int (N,), codes 0..positions-1."""
    click: np.ndarray
    """(N,), 0 or 1."""
    propensity: np.ndarray
    """float64 (N,): probability of the item at the position, in (0, 1]."""
    items: int
    positions: int
    context: np.ndarray | None = None
    """Features of the impression (N, F), carried for models that use them; the tables here do not."""
    time: np.ndarray | None = None
    """float64 (N,), seconds since 1970."""

    def __post_init__(self) -> None:
        for name, codes, count in (("item", self.item, self.items), ("position", self.position, self.positions)):
            if len(codes) and codes.max() >= count:
                raise DataError(f"{name} {codes.max()} of row {codes.argmax()} is outside the {count} {name}s")
        wrong = ~np.isin(self.click, (0, 1))
        if wrong.any():
            raise DataError(f"click of row {int(np.flatnonzero(wrong)[0])} is neither 0 nor 1")
        if self.context is not None and len(self.context) != len(self.click):
            raise DataError(f"context has {len(self.context):,} rows where {len(self.click):,} are due")
        _ = self.actions

    def __len__(self) -> int:
        return len(self.click)

    @cached_property
    def actions(self) -> off_policy.LoggedActions:
        """The log as off-policy evaluation wants it."""
        return off_policy.LoggedActions(self.click, self.propensity, self.item, self.position)

    @cached_property
    def cell(self) -> np.ndarray:
        """int64 (N,): ``item * positions + position``."""
        return np.asarray(self.item.astype(np.int64) * self.positions + self.position)

    @cached_property
    def shown(self) -> np.ndarray:
        """int64 (items, positions): how often the log shows each item there."""
        return np.bincount(self.cell, minlength=self.items * self.positions).reshape(self.items, self.positions)


def on_policy_value(log: BanditLog) -> Estimate:
    """The logging policy's own clicks per impression, with a normal interval."""
    return SumOfRatios(log.click.astype(np.float64)[None]).estimate()


def uniform_policy(items: int, positions: int) -> np.ndarray:
    """Every item alike at each position, (items, positions)."""
    return np.full((items, positions), 1 / items)


def empirical_policy(log: BanditLog, smoothing: float = 0.0) -> np.ndarray:
    """How often the logging policy shows each item, by position: (items, positions), columns sum to 1.

    Frequencies estimate the mean of the policy over contexts and time without bias; the mean of logged propensities does
    not, for an item is logged more often when its propensity is high.

    Args:
        log: the policy's own log.
        smoothing: impressions added to each cell.

    Raises:
        DataError: a position without impressions, and no smoothing.
    """
    count = log.shown + smoothing
    total = count.sum(axis=0)
    if not total.all():
        raise DataError(
            f"position {int(np.flatnonzero(total == 0)[0])} has no impressions; leave it out or set smoothing"
        )
    return np.asarray(count / total)


@dataclass(frozen=True, eq=False)
class CrossFittedRates:
    """Click rates by item and position, each row's from the folds that it is not in."""

    fold: np.ndarray
    """int64 (N,)."""
    tables: np.ndarray
    """float64 (folds, items, positions): the rates without a fold."""

    def target(self, log: BanditLog, policy: np.ndarray) -> off_policy.Target:
        """What ``policy`` (items, positions), and the rates under it, say at each row."""
        cells = log.items * log.positions
        predicted = self.tables.ravel()[self.fold * cells + log.cell]
        means = (policy * self.tables).sum(axis=1)
        expected = means.ravel()[self.fold * log.positions + log.position]
        unsupported = off_policy.unsupported_share(log.actions, policy, log.shown > 0)
        return off_policy.Target(log.actions.gather(policy), predicted, expected, unsupported)


def cross_fitted_rates(
    log: BanditLog, seed: int, folds: int = FOLDS, strength: float | None = None
) -> CrossFittedRates:
    """Fit click rates for each fold on all others.

    Args:
        seed: seed of the folds, whose sizes differ by one at most.
        folds: at least 2.
        strength: impressions' worth of the overall rate added to each cell; None takes that of :func:`prior_strength`.

    Raises:
        ConfigError: fewer than two folds, or more than rows.
    """
    if not 2 <= folds <= len(log):
        raise ConfigError(f"folds is {folds}; give 2 to {len(log):,}, one per row at most")
    fold = seeds.stream(seed, "bandit", "folds").permutation(np.arange(len(log)) % folds)
    cells = log.items * log.positions
    code = fold * cells + log.cell
    size = folds * cells
    shown = np.bincount(code, minlength=size).reshape(folds, cells)
    clicks = np.bincount(code, weights=log.click, minlength=size).reshape(folds, cells)
    tables = [
        smoothed_rates(total, count, strength)
        for total, count in zip(clicks.sum(axis=0) - clicks, shown.sum(axis=0) - shown, strict=True)
    ]
    return CrossFittedRates(fold, np.reshape(tables, (folds, log.items, log.positions)))


def smoothed_rates(clicks: np.ndarray, shown: np.ndarray, strength: float | None = None) -> np.ndarray:
    """Rates of cells (C,) drawn to the overall rate: ``(clicks + strength * overall) / (shown + strength)``."""
    overall = clicks.sum() / shown.sum()
    if strength is None:
        strength = prior_strength(clicks, shown)
    if np.isinf(strength):
        return np.full(len(clicks), overall)
    rates = np.full(len(clicks), overall)
    return np.asarray(np.divide(clicks + strength * overall, shown + strength, out=rates, where=shown + strength > 0))


def prior_strength(clicks: np.ndarray, shown: np.ndarray) -> float:
    """Empirical Bayes: the size of the beta prior whose cells (C,) vary as much as these, by moments (Kleinman 1973).

    Infinite where cells differ no more than chance makes them.
    """
    used = shown > 0
    count, rate = shown[used], clicks[used] / shown[used]
    total = count.sum()
    overall = clicks.sum() / total
    chance = overall * (1 - overall)
    room = total - (count**2).sum() / total
    excess = (count * (rate - overall) ** 2).sum() - (len(count) - 1) * chance
    if excess <= 0 or room <= 0:
        return float(np.inf)
    return float(max(chance * room / excess - 1, 0.0))


def evaluate(
    log: BanditLog,
    policy: np.ndarray,
    *,
    seed: int,
    folds: int = FOLDS,
    strength: float | None = None,
    clip: float = np.inf,
    switch: float | None = None,
    bootstrap: Bootstrap | None = None,
) -> off_policy.Evaluation:
    """All estimators of a policy's clicks per impression, with a cross-fitted reward model.

    Args:
        policy: (items, positions), columns sum to 1.
        seed: seed of the folds.
        strength: its smoothing, see :func:`cross_fitted_rates`.
        clip, switch, bootstrap: see :func:`off_policy.evaluate`.

    Raises:
        DataError: a table of another shape or that is not a policy; a policy that takes none of the logged items.
        ConfigError: as of :func:`cross_fitted_rates`.
    """
    if policy.shape != (log.items, log.positions):
        raise DataError(f"policy has shape {policy.shape} where {(log.items, log.positions)} is due: items x positions")
    off_policy.check_policy(policy)
    rates = cross_fitted_rates(log, seed, folds, strength)
    target = rates.target(log, policy)
    return off_policy.evaluate(log.actions, target, clip=clip, switch=switch, shrink=True, bootstrap=bootstrap)


@dataclass(frozen=True)
class CrossCheck:
    """A policy's value estimated from another's log, beside its own log's clicks."""

    truth: Estimate
    evaluation: off_policy.Evaluation

    @property
    def relative_errors(self) -> dict[str, float]:
        """Distance of each estimate from the truth over the truth, by estimator."""
        truth = self.truth.value
        return {name: abs(found.value - truth) / truth for name, found in self.evaluation.estimates.items()}


def cross_check(log: BanditLog, own: BanditLog, policy: np.ndarray, *, seed: int, folds: int = FOLDS) -> CrossCheck:
    """Hold what ``log`` says of ``policy`` against ``own``, the policy's own log.

    Raises:
        DataError: as of :func:`evaluate`; no clicks in ``own``.
    """
    truth = on_policy_value(own)
    if not truth.value:
        raise DataError("click is 0 in the whole of the policy's own log; there is no value to compare with")
    return CrossCheck(truth, evaluate(log, policy, seed=seed, folds=folds))
