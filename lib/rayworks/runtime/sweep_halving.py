"""Trials that fall behind others are stopped early: Tune's ASHA, with what the trials before this process reached."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from rayworks.core.run_directory import RunDirectory
from rayworks.core.sweep import Halving
from rayworks.runtime.experiment import earlier_results
from rayworks.runtime.sweep_trial import STOPPED, trial_directory


class ResumedHalving(ASHAScheduler):
    """Successive halving (Li et al. 2020, ASHA) over all attempts of a sweep.

    Args:
        settings: from the sweep's file.
        directory: of the sweep, where results of earlier attempts lie and stopped trials are marked at once.
        ended: names of the trials that will not run again.
    """

    def __init__(self, settings: Halving, directory: RunDirectory, ended: Sequence[str]) -> None:
        super().__init__(
            time_attr=settings.time,
            metric=settings.metric,
            mode=settings.mode,
            grace_period=settings.first,
            reduction_factor=settings.reduction,
            max_t=settings.last,
        )
        self._settings, self._directory = settings, directory
        for name in ended:
            self.on_trial_add(None, SimpleNamespace(trial_id=name, config={"trial": name}))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Called by Tune; what the trial has reached already decides about others, not again about itself."""
        super().on_trial_add(tune_controller, trial)
        for result in earlier_results(self._directory, trial.config["trial"]):
            super().on_trial_result(tune_controller, trial, result)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Called by Tune with each result of a trial that is not done."""
        action: str = super().on_trial_result(tune_controller, trial, result)
        if action == TrialScheduler.STOP:
            time, metric = self._settings.time, self._settings.metric
            why = f"{time} {result[time]}, {metric} {result[metric]:.4g}"
            trial_directory(self._directory, trial.config["trial"]).write_json(STOPPED, {"why": why})
        return action
