"""Nothing that is started on one machine listens where other machines could reach it: Ray's metrics need no token."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import psutil

from cluster import local
from tests.conftest import ROOT

COMMAND = """
import sys
from rayworks import command
command.REGISTRY["counting"] = "tests.counting_system:SPEC"
sys.exit(command.main())
"""


def listening(process: psutil.Process) -> set[tuple[str, int]]:
    """Address and port of what a process and those below it listen on."""
    found = set()
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                ends = [end for end in one.net_connections(kind="tcp") if end.status == psutil.CONN_LISTEN]
                found |= {(end.laddr.ip.removeprefix("::ffff:"), end.laddr.port) for end in ends}
    return found


def test_the_local_cluster_listens_on_loopback(cluster: dict[str, str]) -> None:
    state = local.read_state()
    assert state is not None
    found = listening(psutil.Process(state["pid"]))
    assert len(found) >= 10
    assert {ip for ip, _ in found} == {"127.0.0.1"}


def test_a_private_ray_listens_on_loopback(tmp_path: Path) -> None:
    alone = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", COMMAND, "run", "counting", "--run.storage", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, env=alone, stdout=subprocess.DEVNULL) as driver:
        found = set()
        while driver.poll() is None:
            found |= listening(psutil.Process(driver.pid))
            with contextlib.suppress(subprocess.TimeoutExpired):
                driver.wait(0.1)
    assert driver.returncode == 0
    assert len(found) >= 4
    assert {ip for ip, _ in found} == {"127.0.0.1"}
