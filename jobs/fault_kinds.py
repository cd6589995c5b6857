"""What can happen to a run: each fault as a function that makes it happen, and what the command must do then."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from jobs.disturbed_run import DisturbedRun, until
from rayworks.core.errors import InfrastructureError
from rayworks.runtime import checkpoints
from rayworks.runtime.checkpoints import CHECKPOINT, EXPERIMENT, POSITION, TRIAL

RUN_ACTOR = "Run"
"""End of the class name that Tune gives to the actor of a run."""
WORKERS = ("_Host", "RayTrainWorker", "TeamRunner")
"""Classes of the actors that work for one."""
STOPPED_SECONDS = 4.0
DISK_BYTES = 2 * 2**30
"""Room for any system's small run and all its checkpoints."""
AGAIN = InfrastructureError.exit_code
Mend = Callable[[], None]


class NotHere(Exception):
    """The fault can not be made on this machine or with this run; the message says why."""


def nothing() -> None:
    """What has to be mended after most faults."""


@dataclass(frozen=True)
class Fault:
    """One row of the matrix."""

    name: str
    inject: Callable[[DisturbedRun], Mend]
    """Makes it happen; returns what mends it before the command is repeated."""
    ends: frozenset[int]
    """With which exit codes the disturbed command may end; 0 where it has to go on by itself."""
    own_cluster: bool = False
    """Whether it harms more than the run, so that nothing else may be on the cluster."""
    small_disk: bool = False


def _kill_worker(run: DisturbedRun) -> Mend:
    os.kill(_workers(run)[0].pid, signal.SIGKILL)
    return nothing


def _kill_run_actor(run: DisturbedRun) -> Mend:
    found = [actor for actor in actors(run) if actor.class_name.endswith(RUN_ACTOR)]
    os.kill(found[0].pid, signal.SIGKILL)
    return nothing


def _signal_driver(number: signal.Signals) -> Callable[[DisturbedRun], Mend]:
    def send(run: DisturbedRun) -> Mend:
        run.drivers[-1].send_signal(number)
        return nothing

    return send


def _kill_node(run: DisturbedRun) -> Mend:
    from ray.util.state import list_nodes

    heads = {node.node_id for node in list_nodes(_dashboard(run)) if node.is_head_node}
    outside = [actor for actor in actors(run) if actor.node_id not in heads]
    if not outside:
        raise NotHere("the whole run is on the head node; give it more --compute.workers than a node holds")
    working = [actor for actor in outside if actor.class_name in WORKERS]
    # Whatever a node runs was started by its raylet.
    raylet = psutil.Process((working or outside)[0].pid).parent()
    assert raylet is not None and raylet.name() == "raylet", raylet
    raylet.kill()
    return nothing


def _corrupt_newest(run: DisturbedRun) -> Mend:
    run.drivers[-1].kill()
    run.drivers[-1].wait()
    # What the actor of a dead driver was writing may still appear.
    until(lambda: not actors(run), 30)
    newest = max((run.directory / EXPERIMENT / TRIAL).glob(f"{CHECKPOINT}*"))
    files = [path for path in newest.iterdir() if path.name not in (checkpoints.SEAL, POSITION)]
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 0xFF
    largest.write_bytes(data)
    return nothing


def _fill_disk(run: DisturbedRun) -> Mend:
    filler = run.storage / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (2**20, 2**10):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    return filler.unlink


def _make_read_only(run: DisturbedRun) -> Mend:
    def remount(how: str) -> bool:
        mounted = subprocess.run(["mount", "-o", f"remount,{how}", run.storage], capture_output=True, check=False)
        return mounted.returncode == 0

    # Refused while anybody has a file open for writing.
    if not until(lambda: remount("ro"), 30):
        raise NotHere("its files were open for writing at every try")

    def mend() -> None:
        remount("rw")

    return mend


def _stop_worker(run: DisturbedRun) -> Mend:
    stopped = _workers(run)[0].pid
    os.kill(stopped, signal.SIGSTOP)
    time.sleep(STOPPED_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.kill(stopped, signal.SIGCONT)
    return nothing


def _begin_second(run: DisturbedRun) -> Mend:
    first = run.drivers.pop()
    second = run.begin()
    run.drivers = [second, first]
    return nothing


FAULTS = (
    Fault("worker actor killed", _kill_worker, frozenset({0})),
    Fault("run actor killed", _kill_run_actor, frozenset({0})),
    Fault("driver SIGKILL", _signal_driver(signal.SIGKILL), frozenset({-signal.SIGKILL})),
    Fault("driver SIGTERM", _signal_driver(signal.SIGTERM), frozenset({AGAIN})),
    Fault("node killed", _kill_node, frozenset({0, AGAIN}), own_cluster=True),
    Fault("newest checkpoint corrupted", _corrupt_newest, frozenset({-signal.SIGKILL})),
    Fault("disk full", _fill_disk, frozenset({AGAIN}), small_disk=True),
    Fault("read-only storage", _make_read_only, frozenset({AGAIN}), small_disk=True),
    Fault("slow node", _stop_worker, frozenset({0})),
    Fault("two drivers", _begin_second, frozenset({0})),
)


def actors(run: DisturbedRun) -> list[Any]:
    """Living actors of the run's last driver; of nobody else's."""
    from ray.util.state import list_actors, list_jobs

    mine = {
        job.job_id
        for job in list_jobs(_dashboard(run))
        if job.driver_info and int(job.driver_info.pid) == run.drivers[-1].pid
    }
    alive = list_actors(_dashboard(run), filters=[("state", "=", "ALIVE")])
    return [actor for actor in alive if actor.pid and actor.job_id in mine]


def _workers(run: DisturbedRun) -> list[Any]:
    until(lambda: any(actor.class_name in WORKERS for actor in actors(run)), 5)
    found = [actor for actor in actors(run) if actor.class_name in WORKERS]
    if not found:
        raise NotHere("it has no worker actors at that step")
    return found


def _dashboard(run: DisturbedRun) -> str:
    return run.environment["RAY_DASHBOARD_ADDRESS"]


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of its own on the folder.

    Raises:
        NotHere: only root may mount one.
    """
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        raise NotHere("only root may mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
