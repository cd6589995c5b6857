"""One writer of a run directory at a time, on any storage that shows a file to all as soon as it is written.

Every process that wants the directory writes a file of its own before it looks for those of others, so that of any two at
least one sees the other and yields. A holder's file goes on changing; one that stands still for ``EXPIRES_SECONDS``, by the
clock of whoever looks, belonged to a process that is gone. Clocks need not agree.
"""

import contextlib
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

LEASE = "lease-"
"""Beginning of the names of the files, in the run directory itself."""
HEARTBEAT_SECONDS = 3.0
EXPIRES_SECONDS = 30.0
"""Without a change. Longer than a storage may take to answer, shorter than a person waits."""
ATTEMPTS = 4
"""Of those that ask at the same moment, all may yield; they ask again."""


class Lease:
    """Holds a run directory from ``__enter__`` to ``__exit__``.

    Args:
        directory: of the run or sweep.
        lost: called with a sentence, from another thread, when somebody else has taken the lease for dead.
    """

    def __init__(self, directory: RunDirectory, lost: Callable[[str], None]) -> None:
        self._directory, self._lost = directory, lost
        self._name = f"{LEASE}{uuid.uuid4().hex}.json"
        self._beats = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

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
                self._thread.start()
                return self
            self._drop()
            if attempt < ATTEMPTS - 1:
                time.sleep(random.uniform(0.1, 1.0))
        raise _held(self._directory, _read(self._directory, others[0]))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._drop()

    def _others(self) -> list[str]:
        names = self._directory.list()
        return [name for name in names if name.startswith(LEASE) and name.endswith(".json") and name != self._name]

    def _beat(self) -> None:
        self._beats += 1
        self._directory.write_json(self._name, {**_this_process(), "beats": self._beats})

    def _drop(self) -> None:
        with contextlib.suppress(OSError):
            self._directory.remove_folder(self._name)

    def _keep(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            # A storage that is full or away for a moment: whether that ends the run is for the run to find out.
            with contextlib.suppress(OSError):
                if not self._directory.exists(self._name):
                    self._lost(f"{self._directory.uri}: another process took this one for dead and goes on")
                    return
                self._beat()


def _wait_for_its_end(directory: RunDirectory, name: str) -> bool:
    """Return once the holder is known to be gone, and its file with it: whether by the clock alone.

    Raises:
        InfrastructureError: it is alive.
    """
    seen = _read(directory, name)
    expires = time.monotonic() + EXPIRES_SECONDS
    while seen and not (gone := _is_gone(seen)) and time.monotonic() < expires:
        time.sleep(HEARTBEAT_SECONDS / 10)
        now = _read(directory, name)
        if now and now["beats"] != seen["beats"]:
            raise _held(directory, now)
        seen = now
    directory.remove_folder(name)
    return bool(seen) and not gone


def _read(directory: RunDirectory, name: str) -> dict[str, Any]:
    try:
        holder: dict[str, Any] = directory.read_json(name)
    except (OSError, ValueError):
        return {}
    return holder


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
    if holder["processes"] != _processes():
        return False
    try:
        return bool(psutil.Process(holder["process"]).create_time() != holder["created"])
    except psutil.NoSuchProcess:
        return True


_SINCE = manifest.now()
_NAMESPACE = Path("/proc/self/ns/pid")
