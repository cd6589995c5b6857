"""API keys: a file mounted where the replicas run. ``python -m serve.common.keys new|list|revoke``.

A line of the file is ``NAME SHA256 [for=APPLICATION,...] [until=DATE]``. Only hashes of keys are kept.
"""

import argparse
import datetime
import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rayworks.core.errors import ConfigError, DataError, RayworksError
from rayworks.systems import REGISTRY

DEFAULT_FILE = "~/.rayworks/api-keys"
DIGEST = re.compile("[0-9a-f]{64}")
NAME = re.compile(r"\w[\w.-]*")
"""Of a key or an application."""
logger = logging.getLogger("rayworks.serve")


@dataclass(frozen=True)
class Key:
    """A line of the file."""

    name: str
    digest: str
    applications: tuple[str, ...] = ()
    """Names of the applications that it opens; empty for all."""
    until: datetime.date | None = None
    """The last day, in UTC, that it is good; None for ever."""

    @classmethod
    def read(cls, line: str) -> Self:
        """Raises ``ValueError`` for a line that is not one."""
        name, digest, *terms = line.split()
        found = dict(term.split("=", 1) for term in terms)
        if not DIGEST.fullmatch(digest) or found.keys() - {"for", "until"} or len(found) < len(terms):
            raise ValueError(line)
        until = datetime.date.fromisoformat(found["until"]) if "until" in found else None
        return cls(name, digest, tuple(found["for"].split(",")) if "for" in found else (), until)

    def written(self) -> str:
        """As a line."""
        terms = [f"for={','.join(self.applications)}"] if self.applications else []
        return " ".join([self.name, self.digest, *terms, *([f"until={self.until}"] if self.until else [])])

    def opens(self, application: str) -> bool:
        """Whether it is good for an application, today."""
        return (not self.applications or application in self.applications) and not self.has_expired

    @property
    def has_expired(self) -> bool:
        """Whether its last day is past."""
        return self.until is not None and self.until < _today()

    def described(self) -> str:
        """For people."""
        last = f"until {self.until}{' (expired)' if self.has_expired else ''}" if self.until else "no last day"
        return f"{self.name}  for {', '.join(self.applications) or 'all'}  {last}"


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()


class ApiKeys:
    """The keys that an application accepts.

    Args:
        file: looked at with every request, and read when its time, size or place on the disk has changed, so that a key can
            be added or withdrawn while serving. A file that is gone or cannot be read opens nothing.
        application: whose keys are accepted.

    Raises:
        DataError: the file is missing or a line is malformed at the start.
    """

    def __init__(self, file: str, application: str) -> None:
        self._file, self._application = Path(file).expanduser(), application
        self._seen: tuple[int, ...] = ()
        self._keys: list[Key] = []
        self._refresh()

    def owner(self, key: str) -> str | None:
        """Owner of the key, if any. Every stored hash is compared, each in constant time."""
        try:
            self._refresh()
        except DataError as error:
            if self._keys:
                logger.error("the API keys cannot be read, so that none is accepted: %s", error)
            self._seen, self._keys = (), []
        digest = hash_key(key)
        found = None
        for stored in self._keys:
            if hmac.compare_digest(stored.digest, digest) and stored.opens(self._application):
                found = stored.name
        return found

    def _refresh(self) -> None:
        try:
            status = self._file.stat()
            seen = status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
            if seen != self._seen:
                self._keys = read_keys(self._file)
                self._seen = seen
        except OSError as error:
            hint = f"make one: python -m serve.common.keys new NAME --file {self._file}"
            raise DataError(f"api_keys {self._file}: cannot be read ({error.strerror}); {hint}") from None


def read_keys(file: Path) -> list[Key]:
    """The keys of a file.

    Raises:
        OSError: it cannot be read.
        DataError: naming the line that is none.
    """
    keys = []
    for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1):
        if line.strip():
            try:
                keys.append(Key.read(line))
            except ValueError:
                raise DataError(
                    f"api_keys {file}: line {number} is not 'NAME SHA256 [for=APPLICATION,...] [until=YYYY-MM-DD]'"
                ) from None
    return keys


def hash_key(key: str) -> str:
    """What is stored of a key. Keys are 256 random bits, so one round of sha256 is enough."""
    return hashlib.sha256(key.encode()).hexdigest()


def create(
    name: str, file: str = DEFAULT_FILE, applications: Sequence[str] = (), until: datetime.date | None = None
) -> str:
    """Add a key for ``name`` in place of an older one and return it; only its hash is kept."""
    key = f"rw-{secrets.token_urlsafe(32)}"
    with _changing(Path(file).expanduser()) as keys:
        keys[:] = [one for one in keys if one.name != name]
        keys.append(Key(name, hash_key(key), tuple(applications), until))
    return key


def revoke(name: str, file: str = DEFAULT_FILE) -> None:
    """Withdraw a key; running applications refuse it from their next request on.

    Raises:
        ConfigError: there is none of that name.
    """
    path = Path(file).expanduser()
    if not path.exists():
        raise ConfigError(f"{name}: has no key in {path}, which does not exist; name the file with --file")
    with _changing(path) as keys:
        if name not in [key.name for key in keys]:
            known = ", ".join(key.name for key in keys) or "none"
            raise ConfigError(f"{name}: has no key in {path}; known there: {known}")
        keys[:] = [key for key in keys if key.name != name]


@contextmanager
def _changing(path: Path) -> Iterator[list[Key]]:
    """The keys of a file, which nobody else changes meanwhile; as they are at the block's end they are written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = read_keys(path) if path.exists() else []
        yield keys
        partial = path.with_suffix(".partial")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
            stream.write("".join(f"{key.written()}\n" for key in keys))
        partial.replace(path)


def _day(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day; write YYYY-MM-DD") from None


def _check_new(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse what can not be meant, and say what may not be."""
    rule = "letters, digits, _, . and -, and begin with one of the first three"
    if not NAME.fullmatch(options.name):
        parser.error(f"NAME {options.name!r}: must be made of {rule}")
    for name in options.applications:
        if not NAME.fullmatch(name):
            parser.error(f"--for: {name!r} is no application's name; give names with spaces between them, unquoted")
        if name not in REGISTRY:
            known = ", ".join(REGISTRY)
            print(
                f"note: --for {name}: is none of {known}; the key opens an application deployed as {name}",
                file=sys.stderr,
            )
    if options.until and options.until < _today():
        parser.error(f"--until {options.until}: is past; give today ({_today()}, UTC) or a later day")


def main(arguments: Sequence[str] | None = None) -> int:
    """``new NAME``: print a new key once; ``list``: names and terms; ``revoke NAME``."""
    parser = argparse.ArgumentParser(prog="python -m serve.common.keys", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    creating = commands.add_parser("new", help="make a key and print it; only its hash is stored")
    creating.add_argument("name")
    creating.add_argument("--for", nargs="+", default=[], dest="applications", metavar="APPLICATION")
    creating.add_argument("--until", type=_day, metavar="YYYY-MM-DD", help="its last day, UTC")
    listing = commands.add_parser("list", help="names, applications and last days")
    revoking = commands.add_parser("revoke", help="withdraw a key")
    revoking.add_argument("name")
    for command in (creating, listing, revoking):
        command.add_argument("--file", default=DEFAULT_FILE, help=f"of the keys; default: {DEFAULT_FILE}")
    options = parser.parse_args(arguments)
    if options.command == "new":
        _check_new(parser, options)
    path = Path(options.file).expanduser()
    try:
        if options.command == "revoke":
            revoke(options.name, options.file)
            print(f"{options.name}: has no key in {path} any more")
        elif options.command == "list":
            found = read_keys(path) if path.exists() else []
            print("\n".join(key.described() for key in found) or f"no keys in {path}")
        else:
            if path.exists() and options.name in [key.name for key in read_keys(path)]:
                print(f"note: the older key of {options.name} is withdrawn", file=sys.stderr)
            print(create(options.name, options.file, options.applications, options.until))
    except RayworksError as error:
        print(f"{error.kind} error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
