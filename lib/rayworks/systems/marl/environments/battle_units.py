"""The nine unit types of SMACv2 as numbers, and the scenarios made of them.

Statistics are those of StarCraft II 4.10, the version that SMACv2 is played on (as Liquipedia lists them); sight, least range
and what a medivac may do are those of SMACv2's own code (oxwhirl/smacv2, commit 577ab5a).
Lengths are map cells, times are seconds at the speed "faster", at which the game makes 22.4 ticks a second.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayworks.core.errors import ConfigError

TICKS_PER_SECOND = 22.4
LEAST_RANGE = 2.0
"""Smallest range of the mask: who strikes from nearer is offered targets that it must still walk up to."""
EXPLOSION_RADIUS = 2.2
"""Radius of a baneling's explosion."""
BEAM_LENGTH, BEAM_WIDTH = 1.4, 0.15
"""Half extents of what a colossus burns, across and along its line of fire, around its target."""
HEALING = 12.6
"""Hit points that a medivac restores in a second."""
ENERGY_PER_HIT_POINT, ENERGY_AT_START, ENERGY_MAX, ENERGY_RECOVERY = 1 / 3, 50.0, 200.0, 0.7875
"""Energy of a medivac; recovery in a second."""
SHIELD_RECOVERY, SHIELD_DELAY = 2.8, 160 / TICKS_PER_SECOND
"""Points in a second, and seconds without a hit before it begins."""


@dataclass(frozen=True)
class UnitType:
    """Properties of a unit type."""

    name: str
    health: float
    range: float
    """From edge to edge, of the weapon or of healing."""
    sight: float
    """From centre to centre."""
    damage: float
    """Damage of one hit, before bonus and armour; 0 without a weapon."""
    cooldown: float
    """Seconds from one attack to the next."""
    speed: float
    """Cells in a second."""
    radius: float
    shield: float = 0.0
    armour: float = 0.0
    """Taken off each hit."""
    hits: int = 1
    """Per attack."""
    bonus: float = 0.0
    """Added to each hit on a type that is ``bonus_on``."""
    bonus_on: str = ""
    build: str = ""
    """``light``, ``armoured`` or neither."""
    flies: bool = False
    reaches_air: bool = False


UNIT_TYPES = (
    UnitType("marine", 45, 5, 9, 6, 0.61, 3.15, 0.375, build="light", reaches_air=True),
    UnitType("marauder", 125, 6, 10, 10, 1.07, 3.15, 0.5625, armour=1, bonus=10, bonus_on="armoured", build="armoured"),
    UnitType("medivac", 150, 4, 11, 0, 1.0, 3.5, 0.75, armour=1, build="armoured", flies=True),
    UnitType("stalker", 80, 6, 10, 13, 1.34, 4.13, 0.625, 80, 1, 1, 5, "armoured", "armoured", reaches_air=True),
    UnitType("zealot", 100, 0.1, 9, 8, 0.86, 3.15, 0.5, shield=50, armour=1, hits=2, build="light"),
    UnitType("colossus", 200, 7, 10, 10, 1.07, 3.15, 1.0, 150, 1, 2, 5, "light", "armoured"),
    UnitType("zergling", 35, 0.1, 8, 5, 0.497, 4.13, 0.375, build="light"),
    UnitType("hydralisk", 90, 5, 9, 12, 0.59, 3.15, 0.625, build="light", reaches_air=True),
    UnitType("baneling", 30, 0.25, 8, 16, 1.0, 3.5, 0.375, bonus=19, bonus_on="light"),
)
NAMES = tuple(unit.name for unit in UNIT_TYPES)
MEDIVAC, COLOSSUS, BANELING = (NAMES.index(name) for name in ("medivac", "colossus", "baneling"))


def _column(of: Callable[[UnitType], float]) -> NDArray[np.float64]:
    return np.array([of(unit) for unit in UNIT_TYPES], np.float64)


def _damage(attacker: UnitType, target: UnitType) -> float:
    if not attacker.damage or (target.flies and not attacker.reaches_air):
        return 0.0
    hit = attacker.damage + attacker.bonus * (attacker.bonus_on == target.build) - target.armour
    return attacker.hits * max(hit, 0.5)


HEALTH = _column(lambda unit: unit.health)
SHIELD = _column(lambda unit: unit.shield)
RANGE = _column(lambda unit: unit.range)
SIGHT = _column(lambda unit: unit.sight)
COOLDOWN_TICKS = _column(lambda unit: unit.cooldown * TICKS_PER_SECOND)
STRIDE = _column(lambda unit: unit.speed / TICKS_PER_SECOND)
"""Cells in a tick."""
RADIUS = _column(lambda unit: unit.radius)
FLIES = np.array([unit.flies for unit in UNIT_TYPES])
DAMAGE = np.array([[_damage(attacker, target) for target in UNIT_TYPES] for attacker in UNIT_TYPES])
"""(9, 9): of one attack by a type (row) on a type, bonus and armour in it; shields have no armour of their own here. 0 where
the weapon does not reach."""


@dataclass(frozen=True)
class Race:
    """Unit types that teams are drawn from."""

    units: tuple[int, ...]
    """Places in ``UNIT_TYPES``."""
    weights: tuple[float, ...] = (0.45, 0.45, 0.1)
    never_alone: int | None = None
    """The type that cannot make up a whole team."""


RACES = {
    "terran": Race((0, 1, 2), never_alone=MEDIVAC),
    "protoss": Race((3, 4, 5)),
    "zerg": Race((6, 7, 8), never_alone=BANELING),
}


@dataclass(frozen=True)
class Scenario:
    """A race and the sizes of both teams."""

    race: str
    agents: int
    enemies: int

    @property
    def name(self) -> str:
        """SMACv2's name of the scenario."""
        return f"{self.race}_{self.agents}_vs_{self.enemies}"


LARGEST_TEAM = 50


def parse_scenario(name: str) -> Scenario:
    """A scenario by SMACv2's name, such as ``zerg_20_vs_23``.

    Raises:
        ConfigError: not of that form, an unknown race or a team of no or too many units.
    """
    found = re.fullmatch(rf"({'|'.join(RACES)})_(\d+)_vs_(\d+)", name)
    if found is None:
        raise ConfigError(
            f"scenario: {name!r} is unknown; write RACE_N_vs_M with a race of {', '.join(RACES)}, such as terran_5_vs_5"
        )
    agents, enemies = int(found[2]), int(found[3])
    if not (1 <= agents <= LARGEST_TEAM and 1 <= enemies <= LARGEST_TEAM):
        raise ConfigError(
            f"scenario: {name!r} has a team of {agents} or {enemies}; take 1 to {LARGEST_TEAM} units a side"
        )
    return Scenario(found[1], agents, enemies)


def names_of(kinds: NDArray[np.integer[Any]]) -> list[str]:
    """Unit types by index, (N,)."""
    return [NAMES[kind] for kind in kinds]
