"""Whether a run can keep its files where its config says, tried through the layers that will write them."""

import contextlib
import uuid
from collections.abc import Iterator

from rayworks.core.errors import ConfigError, InfrastructureError, RayworksError
from rayworks.core.run_directory import RunDirectory

PRIVATE_PROTOCOLS = ("memory",)
"""What one process writes there no other sees."""
ROOM_BYTES = 2**18
"""A storage with less room is full: too small for what Tune writes with every step."""


def require_usable(directory: RunDirectory) -> None:
    """Write, rename, read back and remove a file, as a run does and as Tune does.

    Raises:
        ConfigError: naming ``run.storage`` and what failed.
        InfrastructureError: the storage is full.
    """
    protocol, separator, _ = directory.storage.partition("://")
    if separator and protocol in PRIVATE_PROTOCOLS:
        raise ConfigError(
            f"run.storage {directory.storage!r}: only this process would see it; choose a folder or a URI that every "
            "node can write"
        )
    directory.require_writable()
    probe, written = f".readable-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex.encode()
    path = directory.write(probe, written)
    try:
        found = _read_as_tune_does(path)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(
            f"run.storage {directory.storage!r}: Ray cannot read what is written there ({error})"
        ) from None
    finally:
        directory.remove_folder(probe)
    if found != written:
        raise ConfigError(f"run.storage {directory.storage!r}: what is written there reads differently; choose another")


@contextlib.contextmanager
def blamed_for_failures(directory: RunDirectory) -> Iterator[None]:
    """Errors of any kind that a storage causes which takes no more: libraries give few of them its number.

    Raises:
        InfrastructureError: in place of what was raised, where the storage is full or no longer writable.
    """
    try:
        yield
    except Exception:
        require_room(directory)
        raise


def require_room(directory: RunDirectory) -> None:
    """Return where a run can go on writing.

    Raises:
        InfrastructureError: the storage is full or no longer writable.
    """
    try:
        directory.require_writable(ROOM_BYTES)
    except RayworksError as error:
        raise InfrastructureError(str(error)) from None


def _read_as_tune_does(path: str) -> bytes:
    from ray.train._internal.storage import get_fs_and_path

    files, inside = get_fs_and_path(path)
    with files.open_input_stream(inside) as stream:
        found: bytes = stream.read()
    return found
