"""The base of every application: arguments of the Serve config, a deployment with queues and real health, its binding."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from ray import serve

from rayworks.core.errors import ConfigError, DataError

from .access import Access
from .batching import AnswerT, Batching, QuestionT
from .computing import Computing
from .gate import RECEIVING
from .keys import DEFAULT_FILE, ApiKeys
from .measures import Measures
from .peers import Peers
from .replica_port import listen_on_the_node_only
from .shared import Shared

HEALTH_SECONDS = 30.0
"""A check that takes longer has failed."""
CHECKED_SECONDS = 1.0
"""How long a check holds: health requests are open to all and must not make work."""
BESIDE = RECEIVING + 64
"""Requests that Serve lets in beyond those that compute or wait: bodies under way, and room for health and refusals, so
that it is this code that answers 503."""

Waiting = Annotated[int, Field(ge=0, description="requests that may wait, in each queue; beyond that: 503")]
PerKey = Annotated[int, Field(ge=1, description="requests of one key under way on a replica; beyond that: 429")]
Deadline = Annotated[float, Field(gt=0, description="longer requests: 504")]
Processors = Annotated[float, Field(ge=0, description="of a replica")]
Origin = Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")]
LargestBatch = Annotated[int, Field(ge=1, le=1024, description="requests computed together")]


class Scaling(BaseModel):
    """Replicas by load, in Serve's own words."""

    model_config = ConfigDict(extra="forbid")

    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(ge=1)
    target_ongoing_requests: float = Field(2.0, gt=0, description="under way on each replica")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas: {self.max_replicas} is less than min_replicas, {self.min_replicas}")
        return self


class ServingArgs(BaseModel):
    """What a Serve config may set of any application."""

    model_config = ConfigDict(extra="forbid")

    api_keys: str = Field(DEFAULT_FILE, description="file of hashed keys")
    max_waiting: Waiting = 64
    concurrent_per_key: PerKey = 64
    deadline_seconds: Deadline = 15.0
    receive_seconds: float = Field(10.0, gt=0, description="bodies that take longer to arrive: 408")
    allowed_origins: list[Origin] = Field(
        [], description="web pages that may ask from a browser, as https://HOST; '*' is all of them"
    )
    num_cpus: Processors = 0.5
    num_gpus: float = Field(
        0.0, ge=0, description="of a replica; only alignment and reasoning compute on them, others only hold them"
    )
    replicas: Annotated[int, Field(ge=1)] | Scaling = Field(1, description="how many, or between what numbers")


class ServedRun(ABC):
    """Base of all deployments: who may call, where requests queue, and whether it really answers.

    Args:
        args: of the application.
        shared: handle of :class:`.Shared`, where there can be several replicas.
    """

    def __init__(self, args: ServingArgs, shared: Any = None) -> None:
        listen_on_the_node_only()
        self.peers = Peers(shared)
        self.access = Access(ApiKeys(args.api_keys, _application()), args.concurrent_per_key, self.peers)
        self.receive_seconds = args.receive_seconds
        self.allowed_origins = args.allowed_origins
        self.measures = Measures()
        self._limits = args.max_waiting, args.deadline_seconds
        self._queues: list[Computing | Batching[Any, Any]] = []
        self._checking: asyncio.Task[float] | None = None
        self._checked_at = 0.0

    @abstractmethod
    async def check(self) -> None:
        """A real answer of what is served, beside the queues; raises whatever keeps it from one."""

    @property
    def load(self) -> int:
        """What computes and what waits."""
        return sum(queue.load for queue in self._queues)

    def state(self) -> dict[str, Any]:
        """What ``/healthz`` tells."""
        return {"load": self.load}

    async def check_health(self) -> float:
        """Called by Serve, which replaces a replica that raises; how many seconds the real answer took.

        Raises:
            Exception: a computation is stuck, or there is no answer.
        """
        self.measures.queue(self.load)
        self.peers.listen()
        for queue in self._queues:
            queue.require_progress()
        task = self._checking
        if task is None or (task.done() and time.monotonic() - self._checked_at >= CHECKED_SECONDS):
            task = self._checking = asyncio.create_task(self._timed_check())
        return await asyncio.shield(task)

    def computing(self) -> Computing:
        """A queue of computations, one after another."""
        self._queues.append(queue := Computing(*self._limits))
        return queue

    def batching(
        self, answer: Callable[[Sequence[QuestionT]], Sequence[AnswerT]], largest: int
    ) -> Batching[QuestionT, AnswerT]:
        """A queue of questions that are answered together."""
        self._queues.append(queue := Batching(answer, largest, *self._limits))
        return queue

    async def _timed_check(self) -> float:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                await self.check()
        except (DataError, ConfigError) as error:
            # Nothing that a request could fix.
            raise RuntimeError(f"no sound answer: {error}") from error
        finally:
            self._checked_at = time.monotonic()
        return round(time.perf_counter() - started, 4)


def bind(
    deployment: Any, args: ServingArgs, *, together: int = 0, queues: int = 1, resources: Mapping[str, float] = {}
) -> serve.Application:
    """The application of a deployment.

    Args:
        deployment: a :class:`ServedRun` behind ``serve.deployment`` and ``serve.ingress``; its constructor takes ``args``
            and ``shared``.
        args: of its constructor.
        together: requests that compute at once.
        queues: in which ``max_waiting`` requests each may wait.
        resources: custom resources of a replica.
    """
    scaling = args.replicas
    several = isinstance(scaling, Scaling) or scaling > 1
    replicas: dict[str, Any] = (
        {"autoscaling_config": scaling.model_dump()} if isinstance(scaling, Scaling) else {"num_replicas": scaling}
    )
    application: serve.Application = deployment.options(
        ray_actor_options={"num_cpus": args.num_cpus, "num_gpus": args.num_gpus, "resources": dict(resources)},
        max_ongoing_requests=queues * args.max_waiting + together + BESIDE,
        max_queued_requests=BESIDE,
        health_check_period_s=10,
        health_check_timeout_s=HEALTH_SECONDS + 5,
        **replicas,
    ).bind(args, *([Shared.bind()] if several else []))  # type: ignore[attr-defined]  # a deployment
    return application


def _application() -> str:
    """Name of the application that this process serves."""
    name: str = serve.get_replica_context().app_name
    return name
