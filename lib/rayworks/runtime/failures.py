"""Failures are classified where they happen, inside the actor, because exceptions lose their type on the way out.

What is not known to be infrastructure is never retried.
"""

import errno
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray.exceptions

from rayworks.core.errors import CLASSES, InfrastructureError, RayworksError

INFRASTRUCTURE: tuple[type[BaseException], ...] = (
    InfrastructureError,
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.RayChannelError,
    ray.exceptions.GetTimeoutError,
    ConnectionError,
    TimeoutError,
)
STORAGE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space and repeat"),
    **dict.fromkeys((errno.EROFS, errno.EIO, errno.ESTALE), "see to the storage and repeat"),
}
"""What a storage answers that worked when the run began, and what to do then."""
FULL = ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed writing file", "disk is full")
"""How libraries word it that keep no error number."""
CONNECTION: tuple[type[BaseException], ...] = (OSError, ray.exceptions.RpcError)
"""What Ray's core raises when it cannot reach the processes of its node or of the cluster's head."""


@dataclass(frozen=True)
class Failure:
    """A failure that crossed a process: its class, its one-line message, and where it happened."""

    kind: str
    message: str
    where: str = ""

    @property
    def retriable(self) -> bool:
        """Whether the same work may succeed elsewhere."""
        return self.kind == InfrastructureError.kind

    def as_error(self) -> RayworksError:
        """The exception to raise for it on this side; an internal one carries along where it happened."""
        error = CLASSES[self.kind](self.message)
        if type(error) is RayworksError and self.where:
            error.add_note(self.where)
        return error


def classify(error: BaseException) -> Failure:
    """The class of ``error``: its own if it has one, infrastructure if it is on the list, otherwise internal."""
    cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    where = "".join(traceback.format_exception(error))
    if isinstance(cause, RayworksError):
        return Failure(cause.kind, str(cause), where)
    full = _storage_failure(cause)
    if full is not None:
        return Failure(InfrastructureError.kind, full, where)
    if isinstance(cause, INFRASTRUCTURE) or isinstance(error, INFRASTRUCTURE):
        return Failure(InfrastructureError.kind, _first_line(error), where)
    broken = _broken_connection(cause)
    if broken is not None:
        return Failure(InfrastructureError.kind, f"Ray on this node does not answer ({broken})", where)
    return Failure(RayworksError.kind, f"{type(cause).__name__}: {_first_line(cause)}", where)


def _storage_failure(error: BaseException) -> str | None:
    """What the storage said and what to do, if it is behind the error or behind what raised it."""
    for at in _behind(error):
        if isinstance(at, OSError) and at.errno in STORAGE:
            # Of a copy that fails, the second name is where it was going.
            said = ": ".join(str(part) for part in (at.strerror, at.filename2 or at.filename) if part)
            return f"{said}; {STORAGE[at.errno]}"
        if any(words in str(at) for words in FULL):
            return f"{_first_line(at)}; {STORAGE[errno.ENOSPC]}"
    return None


def _broken_connection(error: BaseException) -> str | None:
    """What Ray's own core said of a connection, if that is behind the error: the raylet may die before what it started."""
    for at in _behind(error):
        frames = [frame for frame, _ in traceback.walk_tb(at.__traceback__)]
        if isinstance(at, CONNECTION) and frames and frames[-1].f_globals.get("__name__") == "ray._raylet":
            return _first_line(at)
    return None


def _behind(error: BaseException) -> Iterator[BaseException]:
    """The error, and what raised it."""
    at: BaseException | None = error
    while at is not None:
        yield at
        at = at.__cause__ or at.__context__


def _first_line(error: Any) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
