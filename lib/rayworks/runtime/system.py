"""``System``: the base of all ten. A Ray Tune ``Trainable`` with a typed config, sealed checkpoints and classed failures.

A subclass says what one restartable unit of work is (:meth:`advance`), what it must remember (:meth:`save_state`,
:meth:`load_state`) and what it leaves behind (:meth:`export`, :meth:`report`).
"""

import abc
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic

from ray import tune

from rayworks.core.config import ConfigT
from rayworks.core.errors import DataError
from rayworks.core.registry import SystemSpec
from rayworks.core.report import Report, Table
from rayworks.core.run_directory import EXPORT, MANIFEST, RunDirectory
from rayworks.core.sweep import TrialResult
from rayworks.runtime import checkpoints
from rayworks.runtime.checkpoints import POSITION
from rayworks.runtime.failures import classify

Metrics = dict[str, Any]
DONE = "run_done"
FAILURE = "failure.json"


class System(tune.Trainable, abc.ABC, Generic[ConfigT]):
    """One run of a system.

    Tune's ``config`` only says where the run directory is. The system's own config is read from its manifest, so that a
    resumed run takes up the changes that are safe on resume.
    """

    spec: ClassVar[SystemSpec]
    settings: ConfigT
    """The typed config; ``Trainable.config`` is Tune's raw dict."""
    reusable: ClassVar[bool] = True
    """Whether a process that has run one trial of a sweep may take up the next. False where something outlives
    :meth:`cleanup` in it: a library's global state, memory of a device."""

    @classmethod
    @abc.abstractmethod
    def bundles(cls, config: ConfigT) -> list[dict[str, float]]:
        """What the run asks of the cluster: first the bundle of the run itself, then one per worker."""

    @classmethod
    def train_bundles(cls, config: ConfigT) -> list[dict[str, float]]:
        """What Ray Train reserves for workers of the run, beside :meth:`bundles`; see :mod:`~.data_parallel`."""
        return []

    @classmethod
    def reserved(cls, config: ConfigT) -> list[dict[str, float]]:
        """Bundles that must fit on the cluster at once."""
        return [*cls.bundles(config), *cls.train_bundles(config)]

    @classmethod
    @abc.abstractmethod
    def check_inputs(cls, config: ConfigT) -> None:
        """Look for the models and data the config names, without loading them; raises what the run would."""

    @abc.abstractmethod
    def start(self) -> None:
        """Make actors and read data; called once per process, before :meth:`load_state`."""

    @abc.abstractmethod
    def advance(self) -> Metrics:
        """Do one unit of work. Doing it twice from the same state gives the same result.

        Returns:
            scalars for the curves; ``progress`` in [0, 1] and ``phase`` for the person watching.
        """

    @property
    @abc.abstractmethod
    def finished(self) -> bool:
        """Whether only the export and the report are left to do."""

    @abc.abstractmethod
    def save_state(self, folder: Path) -> None:
        """Write all that is needed to resume."""

    @abc.abstractmethod
    def load_state(self, folder: Path) -> None:
        """Go back to where :meth:`save_state` was called."""

    @abc.abstractmethod
    def export(self) -> None:
        """Write what Serve loads, with a model card, below ``export/`` of :attr:`run_directory`."""

    def export_file(self, name: str, data: bytes | str) -> None:
        """Write one file of the export."""
        self.run_directory.write(f"{EXPORT}/{name}", data)

    @abc.abstractmethod
    def report(self) -> Report:
        """Headline, tables and figures of the finished run."""

    @classmethod
    def summarise_sweep(cls, trials: Sequence[TrialResult]) -> tuple[Sequence[Table], Mapping[str, tuple[bytes, str]]]:
        """Tables, and figures by file name (PNG bytes, caption), that only this system can make of a sweep's trials."""
        return (), {}

    def __repr__(self) -> str:
        """The name of the run's process, and of its actor on the dashboard."""
        return f"{self.spec.name}/{self.run_directory.run}"

    def setup(self, config: dict[str, Any]) -> None:
        """Called by Tune in the run's actor. What fails here is raised by the first step, where it can be classed."""
        for name in ("ray.train", "ray.tune", "ray.air"):
            logging.getLogger(name).setLevel(logging.WARNING)
        # Tune moves into the trial's folder, where relative paths of the config would mean something else.
        os.chdir(os.environ.get("TUNE_ORIG_WORKING_DIR", "."))
        self._broken: Exception | None = None
        self.run_directory = RunDirectory(config["storage"], self.spec.name, config["run"])
        stored = self.run_directory.read_json(MANIFEST)["config"]
        self.settings = type(self).spec.config.model_validate(stored)  # type: ignore[assignment]  # the spec's config is ConfigT
        checkpoints.seed_random_state(self.settings.run.seed)
        try:
            self.start()
            self._go_on()
        except Exception as error:
            self._broken = error

    def step(self) -> Metrics:
        """Called by Tune until a result says it is done. A failure is left, classed, in the run directory."""
        try:
            if self._broken is not None:
                raise self._broken
            return self._advance()
        except Exception as error:
            self.run_directory.write_json(FAILURE, vars(classify(error)))
            raise

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Called by Tune after every step. A failure is left, classed, in the run directory."""
        folder = Path(checkpoint_dir)
        try:
            self.save_state(folder)
            (folder / POSITION).write_text(json.dumps({"iteration": self.iteration, "seconds": self._time_total}))
            checkpoints.save_random_state(folder)
            checkpoints.seal(folder)
        except Exception as error:
            self.run_directory.write_json(FAILURE, vars(classify(error)))
            raise

    def _go_on(self) -> None:
        """From the newest complete checkpoint that the last attempt left, where it left one."""
        with checkpoints.newest_complete(checkpoints.kept(self.run_directory)) as found:
            if found is not None:
                _, folder = found
                self.load_state(folder)
                checkpoints.load_random_state(folder)
                # Curves go on where they ended.
                position = json.loads((folder / POSITION).read_text())
                self._iteration, self._time_total = position["iteration"], position["seconds"]

    def _advance(self) -> Metrics:
        if not self.finished:
            return {**self.advance(), DONE: False}
        self.export()
        report = self.report()
        missing = [key for key in self.spec.headline if key not in report.headline]
        if missing:
            raise DataError(f"report headline: {', '.join(missing)} missing; the system's report() must fill its spec")
        report.write(self.run_directory)
        return {**scalars(report.headline), DONE: True, "phase": "done", "progress": 1.0}


def scalars(values: Any) -> Metrics:
    """The numbers among a report's headline, for the curves."""
    return {key: value for key, value in values.items() if isinstance(value, int | float)}
