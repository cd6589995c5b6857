"""Model actors: engines behind an actor pool, one model per actor, whole batches per call."""

from collections.abc import Sequence

from rayworks.core.config import ComputeSection
from rayworks.lm.engine import Generation, GenerationRequest, Score, ScoringRequest
from rayworks.lm.threads import limit_torch_threads
from rayworks.lm.transformers_engine import TransformersEngine
from rayworks.runtime.actor_pool import ActorPool
from rayworks.runtime.placement import device_of, worker_options


class EngineActor:
    """Holds one engine in its own process: a base model or a reward model."""

    def __init__(self, model: str, dtype: str, slots: int, layers: int | None, device: str) -> None:
        limit_torch_threads()
        self._engine = TransformersEngine(model, dtype, slots, layers, device)

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """Draw one continuation per request."""
        return self._engine.generate(requests)

    def score(self, requests: Sequence[ScoringRequest]) -> list[Score]:
        """Score one response per request."""
        return self._engine.score(requests)


def engine_pool(
    model: str,
    compute: ComputeSection,
    *,
    name: str,
    size: int,
    dtype: str = "float32",
    slots: int = 16,
    layers: int | None = None,
) -> ActorPool[Sequence[GenerationRequest], list[Generation]]:
    """``size`` actors with the same model, named ``NAME-i`` on the dashboard; map ``generate`` or ``score`` over batches."""
    return ActorPool(
        EngineActor,
        model,
        dtype,
        slots,
        layers,
        device_of(compute),
        size=size,
        name=name,
        options=worker_options(compute),
    )
