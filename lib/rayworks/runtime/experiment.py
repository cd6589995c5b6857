"""Tune's experiment inside a run directory: a sweep's is restored by the same command repeated, a job's begins anew.

A job has one trial, whose sealed checkpoints say all that there is to say. Tune's own snapshot of it is a second behind them,
may name checkpoints that are gone, and is missing where the driver died early, so it is never read.
"""

import csv
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune

from rayworks.core.run_directory import RunDirectory
from rayworks.runtime import checkpoints
from rayworks.runtime.system import DONE, EXPERIMENT, POSITION, RESUME, TRIAL_FOLDER

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
    # With each snapshot Tune brings results and curves to the storage.
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "1"
    return _tuner(directory, trainable, param_space, names, [EarlierResults(directory), callback], 2).fit()


def set_aside(directory: RunDirectory) -> None:
    """Keep the newest complete checkpoint where :meth:`.System.setup` looks for it, and drop the rest with Tune's files.

    Whatever dies in between, a complete checkpoint is there afterwards: what is kept is complete before the rest goes.
    """
    kept = directory.list(RESUME)
    numbered = [name for name in directory.list(TRIAL_FOLDER) if name.startswith(CHECKPOINT)]
    if not any(_kept(directory, name, kept) for name in reversed(numbered)) and numbered and not kept:
        names = ", ".join(numbered)
        print(f"{names}: no checkpoint is complete; the run starts again from its beginning", file=sys.stderr)
    for name in numbered:
        directory.remove_folder(f"{TRIAL_FOLDER}/{name}")
    for name in directory.list(EXPERIMENT):
        if Path(name).suffix in (".json", ".pkl"):
            directory.remove_folder(f"{EXPERIMENT}/{name}")


def _kept(directory: RunDirectory, name: str, before: list[str]) -> bool:
    """Whether a checkpoint of the trial is complete, and so was kept in place of those before."""
    with tempfile.TemporaryDirectory(prefix="rayworks-checkpoint-") as scratch:
        folder = directory.get_folder(f"{TRIAL_FOLDER}/{name}", Path(scratch) / name)
        if not checkpoints.is_complete(folder):
            return False
        following = 1 + max((int(number) for number in before if number.isdigit()), default=0)
        directory.put_folder(folder, f"{RESUME}/{following:06d}")
    for old in before:
        directory.remove_folder(f"{RESUME}/{old}")
    return True


class EarlierResults(tune.Callback):
    """Lets the files of results go on where the last attempt left them: Tune begins those of a new trial empty.

    Results beyond the checkpoint that the run goes on from come again, so that they are left out.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune before its own writers open their files."""
        reached = _iteration_kept(self._directory)
        trial.init_local_path()
        for name, kept in (("result.json", _json_until), ("progress.csv", _csv_until)):
            stored = f"{TRIAL_FOLDER}/{name}"
            if reached and self._directory.exists(stored):
                Path(trial.local_path, name).write_text(kept(self._directory.read(stored).decode(), reached))


def _iteration_kept(directory: RunDirectory) -> int:
    """Steps that lie behind the checkpoint that the run goes on from; 0 where there is none."""
    kept = [name for name in directory.list(RESUME) if name.isdigit()]
    return int(directory.read_json(f"{RESUME}/{kept[-1]}/{POSITION}")["iteration"]) if kept else 0


def _json_until(text: str, iteration: int) -> str:
    lines = [line for line in text.splitlines() if line.endswith("}")]
    return "".join(f"{line}\n" for line in lines if json.loads(line)["training_iteration"] <= iteration)


def _csv_until(text: str, iteration: int) -> str:
    rows = list(csv.reader(io.StringIO(text)))
    column = rows[0].index("training_iteration")
    whole = (row for row in rows[1:] if len(row) == len(rows[0]))
    written = io.StringIO()
    csv.writer(written).writerows([rows[0], *(row for row in whole if int(row[column]) <= iteration)])
    return written.getvalue()


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
        tuner = _tuner(directory, trainable, *plan(), [callback], 3)
    return tuner.fit()


def _tuner(
    directory: RunDirectory,
    trainable: Any,
    param_space: dict[str, Any],
    tune_config: tune.TuneConfig,
    callbacks: list[tune.Callback],
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
            callbacks=callbacks,
            verbose=0,
        ),
    )
