"""Runs of the system on a real cluster: workers of Ray Train, deaths, bad input."""

import json
from pathlib import Path

import pytest

from jobs import run
from rayworks.core import config as configs
from rayworks.runtime.launch import launch
from rayworks.systems.recommendation import SPEC
from rayworks.systems.recommendation.logs.simulator import Simulator, SimulatorOptions


@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        (["--data.source", "/nowhere.parquet"], 4, "/nowhere.parquet"),
        (["--training.microbatches", "1", "--compute.workers", "2"], 2, "training.microbatches"),
        (["--simulator.steps", "6"], 2, "simulator.steps"),
        (["--constraint.weight", "0.1", "--scope.stages", "[acceptance]"], 2, "constraint.weight"),
        (["--natural.checkpoint", "model.pth"], 2, "natural.items"),
        (["--bandit.logs", "[open-bandit/random/cats, open-bandit/bts/all]"], 4, "open-bandit/random/cats"),
    ],
)
def test_bad_settings_are_refused_before_anything_starts(
    settings: list[str], code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["recommendation", "--dry-run", *settings, "--run.storage", str(tmp_path)]) == code
    assert words in capsys.readouterr().err


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
