"""Audit of a round: the ledger against its audit trail, and what the public may see when."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rayworks.systems.regulation.public_draws import PROTOCOL, commitment_of

from . import regulation_records as ledger
from . import regulation_schemas as schemas
from .regulation_events import Event, first_break


def discrepancies(records: ledger.Records) -> list[str]:
    """What does not fit in a round's records, each with its place; empty when all is sound.

    The trail must be unbroken, the tables must be what it says, and pairing and payments must come out again from the seed,
    the rules and the submissions.
    """
    broken = first_break(records.events)
    if broken is not None:
        return [f"event {broken}: does not follow from the one before"]
    return list(_differences(records))


def _differences(records: ledger.Records) -> Iterator[str]:
    terms, state, seed = records.round.terms, records.round.state, records.round.seed
    facts = [event.facts for event in records.events]
    taken_back = {entry.withdrawn: entry for entry in records.submissions if entry.withdrawn is not None}
    made = {entry.event.position: entry for entry in records.submissions}
    closing = {"open": [], "paired": ["paired"], "settled": ["paired", "settled"], "cancelled": ["cancelled"]}[state]
    kinds = dict.fromkeys(made, "submitted") | dict.fromkeys(taken_back, "withdrawn")
    expected = ["opened", *(kinds[position] for position in sorted(kinds)), *closing]
    if [entry.get("event") for entry in facts] != expected or sorted(kinds) != list(range(1, len(kinds) + 1)):
        yield f"events: are not those of a round that is {state} with {len(records.submissions)} submissions"
        return
    if {name: facts[0].get(name) for name in terms.facts()} != terms.facts():
        yield "terms: are not those of event 0"
    yield from _untimely(terms, facts)
    for position, submission in made.items():
        entry = facts[position]
        told = tuple(entry.get(name) for name in ("submission", "builder", "model", "score"))
        if told != (submission.number, submission.alias, submission.model, submission.score):
            yield f"submission {submission.number}: is not that of event {position}"
        if not submission.owned:
            yield f"submission {submission.number}: its builder is not the one who entered it"
    for position, submission in taken_back.items():
        if (facts[position].get("submission"), facts[position].get("builder")) != (submission.number, submission.alias):
            yield f"submission {submission.number}: is not the one that event {position} takes back"
    if state in ("open", "cancelled"):
        if records.results or records.payments:
            yield f"results: are there, and the round is {state}"
        return
    last = len(kinds) + 1
    paired = facts[last]
    if seed is None or commitment_of(seed) != terms.commitment or paired.get("seed") != seed:
        yield "seed: is not the one committed to"
        return
    claims = {(entry.model, entry.number) for entry in records.standing}
    for model, number in records.owners.items():
        if (model, number) not in claims:
            yield f"owners: submission {number} did not enter the model it is named for"
            return
    if ledger.digest_of_results(records.results) != paired.get("results"):
        yield f"results: are not those of event {last}"
    if ledger.pair(terms, seed, records.standing, records.owners) != records.results:
        yield "results: are not those of the rules, the seed and the submissions"
    if state == "settled" and ledger.digest_of_payments(records.payments) != facts[-1].get("payments"):
        yield f"payments: are not those of event {len(facts) - 1}"
    if state == "settled" and ledger.payments_of(terms, records.results) != records.payments:
        yield "payments: are not those of the rules and the results"


def _untimely(terms: ledger.Terms, facts: list[dict[str, Any]]) -> Iterator[str]:
    """Events out of their time: before the one before, or on the wrong side of a deadline."""
    before = datetime.min.replace(tzinfo=UTC)
    for position, entry in enumerate(facts):
        at, kind = datetime.fromisoformat(str(entry["at"])), entry["event"]
        late = kind in ("submitted", "withdrawn") and terms.closed(at)
        early = kind == "paired" and terms.closes_at is not None and not terms.closed(at)
        overdue = kind in ("submitted", "withdrawn", "paired") and terms.overdue(at)
        soon = kind == "cancelled" and "builder" in entry and not terms.overdue(at)
        if late or early or overdue or soon or at < before:
            yield f"event {position}: {kind} at {entry['at']}, which is not its time"
        before = at


def audit_page(records: ledger.Records, offset: int, limit: int) -> schemas.AuditAnswer:
    """One page of submissions and events, with a check of all."""
    found = discrepancies(records)
    end, unpaired = offset + limit, records.round.seed is None
    # A submission's text stays hidden until it competes.
    sealed = {entry.event.position for entry in records.submissions if unpaired or entry.withdrawn is not None}
    more = end < max(len(records.submissions), len(records.events))
    return schemas.AuditAnswer(
        **dict(round_answer(records.round)),
        protocol=PROTOCOL,
        verified=not found,
        discrepancies=found,
        entries=_entries(records, offset, end),
        trail=[_event(event, event.position in sealed) for event in records.events[offset:end]],
        next_offset=end if more else None,
    )


def round_answer(found: ledger.Round) -> schemas.RoundAnswer:
    """How far a round is."""
    terms = found.terms
    return schemas.RoundAnswer(
        round=terms.round,
        state=found.state,
        commitment=terms.commitment,
        seed=found.seed,
        rules=schemas.RulesBody(**asdict(terms.rules)),
        premium_cents=terms.premium,
        budget_cents=terms.budget,
        closes_at=terms.closes_at,
        reveal_by=terms.reveal_by,
        submissions=found.submissions,
        withdrawn=found.withdrawn,
        cleared=found.cleared,
        groups=found.groups,
        paid_cents=found.paid,
        events=found.last.position + 1,
        last_hash=found.last.hash,
    )


def settlement_answer(records: ledger.Records) -> schemas.SettlementAnswer:
    """What a settled round paid to whom."""
    found, alias = records.round, {entry.number: entry.alias for entry in records.submissions}
    assert found.paid is not None
    return schemas.SettlementAnswer(
        round=found.terms.round,
        premium_cents=found.terms.premium,
        budget_cents=found.terms.budget,
        paid_cents=found.paid,
        payments=[
            schemas.Payment(submission=number, builder=alias[number], cents=cents)
            for number, cents in records.payments.items()
        ],
        last_hash=found.last.hash,
    )


def receipt(submission: ledger.Submission) -> schemas.SubmissionAnswer:
    """What its builder gets for a submission."""
    return schemas.SubmissionAnswer(
        round=submission.round,
        submission=submission.number,
        builder=submission.alias,
        model=submission.model,
        score=submission.score,
        withdrawn=submission.withdrawn is not None,
        event=_event(submission.event, sealed=False),
    )


def _entries(records: ledger.Records, start: int, end: int) -> list[schemas.AuditedSubmission]:
    """While a round is open, scores and models are sealed: anyone who saw them could bid a hair above. Of a round without a
    result, and of what was withdrawn, they stay so.
    """
    shown, state = records.submissions[start:end], records.round.state
    results = {result.number: result for result in records.results}
    return [
        schemas.AuditedSubmission(submission=entry.number, builder=entry.alias, status="withdrawn")
        if entry.withdrawn is not None
        else schemas.AuditedSubmission(submission=entry.number, builder=entry.alias)
        if records.round.seed is None
        else schemas.AuditedSubmission(
            submission=entry.number,
            builder=entry.alias,
            model=entry.model,
            score=entry.score,
            **_fate(results.get(entry.number)),
            paid_cents=records.payments.get(entry.number, 0) if state == "settled" else None,
        )
        for entry in shown
    ]


def _fate(result: ledger.Result | None) -> dict[str, Any]:
    """What the pairing made of a submission; nothing where somebody has removed it."""
    if result is None:
        return {}
    group = result.group if result.cleared else None
    return {"cleared": result.cleared, "group": group, "status": result.status, "part": str(result.part)}


def _event(event: Event, sealed: bool) -> schemas.AuditedEvent:
    return schemas.AuditedEvent(
        position=event.position, text=None if sealed else event.text, previous=event.previous, hash=event.hash
    )
