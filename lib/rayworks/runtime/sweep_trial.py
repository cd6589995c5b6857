"""One trial of a sweep: the system's own ``Trainable``, which here writes its manifest."""

from typing import Any

from rayworks.core import manifest
from rayworks.core.run_directory import RunDirectory
from rayworks.runtime.checkpoints import RESUME
from rayworks.runtime.failures import classify
from rayworks.runtime.system import DONE, Metrics, System

TRIALS = "trials"
DESIGN = "design.json"
"""In a trial's run directory: number of the design, seed, varied values and the whole config."""
STOPPED = "stopped.json"
"""In the run directory of a trial that fell behind: when, and what it had reached."""


def trial_directory(sweep: RunDirectory, name: str) -> RunDirectory:
    """The run directory of a trial."""
    return RunDirectory(sweep.storage, sweep.system, f"{sweep.run}/{TRIALS}/{name}")


def trial_class(system: type[System[Any]]) -> Any:
    """The system as a trial of a sweep."""
    return type(system.__name__, (_Trial, system), {"__doc__": system.__doc__})


class _Trial(System[Any]):
    """Goes before the system in the order of bases."""

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
        if not self._begun:
            self._begin()
        try:
            result = super().step()
        except Exception as error:
            manifest.end_attempt(self.run_directory, self._attempt, "failed", classify(error).message)
            raise
        if result[DONE]:
            self.run_directory.remove_folder(RESUME)
            manifest.end_attempt(self.run_directory, self._attempt, "done")
        return result

    def cleanup(self) -> None:
        if self._begun:
            super().cleanup()

    def _take_up(self, config: dict[str, Any]) -> None:
        self.run_directory = trial_directory(
            RunDirectory(config["storage"], self.spec.name, config["sweep"]), config["trial"]
        )
        self._begun = False

    def _begin(self) -> None:
        """Start the system. Not in ``setup``: Tune may yet hand the trial to a process that another has left."""
        run = self.run_directory
        self._attempt = manifest.begin_attempt(
            run, self.spec.name, type(self).spec.config.model_validate(run.read_json(DESIGN)["config"])
        )
        super().setup({"storage": run.storage, "run": run.run})
        self._begun = True
