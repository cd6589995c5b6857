r"""Classify images with a federated model.

    curl http://127.0.0.1:8000/federation/v1/federation/classify -H "Authorization: Bearer $KEY" \
      -H 'Content-Type: application/json' -d '{"top": 3, "pixels": [[[
        [0, 0, 60, 200, 180, 30, 0, 0], [0, 20, 230, 120, 150, 210, 0, 0], [0, 60, 200, 0, 20, 240, 40, 0],
        [0, 80, 180, 0, 0, 200, 80, 0], [0, 80, 170, 0, 0, 190, 90, 0], [0, 50, 210, 0, 10, 220, 60, 0],
        [0, 10, 220, 110, 160, 190, 10, 0], [0, 0, 60, 210, 190, 40, 0, 0]]]]}'

    curl http://127.0.0.1:8000/federation/v1/federation/card -H "Authorization: Bearer $KEY"

The card says what it takes, where it comes from, and what its clients gave away. Requests that arrive while others
compute are answered together.
"""

import asyncio
from typing import Any

import torch
from pydantic import Field
from ray import serve

from ..common.access import Caller
from ..common.application import new_application
from ..common.pictures import Limits
from ..common.served_run import Deadline, LargestBatch, ServedRun, ServingArgs, bind
from .federation_engine import Classifying
from .federation_schemas import ClassifyAnswer, ClassifyBody, ModelCard

api = new_application("federation", "Labels by a model that a federation learned.")


class Args(ServingArgs):
    """What the Serve config may set."""

    export: str = Field("~/rayworks/runs/federation/smoke/export", description="export folder of a finished run")
    limits: Limits = Field(Limits(), description="limits of a request")
    largest_batch: LargestBatch = 32
    deadline_seconds: Deadline = 10.0


@serve.deployment(name="classifier")
@serve.ingress(api)
class Federation(ServedRun):
    """The model of a finished run behind HTTP."""

    def __init__(self, args: Args, shared: Any = None) -> None:
        super().__init__(args, shared)
        # More threads than cores of this replica would wait for each other.
        torch.set_num_threads(1)
        self._classifying = Classifying(args.export, args.limits)
        self._batching = self.batching(self._classifying.answer, args.largest_batch)
        self._classifying.check()

    async def check(self) -> None:
        """Classify something."""
        await asyncio.to_thread(self._classifying.check)

    @api.get("/v1/federation/card")
    async def card(self, owner: Caller) -> ModelCard:
        """Where the model comes from, what it takes, and what is known of its privacy."""
        return self._classifying.card()

    @api.post("/v1/federation/classify")
    async def classify(self, body: ClassifyBody, owner: Caller) -> ClassifyAnswer:
        """The most probable labels of each input."""
        found = await self._batching.ask(self._classifying.inputs(body))
        return ClassifyAnswer(answers=self._classifying.labels(found, body.top))


def build(args: Args) -> serve.Application:
    """The application, as the Serve config names it: ``serve.apps.federation:build``."""
    return bind(Federation, args, together=args.largest_batch)
