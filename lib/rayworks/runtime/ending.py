"""How a command ends: what asks for its end stops it in order, leaves a record, and decides the exit code.

Ctrl-C is a person, who gets 130. SIGTERM (an eviction, ``kill``) and SIGHUP are infrastructure: 75, which says "again".
"""

import _thread
import signal
import sys
import threading
from collections.abc import Callable
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
        _thread.interrupt_main()

    def run(self, work: Callable[[], int], failed: Callable[[str], None]) -> int:
        """The exit code of ``work``, or of how it failed, with one line that says how.

        Args:
            work: returns its exit code.
            failed: told the reason where there is one to record.
        """
        try:
            return work()
        except KeyboardInterrupt:
            if self.reason is None:
                failed("stopped by the user")
                print("stopped; repeat the command to go on", file=sys.stderr)
                return STOPPED
            failure = Failure(InfrastructureError.kind, f"{self.reason}; repeat the command to go on")
        except Exception as error:
            failure = classify(error)
        failed(failure.message)
        print(f"{failure.kind} error: {failure.message}", file=sys.stderr)
        if failure.kind == RayworksError.kind:
            print(failure.where, file=sys.stderr)
        return failure.as_error().exit_code

    def _asked(self, number: int, frame: FrameType | None) -> None:
        self.reason = f"{signal.Signals(number).name} asked for the end"
        # Tune then stops in order; elsewhere it raises KeyboardInterrupt.
        signal.raise_signal(signal.SIGINT)
