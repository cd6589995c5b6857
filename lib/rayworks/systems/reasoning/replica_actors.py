"""Policy engines beside the workers that search: each an actor, which the requests of a question stay with."""

import asyncio
import os
import zlib
from collections.abc import Sequence
from typing import Any

import ray

from rayworks.core.errors import DataError, InfrastructureError
from rayworks.core.run_directory import RunDirectory
from rayworks.lm.background_decoding import BackgroundDecoding
from rayworks.lm.engines import open_engine
from rayworks.lm.rows import Row
from rayworks.lm.threads import limit_torch_threads
from rayworks.lm.transformers_engine import as_generation
from rayworks.runtime.failures import classify
from rayworks.runtime.placement import device_of, worker_options
from rayworks.systems.reasoning.config import Config
from rayworks.systems.reasoning.files import Files
from rayworks.systems.reasoning.search.requests import Completion, Draw

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


class Replicas:
    """The engines of a round's policy, named for the dashboard.

    Args:
        name: beginning of their names.
    """

    def __init__(self, config: Config, directory: RunDirectory, number: int, name: str) -> None:
        mark, options = os.urandom(2).hex(), worker_options(config.compute)
        self.names = [f"{name}-{number}-{mark}" for number in range(config.model.replicas)]
        self._handles = [
            PolicyReplica.options(  # type: ignore[attr-defined]  # added by ray.remote
                name=one, max_concurrency=4096, max_restarts=RESTARTS, max_task_retries=RESTARTS, **options
            ).remote(config, directory, number)
            for one in self.names
        ]

    def shutdown(self) -> None:
        """End them."""
        for handle in self._handles:
            ray.kill(handle)


class RemotePolicy:
    """A search's side of the replicas, found by their names.

    Raises:
        InfrastructureError: one is lost for good.
    """

    def __init__(self, names: Sequence[str], slots: int) -> None:
        self._replicas, self._slots = [_found(name) for name in names], slots
        self._under_way: dict[ray.ObjectRef[Any], tuple[int, int]] = {}
        self._loads = [0] * len(names)

    def submit(self, ticket: int, uid: str, request: Draw) -> None:
        """Send a completion to the engine that knows the question's prefixes; to the idlest where that has far more to do."""
        home = zlib.crc32(uid.encode()) % len(self._replicas)
        idlest = min(range(len(self._replicas)), key=self._loads.__getitem__)
        if self._loads[home] - self._loads[idlest] > SPILL * self._slots:
            home = idlest
        self._loads[home] += 1
        self._under_way[self._replicas[home].complete.remote(request)] = (ticket, home)

    def collect(self, seconds: float) -> list[tuple[int, Completion | Exception]]:
        """What has come back, after a wait of at most so long for the first."""
        timeout = None if seconds == float("inf") else seconds
        ready, _ = ray.wait(list(self._under_way), num_returns=1, timeout=timeout)
        more, _ = ray.wait(list(self._under_way), num_returns=len(self._under_way), timeout=0)
        found: list[tuple[int, Completion | Exception]] = []
        for reference in dict.fromkeys([*ready, *more]):
            ticket, home = self._under_way.pop(reference)
            self._loads[home] -= 1
            try:
                found.append((ticket, ray.get(reference)))
            except ray.exceptions.RayError as error:
                failure = classify(error)
                if isinstance(error, ray.exceptions.RayTaskError) or not failure.retriable:
                    raise failure.as_error() from None
                raise InfrastructureError(f"an engine of the policy is lost: {failure.message}") from None
        return found


def _found(name: str) -> Any:
    try:
        return ray.get_actor(name)
    except ValueError:
        raise InfrastructureError(f"an engine of the policy is lost: {name} is gone; repeat the command") from None
