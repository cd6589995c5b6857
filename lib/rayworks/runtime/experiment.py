"""Tune's experiment inside a run directory: begun by the first command, restored by the same command repeated."""

import os
from collections.abc import Callable
from typing import Any

from ray import tune

from rayworks.core.run_directory import RunDirectory
from rayworks.runtime.system import DONE, EXPERIMENT

Plan = tuple[dict[str, Any], tune.TuneConfig]
"""What Tune's trials differ in, and how they are chosen and named."""


def fit(
    directory: RunDirectory,
    trainable: Any,
    plan: Callable[[], Plan],
    callback: tune.Callback,
    *,
    snapshot_seconds: str = "1",
    checkpoints_kept: int = 2,
) -> tune.ResultGrid:
    """Run Tune's experiment until no trial is left to run; each runs until it says that it is done, or fails.

    Args:
        directory: of the run or sweep; the experiment lies below it.
        trainable: class of the trials, with its resources.
        plan: called when the experiment is begun, not when it is restored.
        callback: prints the progress.
        snapshot_seconds: how often Tune writes down where all trials are; "auto" for at most a twentieth of its time.
        checkpoints_kept: per trial. Tune makes a snapshot, too, whenever a trial has made so many since the last.
    """
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = snapshot_seconds
    experiment = directory.path(EXPERIMENT)
    if tune.Tuner.can_restore(experiment):
        tuner = tune.Tuner.restore(experiment, trainable, resume_unfinished=True, resume_errored=True)
    else:
        param_space, tune_config = plan()
        tuner = tune.Tuner(
            trainable,
            param_space=param_space,
            tune_config=tune_config,
            run_config=tune.RunConfig(
                name=EXPERIMENT,
                storage_path=directory.uri,
                stop={DONE: True},
                checkpoint_config=tune.CheckpointConfig(num_to_keep=checkpoints_kept, checkpoint_frequency=1),
                failure_config=tune.FailureConfig(max_failures=0),
                callbacks=[callback],
                verbose=0,
            ),
        )
    return tuner.fit()
