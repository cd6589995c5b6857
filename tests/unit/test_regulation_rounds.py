"""Rounds that do not go straight: deadlines, withdrawals, cancellation, copies, and the head that is kept outside."""

import base64
import hashlib
import json
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rayworks.core.errors import ConfigError
from rayworks.systems.regulation.public_draws import commitment_of
from serve.apps.regulation_audit import audit_page, discrepancies
from serve.apps.regulation_events import BEGINNING, hash_lines
from serve.apps.regulation_head import Signer
from serve.apps.regulation_ledger import Ledger
from serve.common.problems import Problem
from tests.ledger_rounds import OTHER, TERMS, dump, fill, model, seed_of, settled, terms


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "made" / "ledger.sqlite"


@pytest.fixture
def ledger(file: Path) -> Iterator[Ledger]:
    with closing(Ledger(str(file), most_submissions=12)) as made:
        yield made


class Clock:
    """Of a ledger, in minutes after noon."""

    def __init__(self) -> None:
        self.minutes = 0

    def __call__(self) -> datetime:
        return datetime(2030, 1, 1, 12, self.minutes, tzinfo=UTC)


DATED = replace(TERMS, closes_at="2030-01-01T12:10:00.000+00:00", reveal_by="2030-01-01T12:20:00.000+00:00")


def test_deadlines_keep_everybody_to_them(file: Path) -> None:
    clock = Clock()
    with closing(Ledger(str(file), now=clock)) as ledger:
        fill(ledger, [0.6, 0.7], DATED)
        with pytest.raises(Problem, match="takes submissions until 2030-01-01T12:10"):
            ledger.reveal("ruth", "spring", seed_of("spring"))
        clock.minutes = 10
        with pytest.raises(Problem, match="closed to submissions since 2030-01-01T12:10"):
            ledger.submit("late", "spring", model("late"), 0.6, None)
        with pytest.raises(Problem, match="closed to submissions since 2030-01-01T12:10"):
            ledger.withdraw("builder-0", "spring", 1)
        clock.minutes = 20
        assert ledger.reveal("ruth", "spring", seed_of("spring")).state == "paired"
        assert discrepancies(ledger.records("spring")) == []
        with pytest.raises(Problem, match="over already"):
            ledger.open_round("ruth", replace(DATED, round="autumn", commitment=commitment_of("x" * 32)))
        assert ledger.open_round("ruth", DATED).state == "paired", "the same terms again answer as ever"


def test_a_round_whose_seed_never_comes_is_cancelled_by_anybody(file: Path) -> None:
    clock = Clock()
    with closing(Ledger(str(file), now=clock)) as ledger:
        entries = fill(ledger, [0.6, 0.7], DATED)
        clock.minutes = 20
        with pytest.raises(Problem, match="only a regulator may cancel it until 2030-01-01T12:20"):
            ledger.cancel("builder-1", "spring", regulates=False)
        clock.minutes = 21
        with pytest.raises(Problem, match="was due by"):
            ledger.reveal("ruth", "spring", seed_of("spring"))
        assert ledger.cancel("builder-1", "spring", regulates=False, reason="no seed").state == "cancelled"
        assert ledger.cancel("ruth", "spring", regulates=True).state == "cancelled"
        records = ledger.records("spring")
        assert discrepancies(records) == []
        assert records.events[-1].facts["builder"] == entries[1].alias
        page = audit_page(records, 0, 10)
        assert [entry.score for entry in page.entries] == [None, None], "what never competed stays sealed"
        assert [event.text is None for event in page.trail] == [False, True, True, False]


@pytest.mark.parametrize("scores", [[], [0.6], [0.4]])
def test_few_submissions_hang_no_round(ledger: Ledger, scores: list[float]) -> None:
    records = settled(ledger, scores)
    assert discrepancies(records) == []
    assert records.round.state == "settled"
    assert records.round.cleared == sum(score >= 0.5 for score in scores)
    assert records.round.groups in (None, 0, 1)


def test_a_published_digest_locks_nobody_out(ledger: Ledger) -> None:
    """Mallory enters Ann's digest first; Ann's entry is taken as any, and at the reveal the regulator names her."""
    for round in ("spring", "autumn"):
        ledger.open_round("ruth", terms(round))
        ledger.submit("mallory", round, model("ann's"), 0.9, None)
        ledger.submit("ann", round, model("ann's"), 0.8, None)
        ledger.submit("ben", round, model("ben's"), 0.7, None)
    ledger.reveal("ruth", "spring", seed_of("spring"), {model("ann's"): 2})
    ledger.reveal("ruth", "autumn", seed_of("autumn"))
    named, first = (ledger.settle("ruth", round) for round in ("spring", "autumn"))
    assert [result.status for result in named.results] == ["duplicate", "won", "lost"]
    assert [result.status for result in first.results] == ["won", "duplicate", "lost"]
    assert (named.payments, first.payments) == ({2: 101}, {1: 101})
    assert discrepancies(named) == discrepancies(first) == []
    assert named.owners == {model("ann's"): 2}


def test_entries_bind_key_and_salt(ledger: Ledger) -> None:
    """The same model and score under two keys, and in two rounds: four entries that tell nothing of each other."""
    found = []
    for round in ("spring", "autumn"):
        ledger.open_round("ruth", terms(round))
        found += [ledger.submit(builder, round, model(0), 0.6, None) for builder in ("ann", "ben")]
    assert len({entry.event.hash for entry in found}) == len({entry.alias for entry in found}) == 4
    assert len({entry.event.facts["nonce"] for entry in found}) == 4


def test_what_is_withdrawn_does_not_compete(ledger: Ledger, file: Path) -> None:
    fill(ledger, [0.6, 0.9, 0.7])
    taken_back = ledger.withdraw("builder-1", "spring", 2)
    assert (taken_back.number, taken_back.withdrawn) == (2, 4)
    assert ledger.withdraw("builder-1", "spring", 2) == taken_back, "asked again, it is as it was"
    with pytest.raises(Problem, match="no submission 1 of yours"):
        ledger.withdraw("builder-1", "spring", 1)
    again = ledger.submit("builder-1", "spring", model("better"), 0.95, "new key")
    assert again.number == 4
    before = dump(file)
    assert ledger.submit("builder-1", "spring", model(1), 0.9, "key-spring").withdrawn == 4, (
        "sent again, it is as it was"
    )
    assert dump(file) == before
    ledger.reveal("ruth", "spring", seed_of("spring"))
    records = ledger.settle("ruth", "spring")
    assert discrepancies(records) == []
    assert [result.number for result in records.results] == [1, 3, 4]
    page = audit_page(records, 0, 10)
    assert [(entry.status, entry.score is None) for entry in page.entries][1] == ("withdrawn", True)
    assert [event.text is None for event in page.trail] == [False, False, True, False, False, False, False, False]


def test_the_head_stands_for_all_rounds(ledger: Ledger, file: Path) -> None:
    """From the log anyone repeats the chain, finds an earlier head in it, and the events that a round's audit shows."""
    assert ledger.head() == (0, BEGINNING)
    fill(ledger, [0.6, 0.7])
    anchored = ledger.head()
    records = settled(ledger, [0.6], OTHER)
    entries = [*ledger.log(0, 3), *ledger.log(3, 100)]
    chain, heads = BEGINNING, {}
    for number, entry in enumerate(entries, 1):
        chain = hashlib.sha256(f"{chain}\n{entry.round}\n{entry.position}\n{entry.hash}".encode()).hexdigest()
        assert (entry.sequence, entry.chain) == (number, chain)
        heads[number] = chain
    assert ledger.head() == (len(entries), chain)
    assert heads[anchored[0]] == anchored[1]
    assert [entry.hash for entry in entries if entry.round == "autumn"] == [event.hash for event in records.events]


def test_a_signed_head_is_verified_by_openssl(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(key)], check=True, capture_output=True)
    found = Signer(str(key)).head(3, "ab" * 32)
    assert found.signature is not None and found.public_key is not None
    for name, content in (
        ("text", found.text.encode()),
        ("signature", base64.b64decode(found.signature)),
        ("public.pem", found.public_key.encode()),
    ):
        (tmp_path / name).write_bytes(content)
    verify = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "public.pem", "-rawin", "-in", "text", "-sigfile"]
    assert subprocess.run([*verify, "signature"], cwd=tmp_path, capture_output=True, check=False).returncode == 0
    (tmp_path / "text").write_text(found.text.replace("\n3\n", "\n4\n"))
    assert subprocess.run([*verify, "signature"], cwd=tmp_path, capture_output=True, check=False).returncode != 0
    assert Signer(None).head(0, BEGINNING).signature is None
    key.write_bytes(b"no key")
    for file in (key, tmp_path / "none.pem"):
        with pytest.raises(ConfigError, match="cannot be read"):
            Signer(str(file))
    subprocess.run(["openssl", "genpkey", "-algorithm", "x25519", "-out", str(key)], check=True, capture_output=True)
    with pytest.raises(ConfigError, match="no Ed25519 key"):
        Signer(str(key))


def test_one_builder_cannot_close_a_round_to_others(ledger: Ledger) -> None:
    ledger.open_round("ruth", TERMS)
    for number in range(1, 4):
        ledger.submit("mallory", "spring", model(number), 0.6, None)
        ledger.withdraw("mallory", "spring", number)
    ledger.submit("mallory", "spring", model(4), 0.6, None)
    with pytest.raises(Problem, match="3 submissions of yours are withdrawn; this one stands"):
        ledger.withdraw("mallory", "spring", 4)
    others = [ledger.submit(f"b{number}", "spring", model(f"b{number}"), 0.7, None) for number in range(11)]
    assert len(others) == 11, "what is withdrawn takes no room of the twelve"


def test_a_claim_that_does_not_clear_is_not_the_owners(ledger: Ledger) -> None:
    ledger.open_round("ruth", TERMS)
    ledger.submit("mallory", "spring", model("ann's"), 0.0, None)
    ledger.submit("ann", "spring", model("ann's"), 0.9, None)
    ledger.submit("ben", "spring", model("ben's"), 0.7, None)
    assert ledger.clashes("spring") == {model("ann's"): [1, 2]}
    ledger.reveal("ruth", "spring", seed_of("spring"))
    assert [result.status for result in ledger.records("spring").results] == ["duplicate", "won", "lost"]
    with pytest.raises(Problem, match="paired with other owners"):
        ledger.reveal("ruth", "spring", seed_of("spring"), {model("ann's"): 1})


def rewritten(file: Path, change: Callable[[dict[str, Any]], None], keep_chain: bool = False) -> None:
    """All events of the first round changed as an operator could, with hashes that follow."""
    with closing(sqlite3.connect(file)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        previous = chain = BEGINNING
        rows = connection.execute("SELECT round, position, text FROM events ORDER BY sequence").fetchall()
        for round, position, text in rows:
            facts = json.loads(text)
            change(facts)
            text = json.dumps(facts, separators=(",", ":"))
            digest = hash_lines(previous, text)
            chain = hash_lines(chain, round, position, digest)
            sets = "text = ?, previous = ?, hash = ?" + ("" if keep_chain else ", chain = ?")
            values = [text, previous, digest, *([] if keep_chain else [chain]), round, position]
            connection.execute(f"UPDATE events SET {sets} WHERE round = ? AND position = ?", values)
            previous = digest
        connection.commit()


def test_the_audit_checks_owners_and_times_and_the_head_its_chain(file: Path) -> None:
    clock = Clock()
    with closing(Ledger(str(file), now=clock)) as ledger:
        fill(ledger, [0.6, 0.9], DATED)
        clock.minutes = 15
        ledger.reveal("ruth", "spring", seed_of("spring"))
        assert discrepancies(ledger.records("spring")) == []
        head = ledger.head()

        def owner(facts: dict[str, Any]) -> None:
            if facts["event"] == "paired":
                facts["owners"] = {model(0): 2}

        rewritten(file, owner)
        assert discrepancies(ledger.records("spring")) == [
            "owners: submission 2 did not enter the model it is named for"
        ]
        assert ledger.head() != head, "a witness who kept the head sees it"

        def late(facts: dict[str, Any]) -> None:
            facts.pop("owners", None)
            if facts["event"] == "submitted":
                facts["at"] = "2031-01-01T12:00:00.000+00:00"

        rewritten(file, late, keep_chain=True)
        found = discrepancies(ledger.records("spring"))
        assert found[0].startswith("event 1: submitted at 2031-01-01") and len(found) >= 2
        with pytest.raises(Problem, match="does not follow from those before; it was tampered with"):
            ledger.head()


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT OR REPLACE INTO events SELECT round, position, '{}', previous, hash, sequence, chain FROM events",
        "INSERT OR REPLACE INTO submissions SELECT round, number, builder, alias, model, 1.0, idempotency_key, event "
        "FROM submissions",
        "INSERT OR REPLACE INTO results SELECT round, number, group_number, 'won', '1' FROM results",
        "INSERT OR REPLACE INTO payments SELECT round, number, 1 FROM payments",
        "INSERT OR REPLACE INTO rounds "
        "SELECT round, 'open', commitment, NULL, rules, 1, budget, salt, NULL, NULL FROM rounds",
    ],
)
def test_nothing_is_replaced(ledger: Ledger, file: Path, statement: str) -> None:
    settled(ledger, [0.6, 0.9])
    before = dump(file)
    with closing(sqlite3.connect(file, isolation_level=None)) as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute(statement)
    assert dump(file) == before
