"""Convert flat observation vectors to scenes by a schema that says where each entity lies in the vector."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.marl.environments.scenes import SELF, ActionLayout, Scene, TeamSpec, kinds_named

Place = tuple[int, int]
"""First index, and one past the last, of a part of the vector."""


@dataclass(frozen=True)
class SeenEntity:
    """Where one entity stands in an agent's vector."""

    kind: str
    position: Place | None
    """Two numbers."""
    relative: bool = True
    """Whether the position is from the agent, not from the centre of the map."""
    velocity: Place | None = None
    """Two numbers, not relative; zeros if None."""
    features: Place | None = None
    """Invariant numbers, as many for every entity that has any."""


@dataclass(frozen=True)
class ObservationSchema:
    """An agent's vector: itself first, then its team mates, then everything else.

    Args:
        entities: in that order.
        mates: how many are of the agent's team, itself included.
        scale: what positions are divided by, so that the map's half-width is about 1.
    """

    entities: tuple[SeenEntity, ...]
    mates: int
    size: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Raises:
        ConfigError: no position, a part outside the vector or of a wrong size, parts that overlap; names the entity.
        """
        if not self.entities:
            raise ConfigError("schema.entities: none; name at least the agent itself")
        if not 1 <= self.mates <= len(self.entities):
            raise ConfigError(f"schema.mates: {self.mates} of {len(self.entities)} entities; count the agent itself")
        if self.entities[0].relative:
            raise ConfigError("schema.entities.0.relative: the agent itself cannot lie relative to itself; set false")
        taken: list[tuple[Place, str]] = []
        for number, entity in enumerate(self.entities):
            where = f"schema.entities.{number}"
            if entity.position is None:
                raise ConfigError(
                    f"{where}.position: missing; equivariant policies need to know where each entity is, so give its two "
                    "indices or leave the entity out"
                )
            for field, width in (("position", 2), ("velocity", 2), ("features", None)):
                part: Place | None = getattr(entity, field)
                if part is None:
                    continue
                first, end = part
                if not 0 <= first < end <= self.size:
                    raise ConfigError(f"{where}.{field}: {first} to {end} is not within the vector's 0 to {self.size}")
                if width is not None and end - first != width:
                    raise ConfigError(f"{where}.{field}: {end - first} numbers; give {width}")
                taken.append((part, f"{where}.{field}"))
        for ((_, end), name), ((first, _), other) in pairwise(sorted(taken)):
            if first < end:
                raise ConfigError(f"{other}: overlaps {name}; each number of the vector means one thing")
        if len({end - first for first, end in self._feature_parts()}) > 1:
            raise ConfigError("schema.entities.features: entities have different numbers of features; give all as many")

    def team(self, name: str, actions: ActionLayout) -> TeamSpec:
        """The shape of the scenes this schema makes."""
        if actions.targets:
            raise ConfigError("schema: vectors say nothing of targets; use an environment of this package for them")
        kinds = tuple(entity.kind for entity in self.entities)
        return TeamSpec(name, 1, kinds, (*sorted(set(kinds)), *self._feature_names(), SELF), actions, mates=self.mates)

    def scene(self, vectors: NDArray[np.floating[Any]], actions: ActionLayout) -> Scene:
        """Own scenes of B agents from their vectors (B, size).

        Raises:
            ConfigError: vectors of another size.
            DataError: a number is not finite; names its index in the vector.
        """
        if vectors.shape[-1] != self.size:
            raise ConfigError(f"schema.size: is {self.size}, but observations have {vectors.shape[-1]} numbers")
        if not np.isfinite(vectors).all():
            index = int(np.nonzero(~np.isfinite(vectors).all(0))[0][0])
            raise DataError(f"observation: number {index} is not finite; mend the environment")
        team = self.team("own", actions)
        own = vectors[:, slice(*_given(self.entities[0].position))]
        positions = np.stack([vectors[:, slice(*_given(e.position))] + own * e.relative for e in self.entities], 1)
        velocities = np.stack([_part(vectors, entity.velocity, 2) for entity in self.entities], 1)
        kinds = kinds_named(team.kinds, sorted(set(team.kinds)))
        mark = np.zeros((len(vectors), team.entities, 1))
        mark[:, 0] = 1
        given = np.stack([_part(vectors, e.features, len(self._feature_names())) for e in self.entities], 1)
        features = np.concatenate([np.broadcast_to(kinds, (len(vectors), *kinds.shape)), given, mark], 2)
        return team.open_scene(positions / self.scale, velocities / self.scale, features)

    def _feature_parts(self) -> list[Place]:
        return [entity.features for entity in self.entities if entity.features is not None]

    def _feature_names(self) -> list[str]:
        parts = self._feature_parts()
        return [f"feature_{number}" for number in range(parts[0][1] - parts[0][0])] if parts else []


def spread_schema(agents: int = 3) -> ObservationSchema:
    """Schema of mpe2's simple_spread: velocity, position, landmarks, others, silence."""
    landmarks, others = 4, 4 + 2 * agents
    entities = [SeenEntity("agent", (2, 4), relative=False, velocity=(0, 2))]
    entities += [SeenEntity("agent", _pair(others, number)) for number in range(agents - 1)]
    entities += [SeenEntity("landmark", _pair(landmarks, number)) for number in range(agents)]
    return ObservationSchema(tuple(entities), agents, 4 + 2 * agents + 4 * (agents - 1))


def tag_schema(team: str, hunters: int = 3, prey: int = 1, landmarks: int = 2) -> ObservationSchema:
    """Schema of mpe2's simple_tag, ``adversary`` or ``agent``: velocity, position, landmarks, others, prey's velocities."""
    hunting, others = team == "adversary", 4 + 2 * landmarks
    speeds = others + 2 * (hunters + prey - 1)
    seen_hunters, seen_prey = hunters - hunting, prey - (not hunting)
    mine = SeenEntity(team, (2, 4), relative=False, velocity=(0, 2))
    chasing = [SeenEntity("adversary", _pair(others, number)) for number in range(seen_hunters)]
    fleeing = [
        SeenEntity("agent", _pair(others, seen_hunters + number), velocity=_pair(speeds, number))
        for number in range(seen_prey)
    ]
    rest: Sequence[SeenEntity] = [*chasing, *fleeing] if hunting else [*fleeing, *chasing]
    still = [SeenEntity("landmark", _pair(4, number)) for number in range(landmarks)]
    return ObservationSchema((mine, *rest, *still), hunters if hunting else prey, speeds + 2 * seen_prey)


def _pair(first: int, number: int) -> Place:
    return first + 2 * number, first + 2 * number + 2


def _given(part: Place | None) -> Place:
    assert part is not None
    return part


def _part(vectors: NDArray[Any], part: Place | None, width: int) -> NDArray[Any]:
    return np.zeros((len(vectors), width)) if part is None else vectors[:, slice(*part)]
