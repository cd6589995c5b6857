"""A difficulty run on a real cluster: shards, models that answer, and what it leaves."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rayworks.systems.difficulty.calibration import parameters_from_dict
from rayworks.systems.difficulty.item_response.marginal_likelihood import fit
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.responses.response_matrix import as_matrix
from rayworks.systems.difficulty.responses.response_store import from_table
from tests import smallest
from tests.conftest import FinishedRun
from tests.small_evidence import save_responses
from tests.tiny_models import make_tokenizer, save_tiny_model

RunJob = Callable[..., subprocess.CompletedProcess[str]]


def test_the_run_reports_what_the_library_finds(finished_runs: Callable[[str], FinishedRun]) -> None:
    run = finished_runs("difficulty")
    report = json.loads((run.directory / "report.json").read_text())
    table = pd.read_csv(run.inputs / "exam.csv")
    calibration = fit(as_matrix(from_table(table)), FitOptions(model="1PL"))
    exported = json.loads((run.directory / "export/exam/calibration.json").read_text())
    assert exported["items"] == table["item"].unique().tolist(), "the order of the file"
    np.testing.assert_allclose(
        parameters_from_dict(exported["parameters"]).difficulty, calibration.parameters.difficulty, atol=1e-9
    )
    assert report["headline"]["log_likelihood"] == pytest.approx(calibration.log_likelihood)
    assert json.loads((run.directory / "export/sets.json").read_text()) == ["exam"]
    labels = pd.read_parquet(run.directory / "export/exam/labels.parquet")
    assert labels["item"].tolist() == exported["items"]
    assert labels["unnorm_rating"].tolist() == exported["parameters"]["difficulty"]
    ratings = pd.read_parquet(run.directory / "export/league/ratings.parquet")
    assert ratings["player"].iloc[0] in ("player-0", "player-1")
    assert ratings["games"].sum() == 2 * len(pd.read_csv(run.inputs / "league.csv"))


def test_workers_do_not_change_the_result(
    finished_runs: Callable[[str], FinishedRun], run_job: RunJob, tmp_path: Path
) -> None:
    run = finished_runs("difficulty")
    done = run_job(
        *run.arguments[:-2], "--run.name", "together", "--compute.workers", "2", "--uncertainty.refits_per_call", "5"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (
        json.loads((run.directory.parent / n / "report.json").read_text()) for n in ("straight", "together")
    )
    for name, value in first["headline"].items():
        if name != "fit_seconds":
            assert second["headline"][name] == value, name
    assert first["tables"][0] == second["tables"][0]


def test_shards_read_by_ray_data_give_the_same_difficulties(run_job: RunJob, tmp_path: Path) -> None:
    source = save_responses(tmp_path / "exam.parquet", subjects=60, missing=0.2)
    settings = smallest.difficulty(tmp_path)
    shared = [
        *settings,
        "--run.storage",
        str(tmp_path / "runs"),
        "--data.responses",
        f"[{source}]",
        "--data.games",
        "[]",
    ]
    done = run_job("difficulty", *shared, "--run.name", "sharded", "--data.reader", "ray-data", "--data.shards", "3")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    exported = json.loads((tmp_path / "runs/difficulty/sharded/export/exam/calibration.json").read_text())
    table = pd.read_parquet(source)
    calibration = fit(as_matrix(from_table(table)), FitOptions(model="1PL"))
    assert exported["items"] == table["item"].unique().tolist(), "the order of the file"
    np.testing.assert_allclose(exported["parameters"]["difficulty"], calibration.parameters.difficulty, atol=1e-7)
    assert exported["labels"]["evidence"] == [
        pytest.approx(count) for count in table.groupby("item").size().loc[exported["labels"]["item"]]
    ]


def test_a_model_answers_and_is_placed_against_difficulty(run_job: RunJob, tmp_path: Path) -> None:
    reader = save_tiny_model(tmp_path / "reader", seed=0, positions=1024)
    deaf = save_tiny_model(tmp_path / "deaf", seed=1, tokenizer=make_tokenizer(), positions=64)
    settings = smallest.difficulty(tmp_path)
    done = run_job(
        *("difficulty", *settings, "--run.storage", str(tmp_path / "runs"), "--run.name", "answers"),
        *("--data.responses", "[champ]", "--data.games", "[]", "--evaluation.models", f"[{reader}, {deaf}]"),
        *("--evaluation.max_items", "6", "--evaluation.max_new_tokens", "4"),
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    folder = tmp_path / "runs/difficulty/answers"
    answers = pd.read_parquet(folder / "evaluation/reader.parquet")
    assert len(answers) == 6
    assert answers["answered"].all()
    assert answers["rating"].between(0, 1).all()
    assert not pd.read_parquet(folder / "evaluation/deaf.parquet")["answered"].any()
    tables = json.loads((folder / "report.json").read_text())["tables"]
    found = next(table for table in tables if table["title"].startswith("Evaluated models"))
    assert [row[:3] for row in found["rows"]] == [[reader, 6, 0], [deaf, 6, 6]]
