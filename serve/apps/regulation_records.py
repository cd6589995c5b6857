"""What is written of a round, and what follows from it: pairing and payments as pure functions of what the audit shows."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from rayworks.systems.regulation.mechanism import NO_GROUP, STATUSES, Rules, run_mechanism
from rayworks.systems.regulation.public_draws import public_draws
from rayworks.systems.regulation.settlement import exact_parts, share_premiums

from ..common.problems import Problem
from .regulation_events import Event, hash_lines

State = Literal["open", "paired", "settled", "cancelled"]
DUPLICATE = "duplicate"
"""Status of a model that another key has entered too, and is taken to own."""
ALIAS_DIGITS = 16


def utc(at: datetime) -> str:
    """A time as terms hold it."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Terms:
    """What a regulator publishes of a round before anybody submits."""

    round: str
    commitment: str
    rules: Rules
    premium: int | None
    """Cents of one premium."""
    budget: int | None
    """Cents that are paid at most."""
    closes_at: str | None = None
    """Until when models are submitted and withdrawn, and from when on the seed may be revealed; ISO 8601 in UTC."""
    reveal_by: str | None = None
    """Until when it may be; after that the round can only be cancelled, by anybody."""

    def facts(self) -> dict[str, Any]:
        """For the audit trail."""
        return {**asdict(self), "rules": asdict(self.rules)}

    def closed(self, now: datetime) -> bool:
        """Whether submissions are over."""
        return self.closes_at is not None and now >= datetime.fromisoformat(self.closes_at)

    def overdue(self, now: datetime) -> bool:
        """Whether the seed comes too late."""
        return self.reveal_by is not None and now > datetime.fromisoformat(self.reveal_by)


@dataclass(frozen=True)
class Result:
    """What the pairing made of a submission."""

    number: int
    group: int
    status: str
    part: Fraction
    """Of a premium."""

    @property
    def cleared(self) -> bool:
        """Whether it may be deployed."""
        return self.group != NO_GROUP


@dataclass(frozen=True)
class Submission:
    """One model of one builder; ``alias`` is how the audit names the builder."""

    round: str
    number: int
    """From 1, in order of arrival."""
    alias: str
    model: str
    score: float
    event: Event
    """Its entry in the audit trail: the builder's receipt."""
    owned: bool = True
    """Whether the alias is that of the key which is to be paid."""
    withdrawn: int | None = None
    """Position of the event that took it back."""


@dataclass(frozen=True)
class Round:
    """A round's terms and how far it is."""

    terms: Terms
    state: State
    seed: str | None
    submissions: int
    """That were made, those withdrawn included."""
    withdrawn: int
    last: Event
    cleared: int | None = None
    """Submissions that may be deployed, once paired."""
    groups: int | None = None
    paid: int | None = None
    """Cents, once settled."""


@dataclass(frozen=True)
class Records:
    """All that is written of a round, at one moment."""

    round: Round
    submissions: Sequence[Submission]
    results: Sequence[Result]
    payments: Mapping[int, int]
    """Submission's number to cents."""
    events: Sequence[Event]

    @property
    def standing(self) -> list[Submission]:
        """Submissions that were not withdrawn."""
        return [entry for entry in self.submissions if entry.withdrawn is None]

    @property
    def owners(self) -> dict[str, int]:
        """By model, the submission that the regulator named as its owner's."""
        facts = (event.facts for event in self.events)
        return next((dict(one.get("owners", {})) for one in facts if one.get("event") == "paired"), {})


def pair(terms: Terms, seed: str, standing: Sequence[Submission], owners: Mapping[str, int]) -> list[Result]:
    """The mechanism at public draws: a pure function of what the audit shows.

    Of the submissions of one model one competes, the owner's: that which ``owners`` names, else the earliest that clears the
    threshold.
    """
    draws = public_draws(seed, terms.round, [entry.event.hash for entry in standing])
    earliest: dict[str, int] = {}
    for entry in sorted(standing, key=lambda entry: (entry.score < terms.rules.threshold, entry.number)):
        earliest.setdefault(entry.model, entry.number)
    owning = {**earliest, **owners}
    places = np.array([at for at, entry in enumerate(standing) if owning[entry.model] == entry.number], dtype=int)
    scores = [standing[at].score for at in places]
    outcome = run_mechanism(scores, terms.rules, draws.pairing[places], draws.tie_break[places])
    found = {entry.number: Result(entry.number, NO_GROUP, DUPLICATE, Fraction(0)) for entry in standing}
    columns = zip(places, outcome.group.tolist(), outcome.status.tolist(), exact_parts(outcome), strict=True)
    for at, group, status, part in columns:
        found[standing[at].number] = Result(standing[at].number, group, STATUSES[status], part)
    return list(found.values())


def payments_of(terms: Terms, results: Sequence[Result]) -> dict[int, int]:
    """Submission's number to the cents it is paid, where it is paid any: a pure function of what the audit shows."""
    parts, groups = [result.part for result in results], [result.group for result in results]
    paid = share_premiums(parts, groups, terms.premium, terms.budget).paid
    return {result.number: cents for result, cents in zip(results, paid, strict=True) if cents}


def digest_of_results(results: Sequence[Result]) -> str:
    """SHA-256 of one line ``NUMBER GROUP STATUS PART`` per submission."""
    return hash_lines(*(f"{result.number} {result.group} {result.status} {result.part}" for result in results))


def digest_of_payments(payments: Mapping[int, int]) -> str:
    """SHA-256 of one line ``NUMBER CENTS`` per payment, by number."""
    return hash_lines(*(f"{number} {cents}" for number, cents in sorted(payments.items())))


def hashed(salt: str, builder: str) -> str:
    """A builder's name in one round."""
    return hash_lines(salt, builder)[:ALIAS_DIGITS]


_SUBMISSIONS = (
    "SELECT s.*, e.position, e.text, e.previous, e.hash, w.event AS withdrawn FROM submissions s "
    "JOIN events e ON e.round = s.round AND e.position = s.event "
    "LEFT JOIN withdrawals w ON w.round = s.round AND w.number = s.number"
)


def row_of(connection: sqlite3.Connection, round: str) -> sqlite3.Row | None:
    """The round's row, if it is there."""
    row: sqlite3.Row | None = connection.execute("SELECT * FROM rounds WHERE round = ?", (round,)).fetchone()
    return row


def round_of(connection: sqlite3.Connection, round: str) -> Round:
    """A round's terms and state; 404 without it."""
    row = row_of(connection, round)
    if row is None:
        raise Problem(404, f"round {round[:80]!r}: does not exist; a regulator opens it with a commitment")
    dates = row["closes_at"], row["reveal_by"]
    terms = Terms(round, row["commitment"], Rules(**json.loads(row["rules"])), row["premium"], row["budget"], *dates)
    highest = "SELECT max(number) FROM submissions WHERE round = ?"
    submissions = connection.execute(highest, (round,)).fetchone()[0] or 0
    last = last_of(connection, round)
    assert last is not None
    counted = "SELECT count(*) FROM withdrawals WHERE round = ?"
    withdrawn = connection.execute(counted, (round,)).fetchone()[0]
    found = Round(terms, row["state"], row["seed"], submissions, withdrawn, last)
    if found.seed is None:
        return found
    counts = "SELECT count(*) FILTER (WHERE group_number <> ?), max(group_number) + 1 FROM results WHERE round = ?"
    cleared, groups = connection.execute(counts, (NO_GROUP, round)).fetchone()
    paid = connection.execute("SELECT coalesce(sum(cents), 0) FROM payments WHERE round = ?", (round,)).fetchone()[0]
    return replace(found, cleared=cleared, groups=groups, paid=paid if found.state == "settled" else None)


def records_of(connection: sqlite3.Connection, round: str) -> Records:
    """All of a round; 404 without it."""
    found = round_of(connection, round)
    payments = connection.execute("SELECT number, cents FROM payments WHERE round = ? ORDER BY number", (round,))
    events = connection.execute("SELECT * FROM events WHERE round = ? ORDER BY position", (round,))
    paid, trail = {row["number"]: row["cents"] for row in payments}, [_event(row) for row in events]
    return Records(found, submissions_of(connection, round), results_of(connection, round), paid, trail)


def results_of(connection: sqlite3.Connection, round: str) -> list[Result]:
    """By number."""
    rows = connection.execute("SELECT * FROM results WHERE round = ? ORDER BY number", (round,))
    return [Result(row["number"], row["group_number"], row["status"], Fraction(row["part"])) for row in rows]


def submissions_of(connection: sqlite3.Connection, round: str) -> list[Submission]:
    """By number, those withdrawn too."""
    salt = connection.execute("SELECT salt FROM rounds WHERE round = ?", (round,)).fetchone()[0]
    rows = connection.execute(f"{_SUBMISSIONS} WHERE s.round = ? ORDER BY s.number", (round,))
    return [replace(_joined(row), owned=row["alias"] in (row["builder"], hashed(salt, row["builder"]))) for row in rows]


def submission_of(connection: sqlite3.Connection, row: sqlite3.Row) -> Submission:
    """That of a row of its table."""
    query = f"{_SUBMISSIONS} WHERE s.round = ? AND s.number = ?"
    return _joined(connection.execute(query, (row["round"], row["number"])).fetchone())


def _joined(row: sqlite3.Row) -> Submission:
    return Submission(
        row["round"],
        row["number"],
        row["alias"],
        row["model"],
        row["score"],
        _event(row),
        withdrawn=row["withdrawn"],
    )


def _event(row: sqlite3.Row) -> Event:
    return Event(row["position"], row["text"], row["previous"], row["hash"])


def last_of(connection: sqlite3.Connection, round: str) -> Event | None:
    """The last event of a round."""
    query = "SELECT * FROM events WHERE round = ? ORDER BY position DESC LIMIT 1"
    row = connection.execute(query, (round,)).fetchone()
    return None if row is None else _event(row)
