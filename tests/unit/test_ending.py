"""How a command ends, in a process of its own: signals are the whole process's."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

IGNORED = "import signal; signal.signal(signal.SIGINT, signal.{}); "
LATER = "threading.Timer(0.5, ending.end, ['the lease is lost']).start()"
WORK = """
import os, signal, sys, threading, time
from rayworks.runtime.ending import Ending
with Ending() as ending:
    def work():
        with ending.recorded(record):
            {asks}
            time.sleep(60)
            return 0
    def record(reason):
        os.kill(os.getpid(), signal.SIGINT)
        print("recorded:", reason)
    code = ending.run(work)
sys.exit(code)
"""


def ended(asks: str, before: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", before + WORK.format(asks=asks)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)


@pytest.mark.parametrize("interrupt", ["SIG_IGN", "SIG_DFL", "default_int_handler"])
@pytest.mark.parametrize("asks", ["os.kill(os.getpid(), signal.SIGTERM)", LATER])
def test_what_asks_for_the_end_is_heard_where_ctrl_c_is_ignored(interrupt: str, asks: str) -> None:
    end = ended(asks, IGNORED.format(interrupt))
    assert end.returncode == 75, end.stderr
    assert "recorded: " in end.stdout
    assert "repeat the command to go on" in end.stderr


def test_a_second_ctrl_c_does_not_disturb_the_record_of_the_first() -> None:
    end = ended("os.kill(os.getpid(), signal.SIGINT)")
    assert (end.returncode, end.stdout) == (130, "recorded: stopped by the user\n")
    assert "Traceback" not in end.stderr
