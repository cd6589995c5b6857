"""Supervised ``ray job submit``: ``python -m jobs.submit SYSTEM [the arguments of jobs.run]``.

The submission id is a function of system, run and storage, so repeating the command joins a job that still runs. A
job that ends with exit code 75 is submitted again and resumes; Ray itself never retries a job's driver.
"""

import argparse
import asyncio
import fnmatch
import hashlib
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from cluster import local
from jobs.run import PROGRAM
from rayworks.command import resolve, run_parser
from rayworks.core import manifest
from rayworks.core.config import SystemConfig
from rayworks.core.errors import ConfigError, InfrastructureError, RayworksError
from rayworks.core.registry import SystemSpec
from rayworks.core.run_directory import RunDirectory

ROOT = Path(__file__).resolve().parent.parent
UPLOAD_LIMIT_BYTES = 100 * 2**20
"""What the job server's HTTP body takes in Ray 2.55, whatever the package store would."""
BACKOFF_SECONDS = 5.0
RECONNECTS, RECONNECT_SECONDS = 10, 3.0
RETRY_EXIT_CODE = InfrastructureError.exit_code
FINAL = ("SUCCEEDED", "FAILED", "STOPPED")


def main(arguments: Sequence[str] | None = None) -> int:
    """Submit, stream the log, and end with the job's exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.submit", description=__doc__, parents=[_run_options()], allow_abbrev=False
    )
    parser.add_argument(
        "--attempts",
        type=int,
        default=4,
        choices=range(1, 101),
        metavar="N",
        help="submissions in all after infrastructure failures",
    )
    parser.add_argument("--no-wait", action="store_true", help="return once the job is submitted")
    options, overrides = parser.parse_known_args(arguments)
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        spec, config = resolve(options, overrides)
        check_storage(config)
        check_upload_size(ROOT)
        client = _connect()
        entrypoint = _entrypoint(options, overrides)
        return _supervise(client, spec, config, entrypoint, options.attempts, wait=not options.no_wait)
    except RayworksError as error:
        print(f"{error.kind} error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as error:
        print("\nstopped while no job was followed; repeat the command to go on", file=sys.stderr)
        return _left(error)
    finally:
        signal.signal(signal.SIGTERM, before)


def submission_id(spec: SystemSpec, config: SystemConfig) -> str:
    """The stable id of a run's job, without the attempt: one run directory, one id."""
    directory = RunDirectory(config.run.storage, spec.name, config.run.name)
    place = hashlib.sha256(directory.storage.rstrip("/").encode()).hexdigest()[:8]
    return f"{spec.name}-{config.run.name}-{place}"


def check_storage(config: SystemConfig) -> None:
    """Refuse a relative run directory, which would lie in the job's unpacked upload and be lost with it.

    Raises:
        ConfigError: naming ``run.storage``.
    """
    storage = config.run.storage
    if "://" not in storage and not storage.startswith(("/", "~")):
        raise ConfigError(f"run.storage {storage!r}: is relative; a submitted job needs an absolute path or a URI")


def check_upload_size(folder: Path, limit: int = UPLOAD_LIMIT_BYTES) -> int:
    """Bytes that the working directory would upload.

    Raises:
        ConfigError: more than the job server takes, naming the largest files.
    """
    sizes = {file: file.stat().st_size for file in _uploaded_files(folder)}
    total = sum(sizes.values())
    if total > limit:
        largest = sorted(sizes, key=lambda file: -sizes[file])[:3]
        names = ", ".join(f"{file.relative_to(folder)} ({sizes[file] / 2**20:.0f} MiB)" for file in largest)
        raise ConfigError(
            f"working directory {folder}: {total / 2**20:.0f} MiB to upload, the job server takes {limit / 2**20:.0f}; "
            f"largest: {names}; move them away or list them in .rayignore"
        )
    return total


def _run_options() -> argparse.ArgumentParser:
    """The options of ``jobs.run``, without its help, to be a parent."""
    parent = run_parser(PROGRAM)
    parent.add_help = False
    kept = [action for action in parent._actions if action.dest in ("system", "smoke", "config")]
    options = argparse.ArgumentParser(add_help=False)
    for action in kept:
        options._add_action(action)
    return options


def _uploaded_files(folder: Path) -> Iterator[Path]:
    patterns = [
        line.strip().rstrip("/")
        for name in (".gitignore", ".rayignore")
        if (folder / name).exists()
        for line in (folder / name).read_text().splitlines()
        if line.strip() and not line.startswith("#")
    ]
    for directory, names, files in os.walk(folder):
        here = Path(directory)
        names[:] = [name for name in names if not _ignored(here / name, folder, patterns)]
        yield from (here / file for file in files if not _ignored(here / file, folder, patterns))


def _ignored(path: Path, folder: Path, patterns: list[str]) -> bool:
    relative = str(path.relative_to(folder))
    return any(fnmatch.fnmatch(relative, pattern) or fnmatch.fnmatch(path.name, pattern) for pattern in patterns)


def _connect() -> Any:
    """A client of the job server that ``RAY_DASHBOARD_ADDRESS`` names, or of the local cluster."""
    try:
        address = local.join()
    except LookupError as error:
        raise InfrastructureError(str(error)) from None
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray").setLevel(logging.ERROR)

    try:
        return JobSubmissionClient(address)
    except (OSError, RuntimeError, AuthenticationError) as error:
        reason = str(error).strip().splitlines()[0].partition(". ")[0]
        raise InfrastructureError(
            f"RAY_DASHBOARD_ADDRESS {address}: no job server answers ({reason}); {local.remedy(address)}"
        ) from None


def _entrypoint(options: argparse.Namespace, overrides: Sequence[str]) -> str:
    words = ["python", "-m", "jobs.run", options.system, *(["--smoke"] if options.smoke else [])]
    if options.config is not None:
        file = options.config.resolve()
        if not file.is_relative_to(ROOT):
            raise ConfigError(f"--config {file}: is outside {ROOT}, which is what is uploaded; move it there")
        words += ["--config", str(file.relative_to(ROOT))]
    return shlex.join([*words, *overrides])


def _supervise(
    client: Any, spec: SystemSpec, config: SystemConfig, entrypoint: str, attempts: int, *, wait: bool
) -> int:
    base = submission_id(spec, config)
    taken = {job.submission_id: str(job.status) for job in client.list_jobs() if job.submission_id}
    mine = [name for name in taken if name.rpartition("-")[0] == base]
    number = max((int(name.rpartition("-")[2]) for name in mine), default=0)
    running = [name for name in mine if taken[name] not in FINAL]
    for attempt in range(1, attempts + 1):
        if running:
            job = running.pop()
            print(f"joining {job}, which is running already")
        else:
            number += 1
            job = _submit(client, f"{base}-{number}", spec, config, entrypoint)
        if not wait:
            return 0
        code = _follow(client, job)
        if code != RETRY_EXIT_CODE or attempt == attempts:
            return code
        pause = min(BACKOFF_SECONDS * 2 ** (attempt - 1), 60.0)
        print(f"{job} ended with exit code {code} (infrastructure); submitting again in {pause:g} s", file=sys.stderr)
        time.sleep(pause)
    return RETRY_EXIT_CODE


def _submit(client: Any, job: str, spec: SystemSpec, config: SystemConfig, entrypoint: str) -> str:
    commit = manifest.commit() or "unknown"
    metadata = {"system": spec.name, "run": config.run.name, "config": manifest.config_hash(config), "commit": commit}
    variables = {"PYTHONPATH": "lib", "RAYWORKS_COMMIT": commit, "RAYWORKS_SUBMISSION": job, "OMP_NUM_THREADS": "1"}
    for attempt in range(RECONNECTS + 1):
        try:
            client.submit_job(
                entrypoint=entrypoint,
                submission_id=job,
                metadata=metadata,
                runtime_env={"working_dir": str(ROOT), "env_vars": variables},
            )
        except (OSError, RuntimeError) as error:
            # A job server that has just come up, or is coming back, has no agent to give the job to yet.
            if attempt == RECONNECTS:
                raise InfrastructureError(f"{job}: the job server does not take it ({error})") from None
            time.sleep(RECONNECT_SECONDS)
        else:
            break
    print(f"submitted {job}: {entrypoint}", flush=True)
    return job


def _follow(client: Any, job: str) -> int:
    """Print the job's log until it ends; its exit code.

    Ctrl-C and SIGTERM leave the job running; a lost connection is taken up.
    """
    lost = 0
    while True:
        try:
            asyncio.run(_print_log(client, job))
            status = str(client.get_job_status(job))
            lost = 0
        except KeyboardInterrupt as error:
            stop = f"{local.EVAL} && ray job stop {job}"
            print(f"\n{job} goes on; repeat the command to join it, or stop it: {stop}", file=sys.stderr)
            return _left(error)
        except (OSError, RuntimeError) as error:
            lost += 1
            if lost > RECONNECTS:
                raise InfrastructureError(
                    f"{job}: the job server does not answer ({error}); repeat the command"
                ) from None
            time.sleep(RECONNECT_SECONDS)
            continue
        if status in FINAL:
            return _exit_code(client.get_job_info(job), job)
        time.sleep(0.5)


def _exit_code(details: Any, job: str) -> int:
    """What the job's end means: 0, its driver's code, 130 when somebody stopped it, 75 when it was killed."""
    status = str(details.status)
    if status == "SUCCEEDED":
        return 0
    # Behind the first line Ray repeats the end of the log, which has been printed.
    reason = next(iter((details.message or "no message").strip().splitlines()), "").partition(", last available logs")[
        0
    ]
    print(f"{job} {status.lower()}: {reason}", file=sys.stderr)
    if status == "STOPPED":
        return 128 + signal.SIGINT
    # A driver that was killed has no exit code of its own: the machine failed, not the work.
    code = details.driver_exit_code
    return int(code) if code is not None and code > 0 else RETRY_EXIT_CODE


def _leave(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends the following of a job as Ctrl-C does."""
    raise KeyboardInterrupt(number)


def _left(error: KeyboardInterrupt) -> int:
    """The exit code that a shell gives to a command that a signal ended."""
    return 128 + (error.args[0] if error.args else signal.SIGINT)


async def _print_log(client: Any, job: str) -> None:
    async for text in client.tail_job_logs(job):
        print(text, end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
