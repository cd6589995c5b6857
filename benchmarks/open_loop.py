"""Requests on a schedule, whatever the answers do; a process of its own, which shares no loop with what it measures.

``python -m benchmarks.open_loop`` reads a :class:`Load` as JSON from its input and writes a list of :class:`Answer` as JSON.
A latency counts from when its request was due: a client that waits for answers before it asks again would leave out just
those requests that a slow service keeps waiting.
"""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp
import numpy as np

from rayworks.core import seeds

PROBLEM = "application/problem+json"
WAIT = (429, 503, 504)
"""Refusals that say when to come again."""
NOT_SENT, NO_ANSWER = "not sent", "no answer"
LEAD_SECONDS = 0.1
"""Before the first request is due."""


@dataclass(frozen=True)
class Load:
    """What to send.

    Args:
        url: of the route; every request is a ``POST``.
        body: of every request.
        keys: of the users, who take turns.
        phases: rate in requests/s and seconds of each, one behind the other without a pause.
        clients: None for arrivals by a Poisson process at those rates. Else so many clients ask one after another, as fast
            as they are answered, and rates are not used.
        most: requests under way; one that is due beyond them is not sent, and counted as such.
        timeout: seconds until a request counts as not answered.
        seed: of the arrivals.
    """

    url: str
    body: dict[str, Any]
    keys: list[str]
    phases: list[tuple[float, float]]
    clients: int | None = None
    most: int = 1000
    timeout: float = 60.0
    seed: int = 0


@dataclass
class Answer:
    """What became of one request; seconds."""

    phase: int
    due: float
    """From the beginning of the first phase."""
    late: float = 0.0
    """From due to sent: what the client itself adds."""
    latency: float | None = None
    """From due to the whole answer; None without one."""
    kind: str = NOT_SENT
    """2xx, 429, 503, 504; ``NOT_SENT``, ``NO_ANSWER``; or what is wrong with the answer."""


def arrivals(load: Load) -> list[Answer]:
    """Requests still to be sent, at the times of a Poisson process."""
    found, begin = [], 0.0
    draw = seeds.stream(load.seed, "benchmark", "open-loop", "arrivals")
    for phase, (rate, seconds) in enumerate(load.phases):
        due = begin
        while (due := due + draw.exponential(1 / rate)) < begin + seconds:
            found.append(Answer(phase, due))
        begin += seconds
    return found


async def send(load: Load) -> list[Answer]:
    """All answers, once the last has come or timed out."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(load.timeout)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        sender = _Sender(load, session)
        if load.clients is not None:
            return await sender.closed_loop(load.clients)
        return await sender.open_loop(arrivals(load))


@dataclass
class _Sender:
    load: Load
    session: aiohttp.ClientSession
    asked: int = 0
    begin: float = field(default_factory=lambda: time.perf_counter() + LEAD_SECONDS)

    def __post_init__(self) -> None:
        self._content = json.dumps(self.load.body).encode()

    async def open_loop(self, planned: Sequence[Answer]) -> list[Answer]:
        under_way: set[asyncio.Task[None]] = set()
        for answer in planned:
            await asyncio.sleep(self.begin + answer.due - time.perf_counter())
            if len(under_way) < self.load.most:
                task = asyncio.create_task(self._ask(answer))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)
        return list(planned)

    async def closed_loop(self, clients: int) -> list[Answer]:
        found: list[Answer] = []
        seconds = sum(seconds for _, seconds in self.load.phases)

        async def client() -> None:
            while (due := time.perf_counter() - self.begin) < seconds:
                found.append(answer := Answer(0, due))
                await self._ask(answer)

        await asyncio.gather(*(client() for _ in range(clients)))
        return found

    async def _ask(self, answer: Answer) -> None:
        self.asked += 1
        key = self.load.keys[self.asked % len(self.load.keys)]
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        answer.late = time.perf_counter() - self.begin - answer.due
        try:
            async with self.session.post(self.load.url, data=self._content, headers=headers) as found:
                await found.read()
                answer.kind = kind_of(found.status, found.headers)
                answer.latency = time.perf_counter() - self.begin - answer.due
        except (aiohttp.ClientError, TimeoutError) as error:
            answer.kind = f"{NO_ANSWER}: {type(error).__name__}"


def kind_of(status: int, headers: Any) -> str:
    """Of an answer; one that a loaded service ought not to give is described."""
    if 200 <= status < 300:
        return "2xx"
    if status not in WAIT:
        return f"status {status}"
    missing = [] if PROBLEM in headers.get("Content-Type", "") else ["is no problem+json"]
    missing += [] if "Retry-After" in headers else ["has no Retry-After"]
    return " and ".join([f"status {status} {missing[0]}", *missing[1:]]) if missing else str(status)


def quantile(values: Sequence[float], share: float) -> float:
    """NaN of nothing."""
    return float(np.quantile(values, share)) if values else float("nan")


if __name__ == "__main__":
    json.dump([asdict(answer) for answer in asyncio.run(send(Load(**json.load(sys.stdin))))], sys.stdout)
