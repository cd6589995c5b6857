"""Language models trained by several workers of Ray Train in step: as by one, whoever dies on the way."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs import run
from rayworks.core import config as configs
from rayworks.core.config import ComputeSection
from rayworks.core.run_directory import RunDirectory
from rayworks.runtime.data_parallel import DataParallel, Loop
from rayworks.systems import alignment, difficulty
from rayworks.systems.alignment.actors import RewardModelActor
from rayworks.systems.alignment.actors import training_loop as train_reward_models
from rayworks.systems.difficulty.answering.generalisation_items import binned_items
from rayworks.systems.difficulty.answering_actors import RECORDS, GeneralisationActor
from rayworks.systems.difficulty.answering_actors import training_loop as tune
from tests import smallest
from tests.conftest import ROOT, FinishedRun
from tests.killed_runs import DRIVER, Killed, killed_and_repeated
from tests.observing import actor_processes
from tests.test_contract import untimed

WORKERS = 2
PIECE = 4


@dataclass(frozen=True)
class Training:
    """One that can be done both ways."""

    loop: Loop
    arguments: Mapping[str, Any]
    compute: ComputeSection
    folder: str
    records: str
    states: str
    total: int
    alone: Callable[[RunDirectory, int], Mapping[str, float]]
    """One more piece by a single worker, from a step."""


def of_alignment(folder: Path) -> Training:
    given = configs.parse_overrides(smallest.alignment(folder))
    more = {"training.workers": WORKERS, "training.steps_per_checkpoint": PIECE, "training.learning_rate": 1e-3}
    config = configs.resolve(alignment.Config, overrides={**given, **more})
    made: list[RewardModelActor] = []

    def alone(directory: RunDirectory, start: int) -> Mapping[str, float]:
        made[:] = made or [RewardModelActor(config, directory, "sentiment")]
        return made[0].train(start, PIECE)

    total = 28
    arguments = {"config": config, "steps": {"sentiment": total}}
    places = ("training", "training/sentiment", "states/sentiment")
    return Training(train_reward_models, arguments, config.training_compute, *places, total, alone)


def of_difficulty(folder: Path) -> Training:
    section = {
        "bins": 2,
        "train_items": 24,
        "eval_items": 2,
        "steps": 28,
        "steps_per_checkpoint": PIECE,
        "batch_size": 7,
    }
    given = {f"generalisation.{name}": value for name, value in section.items()}
    model = smallest.save_tiny_model(folder / "model", seed=0)
    more = {"generalisation.enabled": True, "generalisation.model": model, "generalisation.workers": WORKERS}
    config = configs.resolve(difficulty.Config, overrides={**given, **more})
    items = binned_items(config.generalisation, 0)
    made: list[GeneralisationActor] = []

    def alone(directory: RunDirectory, start: int) -> Mapping[str, float]:
        made[:] = made or [GeneralisationActor(config, directory, items)]
        return made[0].train((start, PIECE))

    arguments = {"config": config, "items": items}
    return Training(tune, arguments, config.training_compute, "training", RECORDS, "states", 28, alone)


@pytest.mark.parametrize("made", [of_alignment, of_difficulty])
def test_two_workers_learn_what_one_does_though_one_of_them_is_killed(
    made: Callable[[Path], Training], cluster: dict[str, str], tmp_path: Path
) -> None:
    training = made(tmp_path)
    alone, together = (RunDirectory(str(tmp_path), "in-step", name) for name in ("alone", "together"))
    expected = [training.alone(alone, start) for start in range(0, training.total, PIECE)]
    group = DataParallel(training.loop, training.arguments, together, training.folder, training.compute)
    found = [group.next_record(training.records, 0)]
    first = actor_processes("RayTrainWorker")
    os.kill(first[0], signal.SIGKILL)
    assert not together.exists(f"{training.records}/{training.total:08d}.json"), "it was over before the death"
    while found[-1]["step"] < training.total:
        found.append(group.next_record(training.records, int(found[-1]["step"])))
    assert not group.wait()
    assert len(first) == WORKERS
    for one, two in zip(expected, found, strict=True):
        assert two == pytest.approx(one, rel=1e-5, abs=1e-5)
    weights = [
        torch.load(directory.path(f"{training.states}/{training.total:08d}/state.pt"), weights_only=True)["weights"]
        for directory in (alone, together)
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        assert torch.allclose(weights[1][name], value, atol=1e-5), name


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_of_two_in_step_whose_driver_is_killed_leaves_what_an_undisturbed_one_does(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    settings = [*smallest.alignment(tmp_path), "--training.workers", str(WORKERS)]
    arguments = ["alignment", *settings, "--run.storage", str(tmp_path / "runs"), "--run.name", "straight"]
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


@pytest.mark.parametrize(
    ("system", "settings", "words"),
    [
        ("alignment", ("--training.workers", "9"), "training.workers: 9 cannot share the 8 pairs of a step"),
        (
            "difficulty",
            ("--generalisation.workers", "3", "--generalisation.batch_size", "2"),
            "generalisation.workers: 3 cannot share the 2 items of a step",
        ),
    ],
)
def test_more_workers_than_a_step_has_examples_are_refused(
    system: str, settings: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main([system, "--dry-run", *settings, "--run.storage", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err
