"""Workers in this process behind the interface of ``ActorPool``: for what a run does, where nobody is to die."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any


class PoolHere:
    """One worker object per slot, made when first asked; items go round, so that none depends on who has it."""

    replaced = 0

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
        self._make: Callable[[], Any] = lambda: factory(*arguments, **keywords)
        self._workers: list[Any] = [None] * size

    def map(
        self, method: str, items: Iterable[Any], *, seconds_per_call: float | None = None, retry_late: bool = True
    ) -> Iterator[Any]:
        for index, item in enumerate(items):
            yield self._call(index, method, item)

    def map_unordered(self, method: str, items: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        yield from enumerate(self.map(method, items))

    def submit(self, method: str, *arguments: Any, slot: int = 0) -> "Called":
        return Called(self._call(slot, method, *arguments))

    def broadcast(self, method: str, *arguments: Any) -> list[Any]:
        return [self._call(slot, method, *arguments) for slot in range(len(self._workers))]

    def shutdown(self) -> None:
        self._workers = []

    def _call(self, index: int, method: str, *arguments: Any) -> Any:
        slot = index % len(self._workers)
        if self._workers[slot] is None:
            self._workers[slot] = self._make()
        return getattr(self._workers[slot], method)(*arguments)


class Called:
    """What a call came to."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def result(self) -> Any:
        return self._value
