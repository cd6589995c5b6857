"""The ledger of rounds: opened with a commitment, filled with submissions, paired by the revealed seed, settled once.

Every change is one transaction that checks the state it relies on, changes it and adds to the round's audit trail; what is
refused changes nothing. Money is whole cents throughout.
"""

import hmac
import json
import secrets
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Literal

from rayworks.systems.regulation.public_draws import commitment_of

from ..common.problems import Problem
from .regulation_database import BUSY_SECONDS, Database
from .regulation_events import BEGINNING, Event, Kind, LogEntry, following, hash_lines
from .regulation_records import (
    Records,
    Round,
    Submission,
    Terms,
    digest_of_payments,
    digest_of_results,
    hashed,
    last_of,
    pair,
    payments_of,
    records_of,
    results_of,
    round_of,
    row_of,
    submission_of,
    submissions_of,
)

Names = Literal["hash", "plain"]
MOST_WITHDRAWALS = 3
"""Of a builder in a round: each stays in the trail that everybody reads."""


def utc_now() -> datetime:
    """The clock that deadlines are read by."""
    return datetime.now(UTC)


class Ledger:
    """All rounds, in one file that several replicas of one machine may share.

    Args:
        names: whether the audit shows builders by a hash, salted anew in each round, or by the names of their keys.
        most_submissions: of a round; beyond that: 409.
        busy_seconds: longest wait for another replica's write.
        now: the clock.

    Raises:
        DataError: the file is not a ledger.
    """

    def __init__(
        self,
        file: str,
        names: Names = "hash",
        most_submissions: int = 10_000,
        busy_seconds: float = BUSY_SECONDS,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._names, self._most, self._now = names, most_submissions, now
        self._database = Database(file, busy_seconds)

    def open_round(self, regulator: str, terms: Terms) -> Round:
        """Publish the terms of a new round; the same terms again change nothing.

        Raises:
            Problem: 409 when the round is there with other terms, or another has this commitment: its seed is known then;
                422 when it would be closed already.
        """
        with self._database.writing() as connection:
            if row_of(connection, terms.round) is not None:
                found = round_of(connection, terms.round)
                if found.terms != terms:
                    raise Problem(409, f"round {terms.round}: exists with other terms; take another name")
                return found
            if terms.closed(self._now()) or terms.overdue(self._now()):
                raise Problem(422, "closes_at, reveal_by: are over already; give times to come")
            used = "SELECT round FROM rounds WHERE commitment = ?"
            other = connection.execute(used, (terms.commitment,)).fetchone()
            if other is not None:
                raise Problem(409, f"commitment: is that of round {other['round']}; take a new seed")
            connection.execute(
                "INSERT INTO rounds (round, commitment, rules, premium, budget, salt, closes_at, reveal_by) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(terms.round, terms.commitment, json.dumps(asdict(terms.rules)), terms.premium, terms.budget),
                    *(secrets.token_hex(16), terms.closes_at, terms.reveal_by),
                ),
            )
            self._append(connection, terms.round, "opened", {"regulator": regulator, **terms.facts()})
            return round_of(connection, terms.round)

    def submit(self, builder: str, round: str, model: str, score: float, idempotency_key: str | None) -> Submission:
        """Take a builder's model and its score; the same again under the same key changes nothing.

        Whether another key has entered the same model shows, and is settled, only when the seed is revealed.

        Raises:
            Problem: 404 without such a round; 409 when it is closed or full, or has a submission of this builder; 422 when
                the idempotency key was used for another submission.
        """
        with self._database.writing() as connection:
            repeated = connection.execute(
                "SELECT * FROM submissions WHERE builder = ? AND idempotency_key = ?", (builder, idempotency_key)
            ).fetchone()
            if repeated is not None:
                if (repeated["round"], repeated["model"], repeated["score"]) != (round, model, score):
                    raise Problem(422, "Idempotency-Key: was used for another submission; take a new one")
                return submission_of(connection, repeated)
            found = round_of(connection, round)
            self._takes(found)
            if _standing(connection, round, builder) is not None:
                raise Problem(409, f"round {round}: has your submission already; one per key, unless you withdraw it")
            if found.submissions - found.withdrawn >= self._most:
                raise Problem(409, f"round {round}: is full with {self._most} submissions; take another")
            number, alias = found.submissions + 1, self._alias(connection, round, builder)
            # Until the round closes only the entry's hash is public: it commits to key, model, score and a nonce, which keeps
            # them from being guessed.
            facts = {"submission": number, "builder": alias, "model": model, "score": score}
            event = self._append(connection, round, "submitted", {**facts, "nonce": secrets.token_hex(16)})
            connection.execute(
                "INSERT INTO submissions VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (round, number, builder, alias, model, score, idempotency_key, event.position),
            )
            return Submission(round, number, alias, model, score, event)

    def withdraw(self, builder: str, round: str, number: int) -> Submission:
        """Take a builder's submission back while the round is open; the next one may be another. Again, it changes nothing.

        Raises:
            Problem: 404 without such a round, or submission of this builder; 409 when the round is closed, or the builder has
                taken back ``MOST_WITHDRAWALS``.
        """
        with self._database.writing() as connection:
            found = round_of(connection, round)
            query = "SELECT * FROM submissions WHERE round = ? AND builder = ? AND number = ?"
            row = connection.execute(query, (round, builder, number)).fetchone()
            if row is None:
                raise Problem(404, f"round {round}: has no submission {number} of yours")
            entry = submission_of(connection, row)
            if entry.withdrawn is not None:
                return entry
            self._takes(found)
            of_builder = "withdrawals JOIN submissions USING (round, number) WHERE round = ? AND builder = ?"
            taken_back = connection.execute(f"SELECT count(*) FROM {of_builder}", (round, builder)).fetchone()[0]
            if taken_back >= MOST_WITHDRAWALS:
                raise Problem(
                    409, f"round {round}: {MOST_WITHDRAWALS} submissions of yours are withdrawn; this one stands"
                )
            facts = {"submission": row["number"], "builder": row["alias"]}
            event = self._append(connection, round, "withdrawn", facts)
            connection.execute("INSERT INTO withdrawals VALUES (?, ?, ?)", (round, row["number"], event.position))
            return submission_of(connection, row)

    def cancel(self, who: str, round: str, regulates: bool, reason: str = "") -> Round:
        """End a round without pairing; one that is cancelled stays so.

        Args:
            who: a regulator at any time before the seed is revealed; anybody once the seed is overdue.
            regulates: whether it is a regulator.
            reason: for the audit trail.

        Raises:
            Problem: 404 without such a round, 403 for others before the time, 409 once the seed is revealed.
        """
        with self._database.writing() as connection:
            found = round_of(connection, round)
            if found.state == "cancelled":
                return found
            if found.state != "open":
                raise Problem(
                    409, f"round {round}: is {found.state}, and stands; only a round without its seed is cancelled"
                )
            if not regulates and not found.terms.overdue(self._now()):
                due = f"until {found.terms.reveal_by}" if found.terms.reveal_by else "as it has no reveal_by"
                raise Problem(403, f"round {round}: only a regulator may cancel it {due}")
            by = {"regulator": who} if regulates else {"builder": self._alias(connection, round, who)}
            self._append(connection, round, "cancelled", {**by, "reason": reason})
            connection.execute("UPDATE rounds SET state = 'cancelled' WHERE round = ?", (round,))
            return round_of(connection, round)

    def reveal(self, regulator: str, round: str, seed: str, owners: Mapping[str, int] | None = None) -> Round:
        """Close a round with the seed of its commitment and pair; the same seed again changes nothing.

        Args:
            owners: of models that several keys have entered, the submission that competes; the earliest where not named.

        Raises:
            Problem: 404 without such a round; 422 when the seed is not the one committed to, or an owner is none; 409 before
                the round closes, when the seed is overdue, or when it is cancelled.
        """
        owners = dict(owners or {})
        with self._database.writing() as connection:
            found = round_of(connection, round)
            digest = commitment_of(seed)
            if not hmac.compare_digest(digest, found.terms.commitment):
                raise Problem(
                    422, f"seed: its SHA-256 is {digest}, the commitment of round {round} is {found.terms.commitment}"
                )
            if found.state == "cancelled":
                raise Problem(409, f"round {round}: is cancelled; open another")
            if found.state != "open":
                if owners and owners != records_of(connection, round).owners:
                    raise Problem(409, f"round {round}: is paired with other owners, and stands")
                return found
            if found.terms.closes_at is not None and not found.terms.closed(self._now()):
                raise Problem(409, f"round {round}: takes submissions until {found.terms.closes_at}; reveal after that")
            if found.terms.overdue(self._now()):
                raise Problem(409, f"round {round}: its seed was due by {found.terms.reveal_by}; cancel it")
            standing = [entry for entry in submissions_of(connection, round) if entry.withdrawn is None]
            claims = {(entry.model, entry.number) for entry in standing}
            for model, number in owners.items():
                if (model, number) not in claims:
                    raise Problem(422, f"owners: submission {number} did not enter model {model[:12]}...; see clashes")
            results = pair(found.terms, seed, standing, owners)
            connection.executemany(
                "INSERT INTO results VALUES (?, ?, ?, ?, ?)",
                [(round, result.number, result.group, result.status, str(result.part)) for result in results],
            )
            facts = {"regulator": regulator, "seed": seed, "owners": owners, "results": digest_of_results(results)}
            self._append(connection, round, "paired", facts)
            connection.execute("UPDATE rounds SET state = 'paired', seed = ? WHERE round = ?", (seed, round))
            return round_of(connection, round)

    def clashes(self, round: str) -> dict[str, list[int]]:
        """Of models that several keys have entered, their submissions: what a regulator settles by ``owners``.

        Raises:
            Problem: 404 without such a round.
        """
        claims: dict[str, list[int]] = {}
        for entry in self.records(round).standing:
            claims.setdefault(entry.model, []).append(entry.number)
        return {model: numbers for model, numbers in claims.items() if len(numbers) > 1}

    def settle(self, regulator: str, round: str) -> Records:
        """Pay the premiums of a paired round; a settled one is left as it is.

        Raises:
            Problem: 404 without such a round, 409 before its seed is revealed, or when it is cancelled.
        """
        with self._database.writing() as connection:
            found = round_of(connection, round)
            if found.state == "open":
                raise Problem(409, f"round {round}: is not paired yet; reveal its seed first")
            if found.state == "cancelled":
                raise Problem(409, f"round {round}: is cancelled, and pays nothing")
            if found.state == "settled":
                return records_of(connection, round)
            payments = payments_of(found.terms, results_of(connection, round))
            connection.executemany(
                "INSERT INTO payments VALUES (?, ?, ?)",
                [(round, number, cents) for number, cents in payments.items()],
            )
            facts = {"regulator": regulator, "paid": sum(payments.values()), "payments": digest_of_payments(payments)}
            self._append(connection, round, "settled", facts)
            connection.execute("UPDATE rounds SET state = 'settled' WHERE round = ?", (round,))
            return records_of(connection, round)

    def round(self, round: str) -> Round:
        """A round's state.

        Raises:
            Problem: 404 without such a round.
        """
        with self._database.reading() as connection:
            return round_of(connection, round)

    def records(self, round: str) -> Records:
        """All that is written of a round.

        Raises:
            Problem: 404 without such a round.
        """
        with self._database.reading() as connection:
            return records_of(connection, round)

    def rounds(self) -> int:
        """How many rounds there are."""
        with self._database.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM rounds").fetchone()[0])

    def head(self) -> tuple[int, str]:
        """How many events all rounds have, and the hash that stands for all of them: see :mod:`.regulation_events`.

        Raises:
            Problem: 409 where the chain does not follow from the events any more.
        """
        count, chain = 0, BEGINNING
        with self._database.reading() as connection:
            for row in connection.execute(
                "SELECT sequence, round, position, hash, chain FROM events ORDER BY sequence"
            ):
                count, chain = count + 1, hash_lines(chain, row["round"], row["position"], row["hash"])
                if (row["sequence"], row["chain"]) != (count, chain):
                    raise Problem(409, f"ledger: event {count} does not follow from those before; it was tampered with")
        return count, chain

    def log(self, after: int, limit: int) -> Sequence[LogEntry]:
        """Events of all rounds in their order, from the one behind ``after`` on."""
        query = "SELECT sequence, round, position, hash, chain FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?"
        with self._database.reading() as connection:
            return [LogEntry(*row) for row in connection.execute(query, (after, limit))]

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _takes(self, found: Round) -> None:
        """Refuse where a round neither takes nor gives back submissions."""
        round, now = found.terms.round, self._now()
        if found.state != "open":
            raise Problem(409, f"round {round}: is closed to submissions, it is {found.state}; take an open one")
        if found.terms.closed(now) or found.terms.overdue(now):
            since = found.terms.closes_at or found.terms.reveal_by
            raise Problem(409, f"round {round}: is closed to submissions since {since}; take another")

    def _alias(self, connection: sqlite3.Connection, round: str, builder: str) -> str:
        if self._names == "plain":
            return builder
        salt = connection.execute("SELECT salt FROM rounds WHERE round = ?", (round,)).fetchone()[0]
        return hashed(salt, builder)

    def _append(self, connection: sqlite3.Connection, round: str, kind: Kind, facts: Mapping[str, Any]) -> Event:
        event = following(last_of(connection, round), kind, {"round": round, **facts}, self._now())
        before = connection.execute("SELECT sequence, chain FROM events ORDER BY sequence DESC LIMIT 1").fetchone()
        count, chain = (0, BEGINNING) if before is None else before
        link = hash_lines(chain, round, event.position, event.hash)
        entry = (round, event.position, event.text, event.previous, event.hash, count + 1, link)
        connection.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", entry)
        return event


def _standing(connection: sqlite3.Connection, round: str, builder: str) -> sqlite3.Row | None:
    """The builder's submission that is not withdrawn."""
    query = (
        "SELECT * FROM submissions s WHERE round = ? AND builder = ? AND NOT EXISTS "
        "(SELECT 1 FROM withdrawals w WHERE w.round = s.round AND w.number = s.number)"
    )
    row: sqlite3.Row | None = connection.execute(query, (round, builder)).fetchone()
    return row
