"""One thread for CPU-bound work beside the event loop: a bounded queue, a deadline, and a sign when it is stuck."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rayworks.core.errors import InfrastructureError

from .problems import RETRY_SECONDS, Problem

ResultT = TypeVar("ResultT")


class Computing:
    """Runs one function after another, so that requests share a replica's processor in the order they came.

    Args:
        max_waiting: functions that may wait while one runs; beyond that: 503.
        deadline_seconds: wait and work together; beyond that: 504. A function that waits is dropped then; one that runs
            cannot be stopped, and runs on unused.
    """

    def __init__(self, max_waiting: int, deadline_seconds: float) -> None:
        self._max_waiting, self._deadline = max_waiting, deadline_seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="computing")
        self._under_way = 0
        self._started: float | None = None

    @property
    def load(self) -> int:
        """Functions that run or wait."""
        return self._under_way

    async def run(self, function: Callable[[], ResultT]) -> ResultT:
        """What ``function`` returns or raises; a ``TimeoutError`` of its own is taken for the deadline's.

        Raises:
            Problem: 503 when the queue is full, 504 past the deadline.
        """
        if self._under_way > self._max_waiting:
            raise Problem(503, f"{self._under_way} requests are computing or waiting; try again", retry_after=2)
        loop = asyncio.get_running_loop()
        self._under_way += 1
        future = self._thread.submit(self._timed, function)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._leave))
        try:
            async with asyncio.timeout(self._deadline):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            if future.cancel():
                raise Problem(504, f"not begun after {self._deadline:g} s; try again later", RETRY_SECONDS) from None
            raise Problem(504, f"not finished after {self._deadline:g} s; send less data") from None

    def require_progress(self) -> None:
        """Return unless a function that nobody waits for any more holds the thread.

        Raises:
            InfrastructureError: it has run for two deadlines; only a new replica gets rid of it.
        """
        started = self._started
        if started is not None and time.monotonic() - started > 2 * self._deadline:
            raise InfrastructureError(f"a computation has run for more than {2 * self._deadline:g} s")

    def _timed(self, function: Callable[[], ResultT]) -> ResultT:
        self._started = time.monotonic()
        try:
            return function()
        finally:
            self._started = None

    def _leave(self) -> None:
        self._under_way -= 1
