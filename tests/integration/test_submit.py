"""Submission: supervised on a fake client, and for real on the shared cluster."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobSubmissionClient

from cluster import local
from jobs import submit
from rayworks.core import config as configs
from rayworks.core.errors import ConfigError, InfrastructureError
from tests.conftest import ROOT, FinishedRun
from tests.counting_system import SPEC, Config
from tests.observing import until

MESSAGE = "Job entrypoint command failed with exit code 2, last available logs (truncated to 20,000 chars):\na line\n"


class FakeClient:
    """A job server whose jobs end as they are told to, one after the other."""

    def __init__(
        self,
        *ends: tuple[str, int | None],
        running: str | None = None,
        broken_tails: int = 0,
        refusals: int = 0,
        asked_to_end: signal.Signals | None = None,
    ) -> None:
        self.refusals, self.asked_to_end = refusals, asked_to_end
        self.ends, self.submitted, self.broken_tails = list(ends), [], broken_tails
        self.jobs: dict[str, str] = {running: "RUNNING"} if running else {}

    def list_jobs(self) -> list[Any]:
        return [types.SimpleNamespace(submission_id=name, status=status) for name, status in self.jobs.items()]

    def submit_job(self, *, submission_id: str, metadata: dict[str, str], **options: Any) -> None:
        if self.refusals:
            self.refusals -= 1
            raise RuntimeError("No available agent to submit job, please try again later")
        self.submitted.append((submission_id, metadata, options))
        self.jobs[submission_id] = "RUNNING"

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        if self.broken_tails:
            self.broken_tails -= 1
            raise RuntimeError("WebSocket connection closed unexpectedly")
        yield "a line\n"
        if self.asked_to_end:
            os.kill(os.getpid(), self.asked_to_end)
            await asyncio.sleep(60)
        self.end = self.ends.pop(0)
        self.jobs[job] = self.end[0]

    def get_job_status(self, job: str) -> str:
        return self.jobs[job]

    def get_job_info(self, job: str) -> Any:
        return types.SimpleNamespace(status=self.end[0], driver_exit_code=self.end[1], message=MESSAGE)


def supervise(client: FakeClient, attempts: int = 3, **overrides: Any) -> int:
    config = configs.resolve(Config, overrides={"run.storage": "/somewhere", **overrides})
    return submit._supervise(client, SPEC, config, "python -m jobs.run counting", attempts, wait=True)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr(submit, "RECONNECT_SECONDS", 0.0)


def test_infrastructure_failures_are_resubmitted_under_ids_that_count() -> None:
    client = FakeClient(("FAILED", 75), ("FAILED", None), ("SUCCEEDED", 0))
    assert supervise(client) == 0
    names = [name for name, _, _ in client.submitted]
    assert [name.rpartition("-")[2] for name in names] == ["1", "2", "3"]
    assert len({name.rpartition("-")[0] for name in names}) == 1
    assert client.submitted[0][1]["system"] == "counting"


@pytest.mark.parametrize(("end", "code"), [(("FAILED", 2), 2), (("FAILED", 4), 4), (("STOPPED", None), 130)])
def test_what_can_not_succeed_or_was_stopped_is_not_resubmitted(end: tuple[str, int | None], code: int) -> None:
    client = FakeClient(end)
    assert supervise(client) == code
    assert len(client.submitted) == 1


def test_a_job_that_failed_is_told_without_its_log_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert supervise(FakeClient(("FAILED", 2))) == 2
    assert capsys.readouterr().err.endswith("-1 failed: Job entrypoint command failed with exit code 2\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_stops_to_follow_a_job_is_told_that_it_goes_on(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = FakeClient(asked_to_end=number)
    monkeypatch.setattr(submit, "_connect", lambda: client)
    before = signal.getsignal(signal.SIGTERM)
    assert submit.main(["regulation", "--smoke", "--run.storage", "/somewhere"]) == 128 + number
    [(job, _, _)] = client.submitted
    said = f"{job} goes on; repeat the command to join it, or stop it: {local.EVAL} && ray job stop {job}"
    assert said in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_the_end_of_a_cluster_ends_is_named(cluster: dict[str, str]) -> None:
    client = JobSubmissionClient(cluster["RAY_DASHBOARD_ADDRESS"])
    state = local.read_state()
    assert state is not None
    named = client.submit_job(entrypoint="sleep 300") + " (sleep 300)"
    assert named in local._under_way(state)
    client.stop_job(named.partition(" ")[0])
    until(lambda: named not in local._under_way(state))
    assert local._under_way({**state, "dashboard": "http://127.0.0.1:1"}) == [], "a dashboard that is gone says nothing"


def test_attempts_are_bounded_and_lost_logs_are_taken_up() -> None:
    assert supervise(FakeClient(("FAILED", 75), ("FAILED", 75)), attempts=2) == 75
    assert supervise(FakeClient(("SUCCEEDED", 0), broken_tails=3)) == 0
    assert supervise(FakeClient(("SUCCEEDED", 0), refusals=2)) == 0
    with pytest.raises(InfrastructureError, match="does not take it"):
        supervise(FakeClient(refusals=99))
    with pytest.raises(InfrastructureError, match="does not answer"):
        supervise(FakeClient(broken_tails=99))


def test_a_job_that_runs_already_is_joined() -> None:
    config = configs.resolve(Config, overrides={"run.storage": "/somewhere"})
    running = f"{submit.submission_id(SPEC, config)}-4"
    client = FakeClient(("SUCCEEDED", 0), running=running)
    assert supervise(client, **{"compute.workers": 7}) == 0
    assert client.submitted == []


def test_uploads_that_are_too_large_and_relative_storage_are_refused(tmp_path: Path) -> None:
    (tmp_path / "large.bin").write_bytes(b"x" * 3000)
    (tmp_path / "ignored").mkdir()
    (tmp_path / "ignored/larger.bin").write_bytes(b"x" * 9000)
    (tmp_path / ".rayignore").write_text("ignored/\n")
    assert submit.check_upload_size(tmp_path, limit=4000) < 4000
    with pytest.raises(ConfigError, match=r"large\.bin"):
        submit.check_upload_size(tmp_path, limit=1000)
    assert submit.check_upload_size(ROOT) < 20 * 2**20
    with pytest.raises(ConfigError, match=r"run\.storage"):
        submit.check_storage(configs.resolve(Config, overrides={"run.storage": "runs"}))


def test_supervised_and_by_hand_for_real(finished_runs: Callable[[str], FinishedRun], cluster: dict[str, str]) -> None:
    """A finished run is submitted again both ways: the job comes up, finds it done, and its log and metadata arrive."""
    run = finished_runs("alignment")
    environment = {**os.environ, **cluster}
    done = subprocess.run(
        [sys.executable, "-m", "jobs.submit", *run.arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "finished already" in done.stdout
    by_hand = subprocess.run(
        [
            str(Path(sys.executable).parent / "ray"),
            "job",
            "submit",
            "--working-dir",
            ".",
            "--runtime-env-json",
            json.dumps({"env_vars": {"PYTHONPATH": "lib"}}),
            "--",
            "python",
            "-m",
            "jobs.run",
            *run.arguments,
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert by_hand.returncode == 0, by_hand.stdout + by_hand.stderr
    assert "finished already" in by_hand.stdout
    jobs = JobSubmissionClient(cluster["RAY_DASHBOARD_ADDRESS"]).list_jobs()
    mine = next(job for job in jobs if (job.submission_id or "").startswith("alignment-straight"))
    assert mine.metadata is not None
    assert (mine.metadata["system"], mine.metadata["run"]) == ("alignment", "straight")
