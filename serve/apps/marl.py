r"""What should each agent of a team do: positions and features in, actions out.

    curl http://127.0.0.1:8000/marl/v1/marl/act -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' \
      -d '{"scenes": [{"entities": [
            {"kind": "agent", "position": [0.2, -0.4]}, {"kind": "agent", "position": [-0.5, 0.3]},
            {"kind": "agent", "position": [0.1, 0.8]}, {"kind": "landmark", "position": [0.9, 0.0]},
            {"kind": "landmark", "position": [-0.9, 0.1]}, {"kind": "landmark", "position": [0.0, -0.7]}]}]}'

    curl http://127.0.0.1:8000/marl/v1/marl/card -H "Authorization: Bearer $KEY"

The card says what scenes must look like and which symmetries the policy respects. Requests that arrive while others compute
are answered together.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from rayworks import __version__
from rayworks.core.errors import DataError

from ..common.access import Access, Caller
from ..common.application import Problem, new_application
from ..common.batching import Batching
from ..common.keys import DEFAULT_FILE, ApiKeys
from .marl_engine import Players, Question, given
from .marl_schemas import ActAnswer, ActBody, Action, Limits, PolicyCard, SceneAnswer

HEALTH_SECONDS = 30.0
WAITING_BEYOND_COMPUTING = 64
"""Requests that Serve lets in beyond those that compute, so that it is this code that answers 503."""

api = new_application("Rayworks marl", "Actions of teams whose policies turn with the world.", __version__)


class Args(BaseModel):
    """What the Serve config may set."""

    model_config = ConfigDict(extra="forbid")

    export: str = Field("~/rayworks/runs/marl/smoke/export", description="export folder of a finished run")
    limits: Limits = Field(Limits(), description="of a request")
    largest_batch: int = Field(32, ge=1, le=1024, description="requests computed together")
    api_keys: str = Field(DEFAULT_FILE, description="file of hashed keys")
    max_waiting: int = Field(64, ge=0, description="requests that may wait for a batch: else 503")
    concurrent_per_key: int = Field(64, ge=1, description="requests of one key under way; beyond that: 429")
    deadline_seconds: float = Field(10.0, gt=0, description="longer requests: 504")
    num_cpus: float = Field(0.5, ge=0)


@serve.deployment(name="players", health_check_period_s=10, health_check_timeout_s=HEALTH_SECONDS)
@serve.ingress(api)
class Marl:
    """The policies of a finished run behind HTTP."""

    def __init__(self, args: Args) -> None:
        # More threads than cores of this replica would wait for each other.
        torch.set_num_threads(1)
        self.access = Access(ApiKeys(args.api_keys), args.concurrent_per_key)
        self._players = Players(args.export, args.limits)
        self._batching: Batching[Sequence[Question], list[list[Action] | DataError]] = Batching(
            self._answer, args.largest_batch, args.max_waiting, args.deadline_seconds
        )
        self._players.check()

    async def check_health(self) -> None:
        """Called by Serve: a real answer by every policy, and nothing stuck, or the replica is replaced."""
        self._batching.require_progress()
        await asyncio.to_thread(self._players.check)

    @api.get("/healthz")
    async def healthz(self) -> dict[str, Any]:
        """Open to all: acts beside the queue."""
        started = time.perf_counter()
        await self.check_health()
        return {
            "status": "ok",
            "answered_in_seconds": round(time.perf_counter() - started, 4),
            "load": self._batching.load,
            "teams": list(self._players.exported.teams),
        }

    @api.get("/v1/marl/card")
    async def card(self, owner: Caller) -> PolicyCard:
        """What scenes must look like, and which symmetries the policy respects."""
        return self._players.card()

    @api.post("/v1/marl/act")
    async def act(self, body: ActBody, owner: Caller) -> ActAnswer:
        """Actions of all agents of a team in each scene."""
        try:
            team, questions = self._players.questions(body)
            scenes = [SceneAnswer(actions=given(found)) for found in await self._batching.ask(questions)]
        except DataError as error:
            raise Problem(422, str(error)) from None
        return ActAnswer(team=team, scenes=scenes)

    def _answer(self, asked: Sequence[Sequence[Question]]) -> list[list[list[Action] | DataError]]:
        """Requests together: their scenes in one list, and apart again."""
        found = iter(self._players.answer([question for questions in asked for question in questions]))
        return [[next(found) for _ in questions] for questions in asked]


def build(args: Args) -> serve.Application:
    """The application, as the Serve config names it: ``serve.apps.marl:build``."""
    application: serve.Application = Marl.options(  # type: ignore[attr-defined]  # added by the decorators
        ray_actor_options={"num_cpus": args.num_cpus},
        max_ongoing_requests=args.max_waiting + args.largest_batch + WAITING_BEYOND_COMPUTING,
        max_queued_requests=WAITING_BEYOND_COMPUTING,
    ).bind(args)
    return application
