"""Make environments by name."""

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from rayworks.core.errors import ConfigError
from rayworks.systems.marl.config import EnvironmentSection
from rayworks.systems.marl.environments.battle import BattleEnvironment, BattleOptions
from rayworks.systems.marl.environments.environment import Environment
from rayworks.systems.marl.environments.particle_environment import ParticleEnvironment
from rayworks.systems.marl.environments.particle_scenarios import ParticleOptions
from rayworks.systems.marl.environments.scenes import TeamSpec

BATTLE_MAP = 32.0


def make_environment(section: EnvironmentSection, num_envs: int, seed: int) -> Environment:
    """Make the environment that the settings name.

    Raises:
        ConfigError: unknown, or its software is not installed; the message says what there is.
    """
    family, _, name = section.name.partition("/")
    vectors = section.actions == "vectors"
    if family == "mpe":
        options = ParticleOptions(vectors=vectors, **_given(section, PARTICLE))
        return ParticleEnvironment(name, num_envs, seed, options)
    if family == "mpe2":
        # It brings pygame.
        from rayworks.systems.marl.environments.mpe2_environment import Mpe2Environment

        return Mpe2Environment(name, num_envs, seed, vectors=vectors, **_given(section, ("horizon",)))
    battle = BattleOptions(map_size=BATTLE_MAP * section.map_scale, **_given(section, BATTLE))
    if family == "battle":
        return BattleEnvironment(name, num_envs, seed, battle)
    if num_envs > 1:
        raise ConfigError("sampling.num_envs: StarCraft II plays one game per process; set 1, and more sampling.groups")
    from rayworks.systems.marl.environments.starcraft import starcraft_environment

    return starcraft_environment(name, seed, battle)


PARTICLE = ("horizon", "side", "map_scale", "agents", "opponents", "landmarks")
BATTLE = ("horizon", "side", "starts", "fully_observable", "field_of_view")


def most_envs(section: EnvironmentSection, wanted: int) -> int:
    """``wanted``, but 1 where a game is a process of its own: several episodes one after the other take their place."""
    return 1 if section.name.startswith("smacv2/") else wanted


def team_specs(section: EnvironmentSection) -> Mapping[str, TeamSpec]:
    """The teams that learn, without beginning a game."""
    with closing(make_environment(section, 1, 0)) as world:
        return world.teams


def require_same_game(name: str, tested: Mapping[str, TeamSpec], trained: Mapping[str, TeamSpec]) -> None:
    """Whether graph policies of one environment can play another; numbers of agents, entities and targets may differ.

    Raises:
        ConfigError: names the test, the team and what differs.
    """
    if list(tested) != list(trained):
        raise ConfigError(
            f"generalisation.tests.{name}: its teams are {', '.join(tested)}, trained are {', '.join(trained)}; "
            "test in a game of the same teams"
        )
    for team, spec in tested.items():
        own, other = spec.actions, trained[team].actions
        differing = [
            what
            for what, same in (
                ("features", spec.features == trained[team].features),
                ("kinds of actions", own.vectors == other.vectors),
                ("actions without direction", own.still == other.still),
                ("moves", own.directions == other.directions),
                ("actions with a target", bool(own.targets) == bool(other.targets)),
            )
            if not same
        ]
        if differing:
            raise ConfigError(
                f"generalisation.tests.{name}: team {team} has other {' and '.join(differing)} than in training; "
                "test in a game that keeps them"
            )


def _given(section: EnvironmentSection, fields: tuple[str, ...]) -> dict[str, Any]:
    """Those that are set: what is None is left to the environment."""
    return {name: getattr(section, name) for name in fields if getattr(section, name) is not None}
