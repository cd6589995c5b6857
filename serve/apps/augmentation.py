r"""Score samples with the labels that they have, and classify them, with the model of a finished run.

    curl http://127.0.0.1:8000/augmentation/v1/augmentation/score -H "Authorization: Bearer $KEY" \
      -H 'Content-Type: application/json' -d '{"labels": ["0"], "pixels": [[[
        [0, 0, 60, 200, 180, 30, 0, 0], [0, 20, 230, 120, 150, 210, 0, 0], [0, 60, 200, 0, 20, 240, 40, 0],
        [0, 80, 180, 0, 0, 200, 80, 0], [0, 80, 170, 0, 0, 190, 90, 0], [0, 50, 210, 0, 10, 220, 60, 0],
        [0, 10, 220, 110, 160, 190, 10, 0], [0, 0, 60, 210, 190, 40, 0, 0]]]]}'

    curl http://127.0.0.1:8000/augmentation/v1/augmentation/card -H "Authorization: Bearer $KEY"

A sample's score is the same whatever stands beside it. It is that of the run's validation gradient at the end of training:
it finds samples that would harm this model, not all that are wrong. Requests that arrive while others compute are answered
together.
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
from .augmentation_engine import Scoring
from .augmentation_schemas import ModelCard, PredictAnswer, PredictBody, ScoreAnswer, ScoreBody

api = new_application("augmentation", "Weights and soft labels of samples, by a validation gradient.")


class Args(ServingArgs):
    """What the Serve config may set."""

    export: str = Field("~/rayworks/runs/augmentation/smoke/export", description="export folder of a finished run")
    trusted: list[str] = Field([], description="functions, as module:function, that an export may call for its network")
    limits: Limits = Field(Limits(), description="limits of a request")
    largest_batch: LargestBatch = 32
    deadline_seconds: Deadline = 10.0


@serve.deployment(name="scorer")
@serve.ingress(api)
class Augmentation(ServedRun):
    """The model of a finished run behind HTTP."""

    def __init__(self, args: Args, shared: Any = None) -> None:
        super().__init__(args, shared)
        # More threads than cores of this replica would wait for each other.
        torch.set_num_threads(1)
        self._scoring = Scoring(args.export, args.trusted, args.limits)
        self._predicting = self.batching(self._scoring.predict, args.largest_batch)
        self._weighing = self.batching(self._scoring.score, args.largest_batch)
        self._scoring.check()

    async def check(self) -> None:
        """Score something."""
        await asyncio.to_thread(self._scoring.check)

    @api.get("/v1/augmentation/card")
    async def card(self, owner: Caller) -> ModelCard:
        """Where the model comes from, and what it takes."""
        return self._scoring.card()

    @api.post("/v1/augmentation/predict")
    async def predict(self, body: PredictBody, owner: Caller) -> PredictAnswer:
        """The most probable classes of each sample."""
        found = await self._predicting.ask(self._scoring.inputs(body))
        return PredictAnswer(answers=self._scoring.guesses(found, body.top))

    @api.post("/v1/augmentation/score")
    async def score(self, body: ScoreBody, owner: Caller) -> ScoreAnswer:
        """Weight and soft label of each sample, and by how much it helps or harms."""
        inputs = self._scoring.inputs(body)
        found = await self._weighing.ask((inputs, self._scoring.labels(body.labels, len(inputs))))
        return ScoreAnswer(scores=self._scoring.scores(found))


def build(args: Args) -> serve.Application:
    """The application, as the Serve config names it: ``serve.apps.augmentation:build``."""
    return bind(Augmentation, args, together=args.largest_batch)
