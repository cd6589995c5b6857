"""What a run keeps of its last attempt, whatever dies while it is kept."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from rayworks.core.run_directory import RunDirectory
from rayworks.runtime import checkpoints
from rayworks.runtime.checkpoints import EXPERIMENT, RESUME, TRIAL
from rayworks.runtime.experiment import _iteration_kept, set_aside

TRIAL_FOLDER = f"{EXPERIMENT}/{TRIAL}"


def save(directory: RunDirectory, scratch: Path, number: int, *, steps: int | None = None, whole: bool = True) -> None:
    folder = scratch / f"checkpoint_{number:06d}"
    folder.mkdir(parents=True)
    (folder / "position.json").write_text(json.dumps({"iteration": number if steps is None else steps}))
    (folder / "count.json").write_text(json.dumps(number))
    checkpoints.seal(folder)
    if not whole:
        (folder / "count.json").write_text("")
    directory.put_folder(folder, f"{TRIAL_FOLDER}/{folder.name}")


def kept(directory: RunDirectory, scratch: Path) -> list[int]:
    found = []
    for name in directory.list(RESUME):
        folder = directory.get_folder(f"{RESUME}/{name}", scratch / uuid.uuid4().hex / name)
        if checkpoints.is_complete(folder):
            found.append(json.loads((folder / "count.json").read_text()))
    return found


@pytest.fixture(params=["path", "memory"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> RunDirectory:
    storage = str(tmp_path / "runs") if request.param == "path" else f"memory://{uuid.uuid4().hex}"
    return RunDirectory(storage, "counting", "run")


def test_the_newest_complete_checkpoint_is_kept_and_the_rest_goes(directory: RunDirectory, tmp_path: Path) -> None:
    for number in (9, 10, 11):
        save(directory, tmp_path, number, whole=number < 11)
    for _ in range(2):
        set_aside(directory, TRIAL, directory)
        assert kept(directory, tmp_path) == [10]
    assert not [name for name in directory.list(TRIAL_FOLDER) if name.startswith("checkpoint")]
    assert directory.list(EXPERIMENT) in (["trial"], [])
    save(directory, tmp_path / "later", 0, steps=11)
    set_aside(directory, TRIAL, directory)
    assert kept(directory, tmp_path) == [0], "numbers begin again with every attempt"
    save(directory, tmp_path / "leftover", 20, steps=8)
    set_aside(directory, TRIAL, directory)
    assert kept(directory, tmp_path) == [0], "an actor of before has sealed late what lies behind"


def test_curves_go_on_where_the_run_does(directory: RunDirectory, tmp_path: Path) -> None:
    whole = tmp_path / "checkpoint_000007"
    save(directory, tmp_path, 7)
    directory.put_folder(whole, f"{RESUME}/000001")
    (whole / "position.json").write_text("")
    directory.put_folder(whole, f"{RESUME}/000002")
    with checkpoints.newest_complete(checkpoints.kept(directory)) as found:
        assert found is not None
        assert found[0] == f"{RESUME}/000001"
    assert _iteration_kept(directory) == 7


def test_a_run_all_of_whose_checkpoints_are_damaged_says_that_it_starts_again(
    directory: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(directory, tmp_path, 3, whole=False)
    directory.put_folder(tmp_path / "checkpoint_000003", f"{RESUME}/000001")
    directory.remove_folder(TRIAL_FOLDER)
    set_aside(directory, TRIAL, directory)
    assert "resume/000001: no checkpoint is complete; the run starts again" in capsys.readouterr().err
    assert _iteration_kept(directory) == 0


class Died(Exception):
    pass


@pytest.mark.parametrize("calls", range(6))
def test_whatever_dies_in_between_a_complete_checkpoint_is_there(
    directory: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    save(directory, tmp_path / "first", 5)
    set_aside(directory, TRIAL, directory)
    for number in (0, 1):
        save(directory, tmp_path / "second", number, steps=6 + number)
    left = calls

    def dying(method: Any) -> Any:
        def call(*arguments: Any) -> Any:
            nonlocal left
            if not left:
                raise Died
            left -= 1
            return method(*arguments)

        return call

    with monkeypatch.context() as patch:
        for name in ("put_folder", "remove_folder"):
            patch.setattr(directory, name, dying(getattr(directory, name)))
        try:
            set_aside(directory, TRIAL, directory)
        except Died:
            assert calls < 4, "one put, one kept before, two of the trial"
    set_aside(directory, TRIAL, directory)
    assert kept(directory, tmp_path)[-1] == 1
    assert len(directory.list(RESUME)) == 1
