"""Audit a log before learning from it: checks that run on any data set (specification 3.3, 3.9).

A check warns only of what chance does not explain, so that small and clean logs pass.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rayworks.systems.recommendation.logs.events import ACCEPTED, EventLog, Split
from rayworks.systems.recommendation.measures.audit_baselines import Baseline, fingerprints, score_baselines

Severity = Literal["info", "warning"]

CHANCE = 1e-6
"""A finding is beyond chance where it would come up in fewer than this share of clean logs."""
SLACK = 10
"""Coincidences may be so many times as frequent as among exchangeable decisions: real users and steps differ."""
NEGLIGIBLE = 0.01
"""Share of users, tests, weight or explained variance below which there is nothing to warn of."""
SIGMAS = 3
ENOUGH = 5
"""Expected acceptances and rejections, or users, of a group whose rate is looked at."""


@dataclass(frozen=True)
class Finding:
    """Result of one check."""

    name: str
    severity: Severity
    value: float | None
    """A count or a share, as the sentence says; None where it cannot be known."""
    sentence: str


@dataclass(frozen=True)
class Audit:
    """All findings on a log, and the scores that any model must beat on its test window."""

    findings: tuple[Finding, ...]
    baselines: Mapping[str, Baseline]

    @property
    def warnings(self) -> int:
        """How many findings warn."""
        return sum(finding.severity == "warning" for finding in self.findings)

    def __getitem__(self, name: str) -> Finding:
        return next(finding for finding in self.findings if finding.name == name)


def audit(log: EventLog, split: Split, seed: int) -> Audit:
    """Run every check.

    Args:
        seed: seed of the random halves and fingerprints; the findings do not depend on it but for chances of 1e-19.
    """
    baselines = score_baselines(log, split, seed)
    findings = (
        _one_decision(log, split),
        _constant_steps(log),
        _templates(log, baselines, seed),
        _item_independence(log),
        _decision_independence(log),
        _natural_independence(log),
        _leaked_labels(log, split),
        _ties(log),
        _duplicates(log),
        _identical_users(log, seed),
        _short_users(log),
        _unseen_items(log, split),
        _propensities(log),
    )
    return Audit(findings, baselines)


def leaked_labels(train: np.ndarray, valid: np.ndarray, test: np.ndarray) -> int:
    """Number of test labels that training or validation has seen (masks of the same events)."""
    return int((test & (train | valid)).sum())


def _one_decision(log: EventLog, split: Split) -> Finding:
    accepted = (log.kind == ACCEPTED)[split.train_mask(log) & log.recommended]
    share = float(accepted.mean()) if len(accepted) else None
    if share in (0.0, 1.0):
        what, other = ("acceptances", "rejections") if share else ("rejections", "acceptances")
        sentence = (
            f"all {len(accepted):,} training decisions are {what}: neither what items, history and recommender do to "
            f"acceptance nor a threshold can be learned; log {other} too"
        )
        return Finding("one decision", "warning", share, sentence)
    said = "there are no training decisions" if share is None else f"{share:.1%} of the training decisions accept"
    return _finding("one decision", share is None, share, said)


def _constant_steps(log: EventLog) -> Finding:
    step, accepted = log.step[log.recommended], (log.kind == ACCEPTED)[log.recommended]
    users = np.bincount(step)
    accepting = np.bincount(step, accepted)
    rate = accepted.mean()
    alike = (accepting == 0) | (accepting == users)
    constant = alike & (rate**users + (1 - rate) ** users < CHANCE / len(users))
    count = int(constant.sum())
    sentence = f"at {count} of {len(users)} steps all users decide alike"
    advice = "; a model that knows the step looks skilled there, leave these steps out of any score"
    return _finding("constant steps", count > 0, count, sentence, advice)


def _templates(log: EventLog, baselines: Mapping[str, Baseline], seed: int) -> Finding:
    accepted = log.kind == ACCEPTED
    row = fingerprints(log, log.recommended, accepted + 1, log.step, seed)[log.steps > 0]
    steps = log.steps[log.steps > 0]
    accepts = np.bincount(log.user, accepted, minlength=len(log.users)).astype(np.int64)[log.steps > 0]
    _, users = np.unique(row, return_counts=True)
    mixed = (accepts > 0) & (accepts < steps)
    repeats = int(mixed.sum()) - len(np.unique(row[mixed]))
    kinds, peers = np.unique(steps[mixed] * (steps.max() + 1) + accepts[mixed], return_counts=True)
    length, taken = np.divmod(kinds, steps.max() + 1)
    factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, int(steps.max()) + 1)))])
    arrangements = factorial[length] - factorial[taken] - factorial[length - taken]
    expected = float((peers * (peers - 1) / 2 * np.exp(-arrangements)).sum())
    sentence = (
        f"{len(row):,} users have {len(users):,} distinct rows of decisions, the most common {users.max():,} of them"
    )
    advice = "; decisions follow templates, so a score measures the template, not the user"
    if baselines:
        named = (name for name in ("template lookup", "always accept") if name in baselines)
        scores = (f"{name} {baselines[name].accuracy:.1%}" for name in named)
        advice += f" (accuracy: {', '.join(scores)})"
    return _finding("templates", _beyond_chance(repeats, expected), len(users), sentence, advice)


def _item_independence(log: EventLog) -> Finding:
    accepted = (log.kind == ACCEPTED)[log.recommended].astype(float)
    rarer = min(accepted.mean(), 1 - accepted.mean())
    rates = _rates(log.item[log.recommended], accepted, ENOUGH / rarer if rarer else math.inf)
    consequence = "on average over users; a model learns items only where tastes differ"
    return _independence("item independence", rates, "the item", "items", consequence)


def _decision_independence(log: EventLog) -> Finding:
    user, accepted = log.user[log.recommended], (log.kind == ACCEPTED)[log.recommended]
    later = user[1:] == user[:-1]
    rates = _rates(accepted[:-1][later].astype(np.int64), accepted[1:][later].astype(float), ENOUGH)
    consequence = "a model of the decisions' history has nothing to find"
    return _independence("previous decision", rates, "the decision before", "possible decisions before", consequence)


def _natural_independence(log: EventLog) -> Finding:
    rows = np.flatnonzero(log.recommended)
    user, first = np.unique(log.user[rows], return_index=True)
    before = rows[first] - 1
    known = before >= log.offsets[user]
    name = "last natural item"
    if not known.any():
        return Finding(name, "info", None, "no user has natural events before the first recommendation")
    accepts = np.bincount(log.user, log.kind == ACCEPTED, minlength=len(log.users))
    share = (accepts / np.maximum(log.steps, 1))[user[known]]
    consequence = "what users take by themselves says nothing of what they accept"
    rates = _rates(log.item[before[known]], share, ENOUGH)
    return _independence(name, rates, "the last natural item", "last natural items", consequence)


@dataclass(frozen=True)
class _Rates:
    """How acceptance differs between groups, as a share of its variance."""

    low: float
    high: float
    groups: int
    share: float
    """Variance of the groups' true rates, with the chance part taken off; below 0 where chance gives more."""
    error: float
    """Standard deviation of the share where the groups do not differ (chi-square)."""
    deviation: float
    """How many standard deviations of a normal variable as large a share is as rare as (Wilson and Hilferty 1931)."""


def _rates(group: np.ndarray, value: np.ndarray, least: float) -> _Rates | None:
    """Groups with ``least`` rows; None where fewer than two have them or nothing varies."""
    counts = np.bincount(group)
    kept = (counts >= least)[group]
    group, value = group[kept], value[kept]
    if len(np.unique(group)) < 2 or value.var() == 0:
        return None
    counts = np.bincount(group)
    counts, sums = counts[counts > 0], np.bincount(group, value)[counts > 0]
    rates, freedom = sums / counts, len(counts) - 1
    statistic = float((counts * (rates - value.mean()) ** 2).sum() / value.var())
    spread = 2 / (9 * freedom)
    effective = len(value) - float((counts.astype(float) ** 2).sum()) / len(value)
    return _Rates(
        low=float(rates.min()),
        high=float(rates.max()),
        groups=len(counts),
        share=(statistic - freedom) / effective,
        error=math.sqrt(2 * freedom) / effective,
        deviation=(math.cbrt(statistic / freedom) - 1 + spread) / math.sqrt(spread),
    )


def _independence(name: str, rates: _Rates | None, cause: str, groups: str, consequence: str) -> Finding:
    """Warn only where no effect shows and a larger one than :data:`NEGLIGIBLE` would have."""
    if rates is None:
        return Finding(name, "info", None, f"too few decisions to tell whether acceptance depends on {cause}")
    seen = f"acceptance is {rates.low:.3f} to {rates.high:.3f} over {rates.groups:,} {groups}"
    if rates.deviation >= SIGMAS:
        return Finding(name, "info", rates.share, f"{seen}; it depends on {cause}")
    if max(rates.share, 0) + SIGMAS * rates.error < NEGLIGIBLE:
        sentence = f"{seen}, as by chance; it does not depend on {cause}: {consequence}"
        return Finding(name, "warning", rates.share, sentence)
    return Finding(name, "info", rates.share, f"{seen}; too few decisions to tell whether it depends on {cause}")


def _leaked_labels(log: EventLog, split: Split) -> Finding:
    test = split.test_mask(log)
    leaked = leaked_labels(split.train_mask(log), split.valid_mask(log), test)
    share = leaked / max(int(test.sum()), 1)
    sentence = f"{leaked:,} of {int(test.sum()):,} test labels are seen in training or validation"
    return _finding("leaked labels", leaked > 0, share, sentence, "; part the windows")


def _ties(log: EventLog) -> Finding:
    """Decisions with other events at the same time, and those that the log gives away by a natural event of the item."""
    rows = np.flatnonzero(log.recommended)
    _, size = np.unique(log.instant, return_counts=True)
    together = np.repeat(size, size)[rows] > 1
    keys = log.instant * np.int64(len(log.items)) + log.item
    copied = np.isin(keys[rows], keys[~log.recommended])
    accepted = log.kind[rows] == ACCEPTED
    share = float(together.mean())
    sentence = (
        f"{share:.1%} of the decisions share their time with other events, of which their prediction knows nothing"
    )
    warns = bool(copied.mean() > NEGLIGIBLE)
    rates = [f"{accepted[which].mean():.0%}" if which.any() else "none" for which in (copied, ~copied)]
    advice = (
        f"; {copied.mean():.1%} have a natural event of the item at the same time, of which {rates[0]} are accepted, and "
        f"{rates[1]} of the others: such rows log the decision twice, drop the natural ones"
    )
    return _finding("ties", warns, share, sentence, advice)


def _duplicates(log: EventLog) -> Finding:
    order = np.lexsort((log.item, log.time, log.user))
    columns = (log.user[order], log.time[order], log.item[order])
    count = int(np.all([column[1:] == column[:-1] for column in columns], axis=0).sum())
    sentence = f"{count:,} rows repeat another's user, time and item"
    return _finding("duplicated rows", count > 0, count, sentence, "; drop them")


def _identical_users(log: EventLog, seed: int) -> Finding:
    events = np.diff(log.offsets)
    position = np.arange(len(log)) - log.offsets[log.user]
    values = len(log.items) * (ACCEPTED + 1)
    value = log.item.astype(np.int64) * (ACCEPTED + 1) + log.kind
    row = fingerprints(log, np.ones(len(log), bool), value + 1, position, seed)[events > 0]
    repeats = len(row) - len(np.unique(row))
    choices, same = np.unique(position * values + value, return_counts=True)
    at = choices // values
    agreement = np.bincount(at, (same / np.bincount(position)[at]) ** 2)
    length, users = np.unique(events[events > 0], return_counts=True)
    expected = float((users * (users - 1) / 2 * np.exp(np.cumsum(np.log(agreement))[length - 1])).sum())
    sentence = f"{repeats:,} users have the same events as another"
    advice = "; a copy in training gives its twin's test labels away, keep one of them"
    return _finding("identical users", _beyond_chance(repeats, expected), repeats, sentence, advice)


def _short_users(log: EventLog) -> Finding:
    count, users = int((log.steps == 1).sum()), int((log.steps > 0).sum())
    sentence = f"{count:,} of {users:,} users have one recommendation only"
    advice = "; for them there is no decision before the one to predict, and none to train on"
    return _finding("users with one step", count > NEGLIGIBLE * users, count, sentence, advice)


def _unseen_items(log: EventLog, split: Split) -> Finding:
    tested = log.item[split.test_mask(log)]
    seen = np.zeros(len(log.items), bool)
    seen[log.item[split.train_mask(log)]] = True
    share = float((~seen[tested]).mean()) if len(tested) else 0.0
    sentence = f"{share:.1%} of the test decisions are about items that training never sees"
    return _finding("unseen items", share > NEGLIGIBLE, share, sentence, "; score these apart")


def _propensities(log: EventLog) -> Finding:
    propensity = log.propensity[log.recommended]
    name = "propensities"
    if np.isnan(propensity).any():
        sentence = "no propensities are logged: estimates by inverse propensity and doubly robust ones are not possible"
        return Finding(name, "info", None, sentence)
    weight = 1 / propensity
    share = float(weight.max() / weight.sum())
    sentence = f"the smallest propensity is {propensity.min():.3g}, the largest weight by it {weight.max():,.0f}"
    advice = f", {share:.0%} of all weight; estimates by inverse propensity hang on single rows, clip the weights"
    return _finding(name, share > max(NEGLIGIBLE, SLACK / len(weight)), float(weight.max()), sentence, advice)


def _finding(name: str, warns: bool, value: float | None, sentence: str, advice: str = "") -> Finding:
    return Finding(name, "warning" if warns else "info", value, sentence + advice * bool(warns))


def _beyond_chance(observed: int, expected: float) -> bool:
    """Whether a Poisson count of mean :data:`SLACK` x ``expected`` reaches ``observed`` more rarely than :data:`CHANCE`."""
    mean = SLACK * expected
    if observed <= mean:
        return False
    # Chernoff's bound on the tail.
    return mean == 0 or observed * math.log(observed / mean) - observed + mean > -math.log(CHANCE)
