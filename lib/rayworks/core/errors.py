"""Failure classes, each with the exit code a job ends with and the HTTP-independent kind a report shows.

A message is one sentence that names the field, file or item at fault and says the fix.
"""


class RayworksError(Exception):
    """Base of every failure that has a known class."""

    exit_code = 1
    kind = "internal"


class ConfigError(RayworksError):
    """The config cannot be run as written; never retried."""

    exit_code = 2
    kind = "config"


class ResumeMismatch(RayworksError):
    """The run directory holds a run of another config; never retried."""

    exit_code = 3
    kind = "resume"


class DataError(RayworksError):
    """Data, a model file or a computed value is unusable; never retried."""

    exit_code = 4
    kind = "data"


class InfrastructureError(RayworksError):
    """A node, actor, disk or cluster failed; the same work may succeed elsewhere."""

    exit_code = 75
    kind = "infrastructure"


CLASSES: dict[str, type[RayworksError]] = {
    cls.kind: cls for cls in (RayworksError, ConfigError, ResumeMismatch, DataError, InfrastructureError)
}
