"""A run that decodes on vLLM: the same report from the same models."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import FinishedRun


def test_a_run_on_vllm_reports_what_one_on_transformers_does(
    finished_runs: Callable[[str], FinishedRun],
    run_job: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    straight = finished_runs("alignment")
    where = ("--run.storage", str(tmp_path), "--run.name", "vllm", "--model.engine", "vllm")
    done = run_job(*straight.arguments, *where)
    assert done.returncode == 0, done.stderr
    found, expected = (
        json.loads((folder / "report.json").read_text())["headline"]
        for folder in (tmp_path / "alignment" / "vllm", straight.directory)
    )
    assert found["pair_accuracy"] == expected["pair_accuracy"]
    # A draw may fall on the other side of a rounding.
    assert found["kl_to_base"] == pytest.approx(expected["kl_to_base"], rel=0.3)
    assert all(value is not None for value in found.values())
