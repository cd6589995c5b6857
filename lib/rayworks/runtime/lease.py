"""One writer of a run directory at a time, on any storage that shows a file to all as soon as it is written.

Every process that wants the directory writes a file of its own before it looks for those of others, so that of any two at
least one sees the other and yields. A holder's file goes on changing; one that stands still for ``EXPIRES_SECONDS``, by the
clock of whoever looks, belonged to a process that is gone. Clocks need not agree.
"""

import contextlib
import json
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from rayworks.core import manifest
from rayworks.core.errors import InfrastructureError
from rayworks.core.run_directory import RunDirectory
from rayworks.runtime.failures import classify

LEASE = "lease-"
"""Beginning of the names of the files, in the run directory itself."""
HEARTBEAT_SECONDS = 3.0
EXPIRES_SECONDS = 30.0
"""Without a change. Longer than a storage may take to answer, shorter than a person waits. A holder that has not renewed
its lease for two heartbeats less gives it up by itself."""
TAKEN = "another process took this one for dead and goes on"
ATTEMPTS = 4
"""Of those that ask at the same moment, all may yield; they ask again."""


class Lease:
    """Holds a run directory from ``__enter__`` to ``__exit__``.

    Args:
        directory: of the run or sweep.
        lost: called with a sentence, from another thread, once somebody else may have taken the lease for dead.
    """

    def __init__(self, directory: RunDirectory, lost: Callable[[str], None]) -> None:
        self._directory, self._lost = directory, lost
        self._name = f"{LEASE}{uuid.uuid4().hex}.json"
        self._beats = 0
        self._renewed = 0.0
        self._trouble = "the storage does not answer"
        self._ended = threading.Event()
        # A storage that hangs holds up the one, so that the other looks at the clock.
        self._threads = [threading.Thread(target=work, name="lease", daemon=True) for work in (self._keep, self._watch)]

    def __enter__(self) -> Self:
        """Take the lease, from a holder that is gone if need be.

        Raises:
            InfrastructureError: naming the process that holds it.
        """
        for attempt in range(ATTEMPTS):
            expired = [_wait_for_its_end(self._directory, name) for name in self._others()]
            self._beat()
            if any(expired):
                # It may wake up in the middle of a heartbeat.
                time.sleep(HEARTBEAT_SECONDS)
            others = self._others()
            if not others:
                for thread in self._threads:
                    thread.start()
                return self
            self._drop()
            if attempt < ATTEMPTS - 1:
                time.sleep(random.uniform(0.1, 1.0))
        holder: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError):
            holder = _holder(_read(self._directory, others[0]))
        raise _held(self._directory, holder)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(HEARTBEAT_SECONDS)
        self._drop()

    def is_held(self) -> bool:
        """Whether nobody else can have taken the lease: what is written without it may be another's."""
        try:
            return not self._ended.is_set() and not self._is_late() and self._directory.exists(self._name)
        except OSError:
            return False

    def require(self) -> None:
        """Raises ``InfrastructureError`` where the lease is no longer held."""
        if not self.is_held():
            raise InfrastructureError(f"{self._directory.uri}: {TAKEN}; repeat the command")

    def _others(self) -> list[str]:
        names = self._directory.list()
        return [name for name in names if name.startswith(LEASE) and name.endswith(".json") and name != self._name]

    def _beat(self) -> None:
        self._beats += 1
        begun = time.monotonic()
        self._directory.write_json(self._name, {**_this_process(), "beats": self._beats})
        self._renewed = begun

    def _drop(self) -> None:
        with contextlib.suppress(OSError):
            self._directory.remove_folder(self._name)

    def _keep(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            try:
                if not self._directory.exists(self._name):
                    self._give_up(TAKEN)
                    return
                self._beat()
            except Exception as error:
                # A storage that is full or away for a moment: whether that ends the run is for the run to find out.
                self._trouble = classify(error).message

    def _watch(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS / 2):
            if self._is_late():
                self._give_up(f"the lease could not be renewed ({self._trouble})")

    def _is_late(self) -> bool:
        return time.monotonic() - self._renewed > EXPIRES_SECONDS - 2 * HEARTBEAT_SECONDS

    def _give_up(self, why: str) -> None:
        if not self._ended.is_set():
            self._ended.set()
            self._lost(f"{self._directory.uri}: {why}")


def _wait_for_its_end(directory: RunDirectory, name: str) -> bool:
    """Return once the holder is known to be gone, and its file with it: whether by the clock alone.

    Only a file that is there and has stood still says so; one that cannot be read has not been seen to change.

    Raises:
        InfrastructureError: it is alive, or its file cannot be read.
    """
    seen: bytes | None = None
    expires = time.monotonic() + EXPIRES_SECONDS
    while True:
        late = time.monotonic() >= expires
        try:
            now = _read(directory, name)
        except FileNotFoundError:
            return False
        gone = _is_gone(_holder(now))
        if gone or (late and now is not None and now == seen):
            directory.remove_folder(name)
            return not gone
        if late or (seen is not None and now is not None and now != seen):
            raise _held(directory, _holder(now))
        if seen is None and now is not None:
            seen, expires = now, time.monotonic() + EXPIRES_SECONDS
        time.sleep(HEARTBEAT_SECONDS / 10)


def _read(directory: RunDirectory, name: str) -> bytes | None:
    """A lease's file; None where the storage does not give it.

    Raises:
        FileNotFoundError: the holder has dropped it.
    """
    try:
        return directory.read(name)
    except FileNotFoundError:
        raise
    except OSError:
        return None


def _holder(file: bytes | None) -> dict[str, Any]:
    """Who wrote a lease's file; empty where it does not say."""
    with contextlib.suppress(ValueError):
        holder = json.loads(file or b"")
        if isinstance(holder, dict) and _this_process().keys() <= holder.keys():
            return holder
    return {}


def _held(directory: RunDirectory, holder: dict[str, Any]) -> InfrastructureError:
    who = f"process {holder['process']} on {holder['host']}, since {holder['since']}" if holder else "another process"
    return InfrastructureError(f"{directory.uri}: is being written by {who}; wait for its end, or end it")


def _this_process() -> dict[str, Any]:
    mine = psutil.Process()
    return {
        "host": socket.gethostname(),
        "processes": _processes(),
        "process": mine.pid,
        "created": mine.create_time(),
        "since": _SINCE,
    }


def _processes() -> str:
    """What tells process numbers of this machine, or container, from those of others."""
    return f"{socket.gethostname()} {_NAMESPACE.stat().st_ino if _NAMESPACE.exists() else 0} {psutil.boot_time()}"


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether a holder of this machine has died; of others nothing is known."""
    if not holder or holder["processes"] != _processes():
        return False
    try:
        return bool(psutil.Process(holder["process"]).create_time() != holder["created"])
    except psutil.NoSuchProcess:
        return True


_SINCE = manifest.now()
_NAMESPACE = Path("/proc/self/ns/pid")
