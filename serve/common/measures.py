"""What an application does, as metrics of Ray that Prometheus reads: requests, errors, latency, queues and tokens."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.serve import metrics
from starlette.types import Message, Scope, Send

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 180.0)
"""Upper ends of the histograms' bins."""
GONE = "gone"
"""The status of a request whose client left before there was an answer."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
OTHER = "other"
UNROUTED = "none"
"""The path of a request that no route has seen: refused at the gate, or unknown."""


class Measures:
    """Of one replica. Serve adds its application, deployment and name to each metric; Ray puts ``ray_`` before the names."""

    def __init__(self) -> None:
        # Ray's annotations know tuples of one name only.
        told: Any = ("method", "path")
        ended: Any = (*told, "status")
        self._requests = metrics.Counter("rayworks_requests", "requests ended", ended)
        self._seconds = metrics.Histogram(
            "rayworks_request_seconds", "until the last byte of an answer", list(SECONDS), told
        )
        self._first_seconds = metrics.Histogram(
            "rayworks_first_byte_seconds", "until the first byte of an answer", list(SECONDS), told
        )
        self._under_way = metrics.Gauge("rayworks_requests_under_way", "requests let in, health among them")
        self._queue = metrics.Gauge("rayworks_queue", "computations that run or wait, or rows that decode or wait")
        self._tokens = metrics.Counter("rayworks_tokens", "tokens read or drawn", ("kind",))
        self._now = 0

    @contextmanager
    def request(self, scope: Scope, send: Send) -> Iterator[Send]:
        """Measure one request; yields what its answer is to be sent by."""
        started, first, status = time.perf_counter(), 0.0, GONE

        async def watched(message: Message) -> None:
            nonlocal first, status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            elif not first:
                first = time.perf_counter() - started
            await send(message)

        self._count(1)
        try:
            yield watched
        finally:
            self._count(-1)
            # What routed the request has left its route in the scope; the path itself would be a metric of its own each.
            method = scope["method"] if scope["method"] in METHODS else OTHER
            told = {"method": method, "path": getattr(scope.get("route"), "path", UNROUTED)}
            self._requests.inc(1, {**told, "status": status})
            if first:
                self._first_seconds.observe(first, told)
                self._seconds.observe(time.perf_counter() - started, told)

    def queue(self, load: int) -> None:
        """How much computes and waits now."""
        self._queue.set(load)

    def tokens(self, prompt: int, drawn: int) -> None:
        """Of a request that has ended, whoever ended it."""
        for kind, count in (("prompt", prompt), ("drawn", drawn)):
            if count:
                self._tokens.inc(count, {"kind": kind})

    def _count(self, change: int) -> None:
        self._now += change
        self._under_way.set(self._now)
