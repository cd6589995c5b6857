"""Runs of the system on a real cluster: workers of Ray Train, deaths, bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray.util.state

from rayworks.core import config as configs
from rayworks.runtime.launch import launch
from rayworks.systems.recommendation import SPEC
from rayworks.systems.recommendation.logs.simulator import Simulator, SimulatorOptions
from tests.conftest import ROOT, FinishedRun

TIMED = ("sequences_per_second",)


def results(directory: Path) -> tuple[dict[str, object], dict[str, object]]:
    report = json.loads((directory / "report.json").read_text())
    details = report["details"]
    for one in details["train"].values():
        one.pop("seconds")
        one.pop("labels_per_second")
    return {name: value for name, value in report["headline"].items() if name not in TIMED}, details


def with_workers(arguments: list[str], workers: int, storage: Path) -> list[str]:
    changed = list(arguments)
    changed[changed.index("--compute.workers") + 1] = str(workers)
    changed[changed.index("--run.storage") + 1] = str(storage)
    return changed


def until(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.1)


def workers() -> list[int]:
    found = ray.util.state.list_actors(filters=[("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")])
    return [actor.pid for actor in found if actor.pid]


def test_killed_workers_and_a_killed_driver_leave_the_result_of_an_undisturbed_worker(
    cluster: dict[str, str], finished_runs: Callable[[str], FinishedRun], tmp_path: Path
) -> None:
    straight = finished_runs("recommendation")
    arguments = with_workers(straight.arguments, 2, tmp_path)
    command = [sys.executable, "-m", "jobs.run", *arguments]
    training = tmp_path / "recommendation" / "straight" / "training"
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, **cluster}, stdout=subprocess.PIPE) as driver:
        until((training / "progress.json").exists)
        os.kill(workers()[0], signal.SIGKILL)
        until((training / "acceptance-0" / "done.json").exists)
        driver.kill()
    again = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **cluster}, capture_output=True, text=True, timeout=200, check=False
    )
    assert again.returncode == 0, again.stdout[-2000:] + again.stderr[-3000:]
    found, expected = (results(d) for d in (tmp_path / "recommendation" / "straight", straight.directory))
    assert found == expected


@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        (["--data.source", "/nowhere.parquet"], 4, "/nowhere.parquet"),
        (["--training.gradient_parts", "1", "--compute.workers", "2"], 2, "training.gradient_parts"),
        (["--simulator.steps", "6"], 2, "simulator.steps"),
        (["--constraint.weight", "0.1", "--scope.stages", "[acceptance]"], 2, "constraint.weight"),
        (["--natural.checkpoint", "model.pth"], 2, "natural.items"),
        (["--bandit.logs", "[open-bandit/random/cats, open-bandit/bts/all]"], 4, "open-bandit/random/cats"),
    ],
)
def test_bad_settings_are_refused_before_anything_starts(
    settings: list[str], code: int, words: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "jobs.run", "recommendation", *settings, "--run.storage", str(tmp_path)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == code, found.stderr
    assert words in found.stderr


def save_log(path: Path) -> None:
    """The simulated log as anybody's table."""
    import pandas as pd

    log, _ = Simulator(SimulatorOptions(users=50, items=8, observed=6, steps=10), 0).log()
    table = {
        "user": [f"u{code}" for code in log.user],
        "item": [f"i{code}" for code in log.item],
        "time": log.time,
        "shown": log.recommended.astype(int),
        "accepted": (log.kind != 2).astype(int),
        "propensity": log.propensity,
    }
    pd.DataFrame(table).to_parquet(path)


def test_a_log_of_ones_own_is_read_by_the_cluster_and_reported(cluster: dict[str, str], tmp_path: Path) -> None:
    source = tmp_path / "log.parquet"
    save_log(source)
    values = {
        "run": {"storage": str(tmp_path / "runs"), "name": "own"},
        "compute": {"workers": 1},
        "data": {"source": str(source), "distributed": True},
        "scope": {"stages": ["audit", "natural", "acceptance", "policies", "effects"]},
        "natural": {"epochs": 2, "width": 8},
        "model": {"width": 8, "length": 20, "history": "first-order"},
        "constraint": {"weight": 0.01},
        "training": {"epochs": 3},
        "uncertainty": {"members": 1, "resamples": 0},
        "ablations": {"histories": []},
        "policies": {"steps": 4, "paths": 4},
    }
    assert launch(SPEC, configs.resolve(SPEC.config, file=values)) == 0
    report = json.loads((tmp_path / "runs" / "recommendation" / "own" / "report.json").read_text())
    assert list(report["headline"]) == list(SPEC.headline)
    assert report["headline"]["auc_oracle"] is None and report["headline"]["auc"] is not None
    assert set(report["details"]["policies"]) == {"uniform", "most acceptable", "natural preference"}
    assert report["details"]["policies"]["uniform"]["estimates"]["wpdis"]
