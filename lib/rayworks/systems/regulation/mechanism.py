"""The mechanism itself, as a pure function: threshold, rejection, groups at random, ranks, ties, byes, and an audit of all.

Everything random comes in from outside, one number per submission for the pairing and one for ties, so that anyone who holds
the numbers can run it again and get the same outcome.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rayworks.core.errors import DataError
from rayworks.systems.regulation.contests import ByeRule, TieRule
from rayworks.systems.regulation.value_distributions import BoolArray, FloatArray

Status = Literal["rejected", "lost", "won", "shared", "bye lost", "bye won"]
STATUSES: tuple[Status, ...] = ("rejected", "lost", "won", "shared", "bye lost", "bye won")
REJECTED, LOST, WON, SHARED, BYE_LOST, BYE_WON = range(len(STATUSES))
NO_GROUP = -1


@dataclass(frozen=True)
class Rules:
    """What the regulator publishes before anybody submits.

    Raises:
        DataError: naming the impossible rule.
    """

    threshold: float
    """Least score that is cleared."""
    group_size: int = 2
    prizes: int = 1
    """Premiums per group."""
    tie: TieRule = "coin"
    bye: ByeRule = "chance"

    def __post_init__(self) -> None:
        if not np.isfinite(self.threshold):
            raise DataError(f"threshold {self.threshold}: must be a number")
        if self.group_size < 2:
            raise DataError(f"group_size {self.group_size}: a contest needs at least two participants")
        if not 1 <= self.prizes < self.group_size:
            raise DataError(f"prizes {self.prizes}: must be at least 1 and below the group size {self.group_size}")


@dataclass(frozen=True)
class Outcome:
    """Result of each submission, in the order of the scores; arrays of shape (submissions,)."""

    rules: Rules
    scores: FloatArray
    status: NDArray[np.int8]
    """Place in ``STATUSES``."""
    group: NDArray[np.int64]
    """Number of the group, ``NO_GROUP`` for those rejected."""
    premium: FloatArray
    """Part of a premium, in [0, 1]."""

    @property
    def cleared(self) -> BoolArray:
        """Who may deploy."""
        cleared: BoolArray = self.status != REJECTED
        return cleared

    def audit(self) -> Iterator[dict[str, Any]]:
        """One entry per submission: score, whether it cleared the threshold, group, rivals, status, premium."""
        members: dict[int, list[int]] = {}
        for index, group in enumerate(self.group.tolist()):
            members.setdefault(group, []).append(index)
        for index, (score, status, group, premium) in enumerate(
            zip(self.scores.tolist(), self.status.tolist(), self.group.tolist(), self.premium.tolist(), strict=True)
        ):
            rivals = [other for other in members[group] if other != index] if group != NO_GROUP else []
            yield {
                "submission": index,
                "score": score,
                "threshold": self.rules.threshold,
                "cleared": status != REJECTED,
                "group": group if group != NO_GROUP else None,
                "rivals": rivals,
                "status": STATUSES[status],
                "premium": premium,
            }


def run_mechanism(scores: Any, rules: Rules, pairing: Any, tie_break: Any) -> Outcome:
    """Clear, group and rank. ``O(n log n)``.

    Args:
        scores: measured compliance of each submission, shape (n,).
        pairing: numbers whose order among the cleared makes the groups, shape (n,); equal ones keep the submissions' order.
        tie_break: numbers that decide equal scores under ``coin`` (the larger wins), and, read as uniforms in [0, 1), byes.

    Raises:
        DataError: a score is not a number, or there is not one number of each kind per submission.
    """
    scores = np.asarray(scores, dtype=float)
    pairing, tie_break = np.asarray(pairing), np.asarray(tie_break, dtype=float)
    if scores.ndim != 1 or pairing.shape != scores.shape or tie_break.shape != scores.shape:
        raise DataError("scores, pairing, tie_break: must be three columns of the same length")
    if not np.all(np.isfinite(scores)):
        wrong = int(np.argmax(~np.isfinite(scores)))
        raise DataError(f"submission {wrong}: score {scores[wrong]} is not a number; measure it again")
    cleared = np.flatnonzero(scores >= rules.threshold)
    order = cleared[np.argsort(pairing[cleared], kind="stable")]
    whole = len(order) // rules.group_size * rules.group_size
    status = np.full(len(scores), REJECTED, dtype=np.int8)
    group = np.full(len(scores), NO_GROUP, dtype=np.int64)
    premium = np.zeros(len(scores))
    groups = order[:whole].reshape(-1, rules.group_size)
    group[order] = np.arange(len(order)) // rules.group_size
    premium[groups] = _award(scores[groups], tie_break[groups], rules)
    left = order[whole:]
    premium[left] = _bye(left, order, scores, tie_break, rules)
    status[order] = np.select([premium[order] >= 1, premium[order] > 0], [WON, SHARED], LOST)
    status[left] = np.where(premium[left] > 0, BYE_WON, BYE_LOST)
    return Outcome(rules, scores, status, group, premium)


def run_rounds(scores: Any, rules: Rules, rounds: Any, pairing: Any, tie_break: Any) -> Outcome:
    """:func:`run_mechanism` of many rounds by themselves, as one outcome whose groups are numbered throughout.

    Args:
        rounds: number of each submission's round, rising, shape (n,).
    """
    scores, pairing, tie_break = (np.asarray(column) for column in (scores, pairing, tie_break))
    starts = np.flatnonzero(np.diff(rounds)) + 1
    parts = zip(*(np.split(column, starts) for column in (scores, pairing, tie_break)), strict=True)
    outcomes = [run_mechanism(score, rules, order, tie) for score, order, tie in parts]
    used = np.cumsum([0, *(int(one.group.max(initial=NO_GROUP)) + 1 for one in outcomes[:-1])])
    group = [np.where(one.group == NO_GROUP, NO_GROUP, one.group + at) for one, at in zip(outcomes, used, strict=True)]
    status, premium = (np.concatenate([getattr(one, name) for one in outcomes]) for name in ("status", "premium"))
    return Outcome(rules, scores, status, np.concatenate(group), premium)


def _award(scores: FloatArray, tie_break: FloatArray, rules: Rules) -> FloatArray:
    """Parts of premiums within groups, both of shape (groups, group_size)."""
    last = -np.partition(-scores, rules.prizes - 1, axis=1)[:, rules.prizes - 1 : rules.prizes]
    above, level = scores > last, scores == last
    open_prizes = rules.prizes - above.sum(axis=1, keepdims=True)
    contenders = level.sum(axis=1, keepdims=True)
    if rules.tie == "coin":
        rank = np.argsort(np.argsort(np.where(level, -tie_break, np.inf), axis=1, kind="stable"), axis=1)
        part = (rank < open_prizes).astype(float)
    elif rules.tie == "split":
        part = open_prizes / contenders
    else:
        part = (contenders <= open_prizes).astype(float)
    return np.where(above, 1.0, np.where(level, part, 0.0))


def _bye(
    left: NDArray[np.int64], order: NDArray[np.int64], scores: FloatArray, tie_break: FloatArray, rules: Rules
) -> FloatArray:
    """Parts of premiums of submissions left without a group."""
    missing = rules.group_size - len(left)
    if not len(left) or rules.bye == "chance" or len(order) - len(left) < missing:
        return (tie_break[left] < rules.prizes / rules.group_size).astype(float)
    filled = np.concatenate([left, order[:missing]])[None, :]
    return _award(scores[filled], tie_break[filled], rules)[0, : len(left)]
