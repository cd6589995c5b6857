"""What dies in the middle of a difficulty run, and what bad evidence does to it."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from jobs import run
from rayworks.core.errors import DataError
from rayworks.systems.difficulty.config import DataSection
from rayworks.systems.difficulty.responses.sources import read_responses
from tests.small_evidence import response_table

RunJob = Callable[..., subprocess.CompletedProcess[str]]


def _spoilt(name: str) -> pd.DataFrame:
    table = response_table()
    if name == "duplicate":
        return pd.concat([table, table.iloc[[3]]])
    if name == "outside":
        table.loc[7, "score"] = 1.5
    if name == "apart":
        table["item"] = table["item"].where(table["subject"] < "model-020", table["item"] + "-b")
    return table


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("duplicate", ("row 481", "model-000", "item-03", "data.duplicates")),
        ("outside", ("row 8", "1.5", "[0, 1]")),
        ("apart", ("2 parts", "item-00-b", "data.allow_disconnected")),
    ],
)
def test_bad_evidence_is_refused_by_name(fault: str, words: tuple[str, ...], tmp_path: Path) -> None:
    _spoilt(fault).to_csv(tmp_path / "exam.csv", index=False)
    with pytest.raises(DataError) as refused:
        read_responses(str(tmp_path / "exam.csv"), DataSection())
    assert all(word in str(refused.value) for word in words), refused.value


def test_bad_evidence_ends_a_run_with_code_4_and_its_name(run_job: RunJob, tmp_path: Path) -> None:
    _spoilt("apart").to_csv(tmp_path / "exam.csv", index=False)
    done = run_job(
        *("difficulty", "--data.responses", f"[{tmp_path / 'exam.csv'}]", "--data.games", "[]"),
        *("--run.storage", str(tmp_path / "runs"), "--run.name", "bad"),
    )
    assert done.returncode == 4, done.stderr[-2000:]
    assert "data.allow_disconnected" in done.stderr, done.stderr[-2000:]


def test_what_can_not_be_is_refused_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code, words in (
        (("--model.name", "2PL", "--model.guessing", "0.25"), 2, "model.guessing"),
        (("--data.responses", "[]"), 2, "data.responses"),
        (("--data.responses", "[/nowhere/a.csv]"), 4, "/nowhere/a.csv"),
        (("--data.focal", "{exam: gender=female}"), 2, "data.focal"),
    ):
        assert run.main(["difficulty", "--dry-run", "--run.storage", str(tmp_path), *arguments]) == code, arguments
        assert words in capsys.readouterr().err
