"""One trial of a sweep: the system's own ``Trainable``, which here writes its manifest and knows how it ended before."""

from pathlib import Path
from typing import Any

from rayworks.core import manifest
from rayworks.core.run_directory import REPORT_HTML, REPORT_JSON, RunDirectory
from rayworks.runtime import checkpoints
from rayworks.runtime.failures import Failure, classify
from rayworks.runtime.system import DONE, EXPERIMENT, FAILURE, Metrics, System, scalars

TRIALS = "trials"
DESIGN = "design.json"
"""In a trial's run directory: number of the design, seed, varied values and the whole config."""


def trial_directory(sweep: RunDirectory, name: str) -> RunDirectory:
    """The run directory of a trial."""
    return RunDirectory(sweep.storage, sweep.system, f"{sweep.run}/{TRIALS}/{name}")


def trial_class(system: type[System[Any]]) -> Any:
    """The system as a trial of a sweep."""
    return type(f"{system.__name__}Trial", (_Trial, system), {"__doc__": system.__doc__})


class _Trial(System[Any]):
    """Goes before the system in the order of bases.

    What ended for good is not run again when Tune, whose own records may be a second behind, starts it once more: a finished
    trial answers with its report, one with bad data or a bad config with its failure.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._made_by_tune = frozenset(vars(self)) | {"_made_by_tune", "_monitor"}
        self._take_up(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called by Tune when this process takes up another trial, which finds the object as in a new one."""
        self.cleanup()
        for name in vars(self).keys() - self._made_by_tune:
            delattr(self, name)
        self._last_result = None
        self._take_up(new_config)
        return True

    def step(self) -> Metrics:
        if self._ended:
            if self.run_directory.exists(REPORT_HTML):
                return {**scalars(self.run_directory.read_json(REPORT_JSON)["headline"]), DONE: True}
            assert self._failure is not None
            raise self._failure.as_error()
        self._begin()
        try:
            result = super().step()
        except Exception as error:
            manifest.end_attempt(self.run_directory, "failed", classify(error).message)
            raise
        if result[DONE]:
            manifest.end_attempt(self.run_directory, "done")
        return result

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        if self._ended:
            checkpoints.seal(Path(checkpoint_dir))
        else:
            super().save_checkpoint(checkpoint_dir)

    def load_checkpoint(self, checkpoint: Any) -> None:
        if not self._ended:
            self._begin()
            super().load_checkpoint(checkpoint)

    def cleanup(self) -> None:
        if self._begun:
            super().cleanup()

    def _take_up(self, config: dict[str, Any]) -> None:
        self._sweep = RunDirectory(config["storage"], self.spec.name, config["sweep"])
        self._name = config["trial"]
        self.run_directory = trial_directory(self._sweep, self._name)
        stored = self.run_directory.read_json(FAILURE) if self.run_directory.exists(FAILURE) else None
        self._failure = Failure(**stored) if stored else None
        self._ended = self.run_directory.exists(REPORT_HTML) or (
            self._failure is not None and not self._failure.retriable
        )
        self._begun = False

    def _begin(self) -> None:
        """Start the system. Not in ``setup``: Tune may yet hand the trial to a process that another has left."""
        if self._begun:
            return
        run = self.run_directory
        manifest.begin_attempt(
            run, self.spec.name, type(self).spec.config.model_validate(run.read_json(DESIGN)["config"])
        )
        super().setup({"storage": run.storage, "run": run.run})
        self._begun = True

    def _checkpoint_folder(self) -> tuple[RunDirectory, str]:
        return self._sweep, f"{EXPERIMENT}/{self._name}"
