"""Observations and allowed actions of a team, for the embedded battle and for StarCraft II alike.

Features per entity: its type (nine), whether it is an enemy, shares of health and shield, and for allies the share of the
cooldown that is left, or of a medivac's energy (as SMACv2 pairs them). Positions are from the centre of the map, in halves of
the width of SMACv2's map whatever the width of this one, so that reaches look the same; velocities hold the direction of look
where sight is a cone, and else zeros.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayworks.core.errors import DataError
from rayworks.systems.marl.environments import battle_units as kinds
from rayworks.systems.marl.environments.battle_combat import Reals, Units
from rayworks.systems.marl.environments.battle_units import LEAST_RANGE, MEDIVAC
from rayworks.systems.marl.environments.environment import Actions
from rayworks.systems.marl.environments.scenes import STARCRAFT_DIRECTIONS, ActionLayout, Flags, Floats, Scene, TeamSpec

TEAM = "allies"
NOOP, STOP, MOVES, FIRST_TARGET = 0, 1, slice(2, 6), 6
"""Actions as SMACv2 numbers them; nothing is for the dead alone."""
UNIT_CELLS = 16.0
"""Cells in a unit of position: half the width of SMACv2's map."""
MOVE_AMOUNT = 2.0
"""Cells that a move is ordered to go; allowed where half of it stays on the map. No unit gets so far in a step."""
FEATURES = (*(f"type_{name}" for name in kinds.NAMES), "enemy", "health", "shield", "energy_or_cooldown")
TYPES, ENEMY, HEALTH, SHIELD, READINESS = slice(0, 9), 9, 10, 11, 12
_DIRECTIONS = np.array(STARCRAFT_DIRECTIONS)


@dataclass(frozen=True)
class Sight:
    """How much agents see."""

    everything: bool = False
    """All that lives, instead of what is within sight range."""
    degrees: float | None = None
    """Angle of the field of view around the direction of look; all around if None. SMACv2's default cone has 30."""


def team_spec(agents: int, enemies: int) -> TeamSpec:
    """The one team that learns, entities allies then enemies."""
    return TeamSpec(
        name=TEAM,
        agents=agents,
        kinds=("ally",) * agents + ("enemy",) * enemies,
        features=FEATURES,
        actions=ActionLayout(still=2, directions=STARCRAFT_DIRECTIONS, targets=max(agents, enemies)),
        complete=False,
    )


def battle_scene(units: Units, agents: int, half: float, sight: Sight) -> Scene:
    """What the first ``agents`` units of each copy see on a map of ``half`` cells to each side of its centre."""
    alive = units.alive
    offset = units.position[:, :, None, :] - units.position[:, :, :agents, None]
    distance = np.sqrt(offset[0] ** 2 + offset[1] ** 2)
    both = alive[:, :agents, None] & alive[:, None, :]
    cone = _in_cone(units, agents, offset, distance, sight)
    targets, aimed = _targets(units, agents, distance, both if cone is None else both & cone)
    seen = both
    if not sight.everything:
        seen = both & (distance < kinds.SIGHT[units.kind[:, :agents], None])
        seen = seen if cone is None else seen & cone
    own = alive[:, :agents]
    directions = _DIRECTIONS * (MOVE_AMOUNT / 2)
    ahead = np.abs(units.position[:, :, :agents, None] + directions.T[:, None, None, :]) <= half
    still = np.stack([~own, own], -1)
    told = (np.arange(units.kind.shape[1]) < agents) & (sight.degrees is not None)
    return Scene(
        positions=_planar(units.position / UNIT_CELLS, alive),
        velocities=_planar(units.look * told, alive),
        features=_features(units, agents),
        present=alive,
        visible=seen,
        allowed=np.concatenate([still, ahead.all(0) & own[..., None], aimed], -1),
        targets=targets,
    )


def carried_out(actions: Actions, scene: Scene) -> NDArray[np.int64]:
    """What the team does, (B, A): what it chose or, where that is not allowed, to stand still.

    Raises:
        DataError: a shape or an action that does not exist.
    """
    chosen, (*shape, choices) = np.asarray(actions[TEAM]), scene.allowed.shape
    if chosen.shape != tuple(shape) or chosen.dtype.kind not in "iu":
        raise DataError(f"actions: {chosen.dtype} of shape {chosen.shape}, not whole numbers {tuple(shape)}")
    if chosen.min() < 0 or chosen.max() >= choices:
        raise DataError(f"actions: {chosen.min()} to {chosen.max()}; choose 0 to {choices - 1}")
    allowed = np.take_along_axis(scene.allowed, chosen[..., None].astype(np.int64), -1)[..., 0]
    return np.where(allowed, chosen, scene.allowed[..., STOP]).astype(np.int64)


def target_entities(healer: Flags, enemies: int) -> NDArray[np.int16]:
    """(B, A, T): target k is the ally k for a medivac and the enemy k for all others; 0 where there is none."""
    agents = healer.shape[1]
    slot = np.arange(max(agents, enemies))
    ally, enemy = np.where(slot < agents, slot, 0), np.where(slot < enemies, agents + slot, 0)
    return np.where(healer[..., None], ally, enemy).astype(np.int16)


def _features(units: Units, agents: int) -> Floats:
    """(B, N, 13), zeros for the dead."""
    kind, alive = units.kind, units.alive
    found = np.zeros((*kind.shape, len(FEATURES)), np.float32)
    found[..., TYPES] = np.eye(len(kinds.NAMES), dtype=np.float32)[kind]
    found[:, agents:, ENEMY] = 1.0
    found[..., HEALTH] = units.health / kinds.HEALTH[kind]
    found[..., SHIELD] = units.shield / np.maximum(kinds.SHIELD[kind], 1.0)
    waiting = np.maximum(units.cooldown, 0) / kinds.COOLDOWN_TICKS[kind]
    waiting = np.where(kind == MEDIVAC, units.energy / kinds.ENERGY_MAX, waiting)
    found[:, :agents, READINESS] = waiting[:, :agents]
    found *= alive[..., None]
    return found


def _planar(vectors: Reals, alive: Flags) -> Floats:
    """(2, B, N) to (B, N, 2), zeros for the dead."""
    return np.stack([vectors[0] * alive, vectors[1] * alive], -1, dtype=np.float32)


def _targets(units: Units, agents: int, distance: Reals, shown: Flags) -> tuple[NDArray[np.int16], Flags]:
    """The entity behind each target slot, and whether it may be aimed at: SMACv2's rule, by the distance of centres.

    Weapons that do not reach the air are offered nothing that flies, which the game would refuse.
    """
    kind = units.kind
    own, healer = kind[:, :agents], kind[:, :agents] == MEDIVAC
    entity = target_entities(healer, kind.shape[1] - agents)
    range_ = np.maximum(kinds.RANGE[own], LEAST_RANGE)[..., None]
    side = np.arange(kind.shape[1]) < agents
    heals = healer[..., None] & side & ~kinds.FLIES[kind][:, None]
    strikes = ~side & (kinds.DAMAGE[own[..., None], kind[:, None]] > 0)
    # Slots not in use point at entity 0, an ally: no enemy for who strikes, so never offered; a healer's are cut below.
    reached = np.take_along_axis(shown & (distance <= range_) & (heals | strikes), entity, -1)
    return entity, reached & ~(healer[..., None] & (np.arange(entity.shape[-1]) >= agents))


def _in_cone(units: Units, agents: int, offset: Reals, distance: Reals, sight: Sight) -> Flags | None:
    """(B, A, N): whether the direction to an entity is within the field of view; its own position always is."""
    if sight.degrees is None:
        return None
    look = units.look[:, :, :agents, None]
    ahead = offset[0] * look[0] + offset[1] * look[1]
    inside: Flags = ahead >= distance * math.cos(math.radians(sight.degrees / 2))
    return inside
