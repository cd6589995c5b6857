r"""The auction that pays builders for safety: quotes for builders, and an auditable ledger of rounds.

    curl http://127.0.0.1:8000/regulation/v1/regulation/quote -H "Authorization: Bearer $KEY" \
      -H 'Content-Type: application/json' -d '{"value": 80000000, "share": "0.4"}'

A round takes four steps. A regulator publishes its rules and the commitment to a seed, builders submit, the regulator
reveals the seed, which closes the round and pairs, and settles:

    SEED=$(openssl rand -hex 32); COMMITMENT=$(printf %s "$SEED" | sha256sum | cut -d' ' -f1)

    curl http://127.0.0.1:8000/regulation/v1/regulation/pair -H "Authorization: Bearer $REGULATOR_KEY" \
      -H 'Content-Type: application/json' \
      -d '{"round": "spring", "commitment": "'$COMMITMENT'", "threshold": 0.59, "premium_cents": 2500000}'

    curl http://127.0.0.1:8000/regulation/v1/regulation/submit -H "Authorization: Bearer $KEY" \
      -H 'Content-Type: application/json' -H 'Idempotency-Key: first-try' \
      -d '{"round": "spring", "score": 0.63, "model": "'$(sha256sum model.bin | cut -d' ' -f1)'"}'

    curl http://127.0.0.1:8000/regulation/v1/regulation/pair -H "Authorization: Bearer $REGULATOR_KEY" \
      -H 'Content-Type: application/json' -d '{"round": "spring", "seed": "'$SEED'"}'

    curl http://127.0.0.1:8000/regulation/v1/regulation/settle -H "Authorization: Bearer $REGULATOR_KEY" \
      -H 'Content-Type: application/json' -d '{"round": "spring"}'

    curl "http://127.0.0.1:8000/regulation/v1/regulation/audit?round=spring" -H "Authorization: Bearer $KEY"

A score is taken as submitted, and a model's digest tells copies only as long as no byte of them is changed. Any key may
audit. How to repeat the pairing in another language, and what the commitment does not protect, is written in
``rayworks.systems.regulation.public_draws``; how the trail is hashed, in ``regulation_events``.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Header, Query
from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from rayworks import __version__
from rayworks.core.errors import ConfigError, DataError, InfrastructureError
from rayworks.systems.regulation.mechanism import Rules

from ..common.access import Access, Caller, replica
from ..common.application import Problem, new_application
from ..common.computing import Computing
from ..common.keys import DEFAULT_FILE, ApiKeys
from .regulation_audit import audit_page, receipt, round_answer, settlement_answer
from .regulation_database import BUSY_SECONDS
from .regulation_ledger import Ledger, Names, Round, Terms
from .regulation_quotes import Quotes
from .regulation_schemas import (
    MOST_BUDGET,
    AuditAnswer,
    CommitBody,
    PairBody,
    QuoteAnswer,
    QuoteBody,
    RoundAnswer,
    RulesBody,
    SettleBody,
    SettlementAnswer,
    SubmissionAnswer,
    SubmitBody,
)

HEALTH_SECONDS = 30.0
WAITING_BEYOND_COMPUTING = 64
"""Requests that Serve lets in beyond those that compute, so that it is this code that answers 503."""
PINNED = 0.001
"""Of the node's resource that a replica takes: it says where, not how many."""

api = new_application("Rayworks regulation", "Quotes, and rounds that anyone can verify.", __version__)
logger = logging.getLogger("rayworks.serve")
ResultT = TypeVar("ResultT")


class Args(BaseModel):
    """What the Serve config may set."""

    model_config = ConfigDict(extra="forbid")

    export: str | None = Field(
        None,
        description="export folder of a finished run, whose design is quoted. None: the paper's design on its published "
        "price curve. A folder that is not there: quotes answer 422 until a run is finished; rounds work",
    )
    unit_cents: int = Field(
        100_000_000, ge=1, le=MOST_BUDGET, description="cents that a value of 1, the largest possible, stands for"
    )
    database: str = Field(
        "~/rayworks/regulation/ledger.sqlite",
        description="file of the ledger, on a disk of the node that the replicas run on; no network file system",
    )
    node_resource: str | None = Field(
        None, description="custom resource that only the node with the file has; needed on clusters of several machines"
    )
    regulators: list[str] = Field(["regulator"], description="names of keys that may open, reveal and settle rounds")
    builder_names: Names = Field(
        "hash", description="how the audit names builders: a hash, or plain: names of their keys"
    )
    most_submissions: int = Field(10_000, ge=2, le=10_000, description="of a round; beyond that: 409")
    api_keys: str = Field(DEFAULT_FILE, description="file of hashed keys")
    max_waiting: int = Field(64, ge=0, description="requests that may wait for the processor, or the ledger: else 503")
    concurrent_per_key: int = Field(16, ge=1, description="requests of one key under way; beyond that: 429")
    deadline_seconds: float = Field(15.0, gt=0, description="longer requests: 504")
    num_cpus: float = Field(0.5, ge=0)


def regulator(owner: Caller) -> str:
    """Whose request it is, if that is a regulator."""
    if owner not in replica().regulators:
        raise Problem(403, f"Authorization: {owner} is no regulator; the operator names them in regulators")
    return owner


def builder(owner: Caller) -> str:
    """Whose request it is, if that is not a regulator: who knows the seed does not bid."""
    if owner in replica().regulators:
        raise Problem(403, f"Authorization: {owner} is a regulator, who may not submit; use a builder's key")
    return owner


Regulator = Annotated[str, Depends(regulator)]
Builder = Annotated[str, Depends(builder)]
IdempotencyKey = Annotated[
    str | None,
    Header(pattern=r"^[!-~]{1,128}$", description="of one submission: sent again, it answers the same again"),
]


@asynccontextmanager
async def failures_as_problems() -> AsyncIterator[None]:
    """What the library refuses is the request's fault; what the disk fails at is not."""
    try:
        yield
    except (DataError, ConfigError) as error:
        raise Problem(422, str(error)) from None
    except InfrastructureError as error:
        logger.exception("the ledger failed", exc_info=error)
        raise Problem(503, "the ledger is not available; try again", retry_after=5) from None


@serve.deployment(name="regulator", health_check_period_s=10, health_check_timeout_s=HEALTH_SECONDS)
@serve.ingress(api)
class Regulation:
    """A design's quotes and the ledger behind HTTP."""

    def __init__(self, args: Args) -> None:
        self.access = Access(ApiKeys(args.api_keys), args.concurrent_per_key)
        self.regulators = frozenset(args.regulators)
        self._quotes = Quotes(args.export, args.unit_cents)
        # A wait for another replica's write ends before it could be taken for a stuck disk.
        busy_seconds = min(BUSY_SECONDS, args.deadline_seconds)
        self._ledger = Ledger(args.database, args.builder_names, args.most_submissions, busy_seconds)
        # Beside each other: the ledger waits for the disk, and quotes and audits for the processor.
        self._computing = Computing(args.max_waiting, args.deadline_seconds)
        self._booking = Computing(args.max_waiting, args.deadline_seconds)

    async def check_health(self) -> None:
        """Called by Serve: a real quote and a read of the ledger, and nothing stuck, or the replica is replaced."""
        self._computing.require_progress()
        self._booking.require_progress()
        await asyncio.to_thread(self._quotes.check)
        await asyncio.to_thread(self._ledger.rounds)

    @api.get("/healthz")
    async def healthz(self) -> dict[str, Any]:
        """Open to all: quotes and reads the ledger, beside the queues."""
        started = time.perf_counter()
        await self.check_health()
        seconds = round(time.perf_counter() - started, 4)
        load = self._computing.load + self._booking.load
        return {"status": "ok", "answered_in_seconds": seconds, "load": load, "design": self._quotes.design}

    @api.post("/v1/regulation/quote")
    async def quote(self, body: QuoteBody, owner: Caller) -> QuoteAnswer:
        """What a builder of this value should spend on compliance, and what it may expect of that."""
        async with failures_as_problems():
            return await self._computing.run(lambda: self._quotes.quote(body))

    @api.post("/v1/regulation/pair")
    async def pair(self, body: PairBody, owner: Regulator) -> RoundAnswer:
        """Open a round with its rules and the commitment to a seed; later, close it with the seed, which pairs.

        Regulators only. Both steps may be repeated: the same terms, or the same seed, change nothing the second time.
        """
        if isinstance(body, CommitBody):
            rules = Rules(**body.model_dump(include=set(RulesBody.model_fields)))
            terms = Terms(body.round, body.commitment, rules, body.premium_cents, body.budget_cents)
            found = await self._book(lambda: self._ledger.open_round(owner, terms))
        else:
            found = await self._book(lambda: self._ledger.reveal(owner, body.round, body.seed))
        return round_answer(found)

    @api.post("/v1/regulation/submit", status_code=201)
    async def submit(
        self, body: SubmitBody, owner: Builder, idempotency_key: IdempotencyKey = None
    ) -> SubmissionAnswer:
        """Enter a model into an open round: one per key, and no model twice. Not for regulators."""
        return receipt(
            await self._book(lambda: self._ledger.submit(owner, body.round, body.model, body.score, idempotency_key))
        )

    @api.post("/v1/regulation/settle")
    async def settle(self, body: SettleBody, owner: Regulator) -> SettlementAnswer:
        """Pay the premiums of a paired round. Regulators only; again, it answers the same and pays nothing."""
        return settlement_answer(await self._book(lambda: self._ledger.settle(owner, body.round)))

    @api.get("/v1/regulation/rounds/{name}")
    async def state(self, name: str, owner: Caller) -> RoundAnswer:
        """How far a round is."""
        found: Round = await self._book(lambda: self._ledger.round(name))
        return round_answer(found)

    @api.get("/v1/regulation/audit")
    async def audit(
        self,
        owner: Caller,
        round: Annotated[str, Query(description="name of the round")],
        offset: Annotated[int, Query(ge=0, le=10**6)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> AuditAnswer:
        """All of a round for any key, checked anew: submissions, pairing, payments and the trail, in pages."""
        records = await self._book(lambda: self._ledger.records(round))
        return await self._computing.run(lambda: audit_page(records, offset, limit))

    async def _book(self, function: Callable[[], ResultT]) -> ResultT:
        async with failures_as_problems():
            return await self._booking.run(function)


def build(args: Args) -> serve.Application:
    """The application, as the Serve config names it: ``serve.apps.regulation:build``."""
    pinned = {args.node_resource: PINNED} if args.node_resource else {}
    application: serve.Application = Regulation.options(  # type: ignore[attr-defined]  # added by the decorators
        ray_actor_options={"num_cpus": args.num_cpus, "resources": pinned},
        max_ongoing_requests=args.max_waiting + WAITING_BEYOND_COMPUTING,
        max_queued_requests=WAITING_BEYOND_COMPUTING,
    ).bind(args)
    return application
