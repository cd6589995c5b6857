"""A run as a list of named stages: their order, their share of the time, their results, and the workers they use.

Most systems are one: :meth:`StagedSystem.plan` says what is done in which order, ``results`` is all that they remember.
"""

import abc
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rayworks.core.config import ConfigT
from rayworks.runtime.actor_pool import ActorPool
from rayworks.runtime.placement import worker_bundle, worker_options
from rayworks.runtime.system import Metrics, System

STATE = "state.json"


@dataclass(frozen=True)
class Stage:
    """One named part of a run."""

    name: str
    work: Callable[[], Metrics]
    """Does a piece, puts what it found into ``results``, and returns scalars for the curves."""
    fraction: Callable[[], float] = lambda: 1.0
    """How much of it ``results`` hold; the stage is worked on until this is 1. By default one piece is all."""
    share: float = 1.0
    """Of the time of a run, beside the other stages; only the progress shown depends on it."""


class StagedSystem(System[ConfigT], abc.ABC):
    """A system whose work is a list of stages."""

    in_flight_per_worker: ClassVar[int] = 2
    """Calls queued at one worker; 1 where a call is long and may have to move."""
    results: dict[str, Any]
    """What the stages found, as JSON values: the checkpoint, and what the export and the report are made of."""
    _pool: ActorPool[Any, Any] | None = None

    @abc.abstractmethod
    def plan(self) -> Sequence[Stage]:
        """The stages in order: a function of the settings and the inputs alone, since a resumed run counts them off again.

        Where stages extend a result piece by piece, its empty beginning is put into ``results`` here.
        """

    @classmethod
    def bundles(cls, config: ConfigT) -> list[dict[str, float]]:
        """The run itself asks for nothing; its stages share the workers, one after the other."""
        return [{}, *[worker_bundle(config.compute)] * config.compute.workers]

    def start(self) -> None:
        """Plan; a system that reads inputs or takes up libraries extends this."""
        self.results, self._done, self._pool = {}, 0, None
        self._stages = tuple(self.plan())

    @property
    def finished(self) -> bool:
        """Whether every stage is done."""
        return self._done == len(self._stages)

    def advance(self) -> Metrics:
        """Do a piece of the stage at hand."""
        stage = self._stages[self._done]
        metrics = stage.work()
        part = stage.fraction()
        if part >= 1.0:
            self._done, part = self._done + 1, 0.0
        behind = sum(one.share for one in self._stages[: self._done]) + part * stage.share
        return {"phase": stage.name, **metrics, "progress": behind / sum(one.share for one in self._stages)}

    def save_state(self, folder: Path) -> None:
        """Write the results so far; a system with more to remember extends this."""
        (folder / STATE).write_text(json.dumps({"done": self._done, "results": self.results}))

    def load_state(self, folder: Path) -> None:
        """Take up the results."""
        state = json.loads((folder / STATE).read_text())
        self._done, self.results = state["done"], state["results"]

    def finding(self, name: str, find: Callable[[], Any], share: float = 1.0) -> Stage:
        """A stage of one piece, whose finding becomes the result of its name."""

        def work() -> Metrics:
            self.results[name] = find()
            return {}

        return Stage(name, work, share=share)

    def worker(self) -> tuple[Any, ...]:
        """The class of the run's workers, and its arguments."""
        raise NotImplementedError(f"{type(self).__name__} has no workers")

    def worker_options(self) -> dict[str, Any]:
        """Ray's options of a worker."""
        return worker_options(self.settings.compute)

    @property
    def workers(self) -> ActorPool[Any, Any]:
        """One actor per ``compute.workers``, made when first asked for."""
        if self._pool is None:
            compute = self.settings.compute
            self._pool = ActorPool(
                *self.worker(),
                size=compute.workers,
                name=self.actor_name("work"),
                options=self.worker_options(),
                in_flight_per_actor=self.in_flight_per_worker,
            )
        return self._pool

    def actor_name(self, role: str) -> str:
        """Beginning of the names of this run's actors with a role, as the dashboard shows them."""
        return f"{self.spec.name}/{self.settings.run.name}/{role}"

    def release(self) -> None:
        """End the workers; the next stage that asks gets new ones."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def cleanup(self) -> None:
        """End what runs beside."""
        self.release()
