"""Combat rules within one step: units walk, push, strike, burn, explode, heal and recover.

All copies and units advance together; the only loop is over ticks. Everything is decided from the positions at the beginning
of a tick, so no order of units matters. Positions are from the centre of the map and distances are sums of two squares, hence
a turned or mirrored battle (the eight symmetries of the square) goes on as the turned or mirrored one, bit for bit.
Axes: B copies, N units, agents first; planar arrays are (2, B, N).
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayworks.systems.marl.environments import battle_units as kinds
from rayworks.systems.marl.environments.battle_units import BANELING, COLOSSUS, MEDIVAC
from rayworks.systems.marl.environments.scenes import Flags

Reals = NDArray[np.float64]
TICKS = 8
"""Game ticks of a step, SMACv2's ``step_mul``."""
SLACK = 1e-6
"""Cells that rounding may not decide over: who has walked up to its reach is within it."""
ABSENT = -1e6
"""Radius of what nothing bumps into."""


@dataclass(frozen=True)
class Units:
    """The state of all battles."""

    kind: NDArray[np.int8]
    """(B, N), indices into ``UNIT_TYPES``."""
    position: Reals
    """(2, B, N), cells from the centre of the map."""
    health: Reals
    """(B, N); 0 for the dead."""
    shield: Reals
    """(B, N)."""
    cooldown: Reals
    """(B, N), ticks until the next attack; not above 0 when ready."""
    energy: Reals
    """(B, N), of medivacs; 0 for others."""
    calm: Reals
    """(B, N), ticks since the last hit."""
    look: Reals
    """(2, B, N), unit vectors: the direction of the last ordered move."""

    @property
    def alive(self) -> Flags:
        """(B, N)."""
        return self.health > 0

    @property
    def fighters(self) -> Flags:
        """(B, N): alive and not only there to heal; a side without them has lost."""
        fighting: Flags = self.alive & (self.kind != MEDIVAC)
        return fighting

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def put(self, rows: NDArray[np.int64], other: "Units") -> None:
        """Replace copies, in place."""
        for name, array in self.arrays().items():
            array[..., rows, :] = getattr(other, name)

    @classmethod
    def fresh(cls, kind: NDArray[np.int8], position: Reals, look: Reals) -> "Units":
        """Unhurt units."""
        energy, calm = np.where(kind == MEDIVAC, kinds.ENERGY_AT_START, 0.0), np.full(kind.shape, np.inf)
        return cls(kind, position, kinds.HEALTH[kind], kinds.SHIELD[kind], np.zeros(kind.shape), energy, calm, look)


@dataclass(frozen=True)
class Orders:
    """What each unit is to do during a step; neither a move nor a target is to stand still."""

    move: Reals
    """(2, B, N), share of the full speed, length at most 1."""
    target: NDArray[np.int64]
    """(B, N): the unit to attack, or to heal for a medivac, walking up to it; -1 for none."""


def distances(position: Reals) -> Reals:
    """Distances between centres, (B, N, N)."""
    difference = position[:, :, None, :] - position[:, :, :, None]
    squares: Reals = difference[0] ** 2 + difference[1] ** 2
    return np.sqrt(squares)


def fight(units: Units, orders: Orders, agents: int, half: float, *, shields_recover: bool = True) -> Units:
    """One step.

    Args:
        orders: orders of all units; those of the dead are ignored.
        agents: how many of the units are of the first side.
        half: half the side of the map, cells.
        shields_recover: whether shields come back after a while without hits.

    Returns:
        The units after ``TICKS`` ticks.
    """
    kind, shape = units.kind, units.kind.shape
    position, health, shield = units.position, units.health, units.shield
    cooldown, energy, calm = units.cooldown, units.energy, units.calm
    ordered = orders.target >= 0
    # A target's index in the flattened (B, N), for gathering and for adding up.
    flat = np.maximum(orders.target, 0) + np.arange(len(kind))[:, None] * shape[1]
    radius, stride = kinds.RADIUS[kind], kinds.STRIDE[kind]
    reach = kinds.RANGE[kind] + radius + radius.take(flat)
    period, damage = kinds.COOLDOWN_TICKS[kind], kinds.DAMAGE[kind, kind.take(flat)]
    most, most_shield = kinds.HEALTH[kind], kinds.SHIELD[kind]
    healers, protected = kind == MEDIVAC, kind != MEDIVAC
    level = np.where(kinds.FLIES[kind], -ABSENT, 0.0) if healers.any() else None
    splashing = (kind == BANELING) | (kind == COLOSSUS)
    splashes, has_shields = bool(splashing.any()), bool(most_shield.any())
    for _ in range(TICKS):
        alive = health > 0
        aims = ordered & alive & alive.take(flat)
        offset = position.reshape(2, -1)[:, flat] - position
        distance = np.sqrt(offset[0] ** 2 + offset[1] ** 2)
        near = aims & (distance <= reach + SLACK)

        fires = near & (cooldown <= 0) & (damage > 0)
        # What a tick goes beyond the cooldown counts towards the next one, if the attack comes at once.
        cooldown = np.where(fires, cooldown + period, np.where(cooldown > 0, cooldown, 1)) - 1
        hurt = np.bincount(flat[fires], damage[fires], health.size).reshape(shape).astype(np.float64, copy=False)
        if splashes:
            burning = fires & splashing
            if burning.any():
                hurt += _splash(position, kind, radius, burning, flat, agents)
        if has_shields:
            absorbed = np.minimum(shield, hurt)
            calm = np.where(hurt > 0, 0.0, calm + 1)
            health = np.maximum(health - (hurt - absorbed), 0)
            shield = shield - absorbed
            if shields_recover:
                recovering = (calm > kinds.SHIELD_DELAY * kinds.TICKS_PER_SECOND) & (health > 0)
                recovered = shield + recovering * (kinds.SHIELD_RECOVERY / kinds.TICKS_PER_SECOND)
                shield = np.minimum(recovered, most_shield)
        else:
            health = np.maximum(health - hurt, 0)
        if splashes:
            health = np.where(fires & (kind == BANELING), 0, health)
        if level is not None:
            health, energy = _heal(health, most, energy, near & healers, flat, protected)

        chase = aims & ~near
        pace = np.minimum(stride, distance - reach) / np.maximum(distance, 1e-9)
        walk = np.where(chase, offset * pace, orders.move * stride) * (alive & ~near)
        position = position + walk
        position = np.clip(position + _push(position, np.where(health > 0, radius, ABSENT), level), -half, half)
    moved = (orders.move != 0).any(0)
    length = np.sqrt(orders.move[0] ** 2 + orders.move[1] ** 2)
    look = np.where(moved, orders.move / np.where(moved, length, 1), units.look)
    return Units(kind, position, health, shield, cooldown, energy, calm, look)


def _push(position: Reals, radius: Reals, level: Reals | None) -> Reals:
    """How far units of one level are pushed apart, (2, B, N): each of a pair by half of what they overlap."""
    difference = position[:, :, None, :] - position[:, :, :, None]
    distance = np.sqrt(difference[0] ** 2 + difference[1] ** 2)
    overlap = radius[:, :, None] + radius[:, None, :] - distance
    if level is not None:
        overlap -= np.abs(level[:, :, None] - level[:, None, :])
    share = np.maximum(overlap, 0) / np.maximum(distance, 1e-9) * -0.5
    pushed: Reals = np.einsum("pbij,bij->pbi", difference, share)
    return pushed


def _splash(
    position: Reals, kind: NDArray[np.int8], radius: Reals, burning: Flags, flat: NDArray[np.int64], agents: int
) -> Reals:
    """Damage (B, N) to those near a target or an exploding baneling; the target itself is hit by the attack."""
    row, unit = np.nonzero(burning)
    aim = flat[row, unit] % kind.shape[1]
    own, goal, others = position[:, row, unit], position[:, row, aim], position[:, row]
    explodes = kind[row, unit] == BANELING
    centre = np.where(explodes, own, goal)
    from_centre = others - centre[:, :, None]
    distance = np.sqrt(from_centre[0] ** 2 + from_centre[1] ** 2)
    line = goal - own
    line = (line / np.maximum(np.sqrt(line[0] ** 2 + line[1] ** 2), 1e-9))[:, :, None]
    along = np.abs(from_centre[0] * line[0] + from_centre[1] * line[1])
    across = np.abs(from_centre[0] * line[1] - from_centre[1] * line[0])
    edge = radius[row]
    burnt = (along <= kinds.BEAM_WIDTH + edge) & (across <= kinds.BEAM_LENGTH + edge)
    hit = np.where(explodes[:, None], distance <= kinds.EXPLOSION_RADIUS + edge, burnt)
    slots = np.arange(kind.shape[1])
    hit &= ((slots < agents) != (unit < agents)[:, None]) & (slots != aim[:, None])
    dealt = kinds.DAMAGE[kind[row, unit][:, None], kind[row]] * hit
    total = np.zeros(kind.shape)
    np.add.at(total, row, dealt)
    return total


def _heal(
    health: Reals, most: Reals, energy: Reals, healing: Flags, flat: NDArray[np.int64], protected: Flags
) -> tuple[Reals, Reals]:
    """Health and energy after medivacs in reach of a hurt unit have healed for a tick."""
    each = kinds.HEALING / kinds.TICKS_PER_SECOND
    hurt = protected & (health > 0) & (health < most)
    heals = healing & (energy >= each * kinds.ENERGY_PER_HIT_POINT) & hurt.take(flat)
    given = np.bincount(flat[heals], minlength=health.size).reshape(health.shape) * each
    energy = energy - heals * (each * kinds.ENERGY_PER_HIT_POINT)
    recovery = np.where(protected, 0.0, kinds.ENERGY_RECOVERY / kinds.TICKS_PER_SECOND)
    return np.where(hurt, np.minimum(health + given, most), health), np.minimum(energy + recovery, kinds.ENERGY_MAX)
