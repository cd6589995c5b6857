"""What a run keeps of its last attempt, whatever dies while it is kept."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from rayworks.core.run_directory import RunDirectory
from rayworks.runtime import checkpoints
from rayworks.runtime.checkpoints import EXPERIMENT, RESUME, TRIAL
from rayworks.runtime.experiment import set_aside

TRIAL_FOLDER = f"{EXPERIMENT}/{TRIAL}"


def save(directory: RunDirectory, scratch: Path, number: int, *, whole: bool = True) -> None:
    folder = scratch / f"checkpoint_{number:06d}"
    folder.mkdir(parents=True)
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
    save(directory, tmp_path / "later", 0)
    set_aside(directory, TRIAL, directory)
    assert kept(directory, tmp_path) == [0], "numbers begin again with every attempt"


class Died(Exception):
    pass


@pytest.mark.parametrize("calls", range(6))
def test_whatever_dies_in_between_a_complete_checkpoint_is_there(
    directory: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    save(directory, tmp_path / "first", 5)
    set_aside(directory, TRIAL, directory)
    for number in (0, 1):
        save(directory, tmp_path / "second", number)
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
