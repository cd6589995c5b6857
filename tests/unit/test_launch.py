"""What a driver decides and writes down, without a cluster."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from ray import tune

from rayworks.core import config as configs
from rayworks.core import manifest
from rayworks.core.errors import InfrastructureError, ResumeMismatch
from rayworks.core.run_directory import RunDirectory
from rayworks.runtime import experiment, launch, lease, placement
from tests.counting_system import SPEC, Config


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path), "counting", "default")


def launched(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch, run: Callable[[], None]) -> int:
    """The exit code of a driver that does ``run`` in place of the run, on no cluster."""
    monkeypatch.setattr(launch, "attach", lambda reserved: None)
    monkeypatch.setattr(placement, "require", lambda *arguments: None)
    monkeypatch.setattr(launch, "_run", lambda *arguments: run())
    return launch.launch(SPEC, configs.resolve(Config, overrides={"run.storage": directory.storage}))


def test_a_run_that_asks_for_nothing_needs_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(placement, "placement_group", lambda *arguments, **options: asked.append(arguments))
    placement.require([{}, {"CPU": 0.0}], 0.1)
    assert asked == []


def test_a_cluster_that_is_gone_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("Ray would try for minutes"))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(
        InfrastructureError, match=r"RAY_ADDRESS 127\.0\.0\.1:1: there is no cluster .*refused.* or unset it"
    ):
        launch.attach([])


def test_a_run_of_the_name_of_a_sweep_is_refused(directory: RunDirectory) -> None:
    directory.write_json("sweep.json", {"state": "running"})
    with pytest.raises(ResumeMismatch, match=r"holds a sweep, not a run; choose another run\.name"):
        launch.check_resume(directory, Config())


@pytest.mark.parametrize("sleeps", [0, 60])
def test_a_driver_that_has_lost_its_lease_writes_nothing_more(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch, sleeps: float
) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.5)
    after: list[bytes] = []

    def another_runs_to_its_end() -> None:
        [mine] = [name for name in directory.list() if name.startswith("lease-")]
        directory.remove_folder(mine)
        manifest.end_attempt(directory, manifest.begin_attempt(directory, "counting", Config()), "done")
        directory.write("report.html", "")
        directory.write("resume/000001/complete.json", "{}")
        after.append(directory.read("manifest.json"))
        time.sleep(sleeps)

    assert launched(directory, monkeypatch, another_runs_to_its_end) == 75
    assert directory.read("manifest.json") == after[0]
    assert directory.list("resume") == ["000001"], "the other's"


def test_an_interrupted_run_is_recorded_while_the_lease_is_held(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert launched(directory, monkeypatch, interrupted) == 130
    stored = manifest.read(directory)
    assert stored is not None
    assert [(one["outcome"], one["reason"]) for one in stored["attempts"]] == [("failed", "stopped by the user")]
    assert [name for name in directory.list() if name.startswith("lease-")] == []


@pytest.mark.parametrize("damaged", ["", "{", "null", "{}"])
def test_a_damaged_manifest_gives_way_to_the_written_config(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch, damaged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        directory.write("manifest.json", damaged)
        raise KeyboardInterrupt

    assert launched(directory, monkeypatch, interrupted) == 130, "its end cannot be recorded, which is not its end"
    with pytest.raises(ResumeMismatch, match=r"counting\.to"):
        launch.check_resume(directory, Config.model_validate({"counting": {"to": 9}}))
    assert "manifest.json: is damaged" in capsys.readouterr().err
    assert launched(directory, monkeypatch, lambda: None) == 0
    stored = manifest.read(directory)
    assert stored is not None
    assert (stored["state"], len(stored["attempts"])) == ("done", 1)


def test_a_manifest_that_nothing_can_replace_is_named_with_the_fix(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory.write("manifest.json", "")
    assert launched(directory, monkeypatch, lambda: None) == 4
    assert re.search(r"manifest\.json: is damaged .*; restore it from a copy", capsys.readouterr().err)


def test_a_trial_that_ray_kills_to_save_memory_is_infrastructure(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(tuner: tune.Tuner) -> None:
        raise RuntimeError(f"{experiment.UNEXPECTED}1 worker(s) were killed due to the node running low on memory")

    monkeypatch.setattr(tune.Tuner, "fit", lost)
    config = configs.resolve(Config, overrides={"run.storage": directory.storage})
    failure = launch._fit(_Trial, SPEC, config, directory)
    assert failure is not None and failure.retriable and "running low on memory" in failure.message

    def bug(tuner: tune.Tuner) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(tune.Tuner, "fit", bug)
    with pytest.raises(RuntimeError, match="a bug"):
        launch._fit(_Trial, SPEC, config, directory)


class _Trial(tune.Trainable):
    """Never run."""
