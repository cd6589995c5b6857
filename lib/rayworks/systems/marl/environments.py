"""Environments by name."""

from collections.abc import Mapping
from typing import Any

from rayworks.systems.marl.battle import BattleOptions, battle_environment
from rayworks.systems.marl.config import EnvironmentSection
from rayworks.systems.marl.environment import Environment
from rayworks.systems.marl.mpe2_environment import mpe2_environment
from rayworks.systems.marl.particle_environment import ParticleOptions, particle_environment
from rayworks.systems.marl.scenes import TeamSpec
from rayworks.systems.marl.starcraft import starcraft_environment

BATTLE_MAP = 32.0


def make_environment(section: EnvironmentSection, copies: int, seed: int) -> Environment:
    """The environment that the settings name.

    Args:
        section: its settings.
        copies: B.
        seed: of all its randomness.

    Raises:
        ConfigError: unknown, or its software is not installed; the message says what there is.
    """
    family, _, name = section.name.partition("/")
    if family == "mpe":
        return particle_environment(
            name, copies, seed, ParticleOptions(vectors=section.actions == "vectors", **_given(section, PARTICLE))
        )
    if family == "mpe2":
        return mpe2_environment(
            name, copies, seed, vectors=section.actions == "vectors", **_given(section, ("horizon",))
        )
    options: dict[str, Any] = {
        **_given(section, BATTLE),
        "map_size": BATTLE_MAP * section.map_scale,
    }
    if family == "battle":
        return battle_environment(name, copies, seed, BattleOptions(**options))
    return starcraft_environment(name, copies, seed, BattleOptions(**options))


PARTICLE = ("horizon", "side", "map_scale", "agents", "opponents", "landmarks")
BATTLE = ("horizon", "side", "starts", "fully_observable", "field_of_view")


def team_specs(section: EnvironmentSection) -> Mapping[str, TeamSpec]:
    """The teams that learn, without beginning a game."""
    return make_environment(section, 1, 0).teams


def _given(section: EnvironmentSection, fields: tuple[str, ...]) -> dict[str, Any]:
    """Those that are set: what is None is left to the environment."""
    return {name: getattr(section, name) for name in fields if getattr(section, name) is not None}
