"""Language models trained by several workers of Ray Train in step: as by one, whoever dies on the way."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from jobs import run
from rayworks.core import config as configs
from rayworks.core import manifest
from rayworks.core.registry import find
from rayworks.core.run_directory import RunDirectory
from rayworks.systems import REGISTRY, alignment
from tests import smallest
from tests.conftest import ROOT, FinishedRun
from tests.killed_runs import DRIVER, Killed, killed_and_repeated
from tests.observing import actor_processes, until
from tests.pool_here import PoolHere
from tests.test_contract import untimed
from tests.tiny_models import save_tiny_model

WORKERS = {
    "augmentation": "training.workers",
    "alignment": "training.workers",
    "difficulty": "generalisation.workers",
    "reasoning": "learning.workers",
    "supervision": "experiment.workers",
}
"""What says how many train in step."""
TOTAL = {"alignment": 56, "difficulty": 28}
"""Steps of all trainings."""
PIECE = 4


def settings(system: str, folder: Path) -> dict[str, Any]:
    """Of trainings in several pieces, slow enough to learn that roundings stay roundings."""
    if system == "alignment":
        given = configs.parse_overrides(smallest.alignment(folder))
        return {**given, "training.learning_rate": 1e-3, "training.steps_per_checkpoint": PIECE}
    section = {"steps": 28, "steps_per_checkpoint": PIECE, "bins": 2, "train_items": 24, "eval_items": 4}
    section |= {
        "enabled": True,
        "model": save_tiny_model(folder / "model", seed=0),
        "batch_size": 7,
        "max_new_tokens": 3,
    }
    return {f"generalisation.{name}": value for name, value in section.items()}


def begun(system: str, given: Mapping[str, Any], workers: int) -> Any:
    """A run in this process, but for the workers in step."""
    spec = find(REGISTRY, system)
    config = configs.resolve(spec.config, overrides={**given, WORKERS[system]: workers, "run.name": f"by-{workers}"})
    directory = RunDirectory(config.run.storage, system, config.run.name)
    manifest.begin_attempt(directory, system, config)
    return spec.load_system()({"storage": directory.storage, "run": directory.run})


def steps(run: Any) -> int:
    """Taken so far."""
    return sum(run.results["steps"].values()) if "steps" in run.results else run.results["fine-tune"]["step"]


def train_to(run: Any, step: int) -> None:
    while steps(run) < step:
        run.train()


def learned(run: Any) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """What each piece came to, and what all weights are in the end."""
    found = run.results
    curves = [record for curve in found["curves"].values() for record in curve] if "curves" in found else []
    curves += [{"loss": loss} for loss in found.get("fine-tune", {}).get("losses", [])]
    states = Path(run.run_directory.path("states"))
    weights = {}
    for file in states.glob("**/00000028/state.pt"):
        saved = torch.load(file, weights_only=True)["weights"]
        weights |= {f"{file.relative_to(states)} {name}": value for name, value in saved.items()}
    return curves, weights


@pytest.mark.parametrize(
    "system", [pytest.param(one, marks=[pytest.mark.slow] if one == "difficulty" else []) for one in TOTAL]
)
def test_two_workers_learn_what_one_does_though_one_of_them_is_killed(
    system: str, cluster: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayworks.runtime.stages.ActorPool", PoolHere)
    monkeypatch.setattr("rayworks.systems.alignment.system.ActorPool", PoolHere)
    given = {**settings(system, tmp_path), "run.storage": str(tmp_path / "runs")}
    alone, together = begun(system, given, 1), begun(system, given, 2)
    train_to(alone, TOTAL[system])
    train_to(together, 1)
    workers = actor_processes("RayTrainWorker")
    os.kill(workers[0], signal.SIGKILL)
    told = list(Path(together.run_directory.path("training")).glob("**/0*.json"))
    assert len(told) < TOTAL[system] / PIECE, "it was over before the death"
    train_to(together, TOTAL[system])
    (expected, weights), (found, others) = learned(alone), learned(together)
    assert len(workers) == 2 and len(expected) == TOTAL[system] / PIECE
    for one, two in zip(expected, found, strict=True):
        assert two == pytest.approx(one, rel=1e-5, abs=1e-5)
    assert others.keys() == weights.keys() and weights
    for name, value in weights.items():
        assert torch.allclose(others[name], value, atol=1e-5), name
    for one in (alone, together):
        one.cleanup()


def test_two_workers_weigh_as_one_does_in_float64(
    cluster: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gains averaged by row, weights scaled over the batch, and the tally: all are of the whole batch."""
    monkeypatch.setattr("rayworks.runtime.stages.ActorPool", PoolHere)
    given: dict[str, Any] = {
        **{"run.storage": str(tmp_path / "runs"), "compute.workers": 1, "data.training": 100, "data.trusted": 20},
        **{"training.steps": 24, "training.steps_per_call": 12, "training.batch": 16, "training.held": 8},
        **{"training.width": 2, "training.double": True, "engine.warm_up": 4, "engine.progress": 0.0},
        **{"upstream.operations": ["identity", "paste", "mixup"], "engine.gain_average": 0.8, "experiment.seeds": 1},
        "experiment.arms": ["SAFLEX", "plain and trusted rows", "upstream and trusted rows", "upstream stopped early"],
    }
    found = []
    for workers in (1, 2):
        run = begun("augmentation", given, workers)
        while run._stages[run._done].name != "views":
            run.train()
        states = sorted(Path(run.run_directory.path("trainings")).glob("*/state.pt"))
        found.append({path.parent.name: torch.load(path, weights_only=True) for path in states})
        run.cleanup()
    one, two = found
    assert one.keys() == two.keys() and len(one) == 4
    for name, state in one.items():
        assert state["step"] == two[name]["step"] == 24
        for part in ("model", "tally"):
            for key, value in state[part].items():
                other = two[name][part][key]
                assert value == other if key == "names" else torch.allclose(value, other, atol=1e-9, rtol=0), (
                    name,
                    key,
                )
    assert float(one["SAFLEX-0"]["tally"]["by_source"].abs().sum()) > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_workers_learn_the_arms_that_one_does_though_one_of_them_is_killed(
    cluster: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayworks.runtime.stages.ActorPool", PoolHere)
    words = [*smallest.reasoning(tmp_path), "--learning.arms", "[both, paths]", "--learning.rounds", "1"]
    given = {**configs.parse_overrides(words), "run.storage": str(tmp_path / "runs"), "learning.epochs": 6}
    found = []
    for workers in (1, 2):
        one = begun("reasoning", given, workers)
        directory = Path(one.run_directory.path("arms/round-0"))
        killer = threading.Thread(target=kill_one, args=(directory / "both/epochs.json", directory / "paths"))
        if workers == 2:
            killer.start()
        while len(one.results["arms"].get("0", {})) < 2:
            one.train()
        if workers == 2:
            killer.join()
        policies = {arm: load_file(directory / arm / "policy/model.safetensors") for arm in ("both", "paths")}
        found.append((one.results["arms"]["0"], policies))
        one.cleanup()
    (alone, policies), (together, others) = found
    for arm, result in alone.items():
        for epoch, other in zip(result["epochs"], together[arm]["epochs"], strict=True):
            assert other == pytest.approx(epoch, rel=1e-5, abs=1e-5)
        assert {**together[arm], "epochs": 0} == {**result, "epochs": 0}
        for name, value in policies[arm].items():
            assert torch.allclose(others[arm][name], value, atol=1e-5), f"{arm} {name}"


def kill_one(when: Path, before: Path) -> None:
    """Kill a worker in step once a file is there, which is not the last."""
    until(when.exists)
    os.kill(actor_processes("RayTrainWorker")[0], signal.SIGKILL)
    assert not before.exists(), "it was over before the death"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_of_two_in_step_whose_driver_is_killed_leaves_what_an_undisturbed_one_does(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    words = [*smallest.alignment(tmp_path), "--training.workers", "2"]
    arguments = ["alignment", *words, "--run.storage", str(tmp_path / "runs"), "--run.name", "straight"]
    command = [sys.executable, "-m", "jobs.run", *arguments]
    environment = {**os.environ, **cluster}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    straight = FinishedRun(arguments, tmp_path / "runs/alignment/straight", tmp_path, done.stdout)
    killed = Killed(
        deaths=(("training/sentiment/00000006.json", "RayTrainWorker"), ("training/brevity/00000012.json", DRIVER)),
        changes=(),
    )
    directory = killed_and_repeated("alignment", straight, cluster, killed)
    expected, found = (untimed(path, alignment.SPEC.timed) for path in (straight.directory, directory))
    for part in expected:
        assert found[part] == expected[part], part
    for file in straight.directory.glob("export/arms/*/model.safetensors"):
        assert file.read_bytes() == (directory / file.relative_to(straight.directory)).read_bytes(), file


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_in_a_ray_of_its_own_has_room_again_when_its_actor_was_killed(tmp_path: Path) -> None:
    words = [*smallest.alignment(tmp_path), "--training.workers", "2", "--training.epochs", "20"]
    command = [sys.executable, "-m", "jobs.run", "alignment", *words, "--run.storage", str(tmp_path / "runs")]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_ADDRESS", "RAY_AUTH"))
    }
    first = tmp_path / "runs/alignment/default/training/sentiment/00000006.json"
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as driver:
        until(first.exists)
        below = psutil.Process(driver.pid).children(recursive=True)
        (actor,) = [process for process in below if "AlignmentSystemRun" in "".join(process.cmdline())]
        actor.kill()
        _, errors = driver.communicate(timeout=240)
    assert driver.returncode == 0, errors[-2000:]
    assert "going on from the last checkpoint" in errors


@pytest.mark.parametrize(
    ("system", "settings", "words"),
    [
        ("alignment", ("--training.workers", "9"), "training.workers: 9 cannot share the 8 pairs of a step"),
        (
            "difficulty",
            ("--generalisation.workers", "3", "--generalisation.batch_size", "2"),
            "generalisation.workers: 3 cannot share the 2 items of a step",
        ),
        ("reasoning", ("--learning.workers", "33"), "learning.workers: 33 cannot share the 32 pairs of a step"),
        (
            "supervision",
            ("--experiment.workers", "33", "--student.learner", "tuned"),
            "experiment.workers: 33 cannot share the 32 examples of a step",
        ),
    ],
)
def test_more_workers_than_a_step_has_examples_are_refused(
    system: str, settings: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main([system, "--dry-run", *settings, "--run.storage", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err
