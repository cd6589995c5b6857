r"""Difficulty of benchmark items: calibrate them, rate problems and players, score who answers them.

    curl http://127.0.0.1:8000/difficulty/v1/difficulty/fit -H "Authorization: Bearer $KEY" \
      -H 'Content-Type: application/json' \
      -d '{"matrix": [[1, 0, 0], [1, 1, 0], [0, 1, null], [1, 1, 1], [0, 0, 1]], "model": "1PL"}'

    curl http://127.0.0.1:8000/difficulty/v1/difficulty/rate -H "Authorization: Bearer $KEY" \
      -H 'Content-Type: application/json' \
      -d '{"attempts": [{"problem": "1A", "contestant": "ann", "solved": true}],
           "ratings": {"ann": {"rating": 1800, "deviation": 60, "fixed": true}}}'

    curl http://127.0.0.1:8000/difficulty/v1/difficulty/score -H "Authorization: Bearer $KEY" \
      -H 'Content-Type: application/json' \
      -d '{"items": [{"item": "a", "difficulty": -1}, {"item": "b", "difficulty": 1}], "responses": {"a": 1}}'

Many responses become a job: ``fit`` then answers 202, and ``GET /v1/difficulty/jobs/ID`` says how far it is.
"""

import asyncio
import time
import uuid
from pathlib import Path
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import JSONResponse
from pydantic import Field
from ray import serve

from rayworks.core.errors import RayworksError
from rayworks.core.run_directory import EXPORT, REPORT_JSON
from rayworks.systems.difficulty.exported import CALIBRATION, ExportedSet
from rayworks.systems.difficulty.item_response.curves import MODELS
from rayworks.systems.difficulty.responses.response_store import Responses

from ..common.access import Caller
from ..common.application import new_application
from ..common.jobs import Jobs
from ..common.problems import Problem, problem_of, problems
from ..common.served_run import Deadline, PerKey, ServedRun, ServingArgs, Waiting, bind
from . import difficulty_estimates as estimates
from .difficulty_item_bank import ItemBank, calibrated_set
from .difficulty_schemas import FitAnswer, FitBody, ItemPage, JobAnswer, RateAnswer, RateBody, ScoreAnswer, ScoreBody

MAX_BODY_BYTES = 8 * 2**20
"""Two million cells of a matrix; read in one go, so a larger one would keep other requests waiting."""
LOCATION = {"description": "of the job", "schema": {"type": "string"}}
ACCEPTED = {"model": JobAnswer, "description": "It became a job", "headers": {"Location": LOCATION}}
RESPONSES = "responses"
"""File, and so name, of a job's one response set."""


def as_problem(error: RayworksError) -> Problem:
    """The library names the settings of a run; a request has them without their section."""
    found = problem_of(error)
    return Problem(found.status, found.detail.replace("data.", ""), found.retry_after)


api = new_application(
    "difficulty",
    "Item calibration, ratings and ability scoring.",
    MAX_BODY_BYTES,
    as_problem=as_problem,
)


class Args(ServingArgs):
    """What the Serve config may set."""

    export: str | None = Field(
        None, description="export folder of a finished run; without one, requests bring their items"
    )
    spool: str = Field("~/rayworks/difficulty-jobs", description="inputs and runs of jobs; a folder that all nodes see")
    job_settings: dict[str, Any] = Field({}, description="dotted setting to value, for the runs of jobs")
    jobs_per_key: int = Field(2, ge=1, description="unfinished jobs of one key; beyond that: 429")
    inline_cells: int = Field(200_000, ge=1, description="observed responses above which a fit becomes a job")
    inline_parameters: int = Field(400, ge=1, description="item parameters above which it does: errors cost the square")
    max_waiting: Waiting = 32
    concurrent_per_key: PerKey = 16
    deadline_seconds: Deadline = 30.0


@serve.deployment(name="item-calibration")
@serve.ingress(api)
class Difficulty(ServedRun):
    """Estimators behind HTTP, and the calibration of a finished run."""

    def __init__(self, args: Args, shared: Any = None) -> None:
        super().__init__(args, shared)
        self._args = args
        self._bank = ItemBank(args.export)
        self._computing = self.computing()
        self._jobs = Jobs("difficulty", args.spool, args.job_settings, args.jobs_per_key)
        estimates.smallest_fit()

    async def check(self) -> None:
        """Fit three items."""
        await asyncio.to_thread(estimates.smallest_fit)

    def state(self) -> dict[str, Any]:
        """The load, and the sets of the item bank."""
        return {**super().state(), "sets": list(self._bank.sets)}

    @api.post("/v1/difficulty/fit", response_model=FitAnswer, responses={202: ACCEPTED})
    async def fit(self, body: FitBody, request: Request, owner: Caller) -> Any:
        """Calibrate items from responses: difficulties with errors, and labels. A large table becomes a job (202)."""
        responses = await self._computing.run(lambda: estimates.read_responses(body))
        parameters = len(responses.items) * (MODELS.index(body.model) + 1)
        if len(responses.score) <= self._args.inline_cells and parameters <= self._args.inline_parameters:
            return await self._computing.run(lambda: estimates.fit(body, responses))
        job = await asyncio.to_thread(self._submit, body, responses, owner, request.state.ticket)
        location = request.url_for("job", job=job).path
        return JSONResponse(JobAnswer(job=job, state="pending").model_dump(), 202, headers={"Location": location})

    @api.get("/v1/difficulty/jobs/{job}", responses=problems(404))
    async def job(self, job: str, owner: Caller) -> JobAnswer:
        """How far a job of this key is; when it is done, its headline and labels."""
        return await asyncio.to_thread(self._job, job, owner)

    @api.post("/v1/difficulty/rate")
    async def rate(self, body: RateBody, owner: Caller) -> RateAnswer:
        """Rate players from games, or problems and contestants from attempts."""
        expires = time.monotonic() + self._args.deadline_seconds
        return await self._computing.run(lambda: estimates.rate(body, expires))

    @api.post("/v1/difficulty/score", responses=problems(404))
    async def score(self, body: ScoreBody, owner: Caller) -> ScoreAnswer:
        """A subject's ability, the best item to ask next, and the score to expect on all items."""
        known = None if body.items is not None else self._bank.find(body.set)
        return await self._computing.run(lambda: estimates.score(body, known))

    @api.get("/v1/difficulty/items", responses=problems(404))
    async def items(
        self,
        owner: Caller,
        set: Annotated[str | None, Query(description="one of sets; by default the first")] = None,
        offset: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> ItemPage:
        """The items of a loaded calibration with their labels."""
        found = self._bank.find(set)
        end = offset + limit
        return ItemPage(
            sets=list(self._bank.sets),
            set=found.name,
            provenance=found.provenance,
            model=found.parameters.model,
            total=len(found.items),
            items=found.items[offset:end],
            next_offset=end if end < len(found.items) else None,
        )

    def _submit(self, body: FitBody, responses: Responses, owner: str, ticket: str) -> str:
        def settings(folder: Path) -> dict[str, Any]:
            file = folder / f"{RESPONSES}.parquet"
            partial = file.with_suffix(f".{uuid.uuid4().hex}")
            responses.table().to_parquet(partial, index=False)
            partial.replace(file)
            return {**estimates.run_settings(body), "data.responses": [str(file)], "data.games": []}

        return self._jobs.submit(owner, ticket, settings)

    def _job(self, job: str, owner: str) -> JobAnswer:
        status = self._jobs.status(job, owner)
        answer = JobAnswer(job=job, state=status.state, failure=status.failure, detail=status.detail)
        if status.state != "succeeded":
            return answer
        directory = self._jobs.run_directory(job, owner)
        found = calibrated_set(ExportedSet(**directory.read_json(f"{EXPORT}/{RESPONSES}/{CALIBRATION}")))
        headline = directory.read_json(REPORT_JSON)["headline"]
        return answer.model_copy(update={"headline": headline, "model": found.parameters.model, "items": found.items})


def build(args: Args) -> serve.Application:
    """The application, as the Serve config names it: ``serve.apps.difficulty:build``."""
    return bind(Difficulty, args)
