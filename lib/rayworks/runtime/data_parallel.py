"""Training by several workers in step, through Ray Train, inside a run.

The run waits while its workers train. They keep their state in the run directory: if a worker, a node or the driver
dies, training resumes from the last state kept.
"""

import logging
import math
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray

from rayworks.core.config import ComputeSection
from rayworks.core.errors import InfrastructureError
from rayworks.core.run_directory import RunDirectory
from rayworks.runtime.failures import Failure, classify
from rayworks.runtime.placement import Bundle, worker_bundle

WAITING = {"CPU": 0.01}
"""What a run holds itself while workers that Ray Train reserves do its work."""
FAILURE = "failure.json"
RECORD = ".json"
POLL_SECONDS = 0.2
STOP_SECONDS = 30.0
_STOPPING: set[tuple[str, str]] = set()
PRIVATE = "RAYWORKS_PRIVATE_RAY"
"""Environment variable that is set in all processes of a Ray that lives as long as a command."""

Loop = Callable[[Mapping[str, Any], RunDirectory, str], None]
"""A training loop: its arguments, the run directory, and the folder there that is its own.

It keeps its state in that folder and begins from what it finds there. Every worker runs it; ``ray.train.get_context()`` tells
which one it is.
"""


def own_bundle(compute: ComputeSection) -> dict[str, float]:
    """The bundle of the run itself: one worker trains in the run's own process, several have bundles of their own."""
    return worker_bundle(compute) if compute.workers == 1 else dict(WAITING)


def worker_bundles(compute: ComputeSection) -> list[dict[str, float]]:
    """What Ray Train reserves beside the run's own bundle."""
    return [] if compute.workers == 1 else [worker_bundle(compute)] * compute.workers


class DataParallel:
    """One training by ``compute.workers`` workers, begun when made, that is waited for bit by bit.

    Args:
        loop: see :data:`Loop`.
        arguments: of the loop; large values as Ray object references.
        directory: of the run.
        folder: of this training, inside it.
        compute: what each worker asks for.
        retries: how often the group is started again after one of its workers died.
    """

    def __init__(
        self,
        loop: Loop,
        arguments: Mapping[str, Any],
        directory: RunDirectory,
        folder: str,
        compute: ComputeSection,
        retries: int = 3,
    ) -> None:
        self._directory, self._folder, self._alone = directory, folder, compute.workers == 1
        self._failure: BaseException | None = None
        if directory.exists(f"{folder}/{FAILURE}"):
            directory.write(f"{folder}/{FAILURE}", "null")
        trainer = _trainer(loop, arguments, directory, folder, compute, retries)
        self._thread = threading.Thread(target=self._fit, args=(trainer,), daemon=True, name=f"train {folder}")
        self._thread.start()

    def wait(self, arrived: Callable[[], bool] = lambda: False) -> bool:
        """Wait until ``arrived`` says so (True) or the training is over (False).

        Raises:
            RayworksError: the training failed.
        """
        while True:
            running = self._thread.is_alive()
            if arrived():
                return True
            if not running:
                self._raise()
                return False
            self._thread.join(POLL_SECONDS)

    def next_record(self, folder: str, step: int) -> dict[str, float]:
        """What :func:`train_in_step` has told, in a folder, of the first piece that ends beyond a step; waits for it.

        Raises:
            RayworksError: the training failed.
        """
        beyond: list[str] = []

        def arrived() -> bool:
            beyond[:] = [name for name in _records(self._directory, folder) if int(Path(name).stem) > step]
            return bool(beyond)

        if not self.wait(arrived):
            raise InfrastructureError(f"{folder}: training ended at step {step}, before its time")
        record: dict[str, float] = self._directory.read_json(f"{folder}/{beyond[0]}")
        return record

    def stop(self) -> None:
        """End it before it is over. One worker ends at its next epoch; several end with the process of the run."""
        if not self._alone:
            return
        key = (self._directory.uri, self._folder)
        _STOPPING.add(key)
        self._thread.join(STOP_SECONDS)
        _STOPPING.discard(key)

    def _fit(self, trainer: Any) -> None:
        try:
            trainer.fit()
        except BaseException as error:
            self._failure = error

    def _raise(self) -> None:
        where = f"{self._folder}/{FAILURE}"
        stored = self._directory.read_json(where) if self._directory.exists(where) else None
        if stored:
            raise Failure(**stored).as_error()
        if self._failure is not None:
            raise InfrastructureError(f"{self._folder}: workers died ({_head(self._failure)})") from None


def place() -> tuple[int, int]:
    """Rank of this worker, and how many there are."""
    context = ray.train.get_context()
    return context.get_world_rank(), context.get_world_size()


def agreed(value: int) -> int:
    """What the first worker says, once all have come here; one that looked earlier than it may have seen less of the run."""
    from ray.train.collective import broadcast_from_rank_zero

    said: int = broadcast_from_rank_zero(value)
    return said


def train_in_step(
    train: Callable[[int], Mapping[str, float]], total: int, directory: RunDirectory, folder: str
) -> None:
    """Train, in a loop of several workers, from the last record to the end; what is kept of each piece is told by a record.

    Args:
        train: from a step some way on, starting with the state kept there; the first worker keeps the state reached. What
            the piece came to, with ``step``, which is the same on all workers.
        total: steps.
        directory: of the run.
        folder: of the records, inside it.
    """
    told = [int(Path(name).stem) for name in _records(directory, folder)]
    step = agreed(max(told, default=0))
    while step < total:
        found = train(step)
        step = int(found["step"])
        if place()[0] == 0:
            directory.write_json(f"{folder}/{step:08d}{RECORD}", dict(found))


def _records(directory: RunDirectory, folder: str) -> list[str]:
    return [name for name in directory.list(folder) if name.endswith(RECORD)]


def stopping(directory: RunDirectory, folder: str) -> bool:
    """Whether the loop of this folder is to return now; asked between two epochs."""
    return (directory.uri, folder) in _STOPPING


def concurrent_runs(own: list[dict[str, float]], workers: list[dict[str, float]]) -> int:
    """How many runs that reserve workers beside their own bundles the cluster can hold at once, so that none waits for
    workers that another's waiting run keeps from it; at least 1.
    """
    needed: dict[str, float] = {}
    for bundle in [*own, *workers]:
        for resource, amount in bundle.items():
            needed[resource] = needed.get(resource, 0.0) + amount
    there: Bundle = ray.cluster_resources()
    return max(1, min(math.floor(there.get(resource, 0.0) / amount) for resource, amount in needed.items() if amount))


def _trainer(
    loop: Loop,
    arguments: Mapping[str, Any],
    directory: RunDirectory,
    folder: str,
    compute: ComputeSection,
    retries: int,
) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    # Which of its two classes this is depends on a switch that type checkers do not see.
    base: Any = TorchTrainer

    class Trainer(base):
        """In a private Ray, without what asks a dashboard about the controller: there is none, and all ends together."""

        def _create_default_callbacks(self) -> list[Any]:
            callbacks: list[Any] = super()._create_default_callbacks()
            if PRIVATE not in os.environ:
                return callbacks
            return [callback for callback in callbacks if type(callback).__name__ != "PlacementGroupCleanerCallback"]

    logging.getLogger("ray.train").setLevel(logging.WARNING)

    def classed(values: dict[str, Any]) -> None:
        """Run the loop. A failure that would come again is kept; a group started after one has nothing to do."""
        logging.getLogger("ray.train").setLevel(logging.WARNING)
        where = f"{folder}/{FAILURE}"
        if directory.exists(where) and directory.read_json(where):
            return
        try:
            loop(values, directory, folder)
        except Exception as error:
            failure = classify(error)
            if not failure.retriable:
                directory.write_json(where, vars(failure))
            # All workers end with it: none is left waiting for the one that failed.
            raise

    alone = compute.workers == 1
    scaling: dict[str, Any] = {"num_workers": 0} if alone else {"num_workers": compute.workers}
    if not alone:
        scaling |= {"use_gpu": bool(compute.gpus_per_worker), "resources_per_worker": worker_bundle(compute)}
    options: dict[str, Any] = {
        "name": folder.replace("/", "-"),
        "storage_path": directory.path("train"),
        "failure_config": FailureConfig(max_failures=retries),
        "worker_runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1"}},
    }
    return Trainer(
        classed,
        train_loop_config=dict(arguments),
        # Workers that share a GPU can not talk through NCCL.
        torch_config=TorchConfig(backend="nccl" if compute.gpus_per_worker >= 1 else "gloo"),
        scaling_config=ScalingConfig(**scaling),
        run_config=RunConfig(**options),
    )


def _head(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
