"""A run that is taken up at any of its checkpoints does what it did before."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs.disturbed_run import without
from rayworks.core import config as configs
from rayworks.core import manifest
from rayworks.core.registry import find
from rayworks.core.run_directory import RunDirectory
from rayworks.runtime.checkpoints import RESUME
from rayworks.runtime.stages import STATE
from rayworks.systems import REGISTRY
from tests import smallest
from tests.pool_here import PoolHere

SMALLER = {
    "alignment": {"training.epochs": 1, "evaluation.samples": 2},
    "augmentation": {"experiment.retrain": False, "training.steps": 30},
    "difficulty": {},
    "federation": {"experiment.seeds": 1, "strategy.rounds": 2, "scope.stages": ["training", "privacy"]},
    "marl": {
        **{"experiment.seeds": 1, "experiment.networks": ["e2gn2-last"], "training.steps": 32},
        "scope.stages": ["training", "generalisation"],
    },
    "reasoning": {"learning.rounds": 1, "learning.arms": ["both"], "evaluation.methods": ["best-of-n"]},
    "refusal": {},
    "regulation": {},
    "supervision": {"student.taught": ["single", "ensemble", "bagging"]},
}
"""Systems whose steps end at the same place every time, with fewer of them. Recommendation's end when its workers have
something to tell; that it resumes is seen where they are killed.
"""


def stored(folder: Path, system: str) -> Any:
    return without(json.loads((folder / STATE).read_text()), find(REGISTRY, system).timed | {"seconds", "sampling"})


def test_every_system_is_tried_here_or_named_above() -> None:
    assert set(SMALLER) | {"recommendation"} == set(REGISTRY)


@pytest.mark.parametrize("system", SMALLER)
def test_a_run_taken_up_at_any_checkpoint_takes_the_same_step(
    system: str, cluster: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayworks.runtime.stages.ActorPool", PoolHere)
    monkeypatch.setattr("rayworks.systems.alignment.system.ActorPool", PoolHere)
    spec = find(REGISTRY, system)
    overrides = configs.parse_overrides(getattr(smallest, system)(tmp_path))
    storage = {"run.storage": str(tmp_path / "runs"), "run.name": "resumed", "compute.workers": 1}
    config = configs.resolve(spec.config, overrides={**overrides, **SMALLER[system], **storage})
    directory = RunDirectory(config.run.storage, system, config.run.name)
    manifest.begin_attempt(directory, system, config)

    def begun() -> Any:
        return spec.load_system()({"storage": directory.storage, "run": directory.run})

    def kept(run: Any, name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        run.save_checkpoint(str(folder))
        return folder

    whole = begun()
    names = [stage.name for stage in whole._stages]
    assert len(set(names)) == len(names), "a stage is told from the others by its name"
    checkpoints: list[Path] = []
    while not whole.train()["run_done"]:
        checkpoints.append(kept(whole, f"whole-{len(checkpoints)}"))
        if len(checkpoints) > 1:
            shutil.copytree(checkpoints[-2], directory.path(f"{RESUME}/000001"))
            again = begun()
            directory.remove_folder(RESUME)
            assert again.iteration == len(checkpoints) - 1
            again.train()
            folder = kept(again, f"again-{len(checkpoints)}")
            again.cleanup()
            assert stored(folder, system) == stored(checkpoints[-1], system), checkpoints[-1].name
    whole.cleanup()
    assert len(checkpoints) > 2
    assert directory.exists("report.json")
