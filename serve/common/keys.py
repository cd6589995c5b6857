"""API keys: a file of ``NAME SHA256`` lines, mounted where the replica runs. ``python -m serve.common.keys new NAME``."""

import argparse
import hashlib
import hmac
import logging
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from rayworks.core.errors import DataError

DEFAULT_FILE = "~/.rayworks/api-keys"
logger = logging.getLogger("rayworks.serve")


class ApiKeys:
    """The keys that are accepted.

    Args:
        file: read at every change of its modification time, so a key can be added or withdrawn while serving; a file
            that has become unreadable leaves the keys as they were.

    Raises:
        DataError: the file is missing or a line is malformed at the start.
    """

    def __init__(self, file: str) -> None:
        self._file = Path(file).expanduser()
        self._read_at = -1.0
        self._names: dict[str, str] = {}
        self._read()

    def owner(self, key: str) -> str | None:
        """Owner of the key, if any. Every stored hash is compared, each in constant time."""
        try:
            self._read()
        except DataError:
            logger.exception("the API keys were changed and cannot be read; keeping those read before")
        digest = hash_key(key)
        found = None
        for stored, name in self._names.items():
            if hmac.compare_digest(stored, digest):
                found = name
        return found

    def _read(self) -> None:
        try:
            modified = self._file.stat().st_mtime
            if modified == self._read_at:
                return
            lines = [line.split() for line in self._file.read_text().splitlines() if line.strip()]
        except OSError as error:
            hint = f"make one: python -m serve.common.keys new NAME --file {self._file}"
            raise DataError(f"api_keys {self._file}: cannot be read ({error.strerror}); {hint}") from None
        for number, words in enumerate(lines, 1):
            if len(words) != 2 or len(words[1]) != 64:
                raise DataError(f"api_keys {self._file}: line {number} is not 'NAME SHA256'")
        self._names = {digest: name for name, digest in lines}
        self._read_at = modified


def hash_key(key: str) -> str:
    """What is stored of a key. Keys are 256 random bits, so one round of sha256 is enough."""
    return hashlib.sha256(key.encode()).hexdigest()


def create(name: str, file: str = DEFAULT_FILE) -> str:
    """Add a key for ``name`` in place of an older one and return it; only its hash is kept."""
    path = Path(file).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    key = f"rw-{secrets.token_urlsafe(32)}"
    kept = path.read_text().splitlines() if path.exists() else []
    lines = [*(line for line in kept if line.split()[:1] != [name]), f"{name} {hash_key(key)}"]
    partial = path.with_suffix(".partial")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write("\n".join(lines) + "\n")
    partial.replace(path)
    return key


def main(arguments: Sequence[str] | None = None) -> int:
    """``new NAME``: print a new key once."""
    parser = argparse.ArgumentParser(prog="python -m serve.common.keys", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    creating = commands.add_parser("new", help="make a key and print it; only its hash is stored")
    creating.add_argument("name")
    creating.add_argument("--file", default=DEFAULT_FILE)
    options = parser.parse_args(arguments)
    if not options.name.isidentifier():
        parser.error("NAME must be letters, digits and _")
    path = Path(options.file).expanduser()
    if path.exists() and any(line.split()[:1] == [options.name] for line in path.read_text().splitlines()):
        print(f"note: the older key of {options.name} is withdrawn", file=sys.stderr)
    print(create(options.name, options.file))
    return 0


if __name__ == "__main__":
    sys.exit(main())
