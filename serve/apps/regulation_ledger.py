"""The ledger of rounds: opened with a commitment, filled with submissions, paired by the revealed seed, settled once.

Every change is one transaction that checks the state it relies on, changes it and adds to the round's audit trail; what is
refused changes nothing. Money is whole cents throughout.
"""

import hmac
import json
import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any, Literal

from rayworks.systems.regulation.mechanism import NO_GROUP, STATUSES, Rules, run_mechanism
from rayworks.systems.regulation.public_draws import commitment_of, public_draws
from rayworks.systems.regulation.settlement import exact_parts, share_premiums

from ..common.problems import Problem
from .regulation_database import BUSY_SECONDS, Database
from .regulation_events import Event, Kind, following, hash_lines

State = Literal["open", "paired", "settled"]
Names = Literal["hash", "plain"]
FEWEST = 2
"""Submissions that make a contest."""
ALIAS_DIGITS = 16


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

    def facts(self) -> dict[str, Any]:
        """For the audit trail."""
        return {**asdict(self), "rules": asdict(self.rules)}


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


@dataclass(frozen=True)
class Round:
    """A round's terms and how far it is."""

    terms: Terms
    state: State
    seed: str | None
    submissions: int
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


class Ledger:
    """All rounds, in one file that several replicas of one machine may share.

    Args:
        names: whether the audit shows builders by a hash, salted anew in each round, or by the names of their keys.
        most_submissions: of a round; beyond that: 409.
        busy_seconds: longest wait for another replica's write.

    Raises:
        DataError: the file is not a ledger.
    """

    def __init__(
        self, file: str, names: Names = "hash", most_submissions: int = 10_000, busy_seconds: float = BUSY_SECONDS
    ) -> None:
        self._names, self._most = names, most_submissions
        self._database = Database(file, busy_seconds)

    def open_round(self, regulator: str, terms: Terms) -> Round:
        """Publish the terms of a new round; the same terms again change nothing.

        Raises:
            Problem: 409 when the round is there with other terms, or another has this commitment: its seed is known then.
        """
        with self._database.writing() as connection:
            if _row(connection, terms.round) is not None:
                found = _round(connection, terms.round)
                if found.terms != terms:
                    raise Problem(409, f"round {terms.round}: exists with other terms; take another name")
                return found
            used = "SELECT round FROM rounds WHERE commitment = ?"
            other = connection.execute(used, (terms.commitment,)).fetchone()
            if other is not None:
                raise Problem(409, f"commitment: is that of round {other['round']}; take a new seed")
            connection.execute(
                "INSERT INTO rounds (round, commitment, rules, premium, budget, salt) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    *(terms.round, terms.commitment, json.dumps(asdict(terms.rules))),
                    *(terms.premium, terms.budget, secrets.token_hex(16)),
                ),
            )
            _append(connection, terms.round, "opened", {"regulator": regulator, **terms.facts()})
            return _round(connection, terms.round)

    def submit(self, builder: str, round: str, model: str, score: float, idempotency_key: str | None) -> Submission:
        """Take a builder's model and its score; the same again under the same key changes nothing.

        Raises:
            Problem: 404 without such a round; 409 when it is closed or full, or has a submission of this builder or of this
                model; 422 when the idempotency key was used for another submission.
        """
        with self._database.writing() as connection:
            repeated = connection.execute(
                "SELECT * FROM submissions WHERE builder = ? AND idempotency_key = ?", (builder, idempotency_key)
            ).fetchone()
            if repeated is not None:
                if (repeated["round"], repeated["model"], repeated["score"]) != (round, model, score):
                    raise Problem(422, "Idempotency-Key: was used for another submission; take a new one")
                return _submission(connection, repeated)
            found = _round(connection, round)
            if found.state != "open":
                raise Problem(409, f"round {round}: is closed to submissions, it is {found.state}; take an open one")
            for column, value, refusal in (
                ("builder", builder, f"round {round}: has your submission already; one per key"),
                ("model", model, f"model: is in round {round} already; submit another"),
            ):
                taken = f"SELECT 1 FROM submissions WHERE round = ? AND {column} = ?"
                if connection.execute(taken, (round, value)).fetchone():
                    raise Problem(409, refusal)
            if found.submissions >= self._most:
                raise Problem(409, f"round {round}: is full with {self._most} submissions; take another")
            number, alias = found.submissions + 1, self._alias(connection, round, builder)
            # Until the round closes only the entry's hash is public; the nonce keeps the score from being guessed.
            facts = {"submission": number, "builder": alias, "model": model, "score": score}
            event = _append(connection, round, "submitted", {**facts, "nonce": secrets.token_hex(16)})
            connection.execute(
                "INSERT INTO submissions VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (round, number, builder, alias, model, score, idempotency_key, event.position),
            )
            return Submission(round, number, alias, model, score, event)

    def reveal(self, regulator: str, round: str, seed: str) -> Round:
        """Close a round with the seed of its commitment and pair; the same seed again changes nothing.

        Raises:
            Problem: 404 without such a round, 422 when the seed is not the one committed to, 409 with fewer than two
                submissions.
        """
        with self._database.writing() as connection:
            found = _round(connection, round)
            digest = commitment_of(seed)
            if not hmac.compare_digest(digest, found.terms.commitment):
                raise Problem(
                    422, f"seed: its SHA-256 is {digest}, the commitment of round {round} is {found.terms.commitment}"
                )
            if found.state != "open":
                return found
            if found.submissions < FEWEST:
                raise Problem(
                    409, f"round {round}: has {found.submissions} submissions, a contest needs {FEWEST}; wait for more"
                )
            results = pair(found.terms, seed, _submissions(connection, round))
            connection.executemany(
                "INSERT INTO results VALUES (?, ?, ?, ?, ?)",
                [(round, result.number, result.group, result.status, str(result.part)) for result in results],
            )
            facts = {"regulator": regulator, "seed": seed, "results": digest_of_results(results)}
            _append(connection, round, "paired", facts)
            connection.execute("UPDATE rounds SET state = 'paired', seed = ? WHERE round = ?", (seed, round))
            return _round(connection, round)

    def settle(self, regulator: str, round: str) -> Records:
        """Pay the premiums of a paired round; a settled one is left as it is.

        Raises:
            Problem: 404 without such a round, 409 before its seed is revealed.
        """
        with self._database.writing() as connection:
            found = _round(connection, round)
            if found.state == "open":
                raise Problem(409, f"round {round}: is not paired yet; reveal its seed first")
            if found.state == "settled":
                return _records(connection, round)
            payments = payments_of(found.terms, _results(connection, round))
            connection.executemany(
                "INSERT INTO payments VALUES (?, ?, ?)",
                [(round, number, cents) for number, cents in payments.items()],
            )
            facts = {"regulator": regulator, "paid": sum(payments.values()), "payments": digest_of_payments(payments)}
            _append(connection, round, "settled", facts)
            connection.execute("UPDATE rounds SET state = 'settled' WHERE round = ?", (round,))
            return _records(connection, round)

    def round(self, round: str) -> Round:
        """A round's state.

        Raises:
            Problem: 404 without such a round.
        """
        with self._database.reading() as connection:
            return _round(connection, round)

    def records(self, round: str) -> Records:
        """All that is written of a round.

        Raises:
            Problem: 404 without such a round.
        """
        with self._database.reading() as connection:
            return _records(connection, round)

    def rounds(self) -> int:
        """How many rounds there are."""
        with self._database.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM rounds").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _alias(self, connection: sqlite3.Connection, round: str, builder: str) -> str:
        if self._names == "plain":
            return builder
        salt = connection.execute("SELECT salt FROM rounds WHERE round = ?", (round,)).fetchone()[0]
        return _hashed(salt, builder)


def pair(terms: Terms, seed: str, submissions: Sequence[Submission]) -> list[Result]:
    """The mechanism at public draws: a pure function of what the audit shows."""
    draws = public_draws(seed, terms.round, [submission.model for submission in submissions])
    scores = [submission.score for submission in submissions]
    outcome = run_mechanism(scores, terms.rules, draws.pairing, draws.tie_break)
    columns = zip(submissions, outcome.group.tolist(), outcome.status.tolist(), exact_parts(outcome), strict=True)
    return [Result(entry.number, group, STATUSES[status], part) for entry, group, status, part in columns]


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


def _hashed(salt: str, builder: str) -> str:
    return hash_lines(salt, builder)[:ALIAS_DIGITS]


def _row(connection: sqlite3.Connection, round: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = connection.execute("SELECT * FROM rounds WHERE round = ?", (round,)).fetchone()
    return row


def _round(connection: sqlite3.Connection, round: str) -> Round:
    row = _row(connection, round)
    if row is None:
        raise Problem(404, f"round {round[:80]!r}: does not exist; a regulator opens it with a commitment")
    terms = Terms(round, row["commitment"], Rules(**json.loads(row["rules"])), row["premium"], row["budget"])
    highest = "SELECT max(number) FROM submissions WHERE round = ?"
    submissions = connection.execute(highest, (round,)).fetchone()[0] or 0
    last = _last(connection, round)
    assert last is not None
    found = Round(terms, row["state"], row["seed"], submissions, last)
    if found.state == "open":
        return found
    counts = "SELECT count(*) FILTER (WHERE group_number <> ?), max(group_number) + 1 FROM results WHERE round = ?"
    cleared, groups = connection.execute(counts, (NO_GROUP, round)).fetchone()
    paid = connection.execute("SELECT coalesce(sum(cents), 0) FROM payments WHERE round = ?", (round,)).fetchone()[0]
    return replace(found, cleared=cleared, groups=groups, paid=paid if found.state == "settled" else None)


def _records(connection: sqlite3.Connection, round: str) -> Records:
    found = _round(connection, round)
    payments = connection.execute("SELECT number, cents FROM payments WHERE round = ? ORDER BY number", (round,))
    events = connection.execute("SELECT * FROM events WHERE round = ? ORDER BY position", (round,))
    paid, trail = {row["number"]: row["cents"] for row in payments}, [_event(row) for row in events]
    return Records(found, _submissions(connection, round), _results(connection, round), paid, trail)


def _results(connection: sqlite3.Connection, round: str) -> list[Result]:
    rows = connection.execute("SELECT * FROM results WHERE round = ? ORDER BY number", (round,))
    return [Result(row["number"], row["group_number"], row["status"], Fraction(row["part"])) for row in rows]


def _submissions(connection: sqlite3.Connection, round: str) -> list[Submission]:
    salt = connection.execute("SELECT salt FROM rounds WHERE round = ?", (round,)).fetchone()[0]
    query = "SELECT * FROM submissions JOIN events USING (round) WHERE round = ? AND event = position ORDER BY number"
    rows = connection.execute(query, (round,))
    return [
        replace(_joined(row), owned=row["alias"] in (row["builder"], _hashed(salt, row["builder"]))) for row in rows
    ]


def _submission(connection: sqlite3.Connection, row: sqlite3.Row) -> Submission:
    query = "SELECT * FROM submissions JOIN events USING (round) WHERE round = ? AND event = position AND number = ?"
    return _joined(connection.execute(query, (row["round"], row["number"])).fetchone())


def _joined(row: sqlite3.Row) -> Submission:
    return Submission(row["round"], row["number"], row["alias"], row["model"], row["score"], _event(row))


def _event(row: sqlite3.Row) -> Event:
    return Event(row["position"], row["text"], row["previous"], row["hash"])


def _last(connection: sqlite3.Connection, round: str) -> Event | None:
    query = "SELECT * FROM events WHERE round = ? ORDER BY position DESC LIMIT 1"
    row = connection.execute(query, (round,)).fetchone()
    return None if row is None else _event(row)


def _append(connection: sqlite3.Connection, round: str, kind: Kind, facts: Mapping[str, Any]) -> Event:
    event = following(_last(connection, round), kind, {"round": round, **facts})
    entry = (round, event.position, event.text, event.previous, event.hash)
    connection.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?)", entry)
    return event
