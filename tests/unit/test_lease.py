"""One writer of a run directory at a time, whatever its storage and the others do."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rayworks.core.errors import InfrastructureError
from rayworks.core.run_directory import RunDirectory
from rayworks.runtime import lease
from rayworks.runtime.lease import Lease
from tests.conftest import ROOT
from tests.observing import until


def test_a_lease_is_one_among_many_that_ask_at_once(tmp_path: Path) -> None:
    ask = (
        "import sys, time; from rayworks.core.run_directory import RunDirectory; from rayworks.runtime.lease import Lease\n"
        "from pathlib import Path; from rayworks.core.errors import InfrastructureError\n"
        "try:\n"
        "    with Lease(RunDirectory(sys.argv[1], 'counting', 'run'), print):\n"
        "        Path(sys.argv[1], 'held').open('x'); time.sleep(1); Path(sys.argv[1], 'held').unlink()\n"
        "except InfrastructureError: pass\n"
    )
    asked = [subprocess.Popen([sys.executable, "-c", ask, str(tmp_path)], cwd=ROOT) for _ in range(6)]
    assert [process.wait(120) for process in asked] == [0] * 6, "two held it"
    assert not list(tmp_path.rglob("lease-*"))


def test_a_lease_that_stands_still_expires_by_the_clock_of_who_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(lease, "EXPIRES_SECONDS", 3.0)
    directory = RunDirectory(str(tmp_path), "counting", "run")
    elsewhere = {"host": "other", "processes": "other", "process": 7, "created": 1.0, "since": "2000", "beats": 3}
    directory.write_json("lease-other.json", elsewhere)
    lost: list[str] = []
    with Lease(directory, lost.append):
        assert not directory.exists("lease-other.json")
        [mine] = directory.list()
        directory.remove_folder(mine)
        deadline = time.monotonic() + 20
        while not lost and time.monotonic() < deadline:
            time.sleep(0.05)
    assert lost and "took this one for dead" in lost[0]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(lease, "EXPIRES_SECONDS", 2.0)


class Troubled(RunDirectory):
    """A run directory whose storage does what it is told to."""

    reading: Callable[[], Any] = staticmethod(lambda: None)
    writing: Callable[[], Any] = staticmethod(lambda: None)

    def read(self, relative: str) -> bytes:
        self.reading()
        return super().read(relative)

    def write(self, relative: str, data: bytes | str) -> str:
        self.writing()
        return super().write(relative, data)


def out_of_order() -> None:
    raise OSError(5, "Input/output error")


def fail_first(left: Iterator[int]) -> None:
    if next(left, None) is not None:
        out_of_order()


@pytest.mark.usefixtures("quick")
def test_a_holder_whose_file_cannot_be_read_once_or_ever_is_not_evicted(tmp_path: Path) -> None:
    lost: list[str] = []
    with Lease(RunDirectory(str(tmp_path), "counting", "run"), lost.append):
        for failures in (1, 10**6):
            looks = Troubled(str(tmp_path), "counting", "run")
            looks.reading = partial(fail_first, iter(range(failures)))
            with pytest.raises(InfrastructureError, match="is being written by"):
                Lease(looks, print).__enter__()
    assert not lost


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("foreign", ["", "[]", '{"host": "a", "processes": "b"}'])
def test_a_file_that_says_nothing_expires_as_any_other(tmp_path: Path, foreign: str) -> None:
    directory = RunDirectory(str(tmp_path), "counting", "run")
    directory.write("lease-foreign.json", foreign)
    with Lease(directory, print):
        assert not directory.exists("lease-foreign.json")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("hangs", [False, True])
def test_a_holder_that_cannot_renew_gives_up_by_itself(tmp_path: Path, hangs: bool) -> None:
    lost: list[str] = []
    mended = threading.Event()
    directory = Troubled(str(tmp_path), "counting", "run")
    with Lease(directory, lost.append) as mine:
        assert mine.is_held()
        directory.writing = partial(mended.wait, 60) if hangs else out_of_order
        until(lambda: bool(lost))
        assert not mine.is_held()
        with pytest.raises(InfrastructureError, match="another process took this one for dead"):
            mine.require()
    mended.set()
    assert ("does not answer" if hangs else "Input/output error") in lost[0]
    assert len(lost) == 1
