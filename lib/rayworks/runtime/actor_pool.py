"""A pool of equal actors: bounded work in flight, retry elsewhere after a death, and no retry of bad data.

A result that has arrived is never computed again and never lost, whatever dies after it. Until then a call runs at least
once: after a death, a deadline or a lost connection it is sent again, and the first may have been done in full.
"""

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import ray
from ray.actor import ActorHandle

from rayworks.core.errors import InfrastructureError
from rayworks.runtime.failures import Failure, classify

Item = TypeVar("Item")
Result = TypeVar("Result")
_SECONDS_BETWEEN_PINGS = 0.2


class ItemFailed(InfrastructureError):
    """An item was tried as often as it may be.

    Args:
        index: of the item, from 0.
        attempts: how often it was tried.
        reason: of the last failure.
        late: whether it took too long, and nothing died.
    """

    def __init__(self, index: int, attempts: int, reason: str, *, late: bool = False) -> None:
        super().__init__(f"item {index}: failed {attempts} times; last: {reason}")
        self.index, self.late = index, late


@ray.remote
class _Host:
    """Owns one worker object and reports its failures as values, already classed."""

    def __init__(self, factory: Callable[..., Any], arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        self._worker: Any = None
        self._broken: Failure | None = None
        try:
            self._worker = factory(*arguments, **keywords)
        except Exception as error:
            self._broken = classify(error)

    def ping(self) -> None:
        """Return once the worker is made."""

    def call(self, method: str, *arguments: Any) -> tuple[Any, Failure | None]:
        if self._broken is not None:
            return None, self._broken
        try:
            return getattr(self._worker, method)(*arguments), None
        except Exception as error:
            return None, classify(error)


@dataclass
class _Task:
    index: int
    item: Any
    attempts: int = 0


@dataclass
class _Member:
    handle: ActorHandle
    slot: int
    made: ray.ObjectRef | None = None
    """The first ping; until it is answered, no call has begun."""
    in_flight: dict[ray.ObjectRef, None] = field(default_factory=dict)
    """In the order sent, in which they run."""
    since: float = 0.0
    """When the first of these began, by what is known here."""
    alone: bool = False
    """Whether what is in flight must stay the only call."""


@dataclass
class _Work:
    """What one ``map`` has to do and has in hand."""

    method: str
    source: Iterator[tuple[int, Any]]
    seconds_per_call: float | None
    retry_late: bool = True
    ahead: float = math.inf
    """How many items may be drawn and not yet be returned."""
    drawn: int = 0
    returned: int = 0
    retry: deque[_Task] = field(default_factory=deque)
    running: dict[ray.ObjectRef, tuple[_Member, _Task]] = field(default_factory=dict)

    def draw(self) -> _Task | None:
        """The next item, if there is one and there is room for it."""
        following = next(self.source, None) if self.drawn - self.returned < self.ahead else None
        if following is None:
            return None
        self.drawn += 1
        return _Task(*following)

    def send(self, member: _Member, task: _Task) -> None:
        reference: ray.ObjectRef = member.handle.call.remote(self.method, task.item)
        if not member.in_flight:
            member.since = time.monotonic()
        member.in_flight[reference] = None
        self.running[reference] = (member, task)

    def take(self, reference: ray.ObjectRef) -> tuple[_Member, _Task]:
        """Out of the hand; the next call on its actor begins now at the latest."""
        member, task = self.running.pop(reference)
        member.in_flight.pop(reference, None)
        member.since, member.alone = time.monotonic(), False
        return member, task


class ActorPool(Generic[Item, Result]):
    """``size`` actors, each holding ``factory(*arguments, **keywords)``.

    Args:
        factory: class or function that makes a worker inside its actor.
        size: number of actors.
        name: actors are named ``NAME-0``, ``NAME-1``, ... on the dashboard, with a suffix that tells incarnations apart.
        options: Ray actor options such as ``num_cpus``.
        in_flight_per_actor: calls queued at one actor; 2 hides the round trip.
        retries: how often an item moves to another actor after an infrastructure failure.
        backoff_seconds: pause before the second replacement of the same actor, doubled each time.
        seconds_per_call: how long one call may run once its actor is made and free; past that the actor is killed and
            replaced and the call is tried elsewhere. None: for ever.
        seconds_to_return: how long an actor whose connection broke is waited for before it counts as dead.
    """

    def __init__(
        self,
        factory: Callable[..., Any],
        *arguments: Any,
        size: int,
        name: str,
        options: Mapping[str, Any] | None = None,
        in_flight_per_actor: int = 2,
        retries: int = 3,
        backoff_seconds: float = 0.5,
        seconds_per_call: float | None = None,
        seconds_to_return: float = 20.0,
        **keywords: Any,
    ) -> None:
        self._factory, self._arguments, self._keywords = factory, arguments, keywords
        self._name, self._options = name, dict(options or {})
        self._in_flight_per_actor, self._retries = in_flight_per_actor, retries
        self._backoff_seconds = backoff_seconds
        self._seconds_per_call, self._seconds_to_return = seconds_per_call, seconds_to_return
        self._replacements = [0] * size
        self._members = [self._make(slot) for slot in range(size)]

    @property
    def replaced(self) -> int:
        """How many actors were replaced so far."""
        return sum(self._replacements)

    def map(
        self, method: str, items: Iterable[Item], *, seconds_per_call: float | None = None, retry_late: bool = True
    ) -> Iterator[Result]:
        """Call ``method(item)`` for each item; results in the order of the items.

        An item is drawn when at most as many again as can be in flight are drawn and not returned.

        Args:
            method: of the worker.
            items: each is one call.
            seconds_per_call: of these calls; None for the pool's.
            retry_late: whether a call that took longer is tried elsewhere.

        Raises:
            ItemFailed: infrastructure failed the item as often as it may.
            RayworksError: another failure, with its class, at once.
        """
        waiting: dict[int, Result] = {}
        ahead = 2 * len(self._members) * self._in_flight_per_actor
        seconds = self._seconds_per_call if seconds_per_call is None else seconds_per_call
        work = _Work(method, enumerate(items), seconds, retry_late, ahead=ahead)
        for index, result in self._finish(work):
            waiting[index] = result
            while work.returned in waiting:
                work.returned += 1
                yield waiting.pop(work.returned - 1)

    def map_unordered(self, method: str, items: Iterable[Item]) -> Iterator[tuple[int, Result]]:
        """The same, as ``(index, result)`` in the order they finish."""
        return self._finish(_Work(method, enumerate(items), self._seconds_per_call))

    def _finish(self, work: _Work) -> Iterator[tuple[int, Result]]:
        try:
            while True:
                self._fill(work)
                if not work.running:
                    return
                ready = self._wait(work)
                outcome = self._settle(ready, work) if ready is not None else None
                if outcome is not None:
                    yield outcome
        finally:
            for reference in work.running:
                ray.cancel(reference, force=False)
            for member in self._members:
                member.in_flight.clear()

    def submit(self, method: str, *arguments: Any, slot: int = 0) -> "Call":
        """Call ``method`` on one actor without waiting. It may run again on the actor's replacement."""
        return Call(self, method, arguments, slot)

    def broadcast(self, method: str, *arguments: Any) -> list[Any]:
        """Call ``method`` once on every actor; results by slot.

        Raises:
            RayworksError: the first failure.
        """
        calls = [self.submit(method, *arguments, slot=slot) for slot in range(len(self._members))]
        return [call.result() for call in calls]

    def shutdown(self) -> None:
        """End the actors."""
        for member in self._members:
            ray.kill(member.handle)
        self._members = []

    def _make(self, slot: int) -> _Member:
        name = f"{self._name}-{slot}-{os.urandom(2).hex()}"
        actor: Any = _Host.options(name=name, **self._options)  # type: ignore[attr-defined]  # added by ray.remote
        handle = actor.remote(self._factory, self._arguments, self._keywords)
        return _Member(handle, slot, made=handle.ping.remote())

    def _fill(self, work: _Work) -> None:
        while True:
            open_to_calls = [member for member in self._members if not member.alone]
            member = min(open_to_calls, key=lambda candidate: len(candidate.in_flight), default=None)
            if member is None or len(member.in_flight) >= self._in_flight_per_actor:
                return
            if not work.retry:
                task = work.draw()
                if task is None:
                    return
            elif member.in_flight:
                # Several calls die with an actor. A suspect runs alone, so that the next death names the culprit.
                return
            else:
                task = work.retry.popleft()
            work.send(member, task)
            member.alone = task.attempts > 0

    def _wait(self, work: _Work) -> ray.ObjectRef | None:
        """A call that is over; None where instead an actor was made, or a call was given up."""
        if work.seconds_per_call is None:
            return ray.wait(list(work.running), num_returns=1)[0][0]
        left = math.inf
        for member in self._members:
            if member.made is None and member.in_flight:
                first = next(iter(member.in_flight))
                rest = member.since + work.seconds_per_call - time.monotonic()
                if rest <= 0 and not ray.wait([first], timeout=0)[0]:
                    self._give_up(first, work)
                    return None
                left = min(left, max(rest, 0.0))
        unmade = {member.made: member for member in self._members if member.made is not None}
        ready, _ = ray.wait([*work.running, *unmade], num_returns=1, timeout=None if left == math.inf else left)
        if ready and ready[0] in unmade:
            member = unmade[ready[0]]
            member.made, member.since = None, time.monotonic()
            return None
        return ready[0] if ready else None

    def _give_up(self, reference: ray.ObjectRef, work: _Work) -> None:
        """Kill the actor of a call that takes too long; what was queued behind it never began and is not to blame."""
        member, task = work.take(reference)
        for queued in list(member.in_flight):
            work.retry.append(work.take(queued)[1])
        self._replace(member)
        reason = f"ran longer than seconds_per_call, {work.seconds_per_call:g}"
        if not work.retry_late:
            raise ItemFailed(task.index, task.attempts + 1, reason, late=True)
        self._try_again(work, task, reason)

    def _settle(self, reference: ray.ObjectRef, work: _Work) -> tuple[int, Result] | None:
        member, task = work.take(reference)
        try:
            result, failure = ray.get(reference)
        except ray.exceptions.RayError as error:
            failure = classify(error)
            if self._comes_back(member, error) and task.attempts < self._retries:
                task.attempts += 1
                work.send(member, task)
                return None
            self._replace(member)
        if failure is None:
            return task.index, result
        if not failure.retriable:
            raise type(failure.as_error())(f"item {task.index}: {failure.message}")
        self._try_again(work, task, failure.message)
        return None

    def _try_again(self, work: _Work, task: _Task, reason: str) -> None:
        task.attempts += 1
        if task.attempts > self._retries:
            raise ItemFailed(task.index, task.attempts, reason)
        work.retry.append(task)

    def _comes_back(self, member: _Member, error: ray.exceptions.RayError) -> bool:
        """Whether an actor that was lost from sight, but is not known to be dead, answers again in time."""
        if not isinstance(error, ray.exceptions.ActorUnavailableError) or self._members[member.slot] is not member:
            return False
        deadline = time.monotonic() + self._seconds_to_return
        while (left := deadline - time.monotonic()) > 0:
            try:
                ray.get(member.handle.ping.remote(), timeout=left)
                return True
            except ray.exceptions.ActorUnavailableError:
                time.sleep(min(_SECONDS_BETWEEN_PINGS, left))
            except ray.exceptions.RayError:
                return False
        return False

    def _replace(self, dead: _Member) -> None:
        """Put a new actor in the slot, once per death however many calls it took with it."""
        if self._members[dead.slot] is not dead:
            return
        ray.kill(dead.handle)  # where it only counts as dead, it would keep what the new one needs
        count = self._replacements[dead.slot]
        if count:
            time.sleep(min(self._backoff_seconds * 2 ** (count - 1), 30.0))
        self._replacements[dead.slot] += 1
        self._members[dead.slot] = self._make(dead.slot)


class Call:
    """A call on the actor of one slot that survives the actor's death."""

    def __init__(self, pool: ActorPool[Any, Any], method: str, arguments: tuple[Any, ...], slot: int) -> None:
        self._pool, self._method, self._arguments, self._slot = pool, method, arguments, slot
        self._start()

    def result(self) -> Any:
        """Wait for the result.

        Raises:
            RayworksError: data failures at once, infrastructure after the pool's retries.
        """
        result: Any
        failure: Failure | None
        for attempt in range(self._pool._retries + 1):
            try:
                result, failure = self._get()
            except ray.exceptions.RayError as error:
                failure = classify(error)
                if not self._pool._comes_back(self._member, error):
                    self._pool._replace(self._member)
            if failure is None:
                return result
            if not failure.retriable or attempt == self._pool._retries:
                raise failure.as_error()
            self._start()

    def _get(self) -> Any:
        """What the call came to; its time runs from when it is waited for and its actor is made."""
        if self._pool._seconds_per_call is not None:
            ray.wait([self._member.made or self._reference])
        return ray.get(self._reference, timeout=self._pool._seconds_per_call)

    def _start(self) -> None:
        self._member = self._pool._members[self._slot]
        self._reference: ray.ObjectRef = self._member.handle.call.remote(self._method, *self._arguments)
