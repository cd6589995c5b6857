"""Tune's experiment inside a run directory: a sweep's is restored by the same command repeated, a job's begins anew.

A job has one trial, whose sealed checkpoints say all that there is to say. Tune's own snapshot of it is a second behind them,
may name checkpoints that are gone, and is missing where the driver died early, so it is never read.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune

from rayworks.core.run_directory import RunDirectory
from rayworks.runtime import checkpoints
from rayworks.runtime.system import DONE, EXPERIMENT, RESUME, TRIAL_FOLDER

Plan = tuple[dict[str, Any], tune.TuneConfig]
"""What Tune's trials differ in, and how they are chosen and named."""
CHECKPOINT = "checkpoint_"
"""Beginning of the names that Tune gives to checkpoints, before their number."""


def fit_job(
    directory: RunDirectory,
    trainable: Any,
    param_space: dict[str, Any],
    names: tune.TuneConfig,
    callback: tune.Callback,
) -> tune.ResultGrid:
    """Run a job's one trial, from the newest complete checkpoint of whatever ran here before."""
    set_aside(directory)
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "60"
    return _tuner(directory, trainable, param_space, names, callback, 2).fit()


def set_aside(directory: RunDirectory) -> None:
    """Keep the newest complete checkpoint where :meth:`.System.setup` looks for it, and drop the rest with Tune's files.

    Whatever dies in between, a complete checkpoint is there afterwards: what is kept is complete before the rest goes.
    """
    kept = directory.list(RESUME)
    numbered = [name for name in directory.list(TRIAL_FOLDER) if name.startswith(CHECKPOINT)]
    for name in reversed(numbered):
        with tempfile.TemporaryDirectory(prefix="rayworks-checkpoint-") as scratch:
            folder = directory.get_folder(f"{TRIAL_FOLDER}/{name}", Path(scratch) / name)
            if checkpoints.is_complete(folder):
                following = 1 + max((int(number) for number in kept if number.isdigit()), default=0)
                directory.put_folder(folder, f"{RESUME}/{following:06d}")
                for old in kept:
                    directory.remove_folder(f"{RESUME}/{old}")
                break
    for name in numbered:
        directory.remove_folder(f"{TRIAL_FOLDER}/{name}")
    for name in directory.list(EXPERIMENT):
        if Path(name).suffix in (".json", ".pkl"):
            directory.remove_folder(f"{EXPERIMENT}/{name}")


def fit_sweep(
    directory: RunDirectory, trainable: Any, plan: Callable[[], Plan], callback: tune.Callback
) -> tune.ResultGrid:
    """Run a sweep's trials until none is left to run; each runs until it says that it is done, or fails.

    Args:
        directory: of the sweep; the experiment lies below it.
        trainable: class of the trials, with its resources.
        plan: called when the experiment is begun, not when it is restored.
        callback: prints how it goes on.
    """
    # A snapshot costs what there are trials: short ones must not force one each.
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "auto"
    experiment = directory.path(EXPERIMENT)
    if tune.Tuner.can_restore(experiment):
        tuner = tune.Tuner.restore(experiment, trainable, resume_unfinished=True, resume_errored=True)
    else:
        tuner = _tuner(directory, trainable, *plan(), callback, 3)
    return tuner.fit()


def _tuner(
    directory: RunDirectory,
    trainable: Any,
    param_space: dict[str, Any],
    tune_config: tune.TuneConfig,
    callback: tune.Callback,
    checkpoints_kept: int,
) -> tune.Tuner:
    """Tune makes a snapshot, too, whenever a trial has made ``checkpoints_kept`` checkpoints since the last."""
    return tune.Tuner(
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
