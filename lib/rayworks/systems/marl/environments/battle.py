"""The embedded battle: SMACv2's game of two drawn teams (arXiv 2212.07489), vectorised, without StarCraft II.

Kept from SMACv2: unit types and their numbers, how teams and starts are drawn, sight, actions and masks, eight ticks a step,
the reward, the end of an episode, the scenarios' names. Different: units are discs on an empty square map, the enemy follows
one rule instead of the game's own player, who stands still does not strike by itself, who looks around has no actions for it.
"""

import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from rayworks.core import seeds
from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.marl.environments.battle_combat import Orders, Units, fight
from rayworks.systems.marl.environments.battle_scene import (
    FIRST_TARGET,
    MOVES,
    STOP,
    TEAM,
    Sight,
    battle_scene,
    carried_out,
    target_entities,
    team_spec,
)
from rayworks.systems.marl.environments.battle_scripts import nearest_targets
from rayworks.systems.marl.environments.battle_starts import Side, Starts, draw_positions, draw_teams
from rayworks.systems.marl.environments.battle_units import HEALTH, MEDIVAC, RACES, SHIELD, parse_scenario
from rayworks.systems.marl.environments.environment import Actions, Step
from rayworks.systems.marl.environments.scenes import STARCRAFT_DIRECTIONS, Flags, Scene, TeamSpec

KILL_REWARD, WIN_REWARD, SCALED_REWARD = 10.0, 200.0, 20.0
"""SMACv2's: per enemy that fell, per victory, and what all of an episode comes to when scaled."""
_STILL_AND_MOVES = np.concatenate([np.zeros((MOVES.start, 2)), np.array(STARCRAFT_DIRECTIONS)]).T


@dataclass(frozen=True)
class BattleOptions:
    """SMACv2's options of a scenario, and the side that enemies come from."""

    starts: Starts = "surrounded_and_reflect"
    side: Side = "all"
    """Side of the enemies: train on one, test on another."""
    map_size: float = 32.0
    """Side of the square map, cells."""
    horizon: int = 200
    """Most steps of an episode."""
    fully_observable: bool = False
    field_of_view: float | None = None
    """Degrees around the direction of the last move; None sees all around. The first direction is drawn."""
    reward_scale: bool = True
    """Whether all enemies' health and shields, their kills and the victory come to 20 in every episode."""
    shields_recover: bool = True

    def __post_init__(self) -> None:
        """Raises:
        ConfigError: a number is out of its range.
        """
        if not 8 <= self.map_size <= 256:
            raise ConfigError(f"map_size: {self.map_size} cells; take 8 to 256 (SMACv2: 32)")
        if self.horizon < 1:
            raise ConfigError(f"horizon: {self.horizon} steps; take at least 1 (SMACv2: 200)")
        if self.field_of_view is not None and not 0 < self.field_of_view <= 360:
            raise ConfigError(f"field_of_view: {self.field_of_view} degrees; take more than 0 and at most 360")


class BattleEnvironment:
    """B battles; an :class:`~rayworks.systems.marl.environments.environment.Environment` with the team ``allies``.

    An action that is not allowed is to stand still. Info of a step: ``won``, ``enemies_left`` and ``allies_left``. The reward
    is the whole team's; an agent gets it up to the step in which it falls.
    """

    resumable = True

    def __init__(self, scenario: str, num_envs: int, seed: int, options: BattleOptions) -> None:
        """Draws nothing before :meth:`reset`.

        Args:
            scenario: SMACv2's name ``RACE_N_vs_M``, such as ``terran_5_vs_5``.
            num_envs: B.
            seed: of teams and starts; copies differ.
            options: what SMACv2 lets one choose.

        Raises:
            ConfigError: no such scenario, or no copies.
        """
        if num_envs < 1:
            raise ConfigError(f"num_envs: {num_envs}; take at least 1")
        self.scenario, self.num_envs, self.options = parse_scenario(scenario), num_envs, options
        self.spec = team_spec(self.scenario.agents, self.scenario.enemies)
        self.teams: Mapping[str, TeamSpec] = {TEAM: self.spec}
        self.horizon = options.horizon
        self._seed = seed
        self._draws = 0
        self._half = options.map_size / 2
        self._sight = Sight(options.fully_observable, options.field_of_view)
        self._units: Units | None = None
        self._steps = np.zeros(num_envs, np.int64)
        self._full_reward = np.ones(num_envs)
        self._scene: Scene | None = None

    @property
    def units(self) -> Units:
        """The state of all battles.

        Raises:
            DataError: before the first reset.
        """
        if self._units is None:
            raise DataError("battle: no episode has begun; call reset first")
        return self._units

    def reset(self) -> dict[str, Scene]:
        """Begin new episodes in all copies."""
        return self.begin(self._draw(self.num_envs))

    def begin(self, units: Units) -> dict[str, Scene]:
        """Begin episodes in all copies with units of one's own, for tests and demonstrations.

        Raises:
            DataError: they are not of this scenario's sizes.
        """
        if units.kind.shape != (self.num_envs, self.spec.entities):
            raise DataError(f"units: shape {units.kind.shape}, not {(self.num_envs, self.spec.entities)}")
        self._units = Units(**{name: array.copy() for name, array in units.arrays().items()})
        self._steps[:] = 0
        self._full_reward = self._sum_of_rewards(units)
        self._scene = self._look(units)
        return {TEAM: self._scene}

    def step(self, actions: Actions) -> Step:
        """Act in all copies, by whole numbers (B, A); those that end begin anew.

        Raises:
            DataError: a shape or an action that does not exist.
        """
        before, agents = self.units, self.scenario.agents
        after = fight(before, self._orders(actions), agents, self._half, shields_recover=self.options.shields_recover)
        self._units = after
        self._steps += 1
        fought, fighters, alive = before.alive[:, :agents], after.fighters, after.alive
        lost: Flags = np.logical_not(fighters[:, :agents].any(1))
        beaten: Flags = np.logical_not(fighters[:, agents:].any(1))
        won, terminated = beaten & ~lost, beaten | lost
        truncated = ~terminated & (self._steps >= self.horizon)
        scene = last = self._look(after)
        shared = self._reward(before, after, won)
        info = {"won": won, "enemies_left": alive[:, agents:].sum(1), "allies_left": alive[:, :agents].sum(1)}
        ended = np.nonzero(terminated | truncated)[0]
        if len(ended):
            scene = self._begin_again(ended, last)
        self._scene = scene
        return Step(
            scenes={TEAM: scene},
            last={TEAM: last},
            rewards={TEAM: (shared[:, None] * fought).astype(np.float32)},
            alive={TEAM: alive[:, :agents]},
            terminated=terminated,
            truncated=truncated,
            info=info,
        )

    def state(self) -> bytes:
        """Everything needed to go on. Draws are by number from the seed, so the generator is two integers."""
        written = io.BytesIO()
        header = json.dumps({**self._header(), "seed": self._seed, "draws": self._draws})
        arrays = self.units.arrays()
        np.savez(written, header=header, steps=self._steps, full_reward=self._full_reward, **arrays)  # type: ignore[arg-type]  # numpy types only allow_pickle here
        return written.getvalue()

    def restore(self, state: bytes) -> dict[str, Scene]:
        """Go back to a state of a battle with the same scenario, copies and options.

        Raises:
            DataError: it is of another battle, or damaged.
        """
        try:
            with np.load(io.BytesIO(state), allow_pickle=False) as read:
                arrays = {name: read[name] for name in read.files}
            header = json.loads(str(arrays.pop("header")))
            seed, draws = int(header.pop("seed")), int(header.pop("draws"))
            steps, full_reward = arrays.pop("steps"), arrays.pop("full_reward")
            units = Units(**arrays)
        except (ValueError, TypeError, OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"battle state: cannot be read ({error}); take one that state() returned") from error
        differing = [name for name, value in self._header().items() if header.get(name) != value]
        if differing:
            raise DataError(f"battle state: of another {', '.join(differing)}; restore into the same battle")
        self._seed, self._draws = seed, draws
        self._steps, self._full_reward, self._units = steps, full_reward, units
        self._scene = self._look(units)
        return {TEAM: self._scene}

    def close(self) -> None:
        """Nothing is held."""

    def _header(self) -> dict[str, object]:
        return {"scenario": self.scenario.name, "num_envs": self.num_envs, "options": asdict(self.options)}

    def _look(self, units: Units) -> Scene:
        return battle_scene(units, self.scenario.agents, self._half, self._sight)

    def _draw(self, num_envs: int) -> Units:
        draw = seeds.stream(self._seed, "battle", self._draws)
        self._draws += 1
        options = self.options
        kind = draw_teams(draw, RACES[self.scenario.race], self.scenario, num_envs)
        position = draw_positions(
            draw, self.scenario, num_envs, starts=options.starts, side=options.side, map_size=options.map_size
        )
        angle = draw.uniform(0, 2 * math.pi, kind.shape)
        return Units.fresh(kind, position, np.stack([np.cos(angle), np.sin(angle)]))

    def _begin_again(self, rows: NDArray[np.int64], last: Scene) -> Scene:
        drawn = self._draw(len(rows))
        self.units.put(rows, drawn)
        self._steps[rows] = 0
        self._full_reward[rows] = self._sum_of_rewards(drawn)
        scene, fresh = last.map(np.copy), self._look(drawn).arrays()
        for name, array in scene.arrays().items():
            array[rows] = fresh[name]
        return scene

    def _orders(self, actions: Actions) -> Orders:
        units, (agents, enemies) = self.units, (self.scenario.agents, self.scenario.enemies)
        assert self._scene is not None
        chosen = carried_out(actions, self._scene)
        aims = chosen >= FIRST_TARGET
        entity = target_entities(units.kind[:, :agents] == MEDIVAC, enemies)
        slot = np.where(aims, chosen - FIRST_TARGET, 0)[..., None]
        target = np.where(aims, np.take_along_axis(entity, slot, -1)[..., 0], -1)
        move = np.zeros(units.position.shape)
        move[:, :, :agents] = _STILL_AND_MOVES[:, np.where(aims, STOP, chosen)]
        return Orders(move, np.concatenate([target, nearest_targets(units, agents)], 1).astype(np.int64))

    def _reward(self, before: Units, after: Units, won: Flags) -> NDArray[np.float64]:
        enemy = slice(self.scenario.agents, None)
        left, was = after.health + after.shield * after.alive, before.health + before.shield
        damage = (was - left)[:, enemy].sum(1)
        kills = (before.alive & ~after.alive)[:, enemy].sum(1)
        raw = np.maximum(damage + KILL_REWARD * kills, 0) + WIN_REWARD * won
        shared: NDArray[np.float64] = raw / self._full_reward * SCALED_REWARD if self.options.reward_scale else raw
        return shared

    def _sum_of_rewards(self, units: Units) -> NDArray[np.float64]:
        enemy = units.kind[:, self.scenario.agents :]
        total: NDArray[np.float64] = (HEALTH + SHIELD)[enemy].sum(1) + KILL_REWARD * enemy.shape[1] + WIN_REWARD
        return total
