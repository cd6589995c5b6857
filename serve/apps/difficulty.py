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
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

from fastapi import Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from rayworks import __version__
from rayworks.core.errors import ConfigError, DataError, InfrastructureError
from rayworks.core.run_directory import EXPORT, REPORT_JSON
from rayworks.systems.difficulty.item_response.curves import MODELS
from rayworks.systems.difficulty.responses.response_store import Responses

from ..common.access import Access, Caller, replica
from ..common.application import Problem, new_application
from ..common.computing import Computing
from ..common.jobs import Jobs
from ..common.keys import DEFAULT_FILE, ApiKeys
from . import difficulty_estimates as estimates
from .difficulty_item_bank import ItemBank, read_set
from .difficulty_schemas import FitAnswer, FitBody, ItemPage, JobAnswer, RateAnswer, RateBody, ScoreAnswer, ScoreBody

HEALTH_SECONDS = 30.0
WAITING_BEYOND_COMPUTING = 64
"""Requests that Serve lets in beyond those that compute, so that it is this code that answers 503."""
MAX_BODY_BYTES = 8 * 2**20
"""Two million cells of a matrix; read in one go, so a larger one would keep other requests waiting."""
RESPONSES = "responses"
"""File, and so name, of a job's one response set."""

api = new_application(
    "Rayworks difficulty",
    "Item calibration, ratings and ability scoring.",
    __version__,
    MAX_BODY_BYTES,
    admit=lambda request: replica().access.owner(request.headers.get("authorization")),
)
ResultT = TypeVar("ResultT")


class Args(BaseModel):
    """What the Serve config may set."""

    model_config = ConfigDict(extra="forbid")

    export: str | None = Field(
        None, description="export folder of a finished run; without one, requests bring their items"
    )
    spool: str = Field("~/rayworks/difficulty-jobs", description="inputs and runs of jobs; a folder that all nodes see")
    job_settings: dict[str, Any] = Field({}, description="dotted setting to value, for the runs of jobs")
    jobs_per_key: int = Field(2, ge=1, description="unfinished jobs of one key; beyond that: 429")
    inline_cells: int = Field(200_000, ge=1, description="observed responses above which a fit becomes a job")
    inline_parameters: int = Field(400, ge=1, description="item parameters above which it does: errors cost the square")
    api_keys: str = Field(DEFAULT_FILE, description="file of hashed keys")
    max_waiting: int = Field(32, ge=0, description="requests that may wait for the processor; beyond that: 503")
    concurrent_per_key: int = Field(16, ge=1, description="requests of one key under way; beyond that: 429")
    deadline_seconds: float = Field(30.0, gt=0, description="longer requests: 504")
    num_cpus: float = Field(0.5, ge=0)


@asynccontextmanager
async def failures_as_problems() -> AsyncIterator[None]:
    """What the library refuses is the request's fault; what the cluster fails at is not."""
    try:
        yield
    except (DataError, ConfigError) as error:
        # The library names the settings of a run; a request has them without their section.
        raise Problem(422, str(error).replace("data.", "")) from None
    except InfrastructureError as error:
        raise Problem(503, f"{error}; try again", retry_after=10) from None


@serve.deployment(name="item-calibration", health_check_period_s=10, health_check_timeout_s=HEALTH_SECONDS)
@serve.ingress(api)
class Difficulty:
    """Estimators behind HTTP, and the calibration of a finished run."""

    def __init__(self, args: Args) -> None:
        self._args = args
        self.access = Access(ApiKeys(args.api_keys), args.concurrent_per_key)
        self._bank = ItemBank(args.export)
        self._computing = Computing(args.max_waiting, args.deadline_seconds)
        self._jobs = Jobs("difficulty", args.spool, args.job_settings, args.jobs_per_key)
        estimates.smallest_fit()

    async def check_health(self) -> None:
        """Called by Serve: a real fit, and no computation that nobody waits for any more, or the replica is replaced."""
        self._computing.require_progress()
        await asyncio.to_thread(estimates.smallest_fit)

    @api.get("/healthz")
    async def healthz(self) -> dict[str, Any]:
        """Open to all: fits three items, beside the queue."""
        started = time.perf_counter()
        await self.check_health()
        seconds = round(time.perf_counter() - started, 4)
        return {
            "status": "ok",
            "answered_in_seconds": seconds,
            "load": self._computing.load,
            "sets": list(self._bank.sets),
        }

    @api.post("/v1/difficulty/fit", response_model=FitAnswer, responses={202: {"model": JobAnswer}})
    async def fit(self, body: FitBody, request: Request, owner: Caller) -> Any:
        """Calibrate items from responses: difficulties with errors, and labels. A large table becomes a job (202)."""
        responses = await self._compute(lambda: estimates.read_responses(body))
        parameters = len(responses.items) * (MODELS.index(body.model) + 1)
        if len(responses.score) <= self._args.inline_cells and parameters <= self._args.inline_parameters:
            return await self._compute(lambda: estimates.fit(body, responses))
        async with failures_as_problems():
            job = await asyncio.to_thread(self._submit, body, responses, owner)
        place = request.url_for("job", job=job).path
        return JSONResponse(JobAnswer(job=job, state="pending").model_dump(), 202, headers={"Location": place})

    @api.get("/v1/difficulty/jobs/{job}")
    async def job(self, job: str, owner: Caller) -> JobAnswer:
        """How far a job of this key is; when it is done, its headline and labels."""
        async with failures_as_problems():
            return await asyncio.to_thread(self._job, job, owner)

    @api.post("/v1/difficulty/rate")
    async def rate(self, body: RateBody, owner: Caller) -> RateAnswer:
        """Rate players from games, or problems and contestants from attempts."""
        expires = time.monotonic() + self._args.deadline_seconds
        return await self._compute(lambda: estimates.rate(body, expires))

    @api.post("/v1/difficulty/score")
    async def score(self, body: ScoreBody, owner: Caller) -> ScoreAnswer:
        """A subject's ability, the best item to ask next, and the score to expect on all items."""
        known = None if body.items is not None else self._bank.find(body.set)
        return await self._compute(lambda: estimates.score(body, known))

    @api.get("/v1/difficulty/items")
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

    async def _compute(self, function: Callable[[], ResultT]) -> ResultT:
        async with failures_as_problems():
            return await self._computing.run(function)

    def _submit(self, body: FitBody, responses: Responses, owner: str) -> str:
        job, folder = self._jobs.new_folder(owner)
        file = folder / f"{RESPONSES}.parquet"
        responses.table().to_parquet(file, index=False)
        data = {"data.responses": [str(file)], "data.games": []}
        self._jobs.submit(job, owner, {**estimates.run_settings(body), **data})
        return job

    def _job(self, job: str, owner: str) -> JobAnswer:
        status = self._jobs.status(job, owner)
        answer = JobAnswer(job=job, state=status.state, failure=status.failure, detail=status.detail)
        if status.state != "succeeded":
            return answer
        directory = self._jobs.run_directory(job, owner)
        found = read_set(directory.read_json(f"{EXPORT}/{RESPONSES}/calibration.json"))
        headline = directory.read_json(REPORT_JSON)["headline"]
        return answer.model_copy(update={"headline": headline, "model": found.parameters.model, "items": found.items})


def build(args: Args) -> serve.Application:
    """The application, as the Serve config names it: ``serve.apps.difficulty:build``."""
    application: serve.Application = Difficulty.options(  # type: ignore[attr-defined]  # added by the decorators
        ray_actor_options={"num_cpus": args.num_cpus},
        max_ongoing_requests=args.max_waiting + WAITING_BEYOND_COMPUTING,
        max_queued_requests=WAITING_BEYOND_COMPUTING,
    ).bind(args)
    return application
