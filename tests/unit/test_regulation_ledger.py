"""The ledger alone: what it refuses leaves it as it was, and nothing happens twice however many try at once."""

import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayworks.core.errors import DataError, InfrastructureError
from rayworks.systems.regulation.contests import TieRule
from rayworks.systems.regulation.mechanism import Rules
from serve.apps.regulation_audit import audit_page, discrepancies
from serve.apps.regulation_events import first_break
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


def test_a_round_from_commitment_to_settlement(ledger: Ledger) -> None:
    assert ledger.rounds() == 0
    entries = fill(ledger, [0.4, 0.9, 0.7, 0.8, 0.6])
    assert [entry.number for entry in entries] == [1, 2, 3, 4, 5]
    assert (ledger.round("spring").state, ledger.round("spring").submissions) == ("open", 5)
    found = ledger.reveal("ruth", "spring", seed_of("spring"))
    assert (found.state, found.seed, found.cleared) == ("paired", seed_of("spring"), 4)
    assert (found.groups, found.paid) == (2, None)
    records = ledger.settle("ruth", "spring")
    assert discrepancies(records) == []
    assert records.round.paid == sum(records.payments.values()) == 202
    results = {result.number: result for result in records.results}
    assert results[1].status == "rejected"
    scores = {entry.number: entry.score for entry in records.submissions}
    for group in (0, 1):
        rivals = [number for number, result in results.items() if result.group == group]
        winner = max(rivals, key=scores.__getitem__)
        assert [records.payments.get(number, 0) for number in sorted(rivals)] == [
            101 if number == winner else 0 for number in sorted(rivals)
        ]
    kinds = [event.facts["event"] for event in records.events]
    assert kinds == ["opened", *["submitted"] * 5, "paired", "settled"]


def test_builders_are_shown_by_a_hash_of_the_round_or_plainly(ledger: Ledger, file: Path) -> None:
    first, again = fill(ledger, [0.6])[0], fill(ledger, [0.6], OTHER)[0]
    assert "builder-0" not in first.event.text + again.event.text
    assert first.alias != again.alias
    with closing(Ledger(str(file), names="plain")) as plain:
        assert fill(plain, [0.6], terms("plain"))[0].alias == "builder-0"
        assert plain.records("spring").submissions[0] == first


def act(ledger: Ledger) -> dict[str, Callable[[], object]]:
    """Everything that must be refused, by its name; the ledger has an open, a filled, a paired and a settled round."""
    fill(ledger, [0.6], terms("open"))
    fill(ledger, [0.6] * 12, terms("full"))
    fill(ledger, [0.6, 0.7], terms("paired"))
    ledger.reveal("ruth", "paired", seed_of("paired"))
    settled(ledger, [0.6, 0.7], terms("settled"))
    fill(ledger, [0.6, 0.7], terms("cancelled"))
    ledger.cancel("ruth", "cancelled", regulates=True)
    return {
        "other terms": lambda: ledger.open_round("ruth", terms("open", premium=102)),
        "used commitment": lambda: ledger.open_round("ruth", replace(TERMS, commitment=terms("paired").commitment)),
        "unknown round": lambda: ledger.submit("new", "nowhere", model("new"), 0.6, None),
        "second submission": lambda: ledger.submit("builder-0", "open", model("new"), 0.6, None),
        "full": lambda: ledger.submit("new", "full", model("new"), 0.6, None),
        "closed": lambda: ledger.submit("new", "paired", model("new"), 0.6, None),
        "over": lambda: ledger.submit("new", "settled", model("new"), 0.6, None),
        "key of another": lambda: ledger.submit("builder-0", "open", model(0), 0.61, "key-open"),
        "wrong seed": lambda: ledger.reveal("ruth", "full", seed_of("full") + "0"),
        "wrong seed later": lambda: ledger.reveal("ruth", "paired", seed_of("paired") + "0"),
        "seed of nothing": lambda: ledger.reveal("ruth", "nowhere", seed_of("nowhere")),
        "owner of another's": lambda: ledger.reveal("ruth", "full", seed_of("full"), {model(1): 1}),
        "withdrawing nothing": lambda: ledger.withdraw("new", "open", 1),
        "withdrawing too late": lambda: ledger.withdraw("builder-0", "paired", 1),
        "cancelled by a builder": lambda: ledger.cancel("builder-0", "open", regulates=False),
        "cancelled too late": lambda: ledger.cancel("ruth", "paired", regulates=True),
        "seed of a cancelled round": lambda: ledger.reveal("ruth", "cancelled", seed_of("cancelled")),
        "settling a cancelled round": lambda: ledger.settle("ruth", "cancelled"),
        "into a cancelled round": lambda: ledger.submit("new", "cancelled", model("new"), 0.6, None),
        "not paired": lambda: ledger.settle("ruth", "full"),
        "settling nothing": lambda: ledger.settle("ruth", "nowhere"),
    }


WORDS = {
    "other terms": (409, "other terms"),
    "used commitment": (409, "that of round paired; take a new seed"),
    "unknown round": (404, "does not exist"),
    "second submission": (409, "one per key"),
    "full": (409, "is full with 12"),
    "closed": (409, "is paired"),
    "over": (409, "is settled"),
    "key of another": (422, "Idempotency-Key"),
    "wrong seed": (422, "the commitment of round full is"),
    "wrong seed later": (422, "seed: its SHA-256"),
    "seed of nothing": (404, "does not exist"),
    "owner of another's": (422, "submission 1 did not enter model"),
    "withdrawing nothing": (404, "of yours"),
    "withdrawing too late": (409, "is paired"),
    "cancelled by a builder": (403, "only a regulator may cancel it as it has no reveal_by"),
    "cancelled too late": (409, "is paired, and stands"),
    "seed of a cancelled round": (409, "is cancelled"),
    "settling a cancelled round": (409, "pays nothing"),
    "into a cancelled round": (409, "is cancelled"),
    "not paired": (409, "reveal its seed first"),
    "settling nothing": (404, "does not exist"),
}


def test_what_is_refused_changes_nothing(ledger: Ledger, file: Path) -> None:
    refused = act(ledger)
    assert refused.keys() == WORDS.keys()
    before = dump(file)
    for name, action in refused.items():
        with pytest.raises(Problem) as raised:
            action()
        status, words = WORDS[name]
        assert (raised.value.status, words in raised.value.detail) == (status, True), (name, raised.value.detail)
        assert dump(file) == before, name


def test_what_is_repeated_changes_nothing_and_answers_the_same(ledger: Ledger, file: Path) -> None:
    records = settled(ledger, [0.6, 0.7])
    before = dump(file)
    assert ledger.settle("ruth", "spring") == records
    assert ledger.reveal("ruth", "spring", seed_of("spring")) == records.round
    assert ledger.open_round("ruth", TERMS) == records.round
    assert ledger.submit("builder-0", "spring", model(0), 0.6, "key-spring") == records.submissions[0]
    assert dump(file) == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET text = '{}' WHERE position = 1",
        "DELETE FROM events WHERE position = 3",
        "UPDATE submissions SET score = 1 WHERE number = 1",
        "DELETE FROM submissions",
        "UPDATE payments SET cents = 2",
        "INSERT INTO payments VALUES ('spring', 1, 5)",
        "INSERT INTO payments VALUES ('paired', 1, 0)",
        "INSERT INTO payments VALUES ('paired', 9, 5)",
        "UPDATE rounds SET state = 'paired'",
        "UPDATE rounds SET state = 'open', seed = NULL",
        "UPDATE rounds SET premium = 7",
        "DELETE FROM rounds",
        "UPDATE rounds SET state = 'settled' WHERE round = 'open'",
        "INSERT INTO submissions VALUES ('spring', 9, 'x', 'x', hex(zeroblob(32)), 0.5, NULL, 1)",
        "INSERT INTO submissions VALUES ('open', 2, 'builder-0', 'x', hex(zeroblob(32)), 0.5, NULL, 1)",
        "INSERT INTO submissions VALUES ('open', 2, 'x', 'x', hex(zeroblob(32)), 9e999, NULL, 1)",
        "INSERT INTO rounds (round, commitment, rules, salt) VALUES ('x', hex(zeroblob(32)), '{}', '')",
    ],
)
def test_the_tables_themselves_refuse(ledger: Ledger, file: Path, statement: str) -> None:
    settled(ledger, [0.6, 0.7])
    fill(ledger, [0.6], terms("open"))
    fill(ledger, [0.6, 0.7], terms("paired"))
    ledger.reveal("ruth", "paired", seed_of("paired"))
    before = dump(file)
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(statement)
    assert dump(file) == before


def test_payments_beyond_the_budget_can_not_be_settled(ledger: Ledger, file: Path) -> None:
    fill(ledger, [0.6, 0.7], terms(budget=50))
    ledger.reveal("ruth", "spring", seed_of("spring"))
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO payments VALUES ('spring', 1, 51)")
        with pytest.raises(sqlite3.IntegrityError, match="budget"):
            connection.execute("UPDATE rounds SET state = 'settled'")
    assert ledger.settle("ruth", "spring").payments == {2: 50}


TAMPERING = {
    "UPDATE events SET text = replace(text, '0.6', '0.9') WHERE position = 1": "event 1",
    "UPDATE events SET hash = lower(hex(randomblob(32))) WHERE position = 2": "event 2",
    "DELETE FROM events WHERE position = 3": "event 3",
    "DELETE FROM events WHERE position = 4": "events: are not those",
    "UPDATE submissions SET score = 0.95 WHERE number = 1": "submission 1",
    "UPDATE submissions SET alias = 'x' WHERE number = 2": "submission 2",
    "UPDATE submissions SET builder = 'thief' WHERE number = 1": "submission 1",
    "UPDATE rounds SET premium = 100": "terms",
    "UPDATE rounds SET seed = replace(seed, 'b', 'c')": "seed",
    "UPDATE results SET status = 'won', part = '1'": "results",
    "DELETE FROM results": "results",
    "UPDATE payments SET cents = cents + 1": "payments",
    "DELETE FROM payments": "payments",
}


@pytest.mark.parametrize("statement", TAMPERING)
def test_the_audit_sees_what_was_tampered_with(ledger: Ledger, file: Path, statement: str) -> None:
    assert discrepancies(settled(ledger, [0.6, 0.7])) == []
    with closing(sqlite3.connect(file)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(statement)
        connection.commit()
    found = discrepancies(ledger.records("spring"))
    assert found and found[0].startswith(TAMPERING[statement]), found
    assert not audit_page(ledger.records("spring"), 0, 10).verified


def test_the_audit_sees_results_in_an_open_round(ledger: Ledger, file: Path) -> None:
    fill(ledger, [0.6, 0.7])
    with closing(sqlite3.connect(file)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("INSERT INTO results VALUES ('spring', 1, 0, 'won', '1')")
        connection.commit()
    assert discrepancies(ledger.records("spring")) == ["results: are there, and the round is open"]


def test_an_open_round_is_sealed(ledger: Ledger) -> None:
    entries = fill(ledger, [0.6, 0.7])
    page = audit_page(ledger.records("spring"), 0, 10)
    assert page.verified
    assert [(entry.builder, entry.model, entry.score) for entry in page.entries] == [
        (entry.alias, None, None) for entry in entries
    ]
    assert [event.text is None for event in page.trail] == [False, True, True]
    assert [event.hash for event in page.trail[1:]] == [entry.event.hash for entry in entries]
    assert first_break([ledger.records("spring").events[0], *(entry.event for entry in entries)]) is None


def settle_in_process(file: str) -> int:
    with closing(Ledger(file)) as ledger:
        ledger.reveal("ruth", "spring", seed_of("spring"))
        return sum(ledger.settle("ruth", "spring").payments.values())


def test_eight_at_once_do_nothing_twice(file: Path) -> None:
    """Eight replicas' ledgers on one new file: each builder tries at all of them, and every model is entered twice."""
    with ThreadPoolExecutor(8) as pool:
        ledgers = list(pool.map(lambda _: Ledger(str(file)), range(8)))
        rounds = list(pool.map(lambda ledger: ledger.open_round("ruth", TERMS), ledgers))
        assert all(found == rounds[0] for found in rounds)

        def submit(attempt: int) -> str:
            number = attempt // 8
            try:
                ledgers[attempt % 8].submit(f"b{number}", "spring", model(number // 2), 0.5 + number / 100, None)
                return "taken"
            except Problem as problem:
                return str(problem.status)

        answers = list(pool.map(submit, range(16 * 8)))
        assert (answers.count("taken"), answers.count("409")) == (16, 14 * 8)
        for revealed in pool.map(lambda ledger: ledger.reveal("ruth", "spring", seed_of("spring")), ledgers):
            assert revealed.state == "paired"
        found = list(pool.map(lambda ledger: ledger.settle("ruth", "spring"), ledgers))
    assert all(records == found[0] for records in found)
    assert discrepancies(found[0]) == []
    assert [entry.number for entry in found[0].submissions] == list(range(1, 17))
    assert sum(result.status == "duplicate" for result in found[0].results) == 8
    assert found[0].round.paid == 4 * 101
    for ledger in ledgers:
        ledger.close()


def settle_until_killed(file: Path, statement: int) -> bool:
    """Whether another process that settles was killed just before that statement; else it got to the end."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    try:
        left = iter(range(statement, -1, -1))

        def count_down(_: str) -> None:
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        ledger = Ledger(str(file))
        ledger._database._connection.set_trace_callback(count_down)
        ledger.settle("ruth", "spring")
    finally:
        os._exit(0)


def test_killed_before_any_statement_the_ledger_is_as_before(ledger: Ledger, file: Path) -> None:
    fill(ledger, [0.6, 0.7, 0.8, 0.9])
    ledger.reveal("ruth", "spring", seed_of("spring"))
    ledger.close()
    before, killed = dump(file), 0
    while settle_until_killed(file, killed):
        assert dump(file) == before, killed
        killed += 1
    assert killed > 10
    with closing(Ledger(str(file))) as again:
        after = dump(file)
        assert after != before
        records = again.settle("ruth", "spring")
    assert dump(file) == after
    assert discrepancies(records) == []
    assert records.round.paid == 202


def test_two_processes_settle_once(ledger: Ledger, file: Path) -> None:
    fill(ledger, [0.6, 0.7, 0.8, 0.9])
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("forkserver")) as pool:
        assert list(pool.map(settle_in_process, [str(file)] * 4)) == [202] * 4
    records = ledger.records("spring")
    assert discrepancies(records) == []
    assert len(records.events) == 7


ties: st.SearchStrategy[TieRule] = st.sampled_from(["coin", "split", "void"])
scores = st.lists(st.sampled_from([0.0, 0.5, 0.6, 1.0]), min_size=2, max_size=9)


@settings(deadline=None, max_examples=25)
@given(scores, st.integers(2, 4), ties, st.integers(1, 500), st.booleans())
def test_no_cent_is_lost_or_made(found: list[float], size: int, tie: TieRule, cents: int, bounded: bool) -> None:
    rules = Rules(0.5, size, size - 1, tie, "redraw")
    played = terms("spring", rules, cents, 700 if bounded else None)
    with TemporaryDirectory() as folder, closing(Ledger(f"{folder}/ledger.sqlite")) as ledger:
        records = settled(ledger, found, played)
        assert discrepancies(records) == []
        due = cents * sum(result.part for result in records.results)
        groups = -(-sum(score >= 0.5 for score in found) // size)
        assert records.round.paid == sum(records.payments.values())
        if bounded and due >= 701:
            assert records.round.paid == 700
        else:
            assert due - 1 < sum(records.payments.values()) <= due <= cents * (size - 1) * groups
        assert all(result.part > 0 for result in records.results if result.number in records.payments)


def test_files_that_are_no_ledger_are_refused_by_name(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("not a database, but long enough to be taken for one" * 20)
    with pytest.raises(DataError, match=r"text: is not a ledger"):
        Ledger(str(text))
    for name, statement in (("newer", "PRAGMA user_version = 3"), ("another", "CREATE TABLE a (b)")):
        with closing(sqlite3.connect(tmp_path / name)) as connection:
            connection.execute(statement)
        with pytest.raises(DataError, match=f"{name}: holds tables of version"):
            Ledger(str(tmp_path / name))
    with pytest.raises(InfrastructureError, match="cannot be used"):
        Ledger(str(text / "below"))


def test_a_ledger_is_found_again(file: Path) -> None:
    with closing(Ledger(str(file))) as ledger:
        records = settled(ledger, [0.6, 0.7, 0.8], OTHER)
    with closing(Ledger(str(file))) as again:
        assert again.records("autumn") == records
        assert discrepancies(again.records("autumn")) == []
    assert records.round.paid == 1000
