r"""Predict and explain whether users accept recommended items, and what they would do under other recommendations.

A user is known by a past: what was taken unasked (``natural``), and what was recommended with the decision about it. Events
on items that are not in the catalogue are left out of it, and the answer says so; an item to score must be in it.

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
model of the export gives all values; the others, trained on resampled users, give their spread, and what came of held-out
decisions gives intervals.
"""

import asyncio
import time
from typing import Any

import torch
from pydantic import Field
from ray import serve

from ..common.access import Caller
from ..common.application import new_application
from ..common.served_run import LargestBatch, ServedRun, ServingArgs, bind
from . import recommendation_schemas as schemas
from .recommendation_effects import explain, what_if
from .recommendation_engine import Recommender

api = new_application("recommendation", "Acceptance of recommendations, its causes, and what-ifs.")


class Args(ServingArgs):
    """What the Serve config may set."""

    export: str = Field("~/rayworks/runs/recommendation/smoke/export", description="export folder of a finished run")
    limits: schemas.Limits = Field(schemas.Limits(), description="limits of a request")
    largest_batch: LargestBatch = 32


@serve.deployment(name="acceptance")
@serve.ingress(api)
class Recommendation(ServedRun):
    """The acceptance models of a finished run behind HTTP."""

    def __init__(self, args: Args, shared: Any = None) -> None:
        super().__init__(args, shared)
        # More threads than cores of this replica would wait for each other.
        torch.set_num_threads(1)
        self._deadline = args.deadline_seconds
        self._recommender = Recommender(args.export, args.limits)
        self._scoring = self.batching(self._recommender.answer, args.largest_batch)
        self._computing = self.computing()
        self._recommender.check()

    async def check(self) -> None:
        """Predict, by every model."""
        await asyncio.to_thread(self._recommender.check)

    def state(self) -> dict[str, Any]:
        """The load, and what is loaded."""
        recommender = self._recommender
        return {**super().state(), "items": len(recommender.items), "models": len(recommender.models)}

    @api.post("/v1/recommendation/accept")
    async def accept(self, body: schemas.AcceptBody, owner: Caller) -> schemas.AcceptAnswer:
        """Chances that a user would accept the items of a slate, each recommended now, in the order asked."""
        question = self._recommender.slate(body)
        scored = await self._scoring.ask(question)
        return schemas.AcceptAnswer(
            items=self._recommender.scored_items(scored), events_used=len(question.past), **question.left_out
        )

    @api.post("/v1/recommendation/rank")
    async def rank(self, body: schemas.RankBody, owner: Caller) -> schemas.RankAnswer:
        """The items of the catalogue that a user is most likely to accept."""
        question = self._recommender.ranking(body)
        scored = await self._scoring.ask(question)
        return schemas.RankAnswer(
            items=self._recommender.scored_items(scored),
            candidates=len(self._recommender.items) - len(question.excluded),
            events_used=len(question.past),
            **question.left_out,
        )

    @api.post("/v1/recommendation/attribute")
    async def attribute(self, body: schemas.AttributeBody, owner: Caller) -> schemas.AttributeAnswer:
        """Why: what the chances owe to the item, the last decision, natural preference and the recommender."""
        return await self._computing.run(lambda: explain(self._recommender, body))

    @api.post("/v1/recommendation/whatif")
    async def whatif(self, body: schemas.WhatIfBody, owner: Caller) -> schemas.WhatIfAnswer:
        """Acceptance to expect, step by step, if given items were recommended, or if a policy chose them."""
        expires = time.monotonic() + self._deadline
        return await self._computing.run(lambda: what_if(self._recommender, body, expires))


def build(args: Args) -> serve.Application:
    """The application, as the Serve config names it: ``serve.apps.recommendation:build``."""
    return bind(Recommendation, args, together=args.largest_batch, queues=2)
