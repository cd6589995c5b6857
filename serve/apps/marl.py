r"""Choose the actions of a team of agents from the positions and features of a scene.

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
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from ray import serve

from rayworks.core.errors import DataError

from ..common.access import Caller
from ..common.application import new_application
from ..common.served_run import Deadline, LargestBatch, ServedRun, ServingArgs, bind
from .marl_engine import PolicyServer, Question, given
from .marl_schemas import ActAnswer, ActBody, Action, Limits, PolicyCard, SceneAnswer

api = new_application("marl", "Actions of equivariant policies for teams of agents.")


class Args(ServingArgs):
    """What the Serve config may set."""

    export: str = Field("~/rayworks/runs/marl/smoke/export", description="export folder of a finished run")
    limits: Limits = Field(Limits(), description="limits of a request")
    largest_batch: LargestBatch = 32
    deadline_seconds: Deadline = 10.0


@serve.deployment(name="policy-server")
@serve.ingress(api)
class Marl(ServedRun):
    """The policies of a finished run behind HTTP."""

    def __init__(self, args: Args, shared: Any = None) -> None:
        super().__init__(args, shared)
        # More threads than cores of this replica would wait for each other.
        torch.set_num_threads(1)
        self._policy_server = PolicyServer(args.export, args.limits)
        self._batching = self.batching(self._answer, args.largest_batch)
        self._policy_server.check()

    async def check(self) -> None:
        """Act, by every policy."""
        await asyncio.to_thread(self._policy_server.check)

    def state(self) -> dict[str, Any]:
        """The load and the teams."""
        return {**super().state(), "teams": list(self._policy_server.exported.teams)}

    @api.get("/v1/marl/card")
    async def card(self, owner: Caller) -> PolicyCard:
        """What scenes must look like, and which symmetries the policy respects."""
        return self._policy_server.card()

    @api.post("/v1/marl/act")
    async def act(self, body: ActBody, owner: Caller) -> ActAnswer:
        """Actions of all agents of a team in each scene."""
        team, questions = self._policy_server.questions(body)
        found = await self._batching.ask(questions)
        return ActAnswer(team=team, scenes=[SceneAnswer(actions=given(answer)) for answer in found])

    def _answer(self, asked: Sequence[Sequence[Question]]) -> list[list[list[Action] | DataError]]:
        """Requests together: their scenes in one list, and apart again."""
        found = iter(self._policy_server.answer([question for questions in asked for question in questions]))
        return [[next(found) for _ in questions] for questions in asked]


def build(args: Args) -> serve.Application:
    """The application, as the Serve config names it: ``serve.apps.marl:build``."""
    return bind(Marl, args, together=args.largest_batch)
