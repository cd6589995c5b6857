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

``withdraw`` takes a submission back while a round is open, ``cancel`` ends a round without its seed, ``closes_at`` and
``reveal_by`` are deadlines of a round, and ``head`` is one signed hash of all rounds, to be kept outside.

A score is taken as submitted, and a model's digest tells copies only as long as no byte of them is changed. Any key may
audit. How to repeat the pairing in another language, and what the commitment does not protect, is written in
``rayworks.systems.regulation.public_draws``; how the trail is hashed, in ``regulation_events``.
"""

import asyncio
from typing import Annotated, Any

from fastapi import Depends, Header, Query, Request
from pydantic import Field
from ray import serve

from rayworks.core.errors import InfrastructureError, RayworksError
from rayworks.systems.regulation.mechanism import Rules

from ..common.access import Caller, replica
from ..common.application import new_application
from ..common.problems import Problem, problem_of, problems
from ..common.served_run import PerKey, ServedRun, ServingArgs, bind
from . import regulation_schemas as schemas
from .regulation_audit import audit_page, receipt, round_answer, settlement_answer
from .regulation_database import BUSY_SECONDS
from .regulation_head import Signer
from .regulation_ledger import Ledger, Names
from .regulation_quotes import Quotes
from .regulation_records import Terms, utc

PINNED = 0.001
"""Of the node's resource that a replica takes: it says where, not how many."""


def as_problem(error: RayworksError) -> Problem:
    """Where the ledger lies is the operator's business."""
    if isinstance(error, InfrastructureError):
        return Problem(503, "the ledger is not available; try again", retry_after=5)
    return problem_of(error)


api = new_application("regulation", "Quotes, and rounds that anyone can verify.", as_problem=as_problem)


class Args(ServingArgs):
    """What the Serve config may set."""

    export: str | None = Field(
        None,
        description="export folder of a finished run, whose design is quoted. None: the paper's design on its published "
        "price curve",
    )
    unit_cents: int = Field(
        100_000_000,
        ge=1,
        le=schemas.MOST_BUDGET,
        description="cents that a value of 1, the largest possible, stands for",
    )
    database: str = Field(
        "~/rayworks/regulation/ledger.sqlite",
        description="file of the ledger, on a disk of the node that the replicas run on; no network file system",
    )
    node_resource: str | None = Field(
        None, description="custom resource that only the node with the file has; needed on clusters of several machines"
    )
    regulators: list[str] = Field(["regulator"], description="names of keys that may open, reveal and settle rounds")
    signing_key: str | None = Field(
        None,
        description="file of a private Ed25519 key in PEM, with which the ledger's head is signed; to make one: "
        "openssl genpkey -algorithm ed25519",
    )
    builder_names: Names = Field(
        "hash", description="how the audit names builders: a hash, or plain: names of their keys"
    )
    most_submissions: int = Field(10_000, ge=2, le=10_000, description="of a round; beyond that: 409")
    concurrent_per_key: PerKey = 16


def regulator(owner: Caller) -> str:
    """Whose request it is, if that is a regulator."""
    if owner not in replica().regulators:
        raise Problem(403, f"Authorization: {owner} is not a regulator; the operator names them in regulators")
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


@serve.deployment(name="regulator")
@serve.ingress(api)
class Regulation(ServedRun):
    """A design's quotes and the ledger behind HTTP."""

    def __init__(self, args: Args, shared: Any = None) -> None:
        super().__init__(args, shared)
        self.regulators = frozenset(args.regulators)
        self._quotes = Quotes(args.export, args.unit_cents)
        self._signer = Signer(args.signing_key)
        # A wait for another replica's write ends before it could be taken for a stuck disk.
        busy_seconds = min(BUSY_SECONDS, args.deadline_seconds)
        self._ledger = Ledger(args.database, args.builder_names, args.most_submissions, busy_seconds)
        # Beside each other: the ledger waits for the disk, and quotes and audits for the processor.
        self._computing, self._booking = self.computing(), self.computing()

    async def check(self) -> None:
        """Quote, and read the ledger."""
        await asyncio.to_thread(self._quotes.check)
        await asyncio.to_thread(self._ledger.rounds)

    def state(self) -> dict[str, Any]:
        """The load, and where quotes come from."""
        return {**super().state(), "design": self._quotes.design}

    @api.post("/v1/regulation/quote")
    async def quote(self, body: schemas.QuoteBody, owner: Caller) -> schemas.QuoteAnswer:
        """What a builder of this value should spend on compliance, and what it may expect of that."""
        return await self._computing.run(lambda: self._quotes.quote(body))

    @api.post("/v1/regulation/pair", responses=problems(404, 409))
    async def pair(self, body: schemas.PairBody, owner: Regulator) -> schemas.RoundAnswer:
        """Open a round with its rules and the commitment to a seed; later, close it with the seed, which pairs.

        Regulators only. Both steps may be repeated: the same terms, or the same seed, change nothing the second time.
        """
        if isinstance(body, schemas.CommitBody):
            rules = Rules(**body.model_dump(include=set(schemas.RulesBody.model_fields)))
            dates = (None if at is None else utc(at) for at in (body.closes_at, body.reveal_by))
            terms = Terms(body.round, body.commitment, rules, body.premium_cents, body.budget_cents, *dates)
            found = await self._booking.run(lambda: self._ledger.open_round(owner, terms))
        else:
            found = await self._booking.run(lambda: self._ledger.reveal(owner, body.round, body.seed, body.owners))
        return round_answer(found)

    @api.post("/v1/regulation/submit", status_code=201, responses=problems(404, 409))
    async def submit(
        self, body: schemas.SubmitBody, request: Request, owner: Builder, idempotency_key: IdempotencyKey = None
    ) -> schemas.SubmissionAnswer:
        """Enter a model into an open round, one per key. Not for regulators.

        Whose a model is that several keys enter is settled when the seed is revealed.
        """
        # With its ticket the gateway sends a request again whose replica died.
        entry = (owner, body.round, body.model, body.score, idempotency_key or request.state.ticket)
        return receipt(await self._booking.run(lambda: self._ledger.submit(*entry)))

    @api.post("/v1/regulation/withdraw", responses=problems(404, 409))
    async def withdraw(self, body: schemas.WithdrawBody, owner: Builder) -> schemas.SubmissionAnswer:
        """Take your submission back while the round is open; you may then enter another."""
        return receipt(await self._booking.run(lambda: self._ledger.withdraw(owner, body.round, body.submission)))

    @api.get("/v1/regulation/clashes", responses=problems(404, 504))
    async def clashes(
        self, owner: Regulator, round: Annotated[str, Query(description="name of the round")]
    ) -> schemas.ClashesAnswer:
        """Models that several keys have entered, for regulators: name the owners when the seed is revealed."""
        return schemas.ClashesAnswer(clashes=await self._booking.run(lambda: self._ledger.clashes(round)))

    @api.post("/v1/regulation/cancel", responses=problems(404, 409))
    async def cancel(self, body: schemas.CancelBody, owner: Caller) -> schemas.RoundAnswer:
        """End a round without its seed. Regulators at any time before; any key once the seed is overdue."""
        regulates = owner in self.regulators
        return round_answer(
            await self._booking.run(lambda: self._ledger.cancel(owner, body.round, regulates, body.reason))
        )

    @api.post("/v1/regulation/settle", responses=problems(404, 409))
    async def settle(self, body: schemas.SettleBody, owner: Regulator) -> schemas.SettlementAnswer:
        """Pay the premiums of a paired round. Regulators only; again, it answers the same and pays nothing."""
        return settlement_answer(await self._booking.run(lambda: self._ledger.settle(owner, body.round)))

    @api.get("/v1/regulation/rounds/{name}", responses=problems(404, 504))
    async def round(self, name: str, owner: Caller) -> schemas.RoundAnswer:
        """How far a round is."""
        return round_answer(await self._booking.run(lambda: self._ledger.round(name)))

    @api.get("/v1/regulation/head", responses=problems(504))
    async def head(self, owner: Caller) -> schemas.HeadAnswer:
        """One hash that stands for all that was ever written, signed if the operator gave a key: keep it outside."""
        return self._signer.head(*await self._booking.run(self._ledger.head))

    @api.get("/v1/regulation/log", responses=problems(504))
    async def log(
        self,
        owner: Caller,
        after: Annotated[int, Query(ge=0, le=2**62, description="sequence of the last entry known")] = 0,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    ) -> schemas.LogAnswer:
        """The chain that leads to the head, in pages: hashes only."""
        found = await self._booking.run(lambda: self._ledger.log(after, limit))
        entries = [schemas.LogLine(**vars(entry)) for entry in found]
        return schemas.LogAnswer(entries=entries, next_after=entries[-1].sequence if len(entries) == limit else None)

    @api.get("/v1/regulation/audit", responses=problems(404, 504))
    async def audit(
        self,
        owner: Caller,
        round: Annotated[str, Query(description="name of the round")],
        offset: Annotated[int, Query(ge=0, le=10**6)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> schemas.AuditAnswer:
        """All of a round for any key, checked anew: submissions, pairing, payments and the trail, in pages."""
        records = await self._booking.run(lambda: self._ledger.records(round))
        return await self._computing.run(lambda: audit_page(records, offset, limit))


def build(args: Args) -> serve.Application:
    """The application, as the Serve config names it: ``serve.apps.regulation:build``."""
    pinned = {args.node_resource: PINNED} if args.node_resource else {}
    return bind(Regulation, args, queues=2, resources=pinned)
