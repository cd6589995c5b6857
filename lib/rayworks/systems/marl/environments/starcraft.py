"""The real game: StarCraft II through SMACv2 (oxwhirl/smacv2), with the scenes, rules and draws of the embedded battle.

SMACv2's own game object is driven directly, and three of its defects do not get through. Scenes are built from its units and
not from its observations, which leave out most enemies (issue 50). Rewards are scaled by each episode's own enemies, where it
keeps the sum of its first episode. A start that the game refuses is drawn again, where its wrapper returns nothing. Teams and
starts come from our seeds and know sides; the game's own randomness does not.
"""

import importlib
import importlib.util
import json
import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rayworks.core import seeds
from rayworks.core.errors import ConfigError, DataError, InfrastructureError
from rayworks.systems.marl.environments.battle import KILL_REWARD, SCALED_REWARD, WIN_REWARD, BattleOptions
from rayworks.systems.marl.environments.battle_combat import Units
from rayworks.systems.marl.environments.battle_scene import STOP, TEAM, Sight, battle_scene, carried_out, team_spec
from rayworks.systems.marl.environments.battle_starts import draw_positions, draw_teams
from rayworks.systems.marl.environments.battle_units import NAMES, RACES, Scenario, names_of, parse_scenario
from rayworks.systems.marl.environments.environment import Actions, Step
from rayworks.systems.marl.environments.scenes import Scene, TeamSpec

STOCK_TYPES = dict(zip((48, 51, 54, 74, 73, 4, 105, 107, 9), NAMES, strict=True))
"""Enemies' types by the game's numbers; those of allies are made by the map, and the game object knows them."""
MAP, MAP_SIZE = "32x32_flat.SC2Map", 32.0
ATTEMPTS = 5
"""Starts that are drawn before the game counts as broken."""


class Game(Protocol):
    """What of SMACv2's ``StarCraft2Env`` is used; units have ``unit_type``, ``pos``, ``health``, ``shield``, ``energy``..."""

    agents: Mapping[int, Any]
    enemies: Mapping[int, Any]
    n_agents: int
    n_enemies: int
    episode_limit: int

    def reset(self, episode_config: dict[str, Any]) -> Any:
        """Begin an episode with given teams and positions."""

    def step(self, actions: list[int]) -> tuple[float, bool, dict[str, Any]]:
        """The unscaled reward, whether the episode ended, and what happened."""

    def get_avail_actions(self) -> list[list[int]]:
        """Per agent and action, 1 if it may be chosen."""

    def close(self) -> None:
        """End the game's process."""


class StarCraftEnvironment:
    """One battle in the real game; an :class:`~rayworks.systems.marl.environments.environment.Environment` with one copy.

    Unlike the embedded battle it cannot be put back: :meth:`restore` begins the episode that would have come next.
    """

    num_envs = 1
    resumable = False

    def __init__(
        self, game: Game, scenario: Scenario, seed: int, options: BattleOptions, refusal: type[Exception]
    ) -> None:
        """Around a game object.

        Args:
            game: made without its scale of rewards.
            options: those of the battle that the real game knows.
            refusal: what the game raises when it cannot begin an episode.

        Raises:
            ConfigError: an option that the real game does not know, or a game of other sizes.
        """
        for name, kept in (("map_size", MAP_SIZE), ("field_of_view", None), ("shields_recover", True)):
            if getattr(options, name) != kept:
                raise ConfigError(f"{name}: the real game is played with {kept} only; leave it at that")
        if (game.n_agents, game.n_enemies) != (scenario.agents, scenario.enemies):
            raise ConfigError(
                f"scenario: {scenario.name}, but the game has {game.n_agents} agents, {game.n_enemies} enemies"
            )
        game.episode_limit = options.horizon
        self.scenario, self.options, self.horizon = scenario, options, options.horizon
        self.spec = team_spec(scenario.agents, scenario.enemies)
        self.teams: Mapping[str, TeamSpec] = {TEAM: self.spec}
        self._game, self._seed, self._refusal = game, seed, refusal
        self._draws = 0
        self._full_reward = 1.0
        self._scene: Scene | None = None

    def reset(self) -> dict[str, Scene]:
        """Begin a new episode.

        Raises:
            InfrastructureError: the game refuses every start.
        """
        for _ in range(ATTEMPTS):
            try:
                self._game.reset(self._draw())
            except self._refusal:
                continue
            total = sum(unit.health_max + unit.shield_max for unit in self._game.enemies.values())
            self._full_reward = total + KILL_REWARD * self.scenario.enemies + WIN_REWARD
            self._scene = self._look(self._units())
            return {TEAM: self._scene}
        raise InfrastructureError(f"StarCraft II refused {ATTEMPTS} starts of {self.scenario.name}; restart the game")

    def step(self, actions: Actions) -> Step:
        """Act; an episode that ended is followed by the next one. An action that is not allowed is to stand still.

        Raises:
            DataError: before the first reset, or actions of another shape.
        """
        if self._scene is None:
            raise DataError("StarCraft II: no episode has begun; call reset first")
        acted = self._scene.allowed[..., STOP]
        reward, over, info = self._game.step(carried_out(actions, self._scene)[0].tolist())
        units = self._units()
        fighters, alive, agents = units.fighters[0], units.alive, self.scenario.agents
        # A game that broke down in mid-battle ends its episode without a decision: for time, so that its value goes on.
        decided = over and not (fighters[:agents].any() and fighters[agents:].any())
        last = self._look(units)
        scale = SCALED_REWARD / self._full_reward if self.options.reward_scale else 1.0
        self._scene = last
        return Step(
            scenes=self.reset() if over else {TEAM: last},
            last={TEAM: last},
            rewards={TEAM: (acted * (reward * scale)).astype(np.float32)},
            alive={TEAM: alive[:, :agents]},
            terminated=np.array([decided]),
            truncated=np.array([over and not decided]),
            info={
                "won": np.array([bool(info.get("battle_won", False))]),
                "enemies_left": alive[:, agents:].sum(1),
                "allies_left": alive[:, :agents].sum(1),
            },
        )

    def state(self) -> bytes:
        """Which episode is next; nothing of the one under way, which the real game does not give away."""
        return json.dumps({"scenario": self.scenario.name, "seed": self._seed, "draws": self._draws}).encode()

    def restore(self, state: bytes) -> dict[str, Scene]:
        """Begin the episode that is next.

        Raises:
            DataError: the state is of another scenario, or damaged.
        """
        try:
            read = json.loads(state)
            scenario, seed, draws = read["scenario"], int(read["seed"]), int(read["draws"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"StarCraft II state: cannot be read ({error}); take one that state() returned") from error
        if scenario != self.scenario.name:
            raise DataError(f"StarCraft II state: of {scenario}; restore into the same scenario")
        self._seed, self._draws = seed, draws
        return self.reset()

    def close(self) -> None:
        """End the game's process."""
        self._game.close()

    def _draw(self) -> dict[str, Any]:
        draw = seeds.stream(self._seed, "battle", self._draws)
        self._draws += 1
        scenario, options, agents = self.scenario, self.options, self.scenario.agents
        [kind] = draw_teams(draw, RACES[scenario.race], scenario, 1)
        positions = draw_positions(draw, scenario, 1, starts=options.starts, side=options.side, map_size=MAP_SIZE)
        position = positions[:, 0].T + MAP_SIZE / 2
        return {
            "team_gen": {"ally_team": names_of(kind[:agents]), "enemy_team": names_of(kind[agents:]), "id": 0},
            "ally_start_positions": {"item": position[:agents], "id": 0},
            "enemy_start_positions": {"item": position[agents:], "id": 0},
        }

    def _units(self) -> Units:
        game = self._game
        of_allies = {getattr(game, f"{name}_id"): name for name in NAMES}
        found = [(of_allies, game.agents[index]) for index in range(game.n_agents)]
        found += [(STOCK_TYPES, game.enemies[index]) for index in range(game.n_enemies)]
        units = [unit for _, unit in found]
        kind = np.array([[NAMES.index(names[unit.unit_type]) for names, unit in found]], np.int8)
        position = np.array([[(unit.pos.x, unit.pos.y) for unit in units]]).transpose(2, 0, 1) - MAP_SIZE / 2
        health, shield, cooldown, energy = (
            np.array([[getattr(unit, name) for unit in units]], np.float64)
            for name in ("health", "shield", "weapon_cooldown", "energy")
        )
        return Units(kind, position, health, shield, cooldown, energy, np.zeros(kind.shape), np.zeros(position.shape))

    def _look(self, units: Units) -> Scene:
        scene = battle_scene(units, self.scenario.agents, MAP_SIZE / 2, Sight(self.options.fully_observable))
        offered = np.array(self._game.get_avail_actions(), bool)[None]
        # The game's list ends with the enemies, ours with the larger team.
        mask = np.zeros(scene.allowed.shape, bool)
        mask[..., : offered.shape[-1]] = offered
        return Scene(**{**scene.arrays(), "allowed": scene.allowed & mask})


def missing_parts() -> list[str]:
    """What keeps the real game from being played here, a sentence each that says how to get it; empty if nothing does."""
    missing = []
    if importlib.util.find_spec("smacv2") is None:
        missing.append("smacv2 is not installed: pip install git+https://github.com/oxwhirl/smacv2")
    elif importlib.util.find_spec("pysc2") is None:
        missing.append("pysc2 is not installed: pip install pysc2==4.0.0 s2clientprotocol")
    elif (
        int(metadata.version("protobuf").split(".")[0]) > 3
        and os.environ.get("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION") != "python"
    ):
        missing.append("s2clientprotocol needs protobuf 3, or PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python set")
    folder = Path(os.environ.get("SC2PATH", "~/StarCraftII")).expanduser()
    if not (folder / "Versions").is_dir():
        missing.append(f"StarCraft II is not at {folder}: install Blizzard's Linux package 4.10 and set SC2PATH to it")
    elif not (folder / "Maps" / "SMAC_Maps" / MAP).is_file():
        missing.append(
            f"{MAP} is not in {folder}/Maps/SMAC_Maps: unpack SMAC_Maps.zip of smacv2's release 'maps' there"
        )
    return missing


def starcraft_environment(scenario: str, seed: int, options: BattleOptions) -> StarCraftEnvironment:
    """The real game, which starts with the first reset.

    Args:
        scenario: scenario by SMACv2's name, such as ``terran_5_vs_5``.
        seed: seed of teams and starts.
        options: options of the battle; the map, the field of view and the shields are the game's.

    Raises:
        ConfigError: something is not installed, an unknown scenario or an option that the real game does not know.
    """
    parsed = parse_scenario(scenario)
    if missing := missing_parts():
        raise ConfigError(f"StarCraft II cannot be played: {'; '.join(missing)}")
    return around_smacv2(parsed, seed, options)


def around_smacv2(scenario: Scenario, seed: int, options: BattleOptions) -> StarCraftEnvironment:
    """The same, without looking for the game's files: SMACv2 may be given a game of another kind."""
    module = importlib.import_module("smacv2.env.starcraft2.starcraft2")
    sizes = {"n_units": scenario.agents, "n_enemies": scenario.enemies}
    game = module.StarCraft2Env(
        map_name=f"10gen_{scenario.race}",
        capability_config={**sizes, "team_gen": {**sizes, "observe": True}, "start_positions": sizes},
        reward_scale=False,
        use_unit_ranges=True,
        min_attack_range=2,
        conic_fov=False,
        seed=seeds.derive_small(seed, "starcraft") % 2**31,
    )
    return StarCraftEnvironment(game, scenario, seed, options, module.CannotResetException)
