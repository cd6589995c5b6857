r"""Answers found by tree search: a policy, a head that tells right answers from wrong ones, and a budget per question.

    curl http://127.0.0.1:8000/reasoning/v1/reasoning/solve -H "Authorization: Bearer $KEY" \
      -H 'Content-Type: application/json' \
      -d '{"question": "3+4-7+2", "simulations": 32, "seed": 1}'

With ``"stream": true`` each completion is told as it is counted, a line of JSON each. The searches of all requests draw
together. A long one becomes a job: ``solve`` then answers 202, and ``GET /v1/reasoning/jobs/ID`` says how far it is.
"""

import asyncio
import json
import logging
import secrets
import uuid
import weakref
from collections.abc import AsyncIterator
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from fastapi import Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import Field
from ray import serve

from rayworks.core.config import EngineSection
from rayworks.core.errors import InfrastructureError, RayworksError
from rayworks.core.run_directory import RunDirectory
from rayworks.lm.threads import limit_torch_threads
from rayworks.systems.reasoning.config import Config
from rayworks.systems.reasoning.files import Files
from rayworks.systems.reasoning.search.scheduler import Budget, Search
from rayworks.systems.reasoning.search.tree import Node
from rayworks.systems.reasoning.tasks.questions import Question

from ..common.access import Caller
from ..common.application import new_application
from ..common.jobs import Jobs
from ..common.problems import RETRY_SECONDS, Problem, problem_of, problems
from ..common.served_run import HEALTH_SECONDS, Deadline, Processors, ServedRun, ServingArgs, bind
from .reasoning_engine import answer_of, open_policy
from .reasoning_schemas import EVENTS, MEDIA_TYPE, JobAnswer, SolveAnswer, SolveBody

LOCATION = {"description": "of the job", "schema": {"type": "string"}}
ACCEPTED = {"model": JobAnswer, "description": "It became a job", "headers": {"Location": LOCATION}}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The answer; with stream=true, after a line for each completion", "content": EVENTS},
    202: ACCEPTED,
}
QUESTION = "question.jsonl"
"""File of a job's one question."""
logger = logging.getLogger("rayworks.serve")


def as_problem(error: RayworksError) -> Problem:
    """What fails here is the search, which only another replica can fix."""
    if isinstance(error, InfrastructureError):
        return Problem(503, f"{error}; the replica is being replaced", RETRY_SECONDS)
    return problem_of(error)


api = new_application("reasoning", "Answers found by tree search.", as_problem=as_problem)


class Args(ServingArgs):
    """What the Serve config may set."""

    export: str = Field("~/rayworks/runs/reasoning/smoke/export", description="export folder of a finished run")
    engine: Literal["transformers", "vllm"] = Field("transformers", description="what decodes")
    memory_share: float | None = Field(None, gt=0, le=1, description="vllm: share of a GPU's memory; null: its default")
    slots: int = Field(64, ge=1, le=1024, description="searches that draw together; the next max_waiting wait")
    job_simulations: int = Field(512, ge=1, description="simulations above which a search becomes a job")
    most_simulations: int = Field(20_000, ge=1, description="more: 422")
    most_tokens: int = Field(1_000_000, ge=1, description="drawn for one question; more: 422")
    spool: str = Field("~/rayworks/reasoning-jobs", description="inputs and runs of jobs; a folder that all nodes see")
    job_settings: dict[str, Any] = Field({}, description="dotted setting to value, for the runs of jobs")
    jobs_per_key: int = Field(2, ge=1, description="unfinished jobs of one key; beyond that: 429")
    deadline_seconds: Deadline = 60.0
    num_cpus: Processors = 1.0


@serve.deployment(name="tree-search")
@serve.ingress(api)
class Reasoning(ServedRun):
    """One policy, which searches for all requests at once."""

    def __init__(self, args: Args, shared: Any = None) -> None:
        super().__init__(args, shared)
        limit_torch_threads()
        self._args = args
        section = EngineSection(engine=args.engine, memory_share=args.memory_share)
        self._policy = open_policy(args.export, section, args.slots, "cuda" if args.num_gpus else "cpu")
        self._jobs = Jobs("reasoning", args.spool, args.job_settings, args.jobs_per_key)

    async def check(self) -> None:
        """Searches have gone on lately: an idle replica draws one completion."""
        search = self._policy.search
        if search.load and search.seconds_since_step < HEALTH_SECONDS:
            return
        future = search.submit(self._policy.task.ask("1"), Budget(1, None, 0))
        try:
            found = await asyncio.wrap_future(future)
        finally:
            search.cancel(future)
        if found.failed is not None:
            raise InfrastructureError(f"a search failed: {found.failed}")

    @property
    def load(self) -> int:
        """Searches under way."""
        return self._policy.search.load

    def state(self) -> dict[str, Any]:
        """The same, and what is asked here."""
        return {"searches": self.load, "task": self._policy.exported.task.name}

    @api.post("/v1/reasoning/solve", response_model=SolveAnswer, responses=ANSWERS)
    async def solve(self, body: SolveBody, request: Request, owner: Caller) -> Any:
        """Search for the answer to a question. One of very many simulations becomes a job (202)."""
        question, budget = self._policy.ask(body.question), self._budget(body)
        if budget.simulations > self._args.job_simulations:
            return await self._accept(body, budget, request, owner)
        if self.load >= self._args.slots + self._args.max_waiting:
            raise Problem(503, f"{self.load} searches are under way or waiting; try again", retry_after=2)
        if body.stream:
            return self._stream(body, question, budget)
        future = self._policy.search.submit(question, budget)
        try:
            async with asyncio.timeout(self._args.deadline_seconds):
                search = await asyncio.wrap_future(future)
        except TimeoutError:
            raise Problem(504, self._late, RETRY_SECONDS) from None
        finally:
            self._policy.search.cancel(future)
        return await asyncio.to_thread(self._answer, body, search)

    @api.get("/v1/reasoning/jobs/{job}", responses=problems(404))
    async def job(
        self, job: str, owner: Caller, tree: Annotated[bool, Query(description="return the whole tree too")] = False
    ) -> JobAnswer:
        """How far a job of this key is; when it is done, the answer."""
        return await asyncio.to_thread(self._job, job, owner, tree)

    def _budget(self, body: SolveBody) -> Budget:
        for field in ("simulations", "most_tokens"):
            given, most = getattr(body, field), getattr(self._args, f"most_{field.removeprefix('most_')}")
            if given is not None and given > most:
                raise Problem(422, f"{field}: is {given}, at most {most} are drawn for one question; lower it")
        simulations = body.simulations or min(self._policy.section.simulations, self._args.job_simulations)
        seed = secrets.randbits(62) if body.seed is None else body.seed
        return Budget(simulations, body.most_tokens or self._args.most_tokens, seed)

    def _answer(self, body: SolveBody, search: Search) -> SolveAnswer:
        self.measures.tokens(len(search.prompt), search.tokens)
        if search.failed is not None:
            logger.error("a search failed: %s", search.failed)
            raise Problem(503, f"the search failed ({search.failed}); try again", RETRY_SECONDS)
        record, head = self._policy.record(search), self._policy.exported.head
        return answer_of(record, body.rule, search.budget.seed, head=head, tree=body.tree)

    @property
    def _late(self) -> str:
        return f"not finished after {self._args.deadline_seconds:g} s; try again later, or ask for fewer simulations"

    def _stream(self, body: SolveBody, question: Question, budget: Budget) -> StreamingResponse:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[str | Future[Search]] = asyncio.Queue()

        def counted(search: Search, node: Node) -> None:
            line = self._policy.event(search, node).model_dump_json() + "\n"
            loop.call_soon_threadsafe(arrived.put_nowait, line)

        future = self._policy.search.submit(question, budget, counted)
        future.add_done_callback(lambda done: loop.call_soon_threadsafe(arrived.put_nowait, done))
        lines = self._lines(body, future, arrived)
        # A client that is gone before the first line leaves a generator that never starts and so never ends.
        weakref.finalize(lines, self._policy.search.cancel, future)
        return StreamingResponse(lines, media_type=MEDIA_TYPE, headers={"Cache-Control": "no-store"})

    async def _lines(
        self, body: SolveBody, future: "Future[Search]", arrived: "asyncio.Queue[str | Future[Search]]"
    ) -> AsyncIterator[str]:
        deadline = asyncio.get_running_loop().time() + self._args.deadline_seconds
        try:
            while True:
                async with asyncio.timeout_at(deadline):
                    told = await arrived.get()
                if not isinstance(told, str):
                    break
                yield told
            found = await asyncio.to_thread(self._answer, body, told.result())
            yield json.dumps({"event": "result", **found.model_dump()}) + "\n"
        except Exception as error:
            yield json.dumps({"event": "error", "problem": self._stream_problem(error).openai_error()}) + "\n"
        finally:
            self._policy.search.cancel(future)

    def _stream_problem(self, error: Exception) -> Problem:
        """What ends a stream that has begun."""
        if isinstance(error, TimeoutError):
            return Problem(504, self._late)
        if isinstance(error, Problem):
            return error
        logger.error("a stream failed", exc_info=error)
        return Problem(503, "the search failed; try again")

    async def _accept(self, body: SolveBody, budget: Budget, request: Request, owner: str) -> JSONResponse:
        if body.stream:
            most = self._args.job_simulations
            raise Problem(
                422, f"stream: above {most} simulations a search is a job, which is not streamed; leave it out"
            )
        settings = self._policy.job_settings(budget, body.rule)

        def prepare(folder: Path) -> dict[str, Any]:
            file = folder / QUESTION
            partial = file.with_suffix(f".{uuid.uuid4().hex}")
            partial.write_text(json.dumps({"prompt": body.question, "answer": None, "split": "search"}))
            partial.replace(file)
            return {**settings, "task.name": str(file)}

        job = await asyncio.to_thread(self._jobs.submit, owner, request.state.ticket, prepare)
        location = request.url_for("job", job=job).path
        return JSONResponse(JobAnswer(job=job, state="pending").model_dump(), 202, headers={"Location": location})

    def _job(self, job: str, owner: str, tree: bool) -> JobAnswer:
        status = self._jobs.status(job, owner)
        answer = JobAnswer(job=job, state=status.state, failure=status.failure, detail=status.detail)
        if status.state != "succeeded":
            return answer
        return answer.model_copy(update={"result": self._result(self._jobs.run_directory(job, owner), tree)})

    def _result(self, directory: RunDirectory, tree: bool) -> SolveAnswer:
        config = Config.model_validate(yaml.safe_load(directory.read("config.yaml")))
        [record] = Files(config, directory).trees(0)
        head = self._policy.exported.head
        return answer_of(record, config.evaluation.rule, config.run.seed, head=head, tree=tree)


def build(args: Args) -> serve.Application:
    """The application, as the Serve config names it: ``serve.apps.reasoning:build``."""
    return bind(Reasoning, args, together=args.slots)
