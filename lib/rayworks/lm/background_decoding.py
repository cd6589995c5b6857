"""The decode loop on a thread of its own, for servers: requests come from other threads and tokens go back as they fall."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

from rayworks.core.errors import InfrastructureError
from rayworks.lm.continuous_batching import ContinuousBatching, Row


class BackgroundDecoding:
    """Feeds one :class:`ContinuousBatching` from any thread.

    Args:
        decoding: used by this object's thread only, from now on.
    """

    def __init__(self, decoding: ContinuousBatching) -> None:
        self._decoding = decoding
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._rows: dict[int, tuple[Row, Future[Row]]] = {}
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)
        self._thread.start()

    @property
    def load(self) -> int:
        """Rows decoding or waiting."""
        return len(self._rows)

    def submit(self, row: Row) -> "Future[Row]":
        """Queue a row; the future resolves to it when it has finished, with its ``on_token`` called on the way."""
        future: Future[Row] = Future()
        self._rows[id(row)] = (row, future)
        self._inbox.put(lambda: self._admit(row, future))
        return future

    def cancel(self, row: Row) -> None:
        """End a row soon; its future resolves to what was drawn."""
        self._inbox.put(lambda: self._decoding.cancel(row))

    def stop(self) -> None:
        """End the thread after the step it is in; rows that were on their way fail."""
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                message = self._inbox.get(block=self._decoding.idle)
                while message is not None:
                    message()
                    self._settle()
                    message = self._inbox.get(block=self._decoding.idle)
                self._fail_all(InfrastructureError("the decoding thread was stopped"))
                return
            except queue.Empty:
                pass
            try:
                self._decoding.step()
            except Exception as error:
                self._fail_all(error)
                return
            self._settle()

    def _admit(self, row: Row, future: "Future[Row]") -> None:
        try:
            self._decoding.submit(row)
        except Exception as error:
            del self._rows[id(row)]
            future.set_exception(error)

    def _settle(self) -> None:
        for key, (row, future) in list(self._rows.items()):
            if row.finish_reason is not None:
                del self._rows[key]
                future.set_result(row)

    def _fail_all(self, error: Exception) -> None:
        for key, (_, future) in list(self._rows.items()):
            del self._rows[key]
            future.set_exception(error)
