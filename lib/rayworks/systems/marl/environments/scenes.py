"""Scenes: a team's observations at one step, as entities with positions; environments, networks and RLlib exchange them.

Axes: B copies or rows, A controlled agents, E entities, F invariant features, T target slots, K actions. The A agents of the
team come first among the entities, in their order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rayworks.core.errors import DataError

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]
SELF = "self"
"""Name of the feature that marks an agent in its own scene."""
MPE_DIRECTIONS = ((-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0))
STARCRAFT_DIRECTIONS = ((0.0, 1.0), (0.0, -1.0), (1.0, 0.0), (-1.0, 0.0))


@dataclass(frozen=True)
class Scene:
    """A batch of entity graphs, seen by one team.

    Everything that turns with the world is in ``positions`` and ``velocities``; ``features`` hold only what does not (kind,
    health, size). Dead and absent entities keep their slot with ``present`` false and zeros elsewhere.
    """

    positions: Floats
    """(B, E, 2), from the centre of the map, scaled so that its half-width is about 1."""
    velocities: Floats
    """(B, E, 2), zeros where unknown."""
    features: Floats
    """(B, E, F)."""
    present: Flags
    """(B, E): exists and, if it is a unit, lives."""
    visible: Flags
    """(B, A, E): what each agent sees, itself included."""
    allowed: Flags
    """(B, A, K): actions that the environment would carry out; all true for vector actions (K = 1)."""
    targets: NDArray[np.int16]
    """(B, A, T): the entity that each target action is about; 0 where the slot is not in use (never allowed)."""

    @property
    def rows(self) -> int:
        """B."""
        return len(self.positions)

    @property
    def agents(self) -> int:
        """A."""
        return int(self.visible.shape[1])

    @property
    def entities(self) -> int:
        """E."""
        return int(self.positions.shape[1])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by name, as RLlib carries them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The reverse of :meth:`arrays`."""
        return cls(**{field.name: arrays[field.name] for field in fields(cls)})

    def map(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> "Scene":
        """The same change to every array: a choice of rows, a reshape of the leading axis."""
        return Scene(**{name: change(array) for name, array in self.arrays().items()})

    def turned(self, matrix: NDArray[np.floating[Any]]) -> "Scene":
        """All positions and velocities multiplied by an orthogonal (2, 2) matrix, about the origin."""
        turn = np.asarray(matrix, np.float32).T
        return replace(self, positions=self.positions @ turn, velocities=self.velocities @ turn)

    def moved(self, offset: NDArray[np.floating[Any]]) -> "Scene":
        """All positions of present entities moved by the same offset, shape (2,)."""
        shifted = np.where(self.present[..., None], self.positions + np.asarray(offset, np.float32), self.positions)
        return replace(self, positions=shifted.astype(np.float32))

    def reordered(self, order: NDArray[np.integer[Any]]) -> "Scene":
        """Entities in another order, shape (E,): slot k holds what was in ``order[k]``.

        Agents must stay among the first A slots; their rows move along.

        Raises:
            DataError: an agent would leave the first A slots.
        """
        agents = order[: self.agents]
        if set(agents.tolist()) != set(range(self.agents)):
            raise DataError(f"order: the {self.agents} agents must stay the first {self.agents} entities")
        where = np.argsort(order).astype(np.int16)
        return Scene(
            positions=self.positions[:, order],
            velocities=self.velocities[:, order],
            features=self.features[:, order],
            present=self.present[:, order],
            visible=self.visible[:, agents][:, :, order],
            allowed=self.allowed[:, agents],
            targets=where[self.targets[:, agents]],
        )

    def own(self) -> "Scene":
        """One scene per agent, rows ordered agent by agent within a row: itself first, then the others in their order.

        What an agent does not see is not present. A becomes 1, B becomes B * A. A new last feature marks the agent itself.
        """
        rows, agents, entities = self.visible.shape
        order = own_order(agents, entities)
        index = np.argsort(order, axis=1)

        def split(array: NDArray[Any]) -> NDArray[Any]:
            return array[:, order].reshape(rows * agents, entities, *array.shape[2:])

        mark = np.zeros((rows * agents, entities, 1), np.float32)
        mark[:, 0] = 1.0
        seen = (self.visible & self.present[:, None]).reshape(rows * agents, entities)
        seen = np.take_along_axis(seen, np.tile(order, (rows, 1)), axis=1)
        targets = self.targets.reshape(rows * agents, 1, -1)
        moved = index[np.tile(np.arange(agents), rows)[:, None, None], targets].astype(np.int16)
        return Scene(
            positions=np.where(seen[..., None], split(self.positions), 0),
            velocities=np.where(seen[..., None], split(self.velocities), 0),
            features=np.concatenate([np.where(seen[..., None], split(self.features), 0), mark], axis=-1),
            present=seen,
            visible=seen[:, None],
            allowed=self.allowed.reshape(rows * agents, 1, -1),
            targets=moved,
        )


@dataclass(frozen=True)
class ActionLayout:
    """What the actions of a team mean. Discrete actions are numbered: first those without a direction, then the moves, then
    one per target. Vector actions are forces of length at most 1.
    """

    still: int = 1
    """Actions that no symmetry changes: stay, stop, nothing."""
    directions: tuple[tuple[float, float], ...] = MPE_DIRECTIONS
    """Unit vectors of the moves, in order."""
    targets: int = 0
    """T, actions that are about one entity."""
    vectors: bool = False
    """Whether an action is a vector in the plane instead of a choice."""

    @property
    def choices(self) -> int:
        """K of the mask: 1 for vectors."""
        return 1 if self.vectors else self.still + len(self.directions) + self.targets

    def turned(self, matrix: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """Where each discrete action goes when the world is turned: action k becomes ``turned(matrix)[k]``, shape (K,).

        Raises:
            DataError: the matrix does not map the directions onto each other.
        """
        directions = np.array(self.directions)
        distance = np.abs((directions @ np.asarray(matrix).T)[:, None] - directions).sum(-1)
        if (distance.min(1) > 1e-6).any():
            raise DataError(
                "matrix: turns a move into none; discrete moves allow quarter turns and their reflections only"
            )
        after = self.still + len(self.directions)
        return np.concatenate([np.arange(self.still), self.still + distance.argmin(1), np.arange(after, self.choices)])


@dataclass(frozen=True)
class TeamSpec:
    """The shape of one team's scenes and actions; the same over all steps and copies."""

    name: str
    agents: int
    """A."""
    kinds: tuple[str, ...]
    """Kind of each entity (E), agents first: entities of one kind may be exchanged. Names for figures and checks."""
    features: tuple[str, ...]
    """Names of the F invariant features."""
    actions: ActionLayout
    mates: int | None = None
    """Team mates in an agent's own scenes, which come first among the entities; None where all agents act in the scene."""
    complete: bool = True
    """Whether a graph of the team joins entities that it does not control with each other too (MPE: yes, SMACv2: no)."""

    @property
    def entities(self) -> int:
        """E."""
        return len(self.kinds)

    def own(self) -> "TeamSpec":
        """The shape of one agent's own scenes (:meth:`Scene.own`): one agent, which is marked by a last feature.

        Its team mates stay the first entities, and keep their edges.
        """
        return replace(
            self, agents=1, features=(*self.features, SELF), mates=self.agents if self.mates is None else self.mates
        )

    @property
    def joined(self) -> int:
        """How many of the first entities have edges to everything in a graph that is not complete."""
        return self.agents if self.mates is None else self.mates

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of a row of each array of a scene."""
        agents, entities = self.agents, self.entities
        return {
            "positions": (entities, 2),
            "velocities": (entities, 2),
            "features": (entities, len(self.features)),
            "present": (entities,),
            "visible": (agents, entities),
            "allowed": (agents, self.actions.choices),
            "targets": (agents, self.actions.targets),
        }

    def open_scene(
        self, positions: NDArray[Any], velocities: NDArray[Any], features: NDArray[np.floating[Any]]
    ) -> Scene:
        """A scene in which all is there and seen, nothing is forbidden and no target in use."""
        given = {"positions": positions, "velocities": velocities, "features": features}
        arrays: dict[str, NDArray[Any]] = {name: np.ascontiguousarray(a, np.float32) for name, a in given.items()}
        for name in ("present", "visible", "allowed"):
            arrays[name] = np.ones((len(positions), *self.shapes[name]), bool)
        return Scene(**arrays, targets=np.zeros((len(positions), *self.shapes["targets"]), np.int16))

    def check(self, scene: Scene) -> None:
        """Whether a scene has this shape and finite numbers.

        Raises:
            DataError: names the array and what is wrong with it.
        """
        expected = self.shapes
        for name, array in scene.arrays().items():
            if array.shape != (scene.rows, *expected[name]):
                raise DataError(f"{self.name}.{name}: shape {array.shape}, not {(scene.rows, *expected[name])}")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise DataError(f"{self.name}.{name}: not finite; mend the environment")


def own_order(agents: int, entities: int) -> NDArray[np.int64]:
    """Order of each agent's own view: itself first, then all others in their order, (A, E)."""
    first = np.arange(agents)[:, None]
    others = np.arange(entities - 1)[None] + (np.arange(entities - 1)[None] >= first)
    return np.concatenate([first, others], 1)


def kinds_named(kinds: Sequence[str], names: Sequence[str]) -> Floats:
    """(E, F) features that are 1 where they have the name of the entity's kind."""
    return np.array([[float(kind == name) for name in names] for kind in kinds], np.float32)


def joined(scenes: Sequence[Scene]) -> Scene:
    """The rows of all, one scene after the other."""
    arrays = [scene.arrays() for scene in scenes]
    return Scene.of({name: np.concatenate([one[name] for one in arrays]) for name in arrays[0]})
