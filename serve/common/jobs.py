"""Long work as jobs of the cluster a replica runs on: submitted through the Ray Jobs API, found again by id and owner.

What a job reads lies in a folder of its own below the operator's spool, and so does its run directory. Who made it is
written there too: a finished job outlives the cluster's memory of it.
"""

import hashlib
import json
import logging
import re
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray

from rayworks.core import manifest
from rayworks.core.errors import CLASSES, InfrastructureError
from rayworks.core.run_directory import MANIFEST, RunDirectory

from .problems import Problem

ROOT = Path(__file__).resolve().parent.parent.parent
"""The working directory of every job: where this code lies."""
CARD = "job.json"
State = Literal["pending", "running", "succeeded", "failed", "stopped", "lost"]


@dataclass(frozen=True)
class JobStatus:
    """Progress of a job; of a failed one, the kind of failure (see ``core.errors``) and its message."""

    state: State
    failure: str | None = None
    detail: str | None = None


class Jobs:
    """Jobs of one system.

    Args:
        system: what ``python -m jobs.run`` is called with.
        spool: folder that all nodes see.
        settings: dotted setting to value, for every job.
        per_key: unfinished jobs that one key may have.
    """

    def __init__(self, system: str, spool: str, settings: Mapping[str, Any], per_key: int) -> None:
        self._system, self._settings, self._per_key = system, dict(settings), per_key
        self._spool = Path(spool).expanduser()
        self._submitting = threading.Lock()
        self._id = re.compile(rf"{re.escape(system)}-[0-9a-f]{{32}}")

    def new_folder(self, owner: str, request: bytes) -> tuple[str, Path | None]:
        """Id and folder of a job that is about to be submitted; put its input there.

        Args:
            owner: whose job it is.
            request: its id and body. One that comes again, since its replica died, finds the id of its job, and no folder
                if that was submitted.

        Raises:
            Problem: 429 when the owner has too many jobs under way.
        """
        job = f"{self._system}-{hashlib.sha256(owner.encode() + request).hexdigest()[:32]}"
        known = _client().list_jobs()
        if job in [details.submission_id for details in known]:
            return job, None
        unfinished = [
            details
            for details in known
            if (details.metadata or {}).get("owner") == owner and not details.status.is_terminal()
        ]
        if len(unfinished) >= self._per_key:
            raise Problem(
                429, f"{owner} has {len(unfinished)} jobs under way, the most for one key; wait", retry_after=30
            )
        folder = self._spool / job
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        (folder / CARD).write_text(json.dumps({"owner": owner, "submitted": time.time()}))
        return job, folder

    def submit(self, owner: str, ticket: str, prepare: Callable[[Path], Mapping[str, Any]]) -> str:
        """Start a job; its id.

        Args:
            owner: whose job it is.
            ticket: of the request. One that comes again, since its replica died, finds the job that it has made.
            prepare: puts what the job reads into its folder, each file whole, and returns settings: dotted setting to value.

        Raises:
            Problem: 429 when the owner has too many jobs under way.
            InfrastructureError: the job server does not take it.
        """
        job = f"{self._system}-{hashlib.sha256(f'{owner} {ticket}'.encode()).hexdigest()[:32]}"
        folder = self._spool / job
        # What one request submits is there before the next counts.
        with self._submitting:
            known = _client().list_jobs()
            if job in [details.submission_id for details in known]:
                return job
            self._require_room(owner, len(_unfinished(known, owner)))
            is_new = not folder.exists()
            try:
                folder.mkdir(parents=True, mode=0o700, exist_ok=True)
                (folder / CARD).write_text(json.dumps({"owner": owner, "submitted": time.time()}))
                self._start(job, owner, prepare(folder))
                self._withdraw_beyond_room(job, owner)
            except BaseException:
                if is_new:
                    shutil.rmtree(folder, ignore_errors=True)
                raise
        return job

    def _require_room(self, owner: str, under_way: int) -> None:
        if under_way >= self._per_key:
            raise Problem(
                429, f"{owner} has {self._per_key} jobs under way, the most for one key; wait", retry_after=30
            )

    def _start(self, job: str, owner: str, settings: Mapping[str, Any]) -> None:
        run = {"run.storage": str(self._spool / job), "run.name": "run"}
        words = ["python", "-m", "jobs.run", self._system]
        for name, value in {**settings, **self._settings, **run}.items():
            words += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
        commit = manifest.commit() or "unknown"
        variables = {"PYTHONPATH": "lib", "RAYWORKS_COMMIT": commit, "RAYWORKS_SUBMISSION": job, "OMP_NUM_THREADS": "1"}
        try:
            _client().submit_job(
                entrypoint=shlex.join(words),
                submission_id=job,
                metadata={"system": self._system, "owner": owner, "commit": commit},
                runtime_env={"working_dir": str(ROOT), "env_vars": variables},
            )
        except (OSError, RuntimeError) as error:
            if "already exists" not in str(error):
                raise InfrastructureError(f"{job}: the job server does not take it ({_first_line(error)})") from None

    def _withdraw_beyond_room(self, job: str, owner: str) -> None:
        """Replicas do not wait for each other: what one of them has submitted too much, it stops again."""
        earlier = _unfinished(_client().list_jobs(), owner)
        earlier = earlier[: earlier.index(job)] if job in earlier else []
        try:
            self._require_room(owner, len(earlier))
        except Problem:
            _client().stop_job(job)
            raise

    def run_directory(self, job: str, owner: str) -> RunDirectory:
        """Where a job of this owner leaves its results.

        Raises:
            Problem: 404 when the job does not exist or belongs to another owner.
        """
        try:
            card = json.loads((self._spool / job / CARD).read_text()) if self._id.fullmatch(job) else {}
        except (OSError, ValueError):
            card = {}
        if card.get("owner") != owner:
            raise Problem(404, f"job {job[:80]!r}: is not yours or does not exist; use the id of the answer 202")
        return RunDirectory(str(self._spool / job), self._system, "run")

    def status(self, job: str, owner: str) -> JobStatus:
        """How far a job of this owner is.

        Raises:
            Problem: as :meth:`run_directory`.
            InfrastructureError: the job server does not answer.
        """
        directory = self.run_directory(job, owner)
        if directory.exists(MANIFEST) and directory.read_json(MANIFEST)["state"] == "done":
            return JobStatus("succeeded")
        try:
            details = _client().get_job_info(job)
        except RuntimeError as error:
            if "404" in str(error):
                return JobStatus("lost", InfrastructureError.kind, "the cluster was restarted; send the data again")
            raise InfrastructureError(f"{job}: the job server does not answer ({_first_line(error)})") from None
        state: State = str(details.status).lower()  # type: ignore[assignment]  # Ray's names, in upper case
        if state != "failed":
            return JobStatus(state)
        codes = {error.exit_code: kind for kind, error in CLASSES.items()}
        # A driver that was killed has no exit code of its own: the machine failed, not the work.
        failure = codes.get(details.driver_exit_code or 0, InfrastructureError.kind)
        messages = re.findall(rf"^{failure} error: (.*)$", details.message or "", re.MULTILINE)
        hint = "; send the data again" if failure == InfrastructureError.kind else ""
        detail = messages[-1] if messages else _first_line(details.message).partition(", last available logs")[0]
        return JobStatus("failed", failure, detail.replace(f"{self._spool / job}/", "") + hint)


def _unfinished(jobs: Sequence[Any], owner: str) -> list[str]:
    """Ids of an owner's jobs that have not ended, oldest first."""
    mine = [one for one in jobs if (one.metadata or {}).get("owner") == owner and not one.status.is_terminal()]
    return [one.submission_id for one in sorted(mine, key=lambda one: (one.start_time or 0, one.submission_id))]


def _client() -> Any:
    """A client of the job server of this process's cluster."""
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray.dashboard").setLevel(logging.ERROR)
    try:
        return JobSubmissionClient(ray.get_runtime_context().gcs_address)
    except (OSError, RuntimeError, ValueError) as error:
        raise InfrastructureError(f"jobs: no job server answers ({_first_line(error)})") from None


def _first_line(message: object) -> str:
    return next(iter(str(message or "no message").strip().splitlines()), "")
