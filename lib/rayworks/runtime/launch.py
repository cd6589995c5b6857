"""A job is a ``Tuner`` with one trial: started, resumed by repeating the command, and ended with an exit code."""

import logging
import math
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray import tune

from rayworks.core import config as configs
from rayworks.core import manifest
from rayworks.core.config import SystemConfig
from rayworks.core.errors import ConfigError, InfrastructureError, RayworksError, ResumeMismatch
from rayworks.core.registry import SystemSpec
from rayworks.core.run_directory import CONFIG, REPORT_HTML, SWEEP, RunDirectory
from rayworks.runtime import experiment, placement
from rayworks.runtime.checkpoints import RESUME, TRIAL
from rayworks.runtime.data_parallel import PRIVATE
from rayworks.runtime.ending import Ending
from rayworks.runtime.failures import Failure
from rayworks.runtime.lease import Lease
from rayworks.runtime.progress import ProgressLines
from rayworks.runtime.storage import require_room, require_usable
from rayworks.runtime.system import DONE, FAILURE

RAY_ENVIRONMENT = {
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
BACKOFF_SECONDS = 2.0
KNOCK_SECONDS = 10
LARGEST_PRIVATE = 5
"""CPUs that a private Ray claims at most where the machine has fewer: four workers, and a run that waits for them."""
CREATION_ERROR = "error raised in its creation task"
"""How Ray words an exception in an actor's constructor, which is a defect and no lost machine."""


def launch(spec: SystemSpec, config: SystemConfig) -> int:
    """Run the system to its end and return the exit code of the process.

    The same call on an existing run directory resumes from the newest complete checkpoint; on a finished run it only
    says where the report is. 0 done, 2 bad config, 3 resume mismatch, 4 bad data, 75 infrastructure, 130 stopped by the
    user, 1 anything else.
    """
    with Ending() as ending:
        return ending.run(lambda: _launch(spec, config, ending))


def _launch(spec: SystemSpec, config: SystemConfig, ending: Ending) -> int:
    directory = RunDirectory(config.run.storage, spec.name, config.run.name)
    require_usable(directory)
    with Lease(directory, ending.end) as lease:
        check_resume(directory, config)
        if _is_finished(directory):
            print(f"{spec.name}/{config.run.name} is finished already; report: {directory.path(REPORT_HTML)}")
            return 0
        system = spec.load_system()
        system.check_inputs(config)
        bundles = system.bundles(config)
        reserved = [*bundles, *system.train_bundles(config)]
        attach(reserved)
        ending.listen()
        placement.require(reserved, config.compute.placement_timeout_seconds)
        lease.require()
        attempt = manifest.begin_attempt(directory, spec.name, config)

        def failed(reason: str) -> None:
            # Whoever has the lease by now has its own attempt to record.
            if lease.is_held():
                manifest.end_attempt(directory, attempt, "failed", reason)

        with ending.recorded(failed):
            directory.write(CONFIG, configs.to_yaml(config))
            _run(spec, config, directory, bundles, reserved)
            lease.require()
            directory.remove_folder(RESUME)
            manifest.end_attempt(directory, attempt, "done")
        print(f"done; report: {directory.path(REPORT_HTML)}")
        return 0


def check_resume(directory: RunDirectory, config: SystemConfig) -> None:
    """Refuse to resume a run of another config, or in the folder of a sweep.

    Raises:
        ResumeMismatch: naming each field that differs and is not safe to change.
    """
    if directory.exists(SWEEP):
        raise ResumeMismatch(f"run.name: {directory.uri} holds a sweep, not a run; choose another run.name")
    stored = manifest.read(directory)
    if stored is None:
        return
    if config.run.resume == "never":
        raise ResumeMismatch(f"run.resume: {directory.uri} exists; choose another run.name or run.resume=auto")
    refuse_old_names(stored["config"], config, f"{directory.uri}, begun by {stored['commit'] or 'an unknown version'}")
    changed = configs.differences(stored["config"], config)
    if changed:
        raise ResumeMismatch(
            f"{', '.join(changed)}: not as in {directory.uri}; restore the value{'s' if len(changed) > 1 else ''} "
            "to resume, or choose another run.name"
        )


def refuse_old_names(stored: Mapping[str, Any], config: SystemConfig, where: str) -> None:
    """Refuse to go on with a config of before fields got another name.

    Raises:
        ResumeMismatch: with the old name and the new one.
    """
    renamed = [f"{old} is called {new} now" for old, new in configs.renamed_since(stored, config).items()]
    if renamed:
        raise ResumeMismatch(
            f"{', '.join(renamed)}, but not in {where}; choose another run.name, or finish it with that version"
        )


def _is_finished(directory: RunDirectory) -> bool:
    stored = manifest.read(directory)
    return stored is not None and stored["state"] == "done" and directory.exists(REPORT_HTML)


def attach(reserved: Sequence[placement.Bundle]) -> None:
    """Join the cluster that ``RAY_ADDRESS`` names; without one, a private Ray that lives as long as this command.

    Args:
        reserved: what is going to be asked for; a private Ray is made large enough for it.

    Raises:
        InfrastructureError: there is no cluster at the address, or Ray did not start.
    """
    os.environ.update({name: value for name, value in RAY_ENVIRONMENT.items() if name not in os.environ})
    for name in ("ray.tune", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            _knock(address)
            ray.init(address=address, namespace="rayworks", logging_level=logging.WARNING)
        else:
            asked = sum(bundle.get("CPU", 0.0) for bundle in reserved)
            cpus = max(os.cpu_count() or 1, min(math.ceil(asked), LARGEST_PRIVATE))
            os.environ[PRIVATE] = "1"
            # Its dashboard would take the usual port and let anybody on this machine in.
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                namespace="rayworks",
                logging_level=logging.WARNING,
            )
    except Exception as error:
        # A Ray that does not start in time raises a bare Exception.
        if address:
            fix = "name one that is up (one started again has another address), or unset it to run on a private Ray"
            raise InfrastructureError(f"RAY_ADDRESS {address}: there is no cluster ({_head(error)}); {fix}") from None
        raise InfrastructureError(f"Ray did not start on this machine ({_head(error)}); repeat the command") from None


def _knock(address: str) -> None:
    """Raise ``OSError`` where nothing listens: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "/" not in address:
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()


def _run(
    spec: SystemSpec,
    config: SystemConfig,
    directory: RunDirectory,
    bundles: Sequence[placement.Bundle],
    reserved: Sequence[placement.Bundle],
) -> None:
    """Fit, and after an infrastructure failure fit again from the last checkpoint, at most ``max_failures`` times."""
    held = [dict(bundle) for bundle in bundles]
    trainable = experiment.placed(spec.load_system(), "Run", lambda config: held, config.run.name)
    for attempt in range(config.run.max_failures + 1):
        if directory.exists(FAILURE):
            directory.write(FAILURE, "null")
        failure = _fit(trainable, spec, config, directory)
        if failure is None:
            return
        last_one = attempt == config.run.max_failures
        if not failure.retriable or last_one:
            raise failure.as_error()
        pause = min(BACKOFF_SECONDS * 2**attempt, 60.0)
        print(f"infrastructure: {failure.message}; going on from the last checkpoint in {pause:g} s", file=sys.stderr)
        time.sleep(pause)
        if PRIVATE in os.environ:
            # Elsewhere Ray Train lets go of what its workers had, with the help of the dashboard.
            placement.let_go_of_all()
        try:
            placement.require(reserved, config.compute.placement_timeout_seconds)
        except ConfigError as error:
            raise InfrastructureError(str(error)) from None


def _fit(trainable: Any, spec: SystemSpec, config: SystemConfig, directory: RunDirectory) -> Failure | None:
    """One fit of the one trial; the failure it ended with, if any."""
    names = tune.TuneConfig(
        trial_name_creator=lambda trial: f"{spec.name}-{config.run.name}", trial_dirname_creator=lambda trial: TRIAL
    )
    where = {"storage": directory.storage, "run": directory.run}
    # With each snapshot Tune brings results and curves to the storage.
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "1"
    runs = {TRIAL: directory}
    try:
        result = experiment.fit(directory, trainable, where, names, ProgressLines(), runs, checkpoints_kept=2)[0]
    except InfrastructureError as error:
        return Failure(error.kind, str(error), "")
    if result.error is None and (result.metrics or {}).get(DONE):
        return None
    if result.error is None:
        # Tune leaves its loop so when it is told to stop, and when it cannot write down how far it is.
        require_room(directory)
        raise KeyboardInterrupt
    stored = directory.read_json(FAILURE) if directory.exists(FAILURE) else None
    if stored:
        return Failure(**stored)
    kind = RayworksError.kind if CREATION_ERROR in str(result.error) else InfrastructureError.kind
    return Failure(kind, f"the run's actor died ({_head(result.error)})", str(result.error))


def _head(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
