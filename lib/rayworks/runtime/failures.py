"""Failures are classified where they happen, inside the actor, because exceptions lose their type on the way out.

What is not known to be infrastructure is never retried.
"""

import traceback
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
DISK_FULL = 28
STALE_HANDLE = 116


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
        """The exception to raise for it on this side."""
        return CLASSES[self.kind](self.message)


def classify(error: BaseException) -> Failure:
    """The class of ``error``: its own if it has one, infrastructure if it is on the list, otherwise internal."""
    cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
    where = "".join(traceback.format_exception(error))
    if isinstance(cause, RayworksError):
        return Failure(cause.kind, str(cause), where)
    if isinstance(cause, OSError) and cause.errno in (DISK_FULL, STALE_HANDLE):
        return Failure(
            InfrastructureError.kind, f"{cause.strerror}: {cause.filename}; free some space and repeat", where
        )
    if isinstance(cause, INFRASTRUCTURE) or isinstance(error, INFRASTRUCTURE):
        return Failure(InfrastructureError.kind, _first_line(error), where)
    return Failure(RayworksError.kind, f"{type(cause).__name__}: {_first_line(cause)}", where)


def _first_line(error: Any) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
