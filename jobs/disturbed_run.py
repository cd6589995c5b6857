"""A run that a command starts, watches through its files, and starts again; and what of its report must not change."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayworks.core.registry import SystemSpec, find, load
from rayworks.runtime import checkpoints
from rayworks.runtime.checkpoints import CHECKPOINT, EXPERIMENT, POSITION, RESUME, TRIAL
from rayworks.systems import REGISTRY

ROOT = Path(__file__).resolve().parent.parent
STARTS = 4
"""Of one command, the first with them."""
RUN_SECONDS = 900
POLL_SECONDS = 0.02
ELSEWHERE = (
    "import sys; from rayworks.core import config as configs; from rayworks.core.registry import load; "
    "from rayworks.runtime.launch import launch; spec = load(sys.argv[1]); "
    "sys.exit(launch(spec, configs.resolve(spec.config, smoke=spec.smoke, overrides=configs.parse_overrides(sys.argv[2:]))))"
)
"""What runs a system that is not registered."""


def spec_of(name: str) -> SystemSpec:
    """A registered system's by its name, another's by ``"module:SPEC"``.

    Raises:
        ConfigError: no system is registered under the name.
    """
    if ":" in name:
        found: SystemSpec = load(name)
        return found
    return find(REGISTRY, name)


@dataclass
class DisturbedRun:
    """The smallest run of a system, and the processes that have driven it."""

    system: str
    """As for :func:`spec_of`."""
    storage: Path
    name: str
    settings: Sequence[str]
    environment: Mapping[str, str]
    drivers: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.storage / spec_of(self.system).name / self.name

    def begin(self) -> subprocess.Popen[str]:
        """Start the command, which is the same every time."""
        command = ["-c", ELSEWHERE, self.system] if ":" in self.system else ["-m", "jobs.run", self.system, "--smoke"]
        settings = ["--run.storage", str(self.storage), "--run.name", self.name, *self.settings]
        words = [sys.executable, *command, *settings]
        with self.log.open("a") as log:
            driver = subprocess.Popen(words, cwd=ROOT, env=self.environment, stdout=log, stderr=log, text=True)
        self.drivers.append(driver)
        return driver

    @property
    def log(self) -> Path:
        """What all drivers have printed; beside the storage, which may be full."""
        return self.storage.parent / f"{self.name}.log"

    @property
    def is_done(self) -> bool:
        """Whether the last command ended with 0."""
        return bool(self.drivers) and self.drivers[-1].poll() == 0

    def sealed(self, *, intact: bool = False) -> int:
        """Steps behind the newest checkpoint that is sealed; 0 without one.

        Args:
            intact: skip those whose files are not what the seal says.
        """
        trial = self.directory / EXPERIMENT / TRIAL
        for folder in sorted(trial.glob(f"{CHECKPOINT}*"), reverse=True):
            if (folder / checkpoints.SEAL).exists() and (not intact or checkpoints.is_complete(folder)):
                reached = _position(folder)
                if reached:
                    return reached
        return 0

    def resumed_from(self) -> tuple[str, int] | None:
        """The checkpoint that the run has gone on from last, and the steps behind it; None where there is none to be read."""
        folders = sorted((self.directory / RESUME).glob("[0-9]" * 6))
        reached = _position(folders[-1]) if folders else 0
        return (folders[-1].name, reached) if reached else None

    def attempts(self) -> list[dict[str, Any]]:
        """Of the manifest."""
        found: list[dict[str, Any]] = json.loads((self.directory / "manifest.json").read_text())["attempts"]
        return found

    def end(self) -> None:
        """End the drivers that are left, which asks them to seal what they have."""
        for driver in self.drivers:
            if driver.poll() is None:
                driver.terminate()
                driver.wait(60)


def _position(checkpoint: Path) -> int:
    """0 for a checkpoint that is being written or removed."""
    try:
        return int(json.loads((checkpoint / POSITION).read_text())["iteration"])
    except (OSError, ValueError):
        return 0


def until(condition: Callable[[], Any], seconds: float) -> bool:
    """Return once it holds, or the time is over: whether it held."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def untimed(directory: Path, timed: frozenset[str]) -> dict[str, Any]:
    """The report of a run without its name and what tells time.

    Args:
        directory: of the run.
        timed: keys and table columns that hold seconds or speeds.
    """
    report = json.loads((directory / "report.json").read_text())
    for table in report["tables"]:
        columns = zip(table["columns"], *table["rows"], strict=True)
        table["rows"] = [column for column in columns if column[0] not in timed]
        table["columns"] = [name for name in table["columns"] if name not in timed]
    del report["run"]
    found: dict[str, Any] = without(report, timed)
    return found


def without(value: Any, names: frozenset[str]) -> Any:
    """The value without what any mapping inside keeps under these names."""
    if isinstance(value, dict):
        return {key: without(inner, names) for key, inner in value.items() if key not in names}
    return [without(inner, names) for inner in value] if isinstance(value, list) else value
