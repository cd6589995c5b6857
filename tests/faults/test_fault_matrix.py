"""``python -m jobs.faults``: one system's column on the shared cluster, and that a system with a defect does not pass."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.disturbed_run import until
from jobs.faults import NAMES, WORKERS
from jobs.small_runs import settings_of
from rayworks.core import config as configs
from rayworks.core.errors import InfrastructureError
from rayworks.core.registry import find
from rayworks.systems import REGISTRY
from tests.conftest import ROOT

NEEDS_WORKERS = {"worker actor killed", "slow node", "node killed"}
"""What can not happen to a run that has no worker actors, or none beside the head node."""
SLOWLY = ("--counting.to", "6", "--counting.pause_seconds", "0.4")


def matrix(environment: dict[str, str], folder: Path, *arguments: str) -> tuple[int, dict[str, dict[str, Any]], str]:
    """Exit code, cells by fault, and what was printed."""
    command = [sys.executable, "-m", "jobs.faults", "--output", str(folder / "faults.json"), *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    cells = json.loads((folder / "faults.json").read_text())
    return done.returncode, {cell["fault"]: cell for cell in cells}, done.stdout + done.stderr


def test_a_column_of_the_matrix(cluster: dict[str, str], tmp_path: Path) -> None:
    faults = ("run actor killed", "driver SIGKILL", "newest checkpoint corrupted", "slow node", "node killed")
    code, cells, printed = matrix(
        cluster, tmp_path, "--system", "tests.counting_system:SPEC", "--fault", *faults, "--markdown", *SLOWLY
    )
    assert code == 0, printed
    assert set(cells) == set(faults)
    assert "not this command's to harm" in cells["node killed"]["skipped"]
    assert "no worker actors" in cells["slow node"]["skipped"]
    for fault in faults[:3]:
        cell = cells[fault]
        assert not cell["skipped"] and not cell["problem"], cell
        assert cell["lost"] == 0 and cell["seconds"] > 0
        assert f"| tests.counting_system:SPEC | {fault} |" in printed
    assert cells["driver SIGKILL"]["codes"] == [-9, 0]
    assert cells["run actor killed"]["codes"] == [0]
    assert cells["newest checkpoint corrupted"]["again"] == 1, (
        "the step of the checkpoint that was harmed, and no other"
    )


def test_a_system_that_forgets_does_not_pass(cluster: dict[str, str], tmp_path: Path) -> None:
    code, cells, printed = matrix(
        cluster, tmp_path, "--system", "tests.forgetful_system:SPEC", "--fault", "driver SIGKILL", *SLOWLY
    )
    assert code == 1, printed
    assert "report differs in headline" in cells["driver SIGKILL"]["problem"]


@pytest.mark.parametrize("system", REGISTRY)
def test_every_system_has_small_settings_that_are_valid(system: str) -> None:
    spec = find(REGISTRY, system)
    given = configs.parse_overrides([*WORKERS, *settings_of(system)])
    assert len(given) > 1
    configs.resolve(spec.config, smoke=spec.smoke, overrides=given)


@pytest.mark.slow
def test_a_matrix_that_is_ended_leaves_no_cluster_behind(tmp_path: Path) -> None:
    alone = {name: value for name, value in os.environ.items() if not name.startswith("RAY_ADDRESS")}
    alone["RAYWORKS_CLUSTER"] = str(tmp_path / "cluster")
    arguments = ["--system", "tests.counting_system:SPEC", "--output", str(tmp_path / "faults.json"), *SLOWLY]
    command = [sys.executable, "-m", "jobs.faults", *arguments]
    with subprocess.Popen(command, cwd=ROOT, env=alone) as running:
        state = tmp_path / "cluster" / "state.json"
        assert until(state.exists, 240)
        keeper = psutil.Process(json.loads(state.read_text())["pid"])
        running.terminate()
        assert running.wait(120) == InfrastructureError.exit_code
    assert not keeper.is_running()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("system", REGISTRY)
def test_the_whole_column_of_a_system(system: str, tmp_path: Path) -> None:
    alone = {"RAYWORKS_CLUSTER": str(tmp_path / "cluster")}
    code, cells, printed = matrix(alone, tmp_path, "--system", system)
    assert code == 0, printed
    assert set(cells) == set(NAMES)
    tried = [fault for fault, cell in cells.items() if not cell["skipped"]]
    assert set(NAMES) - set(tried) <= NEEDS_WORKERS, {fault: cells[fault]["skipped"] for fault in cells}
