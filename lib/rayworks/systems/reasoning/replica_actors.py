"""Policy engines and critics beside the workers that search: actors, which the requests of a question stay with."""

import asyncio
import os
import zlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import ray

from rayworks.core.errors import DataError, InfrastructureError
from rayworks.core.run_directory import RunDirectory
from rayworks.lm.background_decoding import BackgroundDecoding
from rayworks.lm.checkpoints import load_tokenizer
from rayworks.lm.decoding import Engine
from rayworks.lm.engines import open_engine
from rayworks.lm.rows import Row
from rayworks.lm.threads import limit_torch_threads
from rayworks.lm.transformers_engine import as_generation
from rayworks.runtime.failures import classify
from rayworks.runtime.placement import device_of, worker_options
from rayworks.systems.reasoning.config import Config
from rayworks.systems.reasoning.files import Files
from rayworks.systems.reasoning.search.opening import open_critics
from rayworks.systems.reasoning.search.requests import Completion, Draw, ToScore
from rayworks.systems.reasoning.search.services import LocalScorer, Numbers
from rayworks.systems.reasoning.tasks.opening import open_task

RESTARTS = 3
"""Of an engine that dies; what it was asked is asked again."""
SPILL = 2.0
"""Load of a question's own engine, over that of the idlest and in rows per slot, beyond which the idlest is asked."""


@ray.remote
class PolicyReplica:
    """One engine of one policy, which draws for all searches at once."""

    def __init__(self, config: Config, directory: RunDirectory, number: int) -> None:
        limit_torch_threads()
        # A run's folder need not lie on this machine.
        self._files, section, device = Files(config, directory), config.model, device_of(config.compute)
        policy = self._files.policy(number)
        self._engine = open_engine(section, policy, section.dtype, section.slots, device, keep_prefixes=True)
        self._background = BackgroundDecoding(self._engine.decoding)

    async def complete(self, draw: Draw) -> Completion | DataError:
        """Draw one completion; a request that cannot be drawn comes back as its error."""
        assert not isinstance(draw.request.prompt, str)
        row = Row(draw.request, (draw.request.prompt,))
        try:
            await asyncio.wrap_future(self._background.submit(row))
        except DataError as error:
            return error
        return Completion.of(as_generation(row))


@ray.remote
class CriticReplica:
    """All critics of a round's search; what several searches ask meanwhile is scored in one batch."""

    def __init__(self, config: Config, directory: RunDirectory, number: int) -> None:
        limit_torch_threads()
        self._files, device = Files(config, directory), device_of(config.compute)
        policy, section = self._files.policy(number), config.model

        def judge() -> Engine:
            return open_engine(section, policy, section.dtype, section.slots, device, keep_prefixes=True)

        task, head = open_task(config.task, config.run.seed), self._files.head() if number else None
        tokenizer, steps = load_tokenizer(policy), self._files.step_head()
        self._critics = open_critics(config.critics, task, judge, tokenizer, section, head, device, steps)
        self._waiting: list[tuple[asyncio.Future[Any], ToScore]] = []
        self._scoring: asyncio.Task[None] | None = None

    async def score(self, request: ToScore) -> Numbers | Exception:
        """Numbers of one simulation's texts, by critic; what cannot be scored comes back as its error."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((future, request))
        if self._scoring is None or self._scoring.done():
            self._scoring = asyncio.create_task(self._score_all())
        found: Numbers | Exception = await future
        return found

    async def _score_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                found = await asyncio.to_thread(self._together, [request for _, request in batch])
            except Exception as error:
                for future, _ in batch:
                    future.set_exception(error)
            else:
                for (future, _), numbers in zip(batch, found, strict=True):
                    future.set_result(numbers)

    def _together(self, requests: Sequence[ToScore]) -> list[Numbers | Exception]:
        scorer = LocalScorer(self._critics)
        for ticket, request in enumerate(requests):
            scorer.submit(ticket, "", request)
        return [numbers for _, numbers in sorted(scorer.collect(0), key=lambda pair: pair[0])]


class Replicas:
    """The policy engines and the critics of a round, named for the dashboard.

    Args:
        name: beginning of their names, before the role.
    """

    def __init__(self, config: Config, directory: RunDirectory, number: int, name: Callable[[str], str]) -> None:
        mark, options = os.urandom(2).hex(), worker_options(config.compute)
        counts = {"policy": config.model.replicas, "critics": config.critics.replicas}
        actors: dict[str, Any] = {"policy": PolicyReplica, "critics": CriticReplica}
        self.names = {role: [f"{name(role)}-{one}-{mark}" for one in range(count)] for role, count in counts.items()}
        """Of those that there are, by role."""
        self._handles = [
            actors[role]
            .options(name=one, max_concurrency=4096, max_restarts=RESTARTS, max_task_retries=RESTARTS, **options)
            .remote(config, directory, number)
            for role, names in self.names.items()
            for one in names
        ]

    def shutdown(self) -> None:
        """End them."""
        for handle in self._handles:
            ray.kill(handle)


class _Remote:
    """A search's side of replicas of a role, found by their names.

    Args:
        most_ahead: requests that the engine of a question may have more than the idlest, before that one is asked.

    Raises:
        InfrastructureError: one is lost for good.
    """

    role: ClassVar[str]
    method: ClassVar[str]

    def __init__(self, names: Sequence[str], most_ahead: float) -> None:
        self._replicas, self._most_ahead = [_found(self.role, name) for name in names], most_ahead
        self._under_way: dict[ray.ObjectRef[Any], tuple[int, int]] = {}
        self._loads = [0] * len(names)

    def submit(self, ticket: int, uid: str, request: Any) -> None:
        """Send a request to the replica that knows the question's prefixes; to the idlest where that has far more to do."""
        home = zlib.crc32(uid.encode()) % len(self._replicas)
        idlest = min(range(len(self._replicas)), key=self._loads.__getitem__)
        if self._loads[home] - self._loads[idlest] > self._most_ahead:
            home = idlest
        self._loads[home] += 1
        self._under_way[getattr(self._replicas[home], self.method).remote(request)] = (ticket, home)

    def collect(self, seconds: float) -> list[tuple[int, Any]]:
        """What has come back, after a wait of at most so long for the first."""
        timeout = None if seconds == float("inf") else seconds
        ready, _ = ray.wait(list(self._under_way), num_returns=1, timeout=timeout)
        more, _ = ray.wait(list(self._under_way), num_returns=len(self._under_way), timeout=0)
        found: list[tuple[int, Any]] = []
        for reference in dict.fromkeys([*ready, *more]):
            ticket, home = self._under_way.pop(reference)
            self._loads[home] -= 1
            try:
                found.append((ticket, ray.get(reference)))
            except ray.exceptions.RayError as error:
                failure = classify(error)
                if isinstance(error, ray.exceptions.RayTaskError) or not failure.retriable:
                    raise failure.as_error() from None
                raise InfrastructureError(f"a replica of the {self.role} is lost: {failure.message}") from None
        return found


class RemotePolicy(_Remote):
    """The replicas that draw; a service of :class:`Draw`."""

    role, method = "policy", "complete"

    def __init__(self, names: Sequence[str], slots: int) -> None:
        super().__init__(names, SPILL * slots)


class RemoteCritics(_Remote):
    """The replicas that score; a service of :class:`ToScore`."""

    role, method = "critics", "score"

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names, 0)


def _found(role: str, name: str) -> Any:
    try:
        return ray.get_actor(name)
    except ValueError:
        raise InfrastructureError(f"a replica of the {role} is lost: {name} is gone; repeat the command") from None
