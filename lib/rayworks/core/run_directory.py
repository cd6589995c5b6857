"""``STORAGE/SYSTEM/RUN/``: the one folder a run writes, on a local path or any fsspec URI.

Files appear whole: each is written under a temporary name and renamed.
"""

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rayworks.core.errors import ConfigError, DataError, InfrastructureError

MANIFEST = "manifest.json"
CONFIG = "config.yaml"
SWEEP = "sweep.json"
"""There only in the directory of a sweep: what was asked for and how far it is."""
REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
EXPORT = "export"
FIGURES = "figures"


class RunDirectory:
    """Files of one run, by path relative to its folder.

    Args:
        storage: local path (``~`` allowed) or fsspec URI such as ``s3://bucket/prefix``.
        system: name of the system.
        run: name of the run.

    Raises:
        ConfigError: nothing can be stored there: no such protocol, driver, user or archive.
    """

    def __init__(self, storage: str, system: str, run: str) -> None:
        from fsspec.core import url_to_fs

        self.system, self.run = system, run
        self.is_local = "://" not in storage
        try:
            self.storage = str(Path(storage).expanduser().absolute()) if self.is_local else storage
            self._files, base = url_to_fs(self.storage)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise ConfigError(
                f"run.storage {storage!r}: {error}; choose a folder or a URI that can be written"
            ) from None
        self._folder = f"{base.rstrip('/')}/{system}/{run}"

    @property
    def uri(self) -> str:
        """The run's folder as a path or URI."""
        return f"{self.storage.rstrip('/')}/{self.system}/{self.run}"

    def path(self, relative: str) -> str:
        """A file of the run as a path or URI."""
        return f"{self.uri}/{relative}"

    def exists(self, relative: str = "") -> bool:
        """Whether the file or folder exists."""
        return bool(self._files.exists(f"{self._folder}/{relative}".rstrip("/")))

    def read(self, relative: str) -> bytes:
        """The file's bytes."""
        data: bytes = self._files.cat_file(f"{self._folder}/{relative}")
        return data

    def read_json(self, relative: str) -> Any:
        """The file's contents as JSON.

        Raises:
            DataError: it is damaged, which no write of ours leaves.
        """
        try:
            return json.loads(self.read(relative))
        except ValueError as error:
            raise DataError(
                f"{self.path(relative)}: is damaged ({error}); restore it from a copy, or choose another run.name"
            ) from None

    def write(self, relative: str, data: bytes | str) -> str:
        """Write a file whole and return its path."""
        target = f"{self._folder}/{relative}"
        staging = f"{target}.{uuid.uuid4().hex[:8]}.partial"
        self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
        with self._removed_on_failure(staging):
            whole = data.encode() if isinstance(data, str) else data
            if self.is_local:
                # A rename may reach the disk before what was written does.
                with Path(staging).open("wb") as file:
                    file.write(whole)
                    file.flush()
                    os.fsync(file.fileno())
                Path(staging).replace(target)
            else:
                self._files.pipe_file(staging, whole)
                self._files.mv(staging, target)
        return self.path(relative)

    def write_json(self, relative: str, value: Any) -> str:
        """Write a JSON file whole; refuses what JSON cannot hold (NaN, infinities)."""
        return self.write(relative, json.dumps(value, indent=2, allow_nan=False) + "\n")

    def put_folder(self, local: Path, relative: str) -> str:
        """Copy a local folder in, replacing an existing one once the copy is complete."""
        target = f"{self._folder}/{relative}"
        staging = f"{target}.{uuid.uuid4().hex[:8]}.partial"
        self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
        with self._removed_on_failure(staging):
            self._files.put(f"{local}/", f"{staging}/", recursive=True)
            if self._files.exists(target):
                self._files.rm(target, recursive=True)
            self._files.mv(staging, target, recursive=True)
        return self.path(relative)

    def get_folder(self, relative: str, local: Path) -> Path:
        """Copy a folder of the run to ``local``; on local storage nothing is copied and its own path is returned."""
        if self.is_local:
            return Path(self._folder) / relative
        self._files.get(f"{self._folder}/{relative}/", f"{local}/", recursive=True)
        return local

    def remove_folder(self, relative: str) -> None:
        """Remove a folder of the run, if it exists."""
        if self.exists(relative):
            self._files.rm(f"{self._folder}/{relative}", recursive=True)

    def list(self, relative: str = "") -> list[str]:
        """Names directly below a folder of the run, sorted; empty when it does not exist."""
        folder = f"{self._folder}/{relative}".rstrip("/")
        # Others write here too, past what an object store's client remembers.
        self._files.invalidate_cache()
        if not self._files.exists(folder):
            return []
        return sorted(str(entry).rstrip("/").rpartition("/")[2] for entry in self._files.ls(folder, detail=False))

    def require_writable(self, size: int = 1) -> None:
        """Create the folder, write a file of ``size`` bytes in it and remove it.

        Raises:
            ConfigError: naming ``run.storage``, when that fails.
            InfrastructureError: the storage is full.
        """
        probe = f".writable-{uuid.uuid4().hex[:8]}"
        try:
            self.write(probe, b" " * size)
            self._files.rm_file(f"{self._folder}/{probe}")
        except (OSError, ValueError, NotImplementedError) as error:
            # Names no file can have, and file systems that only read.
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise InfrastructureError(f"{self.uri}: {reason}; free some space and repeat the command") from None
            raise ConfigError(
                f"run.storage {self.storage!r}: not writable ({reason}); choose a folder you own"
            ) from None

    @contextlib.contextmanager
    def _removed_on_failure(self, staging: str) -> Iterator[None]:
        """What is half written would fill a full storage further."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError, ValueError, NotImplementedError):
                self._files.rm(staging, recursive=True)
            raise
