r"""Is a reply a refusal? And, as jobs: which harmless requests a model refuses, and prompts that find more of them.

    curl http://127.0.0.1:8000/refusal/v1/refusal/judge -H "Authorization: Bearer $KEY" \
      -H 'Content-Type: application/json' \
      -d '{"cases": [{"request": "How do I kill a Python process?", "reply": "I cannot help with that."}]}'

``evaluate`` and ``generate`` answer 202, and ``GET /v1/refusal/jobs/ID`` says how far the job is. Models and sets are those
that the operator lists; generation is off unless the operator turns it on.
"""

import asyncio
import io
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import Field
from ray import serve

from rayworks.core.run_directory import EXPORT, REPORT_JSON, RunDirectory
from rayworks.systems.refusal.exported import PROBE, PROMPTS, read_export
from rayworks.systems.refusal.judging.verdicts import Case, Verdict

from ..common.access import Caller
from ..common.application import new_application
from ..common.jobs import Jobs
from ..common.problems import Problem, problems
from ..common.served_run import LargestBatch, ServedRun, ServingArgs, bind
from . import refusal_schemas as schemas

api = new_application("refusal", "Refusals, and false ones.")
LOCATION = {"description": "of the job", "schema": {"type": "string"}}
ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"model": schemas.JobAnswer, "description": "It is a job", "headers": {"Location": LOCATION}}
}
REQUESTS, SEEDS = "requests.jsonl", "seeds.jsonl"
"""Files of a job's own requests or seeds."""
RATES = "Refusals by set and label"


class Args(ServingArgs):
    """What the Serve config may set."""

    export: str = Field("~/rayworks/runs/refusal/smoke/export", description="export folder of a finished run")
    largest_batch: LargestBatch = 32
    models: dict[str, str] = Field(
        {"target": "smollm2-135m-instruct"},
        description="models that jobs may measure, by the names that callers use: as evaluation.models.model",
    )
    sets: list[str] = Field(
        ["xstest-safe", "xstest-unsafe", "over-refusal-80", "over-refusal-70"],
        description="sets that jobs may measure on, as evaluation.sets",
    )
    generate: bool = Field(False, description="whether callers may have prompts written against generation_target")
    generation_target: str = Field("smollm2-135m-instruct", description="as target.name")
    most_prompts: int = Field(200, ge=1, description="prompts that one generation may write; more: 422")
    spool: str = Field("~/rayworks/refusal-jobs", description="inputs and runs of jobs; a folder that all nodes see")
    job_settings: dict[str, Any] = Field({}, description="dotted setting to value, for the runs of jobs")
    jobs_per_key: int = Field(2, ge=1, description="unfinished jobs of one key; beyond that: 429")


# What Serve keeps of the class has its globals of now: these come before it.
def _write_lines(file: Path, column: str, texts: Sequence[str]) -> str:
    """Write a column as JSON lines, whole."""
    partial = file.with_suffix(f".{uuid.uuid4().hex}")
    partial.write_text("".join(json.dumps({column: text}) + "\n" for text in texts))
    partial.replace(file)
    return str(file)


def _result(directory: RunDirectory) -> schemas.JobResult:
    """Of a finished run, its rates and its prompts."""
    import pyarrow.parquet as pq

    report = directory.read_json(REPORT_JSON)
    table: dict[str, Any] = next((one for one in report["tables"] if one["title"] == RATES), {"rows": []})
    names = ("set", "label", "prompts", "refused_in_full", "refused", "left_out")
    rates = [schemas.RateAnswer(**dict(zip(names, [_set(row[1]), *row[2:]], strict=False))) for row in table["rows"]]
    kept = f"{EXPORT}/{PROMPTS}"
    rows = pq.read_table(io.BytesIO(directory.read(kept))).to_pylist() if directory.exists(kept) else []
    fields = schemas.FindAnswer.model_fields
    prompts = [schemas.FindAnswer(**{name: row[name] for name in fields}) for row in rows]
    return schemas.JobResult(headline=report["headline"], rates=rates, prompts=prompts)


def _set(name: str) -> str:
    """A set as a caller knows it."""
    return "requests" if Path(name).name == REQUESTS else name


@serve.deployment(name="refusals")
@serve.ingress(api)
class Refusals(ServedRun):
    """The judge of a finished run behind HTTP, and jobs."""

    def __init__(self, args: Args, shared: Any = None) -> None:
        super().__init__(args, shared)
        self._args = args
        self._exported = read_export(args.export)
        self._judging = self.batching(self._judge, args.largest_batch)
        self._jobs = Jobs("refusal", args.spool, args.job_settings, args.jobs_per_key)

    async def check(self) -> None:
        """Judge a reply."""
        await asyncio.to_thread(self._exported.judge.judge, [PROBE])

    def state(self) -> dict[str, Any]:
        """The load, and what may be asked for."""
        args = self._args
        return {**super().state(), "models": list(args.models), "sets": args.sets, "generate": args.generate}

    @api.post("/v1/refusal/judge")
    async def judge(self, body: schemas.JudgeBody, owner: Caller) -> schemas.JudgeAnswer:
        """Say of every reply whether it complies, refuses in full or in part, is off topic, or cannot be told."""
        cases = [Case(case.request, case.reply, case.finish_reason) for case in body.cases]
        found = await self._judging.ask(cases)
        agreement = self._exported.agreement
        return schemas.JudgeAnswer(
            verdicts=[schemas.CaseVerdict(**vars(one)) for one in found],
            accuracy=agreement["accuracy"][0],
            kappa=agreement["kappa"][0],
        )

    @api.post("/v1/refusal/evaluate", response_model=schemas.JobAnswer, status_code=202, responses=ACCEPTED)
    async def evaluate(self, body: schemas.EvaluateBody, request: Request, owner: Caller) -> Any:
        """Measure a model's refusals: a job."""
        model = self._args.models.get(body.model)
        if model is None:
            raise Problem(422, f"model: {body.model[:80]!r} is none of {', '.join(self._args.models)}")
        for name in body.sets:
            if name not in self._args.sets:
                raise Problem(422, f"sets: {name[:80]!r} is none of {', '.join(self._args.sets)}")
        if not body.sets and not body.requests:
            raise Problem(422, "sets: is empty, and so is requests; give either")
        tested = {"name": "model", "model": model, "system_prompt": body.system_prompt}

        def prepare(folder: Path) -> dict[str, Any]:
            own = [_write_lines(folder / REQUESTS, "request", body.requests)] if body.requests else []
            return {
                "generator.prompts": 0,
                "evaluation.models": [tested],
                "evaluation.sets": [*dict.fromkeys(body.sets), *own],
            }

        return await self._submit(request, owner, prepare)

    @api.post(
        "/v1/refusal/generate",
        response_model=schemas.JobAnswer,
        status_code=202,
        responses={**ACCEPTED, **problems(403)},
    )
    async def generate(self, body: schemas.GenerateBody, request: Request, owner: Caller) -> Any:
        """Write harmless prompts that a model refuses: a job, where the operator allows it."""
        args = self._args
        if not args.generate:
            raise Problem(403, "generate: is off in this application; its operator can set generate: true")
        if body.prompts > args.most_prompts:
            raise Problem(422, f"prompts: is {body.prompts}, at most {args.most_prompts} are written; lower it")

        def prepare(folder: Path) -> dict[str, Any]:
            return {
                "target.name": args.generation_target,
                "seeds.source": _write_lines(folder / SEEDS, "text", body.seeds),
                "seeds.column": "text",
                "generator.prompts": body.prompts,
                "generator.rival": False,
                "evaluation.models": [],
                "run.seed": body.seed,
            }

        return await self._submit(request, owner, prepare)

    @api.get("/v1/refusal/jobs/{job}", responses=problems(404))
    async def job(self, job: str, owner: Caller) -> schemas.JobAnswer:
        """How far a job of this key is; when it is done, its result."""
        return await asyncio.to_thread(self._job, job, owner)

    async def _submit(self, request: Request, owner: str, prepare: Callable[[Path], Mapping[str, Any]]) -> JSONResponse:
        job = await asyncio.to_thread(self._jobs.submit, owner, request.state.ticket, prepare)
        location = request.url_for("job", job=job).path
        return JSONResponse(
            schemas.JobAnswer(job=job, state="pending").model_dump(), 202, headers={"Location": location}
        )

    def _job(self, job: str, owner: str) -> schemas.JobAnswer:
        status = self._jobs.status(job, owner)
        answer = schemas.JobAnswer(job=job, state=status.state, failure=status.failure, detail=status.detail)
        if status.state != "succeeded":
            return answer
        return answer.model_copy(update={"result": _result(self._jobs.run_directory(job, owner))})

    def _judge(self, questions: Sequence[list[Case]]) -> list[list[Verdict]]:
        """All replies of several requests at once."""
        found = iter(self._exported.judge.judge([case for cases in questions for case in cases]))
        return [[next(found) for _ in cases] for cases in questions]


def build(args: Args) -> serve.Application:
    """The application, as the Serve config names it: ``serve.apps.refusal:build``."""
    return bind(Refusals, args, together=args.largest_batch)
