"""Runs that die in their middle, and what the repeated command must leave: the report of a run that nothing happened to."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.conftest import ROOT, FinishedRun
from tests.observing import actor_processes, until

DRIVER = "driver"
TRIES = 3


def checkpoint(number: int) -> str:
    """Stands for a checkpoint of this number or a later one; a run keeps the last two only."""
    return f"checkpoint {number}"


def is_there(directory: Path, what: str) -> bool:
    """Whether a file of the run, or such a checkpoint, is there."""
    word, _, number = what.partition(" ")
    if not number:
        return (directory / what).exists()
    return any(int(path.name[-6:]) >= int(number) for path in directory.glob(f"tune/trial/{word}_*"))


@dataclass(frozen=True)
class Killed:
    """How a system's smallest run is disturbed."""

    deaths: tuple[tuple[str, str], ...] = ((checkpoint(1), DRIVER),)
    """A file of the run or a checkpoint, and who dies by SIGKILL once it is there: the driver, or an actor of a class."""
    changes: tuple[str, ...] = ("--compute.workers", "2")
    """Settings that must not change the result."""
    models: str = ""
    """Pattern of files that must be equal byte for byte."""


KILLED = {
    "alignment": Killed(changes=()),
    "augmentation": Killed(deaths=((checkpoint(2), "_Host"), (checkpoint(4), DRIVER)), models="export/*.safetensors"),
    "difficulty": Killed(),
    "federation": Killed(
        deaths=((checkpoint(2), "_Host"), (checkpoint(5), DRIVER)), models="trainings/*/model.safetensors"
    ),
    "marl": Killed(
        deaths=((checkpoint(2), "TeamRunner"), (checkpoint(4), "_Host"), (checkpoint(6), DRIVER)),
        changes=("--compute.workers", "2", "--sampling.runners", "1"),
        models="trainings/*/*.safetensors",
    ),
    "reasoning": Killed(
        deaths=((checkpoint(3), "_Host"), (checkpoint(6), DRIVER)), models="policies/*/model.safetensors"
    ),
    "recommendation": Killed(
        deaths=(("training/progress.json", "RayTrainWorker"), ("training/acceptance-0/done.json", DRIVER)),
    ),
    "refusal": Killed(deaths=((checkpoint(4), "_Host"), (checkpoint(7), DRIVER))),
    "regulation": Killed(),
    "supervision": Killed(deaths=((checkpoint(2), "_Host"), (checkpoint(4), DRIVER)), models="chains/*/*/chain.npz"),
}


def killed_and_repeated(
    system: str, straight: FinishedRun, cluster: dict[str, str], killed: Killed | None = None
) -> Path:
    """Run the straight run's command under another name until all deaths have happened, repeat it, and return its folder.

    On a machine that stands still for seconds a run may be over before its driver is killed; then another one is.
    """
    killed, environment = killed or KILLED[system], {**os.environ, **cluster}
    for attempt in range(TRIES):
        name = f"killed-{attempt}"
        directory = straight.directory.parent / name
        command = [sys.executable, "-m", "jobs.run", *straight.arguments[:-1], name, *killed.changes]
        with (
            (straight.inputs / f"{name}.log").open("w") as printed,
            subprocess.Popen(command, cwd=ROOT, env=environment, stdout=printed, stderr=subprocess.STDOUT) as driver,
        ):
            for what, victim in killed.deaths:
                until(partial(_has_come, directory, what, driver))
                if driver.poll() is None:
                    os.kill(driver.pid if victim == DRIVER else actor_processes(victim)[0], signal.SIGKILL)
        if json.loads((directory / "manifest.json").read_text())["state"] == "running":
            break
    assert not (directory / "report.json").exists(), f"{TRIES} runs were over before their drivers died"
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert again.returncode == 0, again.stdout[-2000:] + again.stderr[-2000:]
    assert len(json.loads((directory / "manifest.json").read_text())["attempts"]) == 2
    results = [json.loads(line) for line in (directory / "tune/trial/result.json").read_text().splitlines()]
    iterations = [result["training_iteration"] for result in results]
    assert iterations == sorted(set(iterations)), "curves go on where they ended"
    return directory


def _has_come(directory: Path, what: str, driver: subprocess.Popen[bytes]) -> bool:
    return is_there(directory, what) or driver.poll() is not None
