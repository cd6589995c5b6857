"""What a person who watches a run sees."""

import pytest

from rayworks.runtime.progress import ProgressLines
from rayworks.runtime.system import DONE


def test_only_the_end_of_a_run_is_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ProgressLines()
    for progress, done in ((0.421, False), (1.0, False), (1.0, True)):
        lines.on_trial_result(1, [], None, {"phase": "train", "progress": progress, DONE: done, "loss": 0.5})
    shown = capsys.readouterr().out.splitlines()
    assert [line.partition("%")[0] for line in shown] == [" 42 ", " 99 ", "100 "]
    assert shown[0].endswith("train      loss 0.5")
