"""The decode loop on its own thread, for servers: other threads send requests and get tokens as they are drawn."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from rayworks.core.errors import InfrastructureError
from rayworks.lm.decoding import Decoding
from rayworks.lm.rows import Row


class BackgroundDecoding:
    """Feeds one :class:`~rayworks.lm.decoding.Decoding`, which only its own thread uses from then on, from any thread."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._rows: dict[Row, Future[Row]] = {}
        self._ended: Exception | None = None
        self._stepped_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)
        self._thread.start()

    @property
    def load(self) -> int:
        """Rows decoding or waiting."""
        return len(self._rows)

    @property
    def seconds_since_step(self) -> float:
        """How long ago the last token was drawn."""
        return time.monotonic() - self._stepped_at

    def submit(self, row: Row) -> "Future[Row]":
        """Queue a row, to which the future resolves once it is finished; :class:`InfrastructureError` after the end."""
        future: Future[Row] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            if self._ended is not None:
                raise InfrastructureError(f"the decoding thread has ended: {self._ended}") from self._ended
            self._rows[row] = future
        self._inbox.put(lambda: self._admit(row))
        return future

    def cancel(self, row: Row) -> None:
        """End a row soon; its future resolves to what was drawn."""
        self._inbox.put(lambda: self._decoding.cancel(row))

    def stop(self) -> None:
        """End the thread after the step it is in; rows that were on their way fail."""
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._turn():
                self._settle()
            self._end(InfrastructureError("it was stopped"))
        except Exception as error:
            self._end(error)

    def _turn(self) -> bool:
        """Do what was asked for, or else a step; whether to go on."""
        try:
            message = self._inbox.get(block=self._decoding.idle)
        except queue.Empty:
            before = self._decoding.tokens_drawn
            self._decoding.step()
            if self._decoding.tokens_drawn > before:
                self._stepped_at = time.monotonic()
            return True
        if message is not None:
            message()
        return message is not None

    def _admit(self, row: Row) -> None:
        try:
            self._decoding.submit(row)
        except Exception as error:
            self._take(row).set_exception(error)

    def _settle(self) -> None:
        for row in list(self._rows):
            if row.error is not None:
                self._take(row).set_exception(row.error)
            elif row.finish_reason is not None:
                self._take(row).set_result(row)

    def _take(self, row: Row) -> "Future[Row]":
        with self._lock:
            return self._rows.pop(row)

    def _end(self, error: Exception) -> None:
        with self._lock:
            self._ended, left = error, self._rows
            self._rows = {}
        for future in left.values():
            future.set_exception(error)
