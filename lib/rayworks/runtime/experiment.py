"""Tune's experiment inside a run directory, which begins anew at every start; what it goes on from are sealed checkpoints.

They say all that there is to say. Tune's own snapshot is seconds behind them, may name checkpoints that are gone, is missing
where the driver died early and left empty by a full disk, so it is never read.
"""

import contextlib
import csv
import io
import json
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.util.placement_group import PlacementGroup, placement_group

from rayworks.core.errors import InfrastructureError
from rayworks.core.run_directory import RunDirectory
from rayworks.runtime import checkpoints
from rayworks.runtime.checkpoints import CHECKPOINT, EXPERIMENT, RESUME
from rayworks.runtime.storage import blamed_for_failures
from rayworks.runtime.system import DONE, System

UNEXPECTED = "Caught unexpected exception: "
"""How Tune begins to tell of the end of an actor for which it has no rule."""


def fit(
    directory: RunDirectory,
    trainable: Any,
    param_space: dict[str, Any],
    tune_config: tune.TuneConfig,
    callback: tune.Callback,
    runs: Mapping[str, RunDirectory],
    *,
    checkpoints_kept: int,
) -> tune.ResultGrid:
    """Run trials until none is left to run, each from the newest complete checkpoint of whatever ran here before.

    Args:
        directory: the experiment lies below it.
        trainable: class of the trials, with its resources.
        param_space: what Tune's trials differ in.
        tune_config: how they are chosen and named; a trial's name is that of its folder.
        callback: prints how it goes on.
        runs: run directories by name of all trials that were begun before and are to go on; of no others.
        checkpoints_kept: per trial. Tune makes a snapshot, too, whenever a trial has made as many since the last.

    Raises:
        InfrastructureError: Ray has ended a trial's actor, as where a node runs out of memory.
    """
    for name, run in runs.items():
        set_aside(directory, name, run)
    for name in directory.list(EXPERIMENT):
        if Path(name).suffix in (".json", ".pkl"):
            directory.remove_folder(f"{EXPERIMENT}/{name}")
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
            callbacks=[EarlierResults(directory, runs), callback],
            verbose=0,
        ),
    )
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        with blamed_for_failures(directory):
            return tuner.fit()
    except RuntimeError as error:
        # Tune knows of actors that die, and of none that Ray kills to save a node's memory.
        if not str(error).startswith(UNEXPECTED):
            raise
        raise InfrastructureError(f"a trial's actor is lost ({str(error).removeprefix(UNEXPECTED)[:300]})") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            # Tune leaves its own behind, which nobody listens to any more.
            signal.signal(signal.SIGINT, interrupt)


def placed(
    system: type[System[Any]], kind: str, bundles: Callable[[dict[str, Any]], list[dict[str, float]]], run: str
) -> Any:
    """A system's class as Tune's trials run it, named on the dashboard: actor class, process and placement group.

    Args:
        system: whose steps they make.
        kind: of what its actors are, ``Run`` or ``Trial``.
        bundles: what a trial with this config of Tune's reserves.
        run: beginning of the names of the placement groups.
    """
    name = f"{system.spec.name}/{run}"
    trainable = tune.with_resources(system, lambda config: _Reserved(bundles(config), name))
    trainable.__qualname__ = trainable.__name__ = f"{system.__name__}{kind}"
    return trainable


class _Reserved(tune.PlacementGroupFactory):
    """Equal for all trials that ask for the same, which so can take over each other's actor."""

    def __init__(self, bundles: list[dict[str, float]], name: str) -> None:
        super().__init__(bundles)
        self._name = name

    def to_placement_group(self) -> PlacementGroup:
        """Called by Tune for each of them; on a cluster no two groups may have one name."""
        group: PlacementGroup = placement_group(self.bundles, name=f"{self._name}/{uuid.uuid4().hex[:8]}")
        return group


def set_aside(directory: RunDirectory, name: str, run: RunDirectory) -> None:
    """Keep a trial's complete checkpoint of most steps where :meth:`.System.setup` looks for it, and drop the rest.

    Whatever dies in between, a complete checkpoint is there afterwards: what is kept is complete before the rest goes.
    """
    folder = f"{EXPERIMENT}/{name}"
    numbered = [entry for entry in directory.list(folder) if entry.startswith(CHECKPOINT)]
    kept = checkpoints.kept(run)
    made = [(directory, f"{folder}/{entry}") for entry in reversed(numbered)]
    with checkpoints.newest_complete([*kept, *made]) as found:
        if found is None:
            _say_that_it_starts_again(name, [path for _, path in (*kept, *made)])
        else:
            newest, local = found
            if (run, newest) not in kept:
                newest = f"{RESUME}/{1 + max((int(Path(path).name) for _, path in kept), default=0):06d}"
                run.put_folder(local, newest)
            for entry in run.list(RESUME):
                if f"{RESUME}/{entry}" != newest:
                    run.remove_folder(f"{RESUME}/{entry}")
    for entry in numbered:
        directory.remove_folder(f"{folder}/{entry}")


def _say_that_it_starts_again(name: str, damaged: list[str]) -> None:
    if damaged:
        print(
            f"{name} {', '.join(damaged)}: no checkpoint is complete; the run starts again from its beginning",
            file=sys.stderr,
        )


class EarlierResults(tune.Callback):
    """Lets the files of results go on where the last attempt left them: Tune begins those of a new trial empty.

    Results beyond the checkpoint that the run goes on from come again, so that they are left out.
    """

    def __init__(self, directory: RunDirectory, runs: Mapping[str, RunDirectory]) -> None:
        self._directory, self._runs = directory, runs

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune before its own writers open their files."""
        name = Path(trial.local_path).name
        reached = _iteration_kept(self._runs[name]) if name in self._runs else 0
        trial.init_local_path()
        for file, kept in (("result.json", _json_until), ("progress.csv", _csv_until)):
            stored = f"{EXPERIMENT}/{name}/{file}"
            if reached and self._directory.exists(stored):
                Path(trial.local_path, file).write_text(
                    kept(self._directory.read(stored).decode(errors="replace"), reached)
                )


def earlier_results(directory: RunDirectory, name: str) -> list[dict[str, Any]]:
    """Results that a trial of before has left, oldest first; those of a driver's last seconds may be missing."""
    stored = f"{EXPERIMENT}/{name}/result.json"
    return _results(directory.read(stored).decode(errors="replace") if directory.exists(stored) else "")


def _iteration_kept(run: RunDirectory) -> int:
    """Steps that lie behind the checkpoint that the run goes on from; 0 where there is none."""
    with checkpoints.newest_complete(checkpoints.kept(run)) as found:
        return max(0, checkpoints.steps_behind(run, found[0])) if found else 0


def _results(text: str) -> list[dict[str, Any]]:
    """Those that are whole: the file may end anywhere."""
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            result = json.loads(line)
            if isinstance(result, dict) and isinstance(result.get("training_iteration"), int):
                found.append(result)
    return found


def _json_until(text: str, iteration: int) -> str:
    return "".join(f"{json.dumps(result)}\n" for result in _results(text) if result["training_iteration"] <= iteration)


def _csv_until(text: str, iteration: int) -> str:
    header, *rows = csv.reader(io.StringIO(text or "\n"))
    if "training_iteration" not in header:
        return ""
    column = header.index("training_iteration")
    whole = (row for row in rows if len(row) == len(header))
    written = io.StringIO()
    csv.writer(written).writerows([header, *(row for row in whole if int(row[column]) <= iteration)])
    return written.getvalue()
