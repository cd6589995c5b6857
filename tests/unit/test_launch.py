"""What a driver decides and writes down, without a cluster."""

from pathlib import Path

import pytest

from rayworks.core.errors import ResumeMismatch
from rayworks.core.run_directory import RunDirectory
from rayworks.runtime import launch, placement
from tests.counting_system import Config


def test_a_run_that_asks_for_nothing_needs_no_cluster() -> None:
    placement.require([{}, {"CPU": 0.0}], 0.1)


def test_a_run_of_the_name_of_a_sweep_is_refused(tmp_path: Path) -> None:
    directory = RunDirectory(str(tmp_path), "counting", "default")
    directory.write_json("sweep.json", {"state": "running"})
    with pytest.raises(ResumeMismatch, match=r"holds a sweep, not a run; choose another run\.name"):
        launch.check_resume(directory, Config())
