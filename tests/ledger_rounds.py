"""Rounds of the regulator's ledger for tests: filled, paired and settled."""

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

from rayworks.systems.regulation.mechanism import Rules
from rayworks.systems.regulation.public_draws import commitment_of
from serve.apps.regulation_ledger import Ledger
from serve.apps.regulation_records import Records, Submission, Terms

RULES = Rules(0.5)


def seed_of(name: str) -> str:
    return hashlib.sha256(f"seed of {name}".encode()).hexdigest()


def terms(name: str = "spring", rules: Rules = RULES, premium: int | None = 101, budget: int | None = None) -> Terms:
    return Terms(name, commitment_of(seed_of(name)), rules, premium, budget)


TERMS = terms()
OTHER = terms("autumn", Rules(0.5, 3, 2, "split", "redraw"), None, 1000)


def model(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


def dump(file: Path) -> str:
    with closing(sqlite3.connect(file)) as connection:
        return "\n".join(connection.iterdump())


def fill(ledger: Ledger, scores: list[float], played: Terms = TERMS) -> list[Submission]:
    ledger.open_round("ruth", played)
    return [
        ledger.submit(f"builder-{number}", played.round, model(number), score, f"key-{played.round}")
        for number, score in enumerate(scores)
    ]


def settled(ledger: Ledger, scores: list[float], played: Terms = TERMS) -> Records:
    fill(ledger, scores, played)
    ledger.reveal("ruth", played.round, seed_of(played.round))
    return ledger.settle("ruth", played.round)
