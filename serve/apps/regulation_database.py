"""The file behind the ledger: SQLite with a write-ahead log, and constraints that hold whatever the code above does.

Every commit is on the disk before it is answered (``synchronous=FULL``), so a replica may be killed at any point: what was
answered is there, and what was not is there whole or not at all. Several processes of one machine may use a file at once;
several machines may not, because no network file system keeps the locks.
"""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from rayworks.core.errors import DataError, InfrastructureError

VERSION = 2
"""Of the tables, kept in ``user_version``."""
BUSY_SECONDS = 5.0
WAL_PAUSE_SECONDS = 0.01
KEPT = ("submissions", "withdrawals", "results", "payments", "events")
"""Tables whose rows are never changed and never deleted."""
TABLES = """
CREATE TABLE rounds (
    round TEXT PRIMARY KEY CHECK (length(round) BETWEEN 1 AND 64),
    state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'paired', 'settled', 'cancelled')),
    commitment TEXT NOT NULL UNIQUE CHECK (length(commitment) = 64),
    seed TEXT CHECK ((seed IS NULL) = (state IN ('open', 'cancelled'))),
    rules TEXT NOT NULL CHECK (json_valid(rules)),
    premium INTEGER CHECK (premium > 0),
    budget INTEGER CHECK (budget > 0),
    salt TEXT NOT NULL,
    closes_at TEXT,
    reveal_by TEXT,
    CHECK (premium IS NOT NULL OR budget IS NOT NULL)
) STRICT;
CREATE TABLE submissions (
    round TEXT NOT NULL REFERENCES rounds,
    number INTEGER NOT NULL CHECK (number >= 1),
    builder TEXT NOT NULL,
    alias TEXT NOT NULL,
    model TEXT NOT NULL CHECK (length(model) = 64),
    score REAL NOT NULL CHECK (abs(score) < 1e308),
    idempotency_key TEXT,
    event INTEGER NOT NULL,
    PRIMARY KEY (round, number),
    UNIQUE (builder, idempotency_key),
    FOREIGN KEY (round, event) REFERENCES events
) STRICT;
CREATE TABLE withdrawals (
    round TEXT NOT NULL,
    number INTEGER NOT NULL,
    event INTEGER NOT NULL,
    PRIMARY KEY (round, number),
    FOREIGN KEY (round, number) REFERENCES submissions,
    FOREIGN KEY (round, event) REFERENCES events
) STRICT;
CREATE TABLE results (
    round TEXT NOT NULL,
    number INTEGER NOT NULL,
    group_number INTEGER NOT NULL,
    status TEXT NOT NULL,
    part TEXT NOT NULL,
    PRIMARY KEY (round, number),
    FOREIGN KEY (round, number) REFERENCES submissions
) STRICT;
CREATE TABLE payments (
    round TEXT NOT NULL,
    number INTEGER NOT NULL,
    cents INTEGER NOT NULL CHECK (cents > 0),
    PRIMARY KEY (round, number),
    FOREIGN KEY (round, number) REFERENCES results
) STRICT;
CREATE TABLE events (
    round TEXT NOT NULL REFERENCES rounds,
    position INTEGER NOT NULL CHECK (position >= 0),
    text TEXT NOT NULL CHECK (json_valid(text)),
    previous TEXT NOT NULL CHECK (length(previous) = 64),
    hash TEXT NOT NULL CHECK (length(hash) = 64),
    sequence INTEGER NOT NULL UNIQUE CHECK (sequence >= 1),
    chain TEXT NOT NULL CHECK (length(chain) = 64),
    PRIMARY KEY (round, position),
    UNIQUE (round, previous)
) STRICT;
CREATE TRIGGER rounds_only_move_forward BEFORE UPDATE ON rounds
WHEN (OLD.state, NEW.state) NOT IN (VALUES ('open', 'paired'), ('paired', 'settled'), ('open', 'cancelled'))
    OR (OLD.seed IS NOT NULL AND NEW.seed IS NOT OLD.seed)
    OR (NEW.round, NEW.commitment, NEW.rules, NEW.salt) IS NOT (OLD.round, OLD.commitment, OLD.rules, OLD.salt)
    OR (NEW.premium, NEW.budget, NEW.closes_at, NEW.reveal_by) IS NOT (OLD.premium, OLD.budget, OLD.closes_at, OLD.reveal_by)
BEGIN SELECT RAISE(ABORT, 'a round only moves forward'); END;
CREATE TRIGGER rounds_stay_within_budget BEFORE UPDATE ON rounds
WHEN NEW.state = 'settled' AND (SELECT sum(cents) FROM payments WHERE round = NEW.round) > NEW.budget
BEGIN SELECT RAISE(ABORT, 'payments exceed the budget'); END;
CREATE TRIGGER rounds_stay BEFORE DELETE ON rounds BEGIN SELECT RAISE(ABORT, 'rounds are kept'); END;
CREATE TRIGGER submissions_come_while_open BEFORE INSERT ON submissions
WHEN (SELECT state FROM rounds WHERE round = NEW.round) IS NOT 'open'
BEGIN SELECT RAISE(ABORT, 'the round is not open'); END;
CREATE TRIGGER a_builder_has_one_submission BEFORE INSERT ON submissions
WHEN EXISTS (SELECT 1 FROM submissions s WHERE s.round = NEW.round AND s.builder = NEW.builder AND NOT EXISTS
    (SELECT 1 FROM withdrawals w WHERE w.round = s.round AND w.number = s.number))
BEGIN SELECT RAISE(ABORT, 'one submission a builder'); END;
CREATE TRIGGER withdrawals_come_while_open BEFORE INSERT ON withdrawals
WHEN (SELECT state FROM rounds WHERE round = NEW.round) IS NOT 'open'
BEGIN SELECT RAISE(ABORT, 'the round is not open'); END;
CREATE TRIGGER results_come_while_open BEFORE INSERT ON results
WHEN (SELECT state FROM rounds WHERE round = NEW.round) IS NOT 'open'
BEGIN SELECT RAISE(ABORT, 'the round is not open'); END;
CREATE TRIGGER payments_come_after_pairing BEFORE INSERT ON payments
WHEN (SELECT state FROM rounds WHERE round = NEW.round) IS NOT 'paired'
BEGIN SELECT RAISE(ABORT, 'the round is not paired, or is settled'); END;
""" + "".join(
    f"CREATE TRIGGER {table}_keep_{action.lower()} BEFORE {action} ON {table} "
    f"BEGIN SELECT RAISE(ABORT, '{table} are kept'); END;\n"
    for table in KEPT
    for action in ("UPDATE", "DELETE")
)
KEYS = {
    "rounds": ("round", "commitment"),
    "submissions": ("round, number", "builder, idempotency_key"),
    "withdrawals": ("round, number",),
    "results": ("round, number",),
    "payments": ("round, number",),
    "events": ("round, position", "round, previous", "sequence"),
}
"""What no two rows share: INSERT OR REPLACE would delete the other row without a word."""
TABLES += "".join(
    f"CREATE TRIGGER {table}_replace_none_{number} BEFORE INSERT ON {table} WHEN EXISTS (SELECT 1 FROM {table} WHERE "
    + " AND ".join(f"{column} = NEW.{column}" for column in key.split(", "))
    + f") BEGIN SELECT RAISE(ABORT, '{table} are kept'); END;\n"
    for table, keys in KEYS.items()
    for number, key in enumerate(keys)
)


class Database:
    """One connection, used by one thread at a time.

    Args:
        file: made with its folder if it does not exist.
        busy_seconds: longest wait for another process's write.

    Raises:
        DataError: the file is not a ledger, or one of a newer version.
        InfrastructureError: it cannot be opened or written.
    """

    def __init__(self, file: str, busy_seconds: float = BUSY_SECONDS) -> None:
        self._path = Path(file).expanduser()
        self._lock = threading.Lock()
        with self._failures():
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Transactions are begun and ended here, and the lock keeps threads apart.
            self._connection = sqlite3.connect(
                self._path, timeout=busy_seconds, isolation_level=None, check_same_thread=False
            )
            self._connection.row_factory = sqlite3.Row
            self._enter_wal(busy_seconds)
            for setting in ("synchronous = FULL", "foreign_keys = ON"):
                self._connection.execute(f"PRAGMA {setting}")
        with self.writing() as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
            if version != VERSION and (version or tables):
                raise DataError(
                    f"database {self._path}: holds tables of version {version}, this program writes version {VERSION}; "
                    "name another file, or run the program that wrote it"
                )
            if not version:
                for statement in _statements(TABLES):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {VERSION}")

    def _enter_wal(self, busy_seconds: float) -> None:
        """Switch the journal, again and again while others do: SQLite does not wait for this one lock."""
        deadline = time.monotonic() + busy_seconds
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(WAL_PAUSE_SECONDS)

    def writing(self) -> AbstractContextManager[sqlite3.Connection]:
        """One transaction that no other writer enters; taken back whole on any exception.

        Raises:
            InfrastructureError: another process holds the file for too long, or the disk fails.
        """
        return self._transaction("IMMEDIATE")

    def reading(self) -> AbstractContextManager[sqlite3.Connection]:
        """One state of all tables, whatever is written meanwhile.

        Raises:
            InfrastructureError: the file cannot be read.
        """
        return self._transaction("DEFERRED")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[sqlite3.Connection]:
        with self._lock, self._failures():
            self._connection.execute(f"BEGIN {kind}")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite itself takes back what a full disk interrupts.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except (sqlite3.OperationalError, OSError) as error:
            raise InfrastructureError(f"database {self._path}: cannot be used ({error})") from None
        except sqlite3.DatabaseError as error:
            raise DataError(f"database {self._path}: is not a ledger ({error}); name another file") from None


def _statements(script: str) -> Iterator[Any]:
    """The script's statements, one by one: ``executescript`` would end the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
