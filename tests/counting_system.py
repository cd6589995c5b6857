"""The least a system can be: it counts. Used to try the runtime without a model."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from rayworks.core.config import RESUME_SAFE, Section, SystemConfig
from rayworks.core.errors import DataError
from rayworks.core.figures import draw
from rayworks.core.registry import SystemSpec
from rayworks.core.report import Report
from rayworks.runtime.system import Metrics, System


class CountingSection(Section):
    to: int = Field(4, ge=1)
    trouble: Literal["none", "data", "bug", "kill-once", "constructor", "not-finite"] = Field(
        "none", json_schema_extra=RESUME_SAFE
    )
    at: int = Field(2, ge=0, json_schema_extra=RESUME_SAFE)
    workers: int = Field(1, ge=0, json_schema_extra=RESUME_SAFE)
    pause_seconds: float = Field(0.0, ge=0, json_schema_extra=RESUME_SAFE)


class Config(SystemConfig):
    counting: CountingSection = CountingSection()


SPEC = SystemSpec(
    name="counting",
    title="Counting",
    paper="none",
    config=Config,
    system="tests.counting_system:Counting",
    smoke={"run.name": "smoke", "counting.to": 2},
    headline=("count", "total"),
    figures=("count.png",),
)


class Counting(System[Config]):
    spec = SPEC

    @classmethod
    def bundles(cls, config: Config) -> list[dict[str, float]]:
        return [{}, *[{"CPU": 1.0}] * config.counting.workers]

    @classmethod
    def check_inputs(cls, config: Config) -> None:
        """It has none."""

    def start(self) -> None:
        self.count, self.total = 0, 0.0
        self.starts = getattr(self, "starts", 0) + 1
        self.drawn = [random.random(), float(np.random.random())]

    @property
    def finished(self) -> bool:
        return self.count >= self.settings.counting.to

    def advance(self) -> Metrics:
        section = self.settings.counting
        time.sleep(section.pause_seconds)
        if section.trouble != "none" and self.count == section.at:
            self._make_trouble(section.trouble)
        self.count += 1
        self.total += self.count
        return {"count": self.count, "phase": "count", "progress": self.count / section.to}

    def _make_trouble(self, kind: str) -> None:
        if kind == "data":
            raise DataError("item 2: is poison; drop it")
        if kind == "bug":
            raise ZeroDivisionError("division by zero")
        if kind == "kill-once" and not self.run_directory.exists("killed"):
            self.run_directory.write("killed", b"")
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "not-finite":
            self.total = float("nan")

    def save_state(self, folder: Path) -> None:
        (folder / "count.json").write_text(json.dumps([self.count, self.total]))

    def load_state(self, folder: Path) -> None:
        self.count, self.total = json.loads((folder / "count.json").read_text())

    def export(self) -> None:
        self.run_directory.write_json("export/count.json", self.count)
        facts = {"process": os.getpid(), "folder": str(Path.cwd()), "starts": self.starts, "drawn": self.drawn}
        self.run_directory.write_json("export/facts.json", facts)

    def report(self) -> Report:
        with draw() as drawing:
            drawing.ax.plot(range(self.count))
        headline = {"count": self.count, "total": self.total}
        return Report(
            "counting", self.settings.run.name, "Counting", headline, figures={"count.png": (drawing.png, "")}
        )
