"""A sweep is a ``Tuner`` with a search space: every trial is an ordinary run of the system in its own run directory."""

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from ray import tune

from rayworks.core import config as configs
from rayworks.core import manifest
from rayworks.core.errors import CLASSES, InfrastructureError, ResumeMismatch
from rayworks.core.run_directory import CONFIG, MANIFEST, REPORT_HTML, REPORT_JSON, SWEEP, RunDirectory
from rayworks.core.sweep import Sweep, Trial, TrialResult
from rayworks.core.sweep_report import CSV, sweep_report, trials_csv
from rayworks.runtime import experiment, launch, placement
from rayworks.runtime.data_parallel import concurrent_runs
from rayworks.runtime.ending import Ending
from rayworks.runtime.failures import Failure
from rayworks.runtime.lease import Lease
from rayworks.runtime.progress import TrialLines
from rayworks.runtime.storage import require_room, require_usable
from rayworks.runtime.sweep_halving import ResumedHalving
from rayworks.runtime.sweep_search import SEARCH, DesignSearch, require_optuna
from rayworks.runtime.sweep_trial import DESIGN, STOPPED, TRIALS, trial_class, trial_directory
from rayworks.runtime.system import DONE, FAILURE

SWEEP_YAML = "sweep.yaml"
"""Lies beside ``sweep.json``, ``trials/``, Tune's folder and the report."""


def run_sweep(sweep: Sweep[Any]) -> int:
    """Run all trials, write the report and return the exit code of the process.

    The same call again resumes: finished trials are not run again, those that failed are tried from their last checkpoint.
    0 when every trial finished, or those that did not are reported with a data or config error of their own; 75 when
    infrastructure stopped one; the first failure's code when none finished.
    """
    with Ending() as ending:
        return ending.run(lambda: _run(sweep, ending))


def _run(sweep: Sweep[Any], ending: Ending) -> int:
    directory = RunDirectory(sweep.base.run.storage, sweep.spec.name, sweep.base.run.name)
    require_usable(directory)
    with Lease(directory, ending.end) as lease:
        check_resume(directory, sweep)
        if _state(directory) == "done":
            print(f"sweep {sweep.base.run.name} is finished already; report: {directory.path(REPORT_HTML)}")
            return 0
        if sweep.settings.search == "optuna":
            require_optuna()
        system = sweep.spec.load_system()
        launch.attach(system.reserved(sweep.base))
        ending.listen()
        configs_asked = (sweep.base, *(trial.config for trial in sweep.trials()))
        for bundles in _distinct([system.reserved(config) for config in configs_asked]):
            placement.require(bundles, sweep.base.compute.placement_timeout_seconds)
        lease.require()
        _write_state(directory, sweep, "running")

        def failed(reason: str) -> None:
            if lease.is_held():
                for name in directory.list(TRIALS):
                    _end_attempt(trial_directory(directory, name), "failed", reason)
                _write_state(directory, sweep, "failed", reason)

        with ending.recorded(failed):
            _fit_until_settled(sweep, directory)
            lease.require()
            return _report(sweep, directory)


def check_resume(directory: RunDirectory, sweep: Sweep[Any]) -> None:
    """Refuse to resume another sweep, or in the folder of a run.

    Raises:
        ResumeMismatch: naming what differs.
    """
    if directory.exists(MANIFEST):
        raise ResumeMismatch(f"run.name: {directory.uri} holds a run, not a sweep; choose another base.run.name")
    if not directory.exists(SWEEP):
        return
    if sweep.base.run.resume == "never":
        raise ResumeMismatch(f"run.resume: {directory.uri} exists; choose another run.name or run.resume=auto")
    stored, now = directory.read_json(SWEEP)["sweep"], _asked(sweep)
    launch.refuse_old_names(stored["base"], sweep.base, directory.uri)
    changed = [name for name in now["settings"] if stored["settings"].get(name) != now["settings"][name]]
    changed += [f"base.{field}" for field in configs.differences(stored["base"], sweep.base)]
    if sweep.settings.search == "optuna" and directory.list(TRIALS) and not directory.exists(SEARCH):
        raise ResumeMismatch(
            f"{SEARCH}: is not in {directory.uri}, whose trials lie there; choose another base.run.name"
        )
    if changed:
        raise ResumeMismatch(
            f"{', '.join(changed)}: not as in {directory.uri}; restore it, or choose another base.run.name"
        )


def results(sweep: Sweep[Any], directory: RunDirectory) -> list[TrialResult]:
    """How each trial that was begun ended, from its run directory, in the order of the designs."""
    found = []
    for name in directory.list(TRIALS):
        run = trial_directory(directory, name)
        if not run.exists(DESIGN):
            continue
        design = run.read_json(DESIGN)
        failure = _stored_failure(run)
        finished = run.exists(REPORT_HTML)
        stopped = run.read_json(STOPPED)["why"] if run.exists(STOPPED) and not finished else ""
        found.append(
            TrialResult(
                name,
                design["design"],
                design["seed"],
                design["values"],
                run.uri,
                report=run.read_json(REPORT_JSON) if finished else None,
                failure="" if finished or stopped else f"{failure.kind}: {failure.message}",
                retriable=not finished and not stopped and failure.retriable,
                stopped=stopped,
            )
        )
    return sorted(found, key=lambda trial: (trial.design, trial.seed))


def _fit_until_settled(sweep: Sweep[Any], directory: RunDirectory) -> None:
    """Fit, and again from the last checkpoints while infrastructure stops trials, at most ``run.max_failures`` times."""
    for trial in results(sweep, directory):
        # Its data may have been mended since.
        _forget_failure(trial_directory(directory, trial.name))
    for attempt in range(sweep.base.run.max_failures + 1):
        _fit(sweep, directory)
        lost = [trial for trial in results(sweep, directory) if trial.retriable]
        if not lost or attempt == sweep.base.run.max_failures:
            return
        pause = min(launch.BACKOFF_SECONDS * 2**attempt, 60.0)
        print(
            f"infrastructure stopped {len(lost)} trial(s) ({lost[0].failure}); going on from their last checkpoints in "
            f"{pause:g} s",
            file=sys.stderr,
        )
        time.sleep(pause)
        for trial in lost:
            _forget_failure(trial_directory(directory, trial.name))


def _fit(sweep: Sweep[Any], directory: RunDirectory) -> None:
    """Run the trials that have not ended, from their last checkpoints."""
    system = sweep.spec.load_system()

    def bundles(config: dict[str, Any]) -> list[dict[str, float]]:
        stored = trial_directory(directory, config["trial"]).read_json(DESIGN)["config"]
        asked: list[dict[str, float]] = system.bundles(sweep.spec.config.model_validate(stored))
        return asked

    known = results(sweep, directory)
    ended = [trial for trial in known if not trial.retriable]
    begun = [trial.name for trial in known if trial.retriable]
    left = sweep.planned - len(ended)
    if not left:
        return
    names = {trial.name for trial in ended}
    to_run = [trial for trial in sweep.trials() if trial.name not in names]
    for trial in to_run:
        write_design(directory, trial)
    where: dict[str, Any] = {"storage": directory.storage, "sweep": directory.run}
    if to_run:
        where["trial"] = tune.grid_search([trial.name for trial in to_run])
    # A snapshot costs what there are trials: short ones must not force one each.
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "auto"
    grid = experiment.fit(
        directory,
        experiment.placed(trial_class(system), "Trial", bundles, directory.run),
        where,
        tune.TuneConfig(
            # Workers that Ray Train has started end with the process of their run.
            reuse_actors=system.reusable and not system.train_bundles(sweep.base),
            trial_name_creator=_name,
            trial_dirname_creator=_name,
            max_concurrent_trials=_most_at_once(sweep),
            **_search(sweep, directory, ended, left),
        ),
        TrialLines(sweep.settings.metric, sweep.planned, len(ended)),
        {name: trial_directory(directory, name) for name in begun},
        checkpoints_kept=3,
    )
    for end in (grid[index] for index in range(len(grid))):
        run = trial_directory(directory, (end.config or {})["trial"])
        if end.error is None and not (end.metrics or {}).get(DONE) and not run.exists(STOPPED):
            require_room(directory)
            raise KeyboardInterrupt


def _name(trial: Any) -> str:
    return str(trial.config["trial"])


def _search(sweep: Sweep[Any], directory: RunDirectory, ended: Sequence[TrialResult], left: int) -> dict[str, Any]:
    """The part of Tune's config that says in which order designs are tried, and which are stopped."""
    if sweep.settings.asha is not None:
        names = [trial.name for trial in ended]
        return {"scheduler": ResumedHalving(sweep.settings.asha, directory, names)}
    if sweep.settings.search != "optuna":
        return {}
    return {"search_alg": DesignSearch(sweep, directory, write_design, ended), "num_samples": left}


def _most_at_once(sweep: Sweep[Any]) -> int | None:
    """Trials side by side; None where their own bundles limit them enough."""
    system = sweep.spec.load_system()
    workers = system.train_bundles(sweep.base)
    if not workers:
        return sweep.settings.concurrent or None
    room = concurrent_runs(system.bundles(sweep.base), workers)
    return min(room, sweep.settings.concurrent or room)


def write_design(directory: RunDirectory, trial: Trial[Any]) -> None:
    """Leave in the trial's run directory what it is to run."""
    run = trial_directory(directory, trial.name)
    run.write(CONFIG, configs.to_yaml(trial.config))
    values = {"design": trial.design, "seed": trial.seed, "values": dict(trial.values)}
    run.write_json(DESIGN, {**values, "config": trial.config.model_dump(mode="json")})


def _report(sweep: Sweep[Any], directory: RunDirectory) -> int:
    trials = results(sweep, directory)
    tables, figures = sweep.spec.load_system().summarise_sweep(trials)
    directory.write(CSV, trials_csv(sweep, trials))
    page = sweep_report(sweep, trials, tables, figures).write(directory)
    for trial in trials:
        reason = f"stopped early ({trial.stopped})" if trial.stopped else trial.failure
        _end_attempt(trial_directory(directory, trial.name), "failed" if reason else "done", reason)
    failed = [trial for trial in trials if trial.failure]
    for trial in failed:
        print(f"{trial.name}: {trial.failure}", file=sys.stderr)
    _write_state(directory, sweep, "failed" if failed else "done")
    stopped = sum(bool(trial.stopped) for trial in trials)
    early = f", {stopped} stopped early" if stopped else ""
    print(f"{len(trials) - len(failed) - stopped} of {len(trials)} trials finished{early}; report: {page}")
    return _exit_code(trials, failed)


def _end_attempt(run: RunDirectory, state: manifest.State, reason: str) -> None:
    """Record the end of a trial whose process was ended, and could not do it."""
    stored = manifest.read(run)
    if stored is not None and stored["state"] == "running":
        manifest.end_attempt(run, stored["attempts"][-1].get("id", ""), state, reason)


def _exit_code(trials: Sequence[TrialResult], failed: Sequence[TrialResult]) -> int:
    if any(trial.retriable for trial in failed):
        return InfrastructureError.exit_code
    if failed and len(failed) == len(trials):
        return CLASSES[failed[0].failure.partition(":")[0]].exit_code
    return 0


def _distinct(asked: Sequence[list[dict[str, float]]]) -> list[list[dict[str, float]]]:
    return [bundles for at, bundles in enumerate(asked) if bundles not in asked[:at]]


def _stored_failure(run: RunDirectory) -> Failure:
    stored = run.read_json(FAILURE) if run.exists(FAILURE) else None
    return Failure(**stored) if stored else Failure(InfrastructureError.kind, "the trial's actor died")


def _forget_failure(run: RunDirectory) -> None:
    if run.exists(FAILURE):
        run.write(FAILURE, "null")


def _asked(sweep: Sweep[Any]) -> dict[str, Any]:
    return {
        "settings": sweep.settings.model_dump(mode="json", exclude={"base"}),
        "base": sweep.base.model_dump(mode="json"),
    }


def _state(directory: RunDirectory) -> str | None:
    return directory.read_json(SWEEP)["state"] if directory.exists(SWEEP) else None


def _write_state(directory: RunDirectory, sweep: Sweep[Any], state: str, reason: str = "") -> None:
    asked = _asked(sweep)
    directory.write_json(
        SWEEP,
        {
            "system": sweep.spec.name,
            "state": state,
            "reason": reason,
            "sweep": asked,
            "versions": manifest.versions(),
            "commit": manifest.commit(),
            "written": manifest.now(),
        },
    )
    resolved = sweep.settings.model_copy(update={"base": asked["base"]})
    directory.write(SWEEP_YAML, configs.to_yaml(resolved))
