"""How a command ends: what asks for its end stops it in order, leaves a record, and decides the exit code.

Ctrl-C is a person, who gets 130. SIGTERM (an eviction, ``kill``) and SIGHUP are infrastructure: 75, which says "again".
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Self

from rayworks.core.errors import InfrastructureError, RayworksError
from rayworks.runtime.failures import Failure, classify

STOPPED = 130
ASKED = (signal.SIGTERM, signal.SIGHUP)


class Ending:
    """Listens for the signals that ask for an end, from ``__enter__`` to ``__exit__``."""

    def __init__(self) -> None:
        self.reason: str | None = None
        """Why infrastructure wants this process to end; None while it does not."""
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.getsignal gave

    def listen(self) -> None:
        """Take over the signals (again: Ray sets its own when it starts). Only a main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in ASKED:
            handler = signal.getsignal(number)
            # nohup asks that SIGHUP be ignored.
            if handler is not signal.SIG_IGN and handler != self._asked:
                self._before.setdefault(number, handler)
                signal.signal(number, self._asked)
        interrupt = signal.getsignal(signal.SIGINT)
        # A script has what it starts with "&" ignore SIGINT, which is how any other end is asked for here.
        if interrupt in (signal.SIG_IGN, signal.SIG_DFL):
            self._before.setdefault(signal.SIGINT, interrupt)
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def end(self, reason: str) -> None:
        """Ask for the end from any thread, as Ctrl-C would."""
        self.reason = reason
        # A signal indeed: _thread.interrupt_main() would let a sleeping main thread sleep on.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def run(self, work: Callable[[], int]) -> int:
        """The exit code of ``work``, or of how it failed, with one line that says how.

        Args:
            work: returns its exit code.
        """
        try:
            return work()
        except (KeyboardInterrupt, Exception) as error:
            self._hear_no_more()
            if isinstance(error, KeyboardInterrupt) and self.reason is None:
                print("stopped; repeat the command to go on", file=sys.stderr)
                return STOPPED
            failure = self._failure(error)
        print(f"{failure.kind} error: {failure.message}", file=sys.stderr)
        if failure.kind == RayworksError.kind:
            print(failure.where, file=sys.stderr)
        return failure.as_error().exit_code

    @contextlib.contextmanager
    def recorded(self, record: Callable[[str], None]) -> Iterator[None]:
        """Tell ``record`` why the work inside failed, undisturbed by a second Ctrl-C, before the failure goes on."""
        try:
            yield
        except (KeyboardInterrupt, Exception) as error:
            self._hear_no_more()
            stopped = isinstance(error, KeyboardInterrupt) and self.reason is None
            record("stopped by the user" if stopped else self._failure(error).message)
            raise

    def _failure(self, error: BaseException) -> Failure:
        if isinstance(error, KeyboardInterrupt):
            return Failure(InfrastructureError.kind, f"{self.reason}; repeat the command to go on")
        return classify(error)

    def _hear_no_more(self) -> None:
        """Ignore what would interrupt the end itself, until ``__exit__``."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, *ASKED):
                self._before.setdefault(number, signal.getsignal(number))
                signal.signal(number, signal.SIG_IGN)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        self.reason = f"{signal.Signals(number).name} asked for the end"
        # Tune then stops in order; elsewhere it raises KeyboardInterrupt.
        signal.raise_signal(signal.SIGINT)
