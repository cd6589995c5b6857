"""A policy that only models what an engine costs: every step of its batch takes some time, in seconds that are counted.

What it draws is a pure function of a request, so that schedulers can be compared to the token, on any machine.
"""

import time
from collections import deque
from dataclasses import dataclass

from rayworks.core import seeds
from rayworks.systems.reasoning.search.requests import Completion, Draw


@dataclass(frozen=True)
class Cost:
    """Of an engine."""

    slots: int = 64
    step: float = 1.0
    """Seconds of a step of the batch."""
    row: float = 0.02
    """Seconds more for each row in it."""
    tokens: tuple[int, int] = (8, 40)
    """Fewest and most tokens of a completion."""
    step_tokens: float = 6.0
    """Mean tokens of a step."""
    slept: float = 0.0
    """Of a second counted, the part that is also waited for."""


class LatencyEngine:
    """Takes the place of a policy's service; ``seconds`` is how long it has worked.

    Args:
        step_end: id of the token that ends a step, one token in ``Cost.step_tokens``.
        vocabulary: other ids are drawn below this one.
    """

    def __init__(self, cost: Cost, step_end: int, vocabulary: int = 10) -> None:
        self.cost, self.seconds, self.tokens, self.steps = cost, 0.0, 0, 0
        self._step_end, self._vocabulary = step_end, vocabulary
        self._waiting: deque[tuple[int, Completion]] = deque()
        self._running: list[tuple[int, Completion, int]] = []

    def submit(self, ticket: int, uid: str, request: Draw) -> None:
        """Queue a request."""
        stream = seeds.stream(request.request.seed, "latency")
        low, high = self.cost.tokens
        count = min(int(stream.integers(low, high + 1)), request.request.max_new_tokens)
        drawn = stream.integers(0, self._vocabulary, count)
        drawn[stream.random(count) < 1 / self.cost.step_tokens] = self._step_end
        tokens = tuple(int(token) for token in drawn)
        self._waiting.append((ticket, Completion(tokens, (-1.0,) * count, ended=True)))

    def collect(self, seconds: float) -> list[tuple[int, Completion]]:
        """One step of the batch; what ended with it."""
        while self._waiting and len(self._running) < self.cost.slots:
            ticket, completion = self._waiting.popleft()
            self._running.append((ticket, completion, len(completion.tokens)))
        if not self._running:
            return []
        seconds = self.cost.step + self.cost.row * len(self._running)
        self.seconds += seconds
        time.sleep(self.cost.slept * seconds)
        self.tokens += len(self._running)
        self.steps += 1
        after = [(ticket, completion, left - 1) for ticket, completion, left in self._running]
        self._running = [entry for entry in after if entry[2] > 0]
        return [(ticket, completion) for ticket, completion, left in after if left <= 0]

    def ideal_seconds(self) -> float:
        """What these tokens cost with all slots filled at every step."""
        full = self.cost.step + self.cost.row * self.cost.slots
        return self.tokens / self.cost.slots * full
