r"""What does a classifier that no client trained alone say of an image?

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
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from rayworks import __version__
from rayworks.core.errors import DataError

from ..common.access import Access, Caller
from ..common.application import Problem, new_application
from ..common.batching import Batching
from ..common.keys import DEFAULT_FILE, ApiKeys
from .federation_engine import Classifying, Inputs
from .federation_schemas import ClassifyAnswer, ClassifyBody, Limits, ModelCard

HEALTH_SECONDS = 30.0
WAITING_BEYOND_COMPUTING = 64
"""Requests that Serve lets in beyond those that compute, so that it is this code that answers 503."""

api = new_application("Rayworks federation", "Labels by a model that a federation learned.", __version__)


class Args(BaseModel):
    """What the Serve config may set."""

    model_config = ConfigDict(extra="forbid")

    export: str = Field("~/rayworks/runs/federation/smoke/export", description="export folder of a finished run")
    limits: Limits = Field(Limits(), description="of a request")
    largest_batch: int = Field(32, ge=1, le=1024, description="requests computed together")
    api_keys: str = Field(DEFAULT_FILE, description="file of hashed keys")
    max_waiting: int = Field(64, ge=0, description="requests that may wait for a batch: else 503")
    concurrent_per_key: int = Field(64, ge=1, description="requests of one key under way; beyond that: 429")
    deadline_seconds: float = Field(10.0, gt=0, description="longer requests: 504")
    num_cpus: float = Field(0.5, ge=0)


@serve.deployment(name="classifier", health_check_period_s=10, health_check_timeout_s=HEALTH_SECONDS)
@serve.ingress(api)
class Federation:
    """The model of a finished run behind HTTP."""

    def __init__(self, args: Args) -> None:
        # More threads than cores of this replica would wait for each other.
        torch.set_num_threads(1)
        self.access = Access(ApiKeys(args.api_keys), args.concurrent_per_key)
        self._classifying = Classifying(args.export, args.limits)
        self._batching: Batching[Inputs, NDArray[np.float64]] = Batching(
            self._classifying.answer, args.largest_batch, args.max_waiting, args.deadline_seconds
        )
        self._classifying.check()

    async def check_health(self) -> None:
        """Called by Serve: a real answer, and nothing stuck, or the replica is replaced."""
        self._batching.require_progress()
        await asyncio.to_thread(self._classifying.check)

    @api.get("/healthz")
    async def healthz(self) -> dict[str, Any]:
        """Open to all: classifies beside the queue."""
        started = time.perf_counter()
        await self.check_health()
        return {
            "status": "ok",
            "answered_in_seconds": round(time.perf_counter() - started, 4),
            "load": self._batching.load,
        }

    @api.get("/v1/federation/card")
    async def card(self, owner: Caller) -> ModelCard:
        """Where the model comes from, what it takes, and what is known of its privacy."""
        return self._classifying.card()

    @api.post("/v1/federation/classify")
    async def classify(self, body: ClassifyBody, owner: Caller) -> ClassifyAnswer:
        """The most probable labels of each input."""
        try:
            inputs = self._classifying.inputs(body)
        except DataError as error:
            raise Problem(422, str(error)) from None
        found = await self._batching.ask(inputs)
        return ClassifyAnswer(answers=self._classifying.labels(found, body.top))


def build(args: Args) -> serve.Application:
    """The application, as the Serve config names it: ``serve.apps.federation:build``."""
    application: serve.Application = Federation.options(  # type: ignore[attr-defined]  # added by the decorators
        ray_actor_options={"num_cpus": args.num_cpus},
        max_ongoing_requests=args.max_waiting + args.largest_batch + WAITING_BEYOND_COMPUTING,
        max_queued_requests=WAITING_BEYOND_COMPUTING,
    ).bind(args)
    return application
