"""A scheduler on its own thread, for servers: questions come from other threads, and all are searched together."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from rayworks.core.errors import InfrastructureError
from rayworks.systems.reasoning.search.scheduler import Budget, OnNode, Scheduler, Search
from rayworks.systems.reasoning.tasks.questions import Question


class BackgroundSearch:
    """Feeds one :class:`~.scheduler.Scheduler`, which only its own thread uses from then on, from any thread."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._asked: set[Future[Search]] = set()
        self._under_way: dict[Future[Search], Search] = {}
        self._ended: Exception | None = None
        self._stepped_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="searching", daemon=True)
        self._thread.start()

    @property
    def load(self) -> int:
        """Searches under way."""
        return len(self._asked)

    @property
    def seconds_since_step(self) -> float:
        """How long ago the searches last went on."""
        return time.monotonic() - self._stepped_at

    def submit(
        self, question: Question, budget: Budget, on_node: OnNode = lambda search, node: None
    ) -> "Future[Search]":
        """Begin a search.

        Args:
            on_node: called on the searching thread after each simulation; see :class:`~.scheduler.Search`.

        Returns:
            resolves to the search once it has ended; it cannot be cancelled itself, use :meth:`cancel`.

        Raises:
            InfrastructureError: the thread has ended.
        """
        future: Future[Search] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            if self._ended is not None:
                raise InfrastructureError(f"the searching thread has ended: {self._ended}") from self._ended
            self._asked.add(future)
        self._inbox.put(lambda: self._start(future, question, budget, on_node))
        return future

    def cancel(self, future: "Future[Search]") -> None:
        """End a search soon; its future resolves to what it has come to."""
        self._inbox.put(lambda: self._cancel(future))

    def stop(self) -> None:
        """End the thread after the step it is in; searches that were under way fail."""
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._loop()
            self._end(InfrastructureError("it was stopped"))
        except Exception as error:
            self._end(error)

    def _loop(self) -> None:
        while True:
            try:
                message = self._inbox.get(block=not self._scheduler.open)
            except queue.Empty:
                ended = self._scheduler.step()
                self._stepped_at = time.monotonic()
                for future, search in list(self._under_way.items()) if ended else []:
                    if search in ended:
                        self._take(future).set_result(search)
            else:
                if message is None:
                    return
                message()

    def _start(self, future: "Future[Search]", question: Question, budget: Budget, on_node: OnNode) -> None:
        self._under_way[future] = self._scheduler.start(question, budget, on_node=on_node)

    def _cancel(self, future: "Future[Search]") -> None:
        if future in self._under_way:
            self._scheduler.cancel(self._under_way[future])

    def _take(self, future: "Future[Search]") -> "Future[Search]":
        self._under_way.pop(future, None)
        with self._lock:
            self._asked.discard(future)
        return future

    def _end(self, error: Exception) -> None:
        with self._lock:
            self._ended = error
            futures = list(self._asked)
        for future in futures:
            self._take(future).set_exception(error)
