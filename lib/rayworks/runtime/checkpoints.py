"""Atomic checkpoints: a folder is sealed by a list of its files and their digests, written last."""

import contextlib
import hashlib
import json
import pickle
import random
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.core.run_directory import RunDirectory

EXPERIMENT = "tune"
"""Tune's own folder inside the run directory, whose state is removed at every start: nothing of ours may lie there."""
TRIAL = "trial"
"""Folder of a job's one trial below it: curves, results and checkpoints."""
CHECKPOINT = "checkpoint_"
"""Beginning of the names that Tune gives to checkpoints, before their number."""
RESUME = "resume"
"""Folder of the checkpoint that a run goes on from, when it was begun before."""
POSITION = "position.json"
"""Says in a checkpoint how many steps lie behind it."""
SEAL = "complete.json"
RANDOM_STATE = "random_state.pkl"


def seal(folder: Path) -> None:
    """Declare the folder complete."""
    files = {str(path.relative_to(folder)): _digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    partial = folder / f"{SEAL}.partial"
    partial.write_text(json.dumps(files, indent=1))
    partial.replace(folder / SEAL)


def is_complete(folder: Path) -> bool:
    """Whether every sealed file is there unchanged."""
    try:
        files = json.loads((folder / SEAL).read_text())
        return all(_digest(folder / name) == digest for name, digest in files.items())
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def newest_complete(places: Iterable[tuple[RunDirectory, str]]) -> Iterator[tuple[str, Path] | None]:
    """Of checkpoints, the complete one that most steps lie behind, the first of equals; None where none is complete.

    Their numbers do not say which it is: they begin anew at every start, and an actor that is left over seals late.

    Args:
        places: run directory and path in it of each checkpoint.

    Yields:
        its path in the run directory, and a folder that holds it as long as the context lasts.
    """
    for directory, path in sorted(places, key=lambda place: steps_behind(*place), reverse=True):
        with tempfile.TemporaryDirectory(prefix="rayworks-checkpoint-") as scratch:
            folder = directory.get_folder(path, Path(scratch) / "checkpoint")
            if is_complete(folder):
                yield path, folder
                return
    yield None


def kept(run: RunDirectory) -> list[tuple[RunDirectory, str]]:
    """Checkpoints that the last attempt left to go on from, the last kept first."""
    return [(run, f"{RESUME}/{name}") for name in reversed(run.list(RESUME)) if name.isdigit()]


def steps_behind(directory: RunDirectory, path: str) -> int:
    """Steps that lie behind a checkpoint by its own account; -1 where it gives none."""
    try:
        return int(directory.read_json(f"{path}/{POSITION}")["iteration"])
    except (OSError, DataError, LookupError, TypeError, ValueError):
        return -1


def seed_random_state(seed: int) -> None:
    """Start the process-wide generators from the run's seed, whatever the process has run before.

    torch's only where the system's modules have imported it by now.
    """
    random.seed(seeds.derive(seed, "process", "python"))
    np.random.seed(seeds.derive(seed, "process", "numpy") % 2**32)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seeds.derive_small(seed, "process", "torch"))


def save_random_state(folder: Path) -> None:
    """Keep the state of the process-wide generators (streams by name need none)."""
    states: dict[str, Any] = {"python": random.getstate(), "numpy": np.random.get_state()}
    torch = sys.modules.get("torch")
    if torch is not None:
        states["torch"] = torch.get_rng_state().numpy()
    (folder / RANDOM_STATE).write_bytes(pickle.dumps(states))


def load_random_state(folder: Path) -> None:
    """Put the process-wide generators back to where :func:`save_random_state` saw them."""
    states = pickle.loads((folder / RANDOM_STATE).read_bytes())
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch = sys.modules.get("torch")
    if torch is not None and "torch" in states:
        torch.set_rng_state(torch.from_numpy(states["torch"]))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
