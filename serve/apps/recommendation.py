r"""Will a user accept an item that is recommended, why, and what if other items were recommended.

A user is known by a past: what was taken unasked (``natural``), and what was recommended with the decision about it.

    curl http://127.0.0.1:8000/recommendation/v1/recommendation/accept -H "Authorization: Bearer $KEY" \
      -H 'Content-Type: application/json' \
      -d '{"events": [{"item": "3", "kind": "natural"}, {"item": "17", "kind": "accepted"}], "items": ["5", "8"]}'

    curl http://127.0.0.1:8000/recommendation/v1/recommendation/rank -H "Authorization: Bearer $KEY" \
      -H 'Content-Type: application/json' \
      -d '{"events": [{"item": "3", "kind": "natural"}], "k": 5, "exclude": ["8"], "exclude_seen": true}'

    curl http://127.0.0.1:8000/recommendation/v1/recommendation/attribute -H "Authorization: Bearer $KEY" \
      -H 'Content-Type: application/json' \
      -d '{"events": [{"item": "3", "kind": "natural"}, {"item": "17", "kind": "rejected"}], "items": ["5"]}'

    curl http://127.0.0.1:8000/recommendation/v1/recommendation/whatif -H "Authorization: Bearer $KEY" \
      -H 'Content-Type: application/json' \
      -d '{"events": [{"item": "3", "kind": "natural"}], "policy": {"name": "greedy", "exploration": 0.1}, "steps": 10}'

``accept`` and ``rank`` are answered in batches, ``attribute`` and ``whatif`` one after another beside them. The first
model of the export gives all values; the others, trained on resampled users, give their standard errors.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from rayworks import __version__
from rayworks.core.errors import DataError

from ..common.access import Access, Caller
from ..common.application import Problem, new_application
from ..common.batching import Batching
from ..common.computing import Computing
from ..common.keys import DEFAULT_FILE, ApiKeys
from .recommendation_effects import explain, what_if
from .recommendation_engine import Ranking, Recommender, Scored, Slate
from .recommendation_schemas import (
    AcceptAnswer,
    AcceptBody,
    AttributeAnswer,
    AttributeBody,
    Limits,
    RankAnswer,
    RankBody,
    WhatIfAnswer,
    WhatIfBody,
)

HEALTH_SECONDS = 30.0
WAITING_BEYOND_COMPUTING = 64
"""Requests that Serve lets in beyond those that compute, so that it is this code that answers 503."""

api = new_application(
    "Rayworks recommendation", "Acceptance of recommendations, its causes, and what-ifs.", __version__
)
ResultT = TypeVar("ResultT")


class Args(BaseModel):
    """What the Serve config may set."""

    model_config = ConfigDict(extra="forbid")

    export: str = Field("~/rayworks/runs/recommendation/smoke/export", description="export folder of a finished run")
    limits: Limits = Field(Limits(), description="of a request")
    largest_batch: int = Field(32, ge=1, le=1024, description="accept and rank requests computed together")
    api_keys: str = Field(DEFAULT_FILE, description="file of hashed keys")
    max_waiting: int = Field(64, ge=0, description="requests that may wait, for a batch or for the processor: else 503")
    concurrent_per_key: int = Field(64, ge=1, description="requests of one key under way; beyond that: 429")
    deadline_seconds: float = Field(15.0, gt=0, description="longer requests: 504")
    num_cpus: float = Field(0.5, ge=0)


@asynccontextmanager
async def failures_as_problems() -> AsyncIterator[None]:
    """What the library refuses is the request's fault."""
    try:
        yield
    except DataError as error:
        raise Problem(422, str(error)) from None


@serve.deployment(name="acceptance", health_check_period_s=10, health_check_timeout_s=HEALTH_SECONDS)
@serve.ingress(api)
class Recommendation:
    """The acceptance models of a finished run behind HTTP."""

    def __init__(self, args: Args) -> None:
        # More threads than cores of this replica would wait for each other.
        torch.set_num_threads(1)
        self.access = Access(ApiKeys(args.api_keys), args.concurrent_per_key)
        self._deadline = args.deadline_seconds
        self._recommender = Recommender(args.export, args.limits)
        self._scoring: Batching[Slate | Ranking, Scored] = Batching(
            self._recommender.answer, args.largest_batch, args.max_waiting, args.deadline_seconds
        )
        self._computing = Computing(args.max_waiting, args.deadline_seconds)
        self._recommender.check()

    async def check_health(self) -> None:
        """Called by Serve: a real prediction by every model, and nothing stuck, or the replica is replaced."""
        self._scoring.require_progress()
        self._computing.require_progress()
        await asyncio.to_thread(self._recommender.check)

    @api.get("/healthz")
    async def healthz(self) -> dict[str, Any]:
        """Open to all: predicts beside the queues."""
        started = time.perf_counter()
        await self.check_health()
        return {
            "status": "ok",
            "answered_in_seconds": round(time.perf_counter() - started, 4),
            "load": self._scoring.load + self._computing.load,
            "items": len(self._recommender.items),
            "models": len(self._recommender.models),
        }

    @api.post("/v1/recommendation/accept")
    async def accept(self, body: AcceptBody, owner: Caller) -> AcceptAnswer:
        """Chances that a user would accept the items of a slate, each recommended now, in the order asked."""
        async with failures_as_problems():
            question = self._recommender.slate(body)
            scored = await self._scoring.ask(question)
        return AcceptAnswer(items=self._recommender.scored_items(scored), events_used=len(question.past))

    @api.post("/v1/recommendation/rank")
    async def rank(self, body: RankBody, owner: Caller) -> RankAnswer:
        """The items of the catalogue that a user is most likely to accept."""
        async with failures_as_problems():
            question = self._recommender.ranking(body)
            scored = await self._scoring.ask(question)
        return RankAnswer(
            items=self._recommender.scored_items(scored),
            candidates=len(self._recommender.items) - len(question.excluded),
            events_used=len(question.past),
        )

    @api.post("/v1/recommendation/attribute")
    async def attribute(self, body: AttributeBody, owner: Caller) -> AttributeAnswer:
        """Why: what the chances owe to the item, the last decision, natural preference and the recommender."""
        return await self._compute(lambda: explain(self._recommender, body))

    @api.post("/v1/recommendation/whatif")
    async def whatif(self, body: WhatIfBody, owner: Caller) -> WhatIfAnswer:
        """Acceptance to expect, step by step, if given items were recommended, or if a policy chose them."""
        expires = time.monotonic() + self._deadline
        return await self._compute(lambda: what_if(self._recommender, body, expires))

    async def _compute(self, function: Callable[[], ResultT]) -> ResultT:
        async with failures_as_problems():
            return await self._computing.run(function)


def build(args: Args) -> serve.Application:
    """The application, as the Serve config names it: ``serve.apps.recommendation:build``."""
    application: serve.Application = Recommendation.options(  # type: ignore[attr-defined]  # added by the decorators
        ray_actor_options={"num_cpus": args.num_cpus},
        max_ongoing_requests=2 * args.max_waiting + args.largest_batch + WAITING_BEYOND_COMPUTING,
        max_queued_requests=WAITING_BEYOND_COMPUTING,
    ).bind(args)
    return application
