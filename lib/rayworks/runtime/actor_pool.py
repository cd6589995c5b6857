"""A pool of equal actors: bounded work in flight, retry elsewhere after a death, and no retry of bad data.

A finished item is never computed again and never lost, whatever dies after it.
"""

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
    in_flight: set[ray.ObjectRef] = field(default_factory=set)
    alone: bool = False
    """Whether what is in flight must stay the only call."""


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
        **keywords: Any,
    ) -> None:
        self._factory, self._arguments, self._keywords = factory, arguments, keywords
        self._name, self._options = name, dict(options or {})
        self._in_flight_per_actor, self._retries = in_flight_per_actor, retries
        self._backoff_seconds = backoff_seconds
        self._replacements = [0] * size
        self._members = [self._make(slot) for slot in range(size)]

    @property
    def replaced(self) -> int:
        """How many actors were replaced so far."""
        return sum(self._replacements)

    def map(self, method: str, items: Iterable[Item]) -> Iterator[Result]:
        """Call ``method(item)`` for each item; results in the order of the items.

        Raises:
            RayworksError: the first failure, with its class; data failures at once, infrastructure after the retries.
        """
        waiting: dict[int, Result] = {}
        following = 0
        for index, result in self.map_unordered(method, items):
            waiting[index] = result
            while following in waiting:
                yield waiting.pop(following)
                following += 1

    def map_unordered(self, method: str, items: Iterable[Item]) -> Iterator[tuple[int, Result]]:
        """The same, as ``(index, result)`` in the order they finish."""
        source = enumerate(items)
        retry: deque[_Task] = deque()
        running: dict[ray.ObjectRef, tuple[_Member, _Task]] = {}
        try:
            while True:
                self._fill(method, source, retry, running)
                if not running:
                    return
                ready, _ = ray.wait(list(running), num_returns=1)
                outcome = self._settle(ready[0], running, retry)
                if outcome is not None:
                    yield outcome
        finally:
            for reference in running:
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
        return _Member(actor.remote(self._factory, self._arguments, self._keywords), slot)

    def _fill(
        self,
        method: str,
        source: Iterator[tuple[int, Item]],
        retry: deque[_Task],
        running: dict[ray.ObjectRef, tuple[_Member, _Task]],
    ) -> None:
        while True:
            open_to_calls = [member for member in self._members if not member.alone]
            member = min(open_to_calls, key=lambda candidate: len(candidate.in_flight), default=None)
            if member is None or len(member.in_flight) >= self._in_flight_per_actor:
                return
            if retry:
                # Several calls die with an actor. A suspect runs alone, so that the next death names the culprit.
                if member.in_flight:
                    return
                task = retry.popleft()
            else:
                following = next(source, None)
                if following is None:
                    return
                task = _Task(*following)
            reference: ray.ObjectRef = member.handle.call.remote(method, task.item)
            member.in_flight.add(reference)
            running[reference] = (member, task)
            if task.attempts:
                member.alone = True

    def _settle(
        self,
        reference: ray.ObjectRef,
        running: dict[ray.ObjectRef, tuple[_Member, _Task]],
        retry: deque[_Task],
    ) -> tuple[int, Result] | None:
        member, task = running.pop(reference)
        member.in_flight.discard(reference)
        member.alone = False
        try:
            result, failure = ray.get(reference)
        except ray.exceptions.RayError as error:
            failure = classify(error)
            self._replace(member)
        if failure is None:
            return task.index, result
        if not failure.retriable:
            raise type(failure.as_error())(f"item {task.index}: {failure.message}")
        task.attempts += 1
        if task.attempts > self._retries:
            raise InfrastructureError(f"item {task.index}: failed {task.attempts} times; last: {failure.message}")
        retry.append(task)
        return None

    def _replace(self, dead: _Member) -> None:
        """Put a new actor in the slot, once per death however many calls it took with it."""
        if self._members[dead.slot] is not dead:
            return
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
                result, failure = ray.get(self._reference)
            except ray.exceptions.RayError as error:
                failure = classify(error)
                self._pool._replace(self._member)
            if failure is None:
                return result
            if not failure.retriable or attempt == self._pool._retries:
                raise failure.as_error()
            self._start()

    def _start(self) -> None:
        self._member = self._pool._members[self._slot]
        self._reference: ray.ObjectRef = self._member.handle.call.remote(self._method, *self._arguments)
