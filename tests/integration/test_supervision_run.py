"""Language models as experts and students on a real cluster: dealt out over processes, and trained in step."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rayworks.systems.supervision.boosting.chain import Chain
from tests.integration.test_training_in_step import begun
from tests.observing import actor_processes
from tests.pool_here import PoolHere
from tests.small_headlines import save_headlines
from tests.unit.test_supervision_texts import ADAPTERS, OPTIONS, pool

TUNED = {"learner": "tuned", "layers": 2, "tuning": "full", "epochs": 2, "batch_size": 8, "learning_rate": 5e-3}


def given(folder: Path, model: str, **sections: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run of one seed and two experts, flat."""
    settings = {
        "task": {"count": 120, "split": "random", "count_labelled": 40, "count_validation": 16}
        | {"count_unlabelled": 24, "count_test": 16},
        "weak": {**ADAPTERS, "model": model},
        "boosting": {"rounds": 2, "fallback": False},
        "student": {"taught": ["single", "ensemble"]},
        "experiment": {"seeds": 1, "rounds_shown": [1]},
        "compute": {"workers": 1},
        "run": {"storage": str(folder / "runs")},
    }
    for name, section in sections.items():
        settings[name] = {**settings[name], **section}
    return {f"{name}.{key}": value for name, section in settings.items() for key, value in section.items()}


def save_texts(path: Path, options: bool) -> str:
    rows = [
        {"prompt": one.prompt, "answer": one.answer, **({"options": OPTIONS} if options else {})} for one in pool(120)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def finished(run: Any, learned: str) -> Path:
    """The directory of a run that has got as far as a student."""
    while learned not in run.results["learned"]:
        run.train()
    return Path(run.run_directory.path("."))


@pytest.mark.timeout(400)
@pytest.mark.parametrize("options", [False, True])
def test_experts_dealt_out_over_processes_label_as_those_of_one(
    options: bool, tiny_model: str, cluster: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayworks.runtime.stages.ActorPool", PoolHere)
    task = {"name": save_texts(tmp_path / "texts.jsonl", options)}
    found = []
    for processes in (1, 2):
        settings = given(tmp_path, tiny_model, task=task, weak={"processes": processes})
        before = set(actor_processes("_Host"))
        run = begun("supervision", {**settings, "run.name": f"by-{processes}"}, 1)
        directory = finished(run, "single")
        assert len(set(actor_processes("_Host")) - before) == processes - 1
        labels = {path.name: np.load(path) for path in sorted((directory / "labels/0").iterdir())}
        found.append(labels)
        run.cleanup()
    labels, others = found
    assert others.keys() == labels.keys() and "boosting-chosen.unlabelled" in labels
    for name, one in labels.items():
        assert str(others[name]["texts"]) == str(one["texts"]), name
        assert others[name]["confidence"] == pytest.approx(one["confidence"], abs=1e-4), name


@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", ["classes", pytest.param("texts", marks=pytest.mark.slow)])
def test_two_workers_in_step_train_what_one_does(
    kind: str, tiny_model: str, cluster: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayworks.runtime.stages.ActorPool", PoolHere)
    path = tmp_path / "task"
    name = (
        save_headlines(path.with_suffix(".csv")) if kind == "classes" else save_texts(path.with_suffix(".jsonl"), True)
    )
    student = {**TUNED, "model": tiny_model, "taught": ["single"]}
    settings = given(
        tmp_path, tiny_model, task={"name": name}, student=student, weak={"learning_rate": 0.005, "epochs": 2}
    )
    found = []
    for workers in (1, 2):
        run = begun("supervision", settings, workers)
        found.append((finished(run, "single"), run.results))
        run.cleanup()
    (alone, results), (together, others) = found
    assert (together / "training").exists() and not (alone / "training").exists()
    one, two = (Chain.from_bytes((where / "chains/0/boosting/chain.npz").read_bytes()) for where in (alone, together))
    assert two.distribution == pytest.approx(one.distribution, rel=1e-3)
    assert two.alphas == pytest.approx(one.alphas, rel=1e-3)
    files = sorted(path.relative_to(alone) for path in alone.glob("chains/0/boosting/experts/*/*/*.safetensors"))
    assert len(files) >= 2
    for file in files:
        weights, other = load_file(alone / file), load_file(together / file)
        for layer, value in weights.items():
            assert torch.allclose(other[layer], value, atol=1e-4), layer
    assert others["learned"]["single"][0]["flops"] == results["learned"]["single"][0]["flops"]
    labels = [np.load(where / "labels/0/single.test") for where in (alone, together)]
    if kind == "classes":
        assert labels[1] == pytest.approx(labels[0], abs=1e-3)
    else:
        assert labels[1]["confidence"] == pytest.approx(labels[0]["confidence"], abs=1e-3)
