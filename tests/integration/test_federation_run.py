"""Federation runs killed in their middle, on either engine, at other numbers of workers; bad input."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jobs import run
from rayworks.core.errors import DataError
from rayworks.systems.federation.exported import DESCRIPTION, WEIGHTS, read_export
from tests.conftest import FinishedRun

MINE = "{mine: {strategy.rounds: 3}}"
Finished = Callable[[str], FinishedRun]


@pytest.mark.slow
def test_flowers_simulation_gives_the_models_of_our_engine(
    finished_runs: Finished, run_job: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    straight = finished_runs("federation")
    directory = straight.directory.parent / "flower"
    settings = ["--engine.kind", "flower", "--experiment.seeds", "1", "--scope.stages", "[training]"]
    done = run_job(*straight.arguments[:-1], "flower", *settings)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for method in ("fedavg", "balanced"):
        file = f"trainings/{method}-0/model.safetensors"
        assert (directory / file).read_bytes() == (straight.directory / file).read_bytes()


def test_what_a_run_says_of_engines_and_privacy(finished_runs: Finished) -> None:
    report = json.loads((finished_runs("federation").directory / "report.json").read_text())
    titles = [table["title"] for table in report["tables"]]
    assert {"Methods", "Clients", "Engines", "Label skew, first seed"} <= set(titles)
    engines = next(table for table in report["tables"] if table["title"] == "Engines")
    assert "differ" in engines["note"]
    assert "0.0e+00" in engines["note"], "the engines agree to the bit"
    assert any("vacuous" in note for note in report["notes"])
    skew = next(table for table in report["tables"] if table["title"] == "Label skew, first seed")
    before, after = (dict(zip(skew["columns"], row, strict=True)) for row in skew["rows"])
    assert after["total variation"] < before["total variation"]
    assert before["effective labels"] == pytest.approx(1.0)


def test_an_export_is_read_again_and_damaged_ones_are_refused(finished_runs: Finished, tmp_path: Path) -> None:
    export = finished_runs("federation").directory / "export"
    read = read_export(export)
    found = read.probabilities(np.zeros((2, 1, 8, 8), np.uint8))
    assert found.shape == (2, 4)
    np.testing.assert_allclose(found.sum(1), 1)
    with pytest.raises(DataError, match=r"model\.json"):
        read_export(tmp_path)
    (tmp_path / DESCRIPTION).write_bytes((export / DESCRIPTION).read_bytes())
    (tmp_path / WEIGHTS).write_bytes((export / WEIGHTS).read_bytes()[:200])
    with pytest.raises(DataError, match="not the export of a finished federation run"):
        read_export(tmp_path)


def test_bad_settings_end_with_their_code_and_their_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code, words in (
        (("--data.source", "mnits"), 4, "data.source 'mnits'"),
        (("--data.source", "nowhere.npz"), 4, "nowhere.npz"),
        (("--experiment.methods", "[fedavg]"), 2, "balanced is missing"),
        (("--experiment.methods", "[fedavg, balanced, fedsgd]"), 2, "'fedsgd' is unknown"),
        (("--experiment.methods", "[fedavg, balanced, mine]", "--experiment.variants", MINE), 2, "strategy.rounds"),
        (("--privacy.noise_multiplier", "1.0"), 2, "privacy.clipping"),
        (("--privacy.noise_multiplier", "1.0", "--privacy.clipping", "fixed"), 2, "strategy.weighting"),
        (("--mixup.images", "0"), 2, "mixup.images"),
        (("--balance.gradient_file", "/nowhere"), 2, "balance.gradient_file"),
    ):  # fmt: skip
        found = run.main(["federation", "--dry-run", "--run.storage", str(tmp_path), *arguments])
        error = capsys.readouterr().err
        assert found == code, (arguments, error)
        assert words in error
