"""Ends that nobody planned: signals, a full disk, a second driver. Each leaves a record, and the command repeated goes on."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray.util.state

from tests.conftest import ROOT
from tests.observing import cluster_address, until

COMMAND = (
    "import sys; from rayworks.core import config as configs; from rayworks.runtime.launch import launch; "
    "from tests.counting_system import SPEC, Config; "
    "sys.exit(launch(SPEC, configs.resolve(Config, overrides=configs.parse_overrides(sys.argv[1:]))))"
)
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(params=["cluster", pytest.param("private", marks=pytest.mark.slow)])
def anywhere(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of a driver that joins a cluster, or starts a Ray of its own."""
    if request.param == "private":
        return {name: value for name, value in os.environ.items() if not name.startswith(("RAY_ADDRESS", "RAY_AUTH"))}
    joined: dict[str, str] = request.getfixturevalue("cluster")
    return {**os.environ, **joined}


@pytest.fixture
def on_cluster(cluster: dict[str, str]) -> dict[str, str]:
    return {**os.environ, **cluster}


def begin(storage: Path, environment: dict[str, str], *settings: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", COMMAND, "--run.storage", str(storage), *settings]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end_of(driver: subprocess.Popen[str]) -> tuple[int, str, str]:
    printed, errors = driver.communicate(timeout=180)
    return driver.returncode, printed, errors


def manifest_in(storage: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((storage / "counting/default/manifest.json").read_text())
    return found


def reached(storage: Path, driver: subprocess.Popen[str], number: int) -> None:
    trial = storage / "counting/default/tune/trial"
    until(lambda: any(int(path.parent.name[-6:]) >= number for path in trial.glob("checkpoint_*/complete.json")))
    assert driver.poll() is None


SLOW = ("--counting.to", "12", "--counting.pause_seconds", "0.5")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_a_run_in_order(anywhere: dict[str, str], number: signal.Signals, tmp_path: Path) -> None:
    driver = begin(tmp_path, anywhere, *SLOW)
    reached(tmp_path, driver, 1)
    driver.send_signal(number)
    code, _, errors = end_of(driver)
    assert code == (130 if number is signal.SIGINT else 75), errors
    said = [line for line in errors.splitlines() if "repeat the command to go on" in line]
    assert len(said) == 1
    assert "Traceback" not in errors and "*** SIG" not in errors
    assert [attempt["outcome"] for attempt in manifest_in(tmp_path)["attempts"]] == ["failed"]
    code, printed, errors = end_of(begin(tmp_path, anywhere, *SLOW, "--counting.pause_seconds", "0"))
    assert code == 0, errors
    assert "   8 %" not in printed, "the first steps are not done again"
    assert manifest_in(tmp_path)["state"] == "done"
    assert not list((tmp_path / "counting/default").glob("lease-*"))


def test_a_signal_in_the_pause_before_another_fit_ends_the_run(on_cluster: dict[str, str], tmp_path: Path) -> None:
    driver = begin(tmp_path, on_cluster, "--counting.trouble", "kill-once")
    assert driver.stderr is not None
    assert any("going on from the last checkpoint" in line for line in driver.stderr)
    driver.send_signal(signal.SIGTERM)
    code, _, errors = end_of(driver)
    assert code == 75, errors
    assert "SIGTERM asked for the end" in errors


def test_a_killed_attempt_is_recorded_as_lost(on_cluster: dict[str, str], tmp_path: Path) -> None:
    driver = begin(tmp_path, on_cluster, *SLOW)
    reached(tmp_path, driver, 1)
    driver.kill()
    driver.communicate()
    code, _, errors = end_of(begin(tmp_path, on_cluster, *SLOW, "--counting.pause_seconds", "0"))
    assert code == 0, errors
    assert [attempt["outcome"] for attempt in manifest_in(tmp_path)["attempts"]] == ["lost", "done"]


def test_of_two_drivers_one_runs_and_the_other_names_it(on_cluster: dict[str, str], tmp_path: Path) -> None:
    first = begin(tmp_path, on_cluster, *SLOW)
    reached(tmp_path, first, 0)
    running = [("class_name", "=", "CountingRun"), ("state", "=", "ALIVE")]
    (actor,) = ray.util.state.list_actors(cluster_address(), filters=running, detail=True)
    assert actor.repr_name == "counting/default"
    groups = ray.util.state.list_placement_groups(cluster_address(), filters=[("state", "=", "CREATED")])
    assert [group.name.rpartition("/")[0] for group in groups] == ["counting/default"]
    code, printed, errors = end_of(begin(tmp_path, on_cluster, *SLOW))
    assert code == 75
    assert f"is being written by process {first.pid} on" in errors
    assert "%" not in printed
    code, _, errors = end_of(first)
    assert code == 0, errors
    assert len(manifest_in(tmp_path)["attempts"]) == 1
    both = [begin(tmp_path, on_cluster, *SLOW, "--run.name", "again") for _ in range(2)]
    codes = sorted(end_of(driver)[0] for driver in both)
    assert codes == [0, 75]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 1024)
        except OSError:
            return filler


def test_a_full_disk_ends_with_again_and_the_run_goes_on_once_there_is_space(
    anywhere: dict[str, str], small_disk: Path
) -> None:
    driver = begin(small_disk, anywhere, *SLOW, "--run.max_failures", "1")
    reached(small_disk, driver, 1)
    filler = fill(small_disk)
    code, printed, errors = end_of(driver)
    assert code == 75, printed + errors
    assert "free some space" in errors
    code, _, errors = end_of(begin(small_disk, anywhere, *SLOW))
    assert code == 75
    assert "free some space" in errors
    filler.unlink()
    code, printed, errors = end_of(begin(small_disk, anywhere, *SLOW, "--counting.pause_seconds", "0"))
    assert code == 0, errors
    assert "   8 %" not in printed
    assert json.loads((small_disk / "counting/default/report.json").read_text())["headline"]["total"] == 78.0
    assert not list((small_disk / "counting/default").rglob("*.partial"))
