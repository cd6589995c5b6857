"""Jobs of a service, with a job server in this process: requests that come twice or all at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayworks.core.errors import InfrastructureError
from serve.common import jobs
from serve.common.jobs import Jobs
from serve.common.problems import Problem

PER_KEY = 2


class Server:
    """What the Ray Jobs API does, as far as services ask it."""

    def __init__(self) -> None:
        self.jobs: dict[str, Any] = {}
        self.trouble: Exception | None = None
        self.unseen: set[str] = set()

    def list_jobs(self) -> list[Any]:
        return [job for name, job in self.jobs.items() if name not in self.unseen]

    def submit_job(self, submission_id: str, metadata: dict[str, str], **others: Any) -> None:
        if self.trouble is not None:
            raise self.trouble
        if submission_id in self.jobs:
            raise RuntimeError(f"Job with submission_id {submission_id} already exists.")
        ended = SimpleNamespace(value=False, is_terminal=lambda: ended.value)
        self.jobs[submission_id] = SimpleNamespace(
            submission_id=submission_id, metadata=metadata, status=ended, start_time=len(self.jobs)
        )

    def stop_job(self, job: str) -> None:
        self.jobs[job].status.value = True

    def running(self) -> list[str]:
        return [name for name, job in self.jobs.items() if not job.status.is_terminal()]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(jobs, "_client", lambda: server)
    return server


def of_a_replica(spool: Path) -> Jobs:
    return Jobs("difficulty", str(spool), {}, PER_KEY)


def prepare(folder: Path) -> dict[str, Any]:
    (folder / "input").write_text("data")
    return {"data.responses": [str(folder / "input")]}


def outcome(served: Jobs, owner: str, ticket: str) -> str:
    try:
        return served.submit(owner, ticket, prepare)
    except Problem as problem:
        return str(problem.status)


def test_a_request_that_comes_again_finds_its_job_also_while_it_is_being_made(server: Server, tmp_path: Path) -> None:
    first = outcome(of_a_replica(tmp_path), "ann", "t")
    assert outcome(of_a_replica(tmp_path), "ann", "t") == first
    # What the dead replica has submitted is not in the list yet.
    server.unseen = {first}
    assert outcome(of_a_replica(tmp_path), "ann", "t") == first
    assert list(server.jobs) == [first]
    assert (tmp_path / first / "input").read_text() == "data"


def test_owners_and_tickets_are_not_confused(server: Server, tmp_path: Path) -> None:
    served = of_a_replica(tmp_path)
    assert len({outcome(served, "an", "nX"), outcome(served, "ann", "X"), outcome(served, "ann", "Y")}) == 3


@pytest.mark.parametrize("replicas", [1, 4])
def test_a_key_gets_no_more_jobs_than_it_may_however_many_are_asked_for(
    server: Server, tmp_path: Path, replicas: int
) -> None:
    served = [of_a_replica(tmp_path) for _ in range(replicas)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: outcome(served[number % replicas], "ann", f"t{number}"), range(8)))
    assert len(server.running()) <= PER_KEY
    assert {job for job in found if job != "429"} == set(server.running())
    assert found.count("429") >= 8 - PER_KEY
    assert {path.name for path in tmp_path.iterdir()} == set(server.running())


def test_what_is_not_taken_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.trouble = RuntimeError("no")
    with pytest.raises(InfrastructureError, match="does not take it"):
        of_a_replica(tmp_path).submit("ann", "t", prepare)
    assert not list(tmp_path.iterdir())
