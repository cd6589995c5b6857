"""``manifest.json``: what ran, with which config, code and versions, how often it was started and how it ended."""

import datetime
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, Literal

import yaml

from rayworks.core.config import SystemConfig
from rayworks.core.errors import DataError
from rayworks.core.run_directory import CONFIG, MANIFEST, RunDirectory

State = Literal["running", "done", "failed"]
PACKAGES = ("ray", "torch", "transformers", "peft", "numpy", "pydantic")


def config_hash(config: SystemConfig) -> str:
    """sha256 of the config as canonical JSON, 16 hex digits."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def begin_attempt(directory: RunDirectory, system: str, config: SystemConfig) -> str:
    """Record that the run was started (again) and return the attempt's id."""
    previous = read(directory)
    attempts = previous["attempts"] if previous else []
    for attempt in attempts:
        # Killed, or on a machine that is gone: nobody recorded its end.
        attempt.setdefault("outcome", "lost")
    attempt_id = uuid.uuid4().hex
    manifest = {
        "system": system,
        "run": config.run.name,
        "state": "running",
        "config": config.model_dump(mode="json"),
        "config_hash": config_hash(config),
        "seed": config.run.seed,
        "versions": versions(),
        "commit": commit(),
        "attempts": [
            *attempts,
            {
                "id": attempt_id,
                "started": now(),
                "host": socket.gethostname(),
                "submission": os.environ.get("RAY_JOB_SUBMISSION_ID") or os.environ.get("RAYWORKS_SUBMISSION"),
            },
        ],
    }
    directory.write_json(MANIFEST, manifest)
    return attempt_id


def end_attempt(directory: RunDirectory, attempt_id: str, state: State, reason: str = "") -> None:
    """Record how an attempt ended, which is the run's state unless there was a later one.

    Where the storage takes no more, say so and leave it to the next start.
    """
    try:
        manifest = read(directory)
        attempts = manifest["attempts"] if manifest else []
        for attempt in attempts:
            if attempt.get("id") == attempt_id:
                attempt |= {"ended": now(), "outcome": state, "reason": reason}
        if not manifest or not attempts:
            return
        if attempts[-1].get("id") == attempt_id:
            manifest["state"] = state
        directory.write_json(MANIFEST, manifest)
    except (OSError, DataError) as error:
        print(f"{directory.path(MANIFEST)}: the end of this attempt is not recorded ({error})", file=sys.stderr)


def read(directory: RunDirectory) -> dict[str, Any] | None:
    """The manifest, or ``None`` for a run that was never started.

    Of one that is damaged the config is taken from ``config.yaml``; its attempts are forgotten.

    Raises:
        DataError: both are damaged.
    """
    if not directory.exists(MANIFEST):
        return None
    try:
        manifest = directory.read_json(MANIFEST)
        if isinstance(manifest, dict) and manifest.keys() >= {"state", "config", "commit", "attempts"}:
            return manifest
        raise DataError(
            f"{directory.path(MANIFEST)}: is no manifest; restore it from a copy, or choose another run.name"
        )
    except DataError:
        config = _written_config(directory)
        if config is None:
            raise
    print(f"{directory.path(MANIFEST)}: is damaged; the run goes on with its {CONFIG}", file=sys.stderr)
    return {"state": "failed", "config": config, "commit": None, "attempts": []}


def _written_config(directory: RunDirectory) -> dict[str, Any] | None:
    try:
        config = yaml.safe_load(directory.read(CONFIG))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return config if isinstance(config, dict) else None


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of the source tree, with ``+changes`` when it is not clean; ``None`` outside a checkout.

    ``RAYWORKS_COMMIT`` wins: an uploaded working directory has no ``.git``, so whoever submits it says.
    """
    if "RAYWORKS_COMMIT" in os.environ:
        return os.environ["RAYWORKS_COMMIT"]
    return _checked_out()


@functools.cache
def _checked_out() -> str | None:
    folder = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
