import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayworks.core.sweep import read_sweep
from rayworks.runtime.sweep import run_sweep
from tests.conftest import ROOT
from tests.counting_system import SPEC, Counting

COMMAND = (
    "import sys; from pathlib import Path; from rayworks.core.sweep import read_sweep; "
    "from rayworks.runtime.sweep import run_sweep; from tests.counting_system import SPEC; "
    "sys.exit(run_sweep(read_sweep(SPEC, Path(sys.argv[1]))))"
)


@pytest.fixture
def sweep_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    monkeypatch.setattr("rayworks.runtime.launch.BACKOFF_SECONDS", 0.1)

    def write(space: dict[str, list[Any]], **base: Any) -> Path:
        settings = {
            "base": {"run": {"name": "swept", "storage": str(tmp_path / "runs")}, "counting": base},
            "space": {name: {"grid": values} for name, values in space.items()},
            "metric": "total",
        }
        file = tmp_path / "sweep.yaml"
        file.write_text(yaml.safe_dump(settings))
        return file

    return write


def sweep_folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "counting" / "swept"


def trials_of(tmp_path: Path) -> dict[str, Any]:
    """Each trial's folder name to its manifest."""
    manifests = sweep_folder(tmp_path).glob("trials/*/manifest.json")
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(manifests)}


def attempts_of(tmp_path: Path) -> list[int]:
    return [len(manifest["attempts"]) for manifest in trials_of(tmp_path).values()]


def test_a_grid_leaves_runs_and_a_report_and_one_bad_trial_stops_nothing(
    cluster: dict[str, str], sweep_file: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = sweep_file({"counting.to": [2, 4], "counting.trouble": ["none", "data"]})
    assert run_sweep(read_sweep(SPEC, file)) == 0
    seen = capfd.readouterr()
    folder = sweep_folder(tmp_path)
    assert f"3 of 4 trials finished; report: {folder / 'report.html'}" in seen.out
    assert "0003-seed-0: data: item 2: is poison; drop it" in seen.err
    report = json.loads((folder / "report.json").read_text())
    assert report["headline"] == {
        "trials": 4,
        "finished": 3,
        "best_design": "counting.to=4, counting.trouble=none",
        "best_total": 10.0,
    }
    assert list(report["figures"]) == ["parallel_coordinates.png"]
    assert len((folder / "trials.csv").read_text().splitlines()) == 5
    finished = folder / "trials" / "0002-seed-0"
    for name in ("manifest.json", "config.yaml", "report.html", "figures/count.png", "export/count.json"):
        assert (finished / name).is_file(), name
    assert [manifest["state"] for manifest in trials_of(tmp_path).values()] == ["done", "done", "done", "failed"]
    written = (finished / "report.json").stat().st_mtime_ns
    # The same command tries only what failed, from its last checkpoint.
    assert run_sweep(read_sweep(SPEC, file)) == 0
    assert attempts_of(tmp_path) == [1, 1, 1, 2]
    assert (finished / "report.json").stat().st_mtime_ns == written
    file = sweep_file({"counting.to": [2, 5], "counting.trouble": ["none", "data"]})
    assert run_sweep(read_sweep(SPEC, file)) == 3
    assert "space: not as in" in capfd.readouterr().err


def test_a_trial_whose_actor_is_killed_goes_on_from_its_checkpoint(
    cluster: dict[str, str], sweep_file: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = sweep_file({"counting.trouble": ["none", "kill-once"]}, at=3)
    assert run_sweep(read_sweep(SPEC, file)) == 0
    assert "infrastructure stopped 1 trial(s)" in capfd.readouterr().err
    assert attempts_of(tmp_path) == [1, 2]
    results = (sweep_folder(tmp_path) / "tune" / "0001-seed-0" / "result.json").read_text().splitlines()
    assert [json.loads(line)["count"] for line in results] == [1, 2, 3, 4, 4]
    report = json.loads((sweep_folder(tmp_path) / "report.json").read_text())
    assert [row[-1] for row in report["tables"][1]["rows"]] == [10.0, 10.0]
    assert run_sweep(read_sweep(SPEC, file)) == 0
    assert "is finished already" in capfd.readouterr().out


def test_a_killed_driver_repeated_does_not_run_finished_trials_again(
    cluster: dict[str, str], sweep_file: Callable[..., Path], tmp_path: Path
) -> None:
    file = sweep_file({"counting.to": [1, 2, 30, 31]}, pause_seconds=0.2)
    command = [sys.executable, "-c", COMMAND, str(file)]
    environment = {**os.environ, **cluster}
    driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    folder = sweep_folder(tmp_path)
    deadline = time.monotonic() + 120
    while len(list(folder.glob("trials/*/report.html"))) < 2 or not list(folder.glob("tune/0002*/checkpoint_*")):
        assert time.monotonic() < deadline
        assert driver.poll() is None
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/report.json")}
    assert len(before) == 2
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert again.returncode == 0, again.stdout[-2000:] + again.stderr[-2000:]
    assert "4 of 4 trials finished" in again.stdout
    assert "   3/4 " in again.stdout and "   4/4 " in again.stdout and "   1/4 " not in again.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert attempts_of(tmp_path) == [1, 1, 2, 2]
    report = json.loads((folder / "report.json").read_text())
    assert [row[-2] for row in report["tables"][1]["rows"]] == [1, 2, 30, 31]


def test_a_trial_that_falls_behind_is_stopped_early_and_stays_so(
    cluster: dict[str, str], sweep_file: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = sweep_file({"counting.to": [2, 8]})
    settings = yaml.safe_load(file.read_text())
    asha = {"metric": "progress", "mode": "max", "time": "count", "first": 1, "reduction": 2, "last": 100}
    file.write_text(yaml.safe_dump({**settings, "asha": asha, "concurrent": 1}))
    assert run_sweep(read_sweep(SPEC, file)) == 0
    assert "1 of 2 trials finished, 1 stopped early" in capfd.readouterr().out
    report = json.loads((sweep_folder(tmp_path) / "report.json").read_text())
    early = next(table for table in report["tables"] if table["title"] == "Trials stopped early")
    assert early["rows"] == [["0001-seed-0", "count 1, progress 0.125"]]
    assert report["headline"]["best_total"] == 3
    ends = [trial["attempts"][-1] for trial in trials_of(tmp_path).values()]
    assert [end["outcome"] for end in ends] == ["done", "failed"]
    assert ends[1]["reason"] == "stopped early (count 1, progress 0.125)"
    assert run_sweep(read_sweep(SPEC, file)) == 0
    assert "finished already" in capfd.readouterr().out
    assert attempts_of(tmp_path) == [1, 1]


@pytest.mark.parametrize(
    ("reusable", "beside", "concurrent", "processes"),
    [(True, [], 1, 1), (False, [], 4, 4), (True, [{"CPU": 1.0}], 1, 4)],
)
def test_a_process_runs_one_trial_after_the_other_without_a_trace(
    reusable: bool,
    beside: list[dict[str, float]],
    concurrent: int,
    processes: int,
    cluster: dict[str, str],
    sweep_file: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Counting, "reusable", reusable)
    monkeypatch.setattr(Counting, "train_bundles", lambda config: beside)
    file = sweep_file({"counting.to": [2, 1]})
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "seeds": [0, 1], "concurrent": concurrent}))
    assert run_sweep(read_sweep(SPEC, file)) == 0
    facts = [json.loads(path.read_text()) for path in sorted(sweep_folder(tmp_path).glob("trials/*/export/facts.json"))]
    assert len({fact["process"] for fact in facts}) == processes
    assert {fact["folder"] for fact in facts} == {str(Path.cwd())}
    assert [fact["starts"] for fact in facts] == [1, 1, 1, 1]
    drawn = [fact["drawn"] for fact in facts]
    assert drawn[:2] == drawn[2:]
    assert drawn[0] != drawn[1]
    counts = sweep_folder(tmp_path).glob("tune/*/result.json")
    steps = {path.parent.name: [json.loads(line)["training_iteration"] for line in path.open()] for path in counts}
    assert steps == {"0000-seed-0": [1, 2, 3], "0000-seed-1": [1, 2, 3], "0001-seed-0": [1, 2], "0001-seed-1": [1, 2]}
