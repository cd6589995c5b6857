import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayworks.core import config as configs
from rayworks.runtime.launch import launch
from tests.counting_system import SPEC, Config

Launch = Callable[..., int]


@pytest.fixture
def start(cluster: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    monkeypatch.setattr("rayworks.runtime.launch.BACKOFF_SECONDS", 0.1)

    def run(**overrides: Any) -> int:
        dotted = {name.replace("__", "."): value for name, value in overrides.items()}
        config = configs.resolve(Config, overrides={"run.storage": str(tmp_path), "run.max_failures": 1, **dotted})
        return launch(SPEC, config)

    return run


def run_folder(tmp_path: Path) -> Path:
    return tmp_path / "counting" / "default"


def test_a_run_leaves_its_directory_and_a_second_one_only_points_at_it(
    start: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start() == 0
    folder = run_folder(tmp_path)
    assert json.loads((folder / "report.json").read_text())["headline"] == {"count": 4, "total": 10.0}
    for name in ("manifest.json", "config.yaml", "report.html", "figures/count.png", "export/count.json"):
        assert (folder / name).is_file(), name
    assert list(folder.glob("tune/trial/events.out.tfevents.*"))
    printed = capsys.readouterr().out
    assert "25 %" in printed
    assert str(folder / "report.html") in printed
    written = (folder / "report.json").stat().st_mtime_ns
    assert start() == 0
    assert "finished already" in capsys.readouterr().out
    assert (folder / "report.json").stat().st_mtime_ns == written


def test_another_config_is_refused_by_field_and_a_safe_change_is_not(
    start: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(counting__trouble="data") == 4
    assert "item 2: is poison" in capsys.readouterr().err
    assert start(counting__trouble="data") == 4
    assert "item 2: is poison" in capsys.readouterr().err
    assert start(counting__to=9) == 3
    assert "counting.to" in capsys.readouterr().err
    assert start(run__resume="never") == 3
    capsys.readouterr()
    # The data mended, the run goes on from its last checkpoint, not from the start.
    assert start() == 0
    assert "25 %" not in capsys.readouterr().out
    manifest = json.loads((run_folder(tmp_path) / "manifest.json").read_text())
    assert [attempt["outcome"] for attempt in manifest["attempts"]] == ["failed", "failed", "done"]


def test_a_killed_run_actor_goes_on_from_its_checkpoint(
    start: Launch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert start(counting__trouble="kill-once", counting__at=3) == 0
    seen = capfd.readouterr()
    assert "infrastructure" in seen.err
    assert seen.out.count("25 %") == 1
    assert json.loads((run_folder(tmp_path) / "report.json").read_text())["headline"]["total"] == 10.0


@pytest.mark.parametrize(
    ("trouble", "code", "words"), [("bug", 1, "ZeroDivisionError"), ("not-finite", 4, "headline total")]
)
def test_defects_and_bad_values_are_not_retried(
    start: Launch, trouble: str, code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(counting__trouble=trouble, run__max_failures=3) == code
    seen = capsys.readouterr()
    assert words in seen.err
    assert "going on from the last checkpoint in" not in seen.err


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    start: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(counting__trouble="data", counting__at=3) == 4
    newest = sorted(run_folder(tmp_path).glob("tune/trial/checkpoint_*"))[-1]
    (newest / "count.json").write_text("[2, ")
    capsys.readouterr()
    assert start() == 0
    assert json.loads((run_folder(tmp_path) / "report.json").read_text())["headline"] == {"count": 4, "total": 10.0}


@pytest.mark.parametrize("fault", ["missing", "empty"])
def test_what_tune_has_written_down_is_not_needed_to_go_on(
    start: Launch, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(counting__trouble="data", counting__at=3) == 4
    written = [path for path in run_folder(tmp_path).glob("tune/*") if path.suffix in (".json", ".pkl")]
    assert len(written) > 1
    for path in written:
        path.unlink() if fault == "missing" else path.write_bytes(b"")
    capsys.readouterr()
    assert start() == 0
    seen = capsys.readouterr().out
    assert "50 %" not in seen and "100 %" in seen
    assert json.loads((run_folder(tmp_path) / "report.json").read_text())["headline"] == {"count": 4, "total": 10.0}
    trial = run_folder(tmp_path) / "tune/trial"
    results = [json.loads(line) for line in (trial / "result.json").read_text().splitlines()]
    assert [result["training_iteration"] for result in results] == [1, 2, 3, 4, 5], "curves go on where they ended"
    assert len((trial / "progress.csv").read_text().splitlines()) == 6
    seconds = [result["time_total_s"] for result in results]
    assert seconds == sorted(seconds)
    assert not (run_folder(tmp_path) / "resume").exists(), "nothing is left of what it went on from"


@pytest.mark.parametrize("left", [b"", b"\x00\xff", b'{"training_iteration": 1}\n{"trai', b"[]\n"])
def test_curves_that_broke_off_anywhere_do_not_keep_a_run_from_going_on(
    start: Launch, left: bytes, tmp_path: Path
) -> None:
    assert start(counting__trouble="data", counting__at=3) == 4
    for name in ("result.json", "progress.csv"):
        (run_folder(tmp_path) / "tune/trial" / name).write_bytes(left)
    assert start() == 0
    assert json.loads((run_folder(tmp_path) / "report.json").read_text())["headline"] == {"count": 4, "total": 10.0}


def test_a_run_without_a_complete_checkpoint_starts_again_and_says_so(
    start: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(counting__trouble="data", counting__at=3) == 4
    for folder in run_folder(tmp_path).glob("tune/trial/checkpoint_*"):
        (folder / "count.json").write_text("[2, ")
    capsys.readouterr()
    assert start() == 0
    seen = capsys.readouterr()
    assert "no checkpoint is complete; the run starts again from its beginning" in seen.err
    assert "25 %" in seen.out


def test_a_cluster_that_is_too_small_says_what_is_asked_and_what_is_free(
    start: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(counting__workers=9, compute__placement_timeout_seconds=2) == 2
    message = capsys.readouterr().err
    assert "9 x (CPU 1)" in message
    assert "free now: CPU 6" in message
    assert "3 nodes" in message
    assert not (run_folder(tmp_path) / "manifest.json").exists()


def test_storage_that_can_not_be_written_is_refused_first(
    start: Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert start(run__storage=str(tmp_path / "file")) == 2
    assert "run.storage" in capsys.readouterr().err
