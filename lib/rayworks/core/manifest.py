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

from rayworks.core.config import SystemConfig
from rayworks.core.run_directory import MANIFEST, RunDirectory

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
        if manifest and attempts[-1].get("id") == attempt_id:
            manifest["state"] = state
        if manifest:
            directory.write_json(MANIFEST, manifest)
    except OSError as error:
        print(f"{directory.path(MANIFEST)}: the end of this attempt is not recorded ({error})", file=sys.stderr)


def read(directory: RunDirectory) -> dict[str, Any] | None:
    """The manifest, or ``None`` for a run that was never started."""
    if not directory.exists(MANIFEST):
        return None
    manifest: dict[str, Any] = directory.read_json(MANIFEST)
    return manifest


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
