"""The event log: natural events, recommendations and decisions, one ordered stream per user."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from rayworks.core.errors import DataError

PAD, NATURAL, REJECTED, ACCEPTED = range(4)
"""Kinds of an event. A rejection is an event of its own kind, never padding."""
KINDS = ("pad", "natural", "rejected", "accepted")


@dataclass(frozen=True)
class EventLog:
    """N events of U users on I items, sorted by user, then by time.

    A natural event is an item the user took without being recommended it; the others are recommendations with the user's
    decision.
    """

    user: np.ndarray
    """int32 (N,), codes 0..U-1, never falling."""
    item: np.ndarray
    """int32 (N,), codes 0..I-1."""
    kind: np.ndarray
    """int8 (N,), one of NATURAL, REJECTED, ACCEPTED."""
    time: np.ndarray
    """float64 (N,), never falling within a user; only its order is used. Events of one user at one time are a slate: none of
    them is known when another is predicted."""
    propensity: np.ndarray
    """float64 (N,), probability with which the logging policy recommended the item, in (0, 1]; NaN where not logged and at
    natural events."""
    users: Sequence[str]
    """(U,) names."""
    items: Sequence[str]
    """(I,) names."""

    def __len__(self) -> int:
        return len(self.user)

    @cached_property
    def recommended(self) -> np.ndarray:
        """Bool (N,): events that have a decision."""
        return np.asarray(self.kind >= REJECTED)

    @cached_property
    def offsets(self) -> np.ndarray:
        """int64 (U + 1,): the events of user u are those from ``offsets[u]`` to ``offsets[u + 1]``."""
        return np.asarray(np.searchsorted(self.user, np.arange(len(self.users) + 1)))

    @cached_property
    def instant(self) -> np.ndarray:
        """int64 (N,): row of the user's first event at the same time: what is before it is the past of this event."""
        new = np.ones(len(self), bool)
        new[1:] = (np.diff(self.user) != 0) | (np.diff(self.time) != 0)
        return np.maximum.accumulate(np.where(new, np.arange(len(self)), 0))

    @cached_property
    def step(self) -> np.ndarray:
        """int64 (N,): number of the user's recommendation, from 0; at a natural event that of the next one."""
        before: np.ndarray = np.concatenate([[0], np.cumsum(self.recommended)])
        return np.asarray(before[:-1] - before[self.offsets[:-1]][self.user])

    @cached_property
    def steps(self) -> np.ndarray:
        """int64 (U,): recommendations of each user."""
        return np.bincount(self.user, weights=self.recommended, minlength=len(self.users)).astype(np.int64)

    @cached_property
    def steps_left(self) -> np.ndarray:
        """int64 (N,): recommendations of the user after this event."""
        return np.asarray(self.steps[self.user] - self.step - self.recommended)

    def keep(self, mask: np.ndarray) -> "EventLog":
        """The events where ``mask`` (bool, (N,)) holds; users and items keep their codes."""
        columns = ("user", "item", "kind", "time", "propensity")
        return replace(self, **{name: getattr(self, name)[mask] for name in columns})


def event_log(
    user: np.ndarray,
    item: np.ndarray,
    kind: np.ndarray,
    time: np.ndarray,
    propensity: np.ndarray | None = None,
    *,
    users: Sequence[str],
    items: Sequence[str],
    source: str = "events",
) -> EventLog:
    """Check events that come user by user and make a log of them.

    Args:
        user: codes (N,), in blocks: all of a user's events stand together, in the order of their time.
        item: codes (N,).
        kind: (N,), see :data:`KINDS`.
        time: (N,).
        propensity: (N,) or None where nothing was logged.
        users: names (U,).
        items: names (I,), the catalogue.
        source: what messages call the data.

    Raises:
        DataError: a code outside its names, time that goes backwards, a propensity of 0 or above 1, propensities of some
            recommendations only, no recommendation at all. Each message names the column and the first bad row.
    """
    user, item = np.asarray(user, np.int32), np.asarray(item, np.int32)
    kind, time = np.asarray(kind, np.int8), np.asarray(time, np.float64)
    propensity = np.full(len(user), np.nan) if propensity is None else np.asarray(propensity, np.float64)
    if not len(user):
        raise DataError(f"{source}: has no events")
    unknown = (item < 0) | (item >= len(items))
    refuse(f"{source}: item", item, unknown, f"is outside the catalogue of {len(items):,} items")
    refuse(f"{source}: user", user, (user < 0) | (user >= len(users)), f"is outside the {len(users):,} users")
    refuse(f"{source}: kind", kind, (kind < NATURAL) | (kind > ACCEPTED), "is none of natural, rejected, accepted")
    refuse(f"{source}: time", time, ~np.isfinite(time), "is not finite")
    step = np.diff(user, prepend=user[0])
    refuse(f"{source}: user", user, step < 0, "comes back after another user; sort by user and time")
    backwards = (step == 0) & (np.diff(time, prepend=time[0]) < 0)
    refuse(f"{source}: time", time, backwards, "goes backwards within a user; sort by user and time")
    recommended = kind >= REJECTED
    known = recommended & ~np.isnan(propensity)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        outside = known & ~((propensity > 0) & (propensity <= 1) & np.isfinite(1 / propensity))
    refuse(f"{source}: propensity", propensity, outside, "is not above 0 and at most 1; an item shown has a chance")
    if not recommended.any():
        raise DataError(f"{source}: has no recommendations, only natural events; acceptance cannot be learned from it")
    if known.any() and not known[recommended].all():
        row = int(np.flatnonzero(recommended & ~known)[0])
        raise DataError(f"{source}: propensity of row {row} is missing while others have one; give all or none")
    return EventLog(
        user, item, kind, time, np.where(recommended, propensity, np.nan), users=tuple(users), items=tuple(items)
    )


def refuse(field: str, values: np.ndarray, bad: np.ndarray, why: str) -> None:
    """Raise a DataError that names the first row, or the first row and step, where ``bad`` holds."""
    if bad.any():
        at = tuple(int(index) for index in np.argwhere(bad)[0])
        where = f"row {at[0]}" if len(at) == 1 else f"row {at[0]}, step {at[1]}"
        raise DataError(f"{field} {values[at]:g} of {where} {why}")


class Split(Protocol):
    """Three windows of a log that do not overlap."""

    def train_mask(self, log: EventLog) -> np.ndarray:
        """Bool (N,): events that training may see at all, as input or as label."""

    def known_mask(self, log: EventLog) -> np.ndarray:
        """Bool (N,): events that a model of natural events may see."""

    def valid_mask(self, log: EventLog) -> np.ndarray:
        """Bool (N,): recommendations whose decision chooses the epoch and the calibration."""

    def test_mask(self, log: EventLog) -> np.ndarray:
        """Bool (N,): recommendations whose decision is predicted, each from all before it."""


@dataclass(frozen=True)
class TimeWindows:
    """One clock for all users: nothing that is trained on came after anything that is tested.

    The cuts are times of recommendations; those at a cut belong to the later window, so that windows may be a little larger
    than asked for. Users who come after a cut are tested without having been trained on.
    """

    test: float
    """Share of the recommendations that are tested, the latest."""
    valid: float
    """Share that is before them."""

    def train_mask(self, log: EventLog) -> np.ndarray:
        """See :class:`Split`."""
        return np.asarray(log.time < self._cut(log, self.test + self.valid))

    def known_mask(self, log: EventLog) -> np.ndarray:
        """See :class:`Split`."""
        return self.train_mask(log)

    def valid_mask(self, log: EventLog) -> np.ndarray:
        """See :class:`Split`."""
        late = log.time >= self._cut(log, self.test + self.valid)
        return np.asarray(log.recommended & late & ~self.test_mask(log))

    def test_mask(self, log: EventLog) -> np.ndarray:
        """See :class:`Split`."""
        return np.asarray(log.recommended & (log.time >= self._cut(log, self.test)))

    def _cut(self, log: EventLog, share: float) -> float:
        """The time from which on there is ``share`` of the recommendations."""
        times = np.sort(log.time[log.recommended])
        return float(times[min(int((1 - share) * len(times)), len(times) - 1)])


@dataclass(frozen=True)
class Windows:
    """Steps counted from each user's end: disjoint, so that no label is seen before it is tested."""

    test: int
    """The last so many recommendations of a user."""
    valid: int
    """Those before them."""

    def train_mask(self, log: EventLog) -> np.ndarray:
        """See :class:`Split`."""
        return np.asarray(log.steps_left + log.recommended > self.test + self.valid)

    def known_mask(self, log: EventLog) -> np.ndarray:
        """See :class:`Split`: before the windows, or before any recommendation."""
        return np.asarray(self.train_mask(log) | (~log.recommended & (log.step == 0)))

    def valid_mask(self, log: EventLog) -> np.ndarray:
        """See :class:`Split`."""
        inside = (log.steps_left >= self.test) & (log.steps_left < self.test + self.valid)
        return np.asarray(log.recommended & inside)

    def test_mask(self, log: EventLog) -> np.ndarray:
        """See :class:`Split`."""
        return np.asarray(log.recommended & (log.steps_left < self.test))
