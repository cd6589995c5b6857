"""The generalisation heatmap end to end: a grid of training bins on the cluster, and runs cut into other pieces."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayworks.core.sweep import read_sweep
from rayworks.runtime.sweep import run_sweep
from rayworks.systems.difficulty import SPEC

BASE = {
    "layers": 2,
    "bins": 2,
    "train_items": 8,
    "eval_items": 5,
    "steps": 4,
    "steps_per_checkpoint": 2,
    "batch_size": 4,
    "max_new_tokens": 3,
    "enabled": True,
}


@pytest.mark.slow
def test_a_grid_of_training_bins_leaves_the_heatmap(
    cluster: dict[str, str], tiny_model: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = {
        "base": {
            "run": {"name": "heatmap", "storage": str(tmp_path / "runs")},
            "compute": {"workers": 1},
            "generalisation": {**BASE, "model": tiny_model},
        },
        "space": {"generalisation.train_bin": {"grid": [0, 1]}},
        "seeds": [0, 1],
        "metric": "gain_on_trained_bins",
    }
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(settings))
    assert run_sweep(read_sweep(SPEC, file)) == 0, capfd.readouterr()
    folder = tmp_path / "runs" / "difficulty" / "heatmap"
    assert (folder / "figures" / "heatmap.png").stat().st_size > 0
    report = json.loads((folder / "report.json").read_text())
    tables = {table["title"]: table for table in report["tables"]}
    cells = tables["Generalisation by training and evaluation bin"]
    assert cells["columns"] == ["training bin", "bin 0 (1 to 1)", "bin 1 (2 to 2)"]
    assert [row[0] for row in cells["rows"]] == [0, 1, "untuned"]
    assert {row[3] for row in tables["Summaries of the heatmap"]["rows"]} == {2}
    assert report["headline"]["finished"] == 4 and report["headline"]["best_gain_on_trained_bins"] is not None
    trial = folder / "trials" / "0001-seed-1"
    found = json.loads((trial / "report.json").read_text())
    assert list(found["headline"]) == [*SPEC.headline, *SPEC.optional_headline]
    assert found["headline"]["items"] == 10 and found["headline"]["log_likelihood"] is None
    assert [row[2] for row in found["tables"][0]["rows"]] == [5, 5]
    assert {path.stem for path in (trial / "evaluation").iterdir()} == {"untuned", "tuned"}
    assert (trial / "export" / "README.md").is_file() and not list(trial.glob("states/*"))
    results = [json.loads(line) for line in (folder / "tune" / "0001-seed-1" / "result.json").read_text().splitlines()]
    assert [result["progress"] for result in results] == pytest.approx([1 / 3, 1 / 2, 2 / 3, 1, 1])


def test_a_run_does_not_depend_on_workers_or_pieces(
    run_job: Callable[..., Any], tiny_model: str, tmp_path: Path
) -> None:
    reports = []
    for name, changes in {
        "one": {"compute.workers": 1, "generalisation.steps_per_checkpoint": 4},
        "two": {"compute.workers": 2, "generalisation.steps_per_checkpoint": 1},
    }.items():
        settings = {
            **{f"generalisation.{field}": value for field, value in BASE.items()},
            **changes,
            "generalisation.model": tiny_model,
            "generalisation.eval_items": 40,
            "run.name": name,
            "run.storage": str(tmp_path),
        }
        done = run_job(
            "difficulty", *(word for field, value in settings.items() for word in (f"--{field}", str(value)))
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        folder = tmp_path / "difficulty" / name
        reports.append(json.loads((folder / "report.json").read_text()))
        assert (folder / "figures" / "accuracy_by_bin.png").is_file()
    one, two = (report["details"]["generalisation"] for report in reports)
    losses = one.pop("losses"), two.pop("losses")
    assert sum(losses[1]) / 4 == pytest.approx(losses[0][0], rel=1e-6)
    assert one == two


@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        ({"train_bin": 2, "bins": 2}, 2, "generalisation.train_bin: is 2; the last of 2 bins is 1"),
        ({"source": "nowhere.jsonl"}, 4, "nowhere.jsonl': cannot be read"),
    ],
)
def test_a_run_that_can_not_be_says_why(
    settings: dict[str, Any], code: int, words: str, run_job: Callable[..., Any], tiny_model: str, tmp_path: Path
) -> None:
    values = {"enabled": True, "model": tiny_model, **settings}
    words_of = [word for field, value in values.items() for word in (f"--generalisation.{field}", str(value))]
    done = run_job("difficulty", *words_of, "--run.storage", str(tmp_path))
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
    assert words in done.stderr
