"""A run that decodes on vLLM: the same report from the same models."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import FinishedRun


def test_the_report_is_that_of_the_transformers_engine(
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
    timed = [name for name in expected if name.startswith("tokens_per_second")]
    assert timed
    assert {k: v for k, v in found.items() if k not in timed} == pytest.approx(
        {k: v for k, v in expected.items() if k not in timed}, rel=1e-3
    )
