r"""The audit trail of a round: a log that only grows, each entry carrying the SHA-256 of the one before.

An entry is a text of JSON and ``hash = SHA-256(previous + "\n" + text)``, ``previous`` being the hash before in lower-case
hexadecimal digits, 64 zeros for the first. The text is kept and handed out as it was hashed, so that no other program has
to write JSON the same way to check it.

Over the events of all rounds, in the order in which they were written, runs a second chain::

    chain_n = SHA-256(chain_{n-1} \n ROUND \n POSITION \n hash)

The last is the head of the ledger. Whoever keeps a head outside (a newspaper, a repository, another authority's log) can tell
later whether anything before it was changed, removed or put in: ``/v1/regulation/log`` has all that is hashed.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Kind = Literal["opened", "submitted", "withdrawn", "paired", "settled", "cancelled"]
BEGINNING = "0" * 64


@dataclass(frozen=True)
class Event:
    """One entry."""

    position: int
    """From 0."""
    text: str
    previous: str
    hash: str

    @property
    def facts(self) -> dict[str, Any]:
        """What the text says."""
        facts: dict[str, Any] = json.loads(self.text)
        return facts


@dataclass(frozen=True)
class LogEntry:
    """An entry of the ledger's own chain: which event came, and the head after it."""

    sequence: int
    """From 1."""
    round: str
    position: int
    hash: str
    chain: str


def following(last: Event | None, kind: Kind, facts: Mapping[str, Any], now: datetime) -> Event:
    """The entry after ``last``, with its position, kind and time."""
    position, previous = (0, BEGINNING) if last is None else (last.position + 1, last.hash)
    at = now.isoformat(timespec="milliseconds")
    content = {"position": position, "event": kind, "at": at, **facts}
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return Event(position, text, previous, hash_lines(previous, text))


def hash_lines(*lines: object) -> str:
    r"""SHA-256 of lines with "\n" between them."""
    return hashlib.sha256("\n".join(map(str, lines)).encode()).hexdigest()


def first_break(events: Sequence[Event]) -> int | None:
    """Position of the first entry that does not follow from the one before; ``None`` when all do."""
    previous = BEGINNING
    for position, event in enumerate(events):
        sound = (
            event.position == position and event.previous == previous and event.hash == hash_lines(previous, event.text)
        )
        if not sound or event.facts.get("position") != position:
            return position
        previous = event.hash
    return None
