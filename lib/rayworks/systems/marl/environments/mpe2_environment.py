"""Adapter to mpe2 environments: the slow reference, one Python object per copy."""

import importlib
import os
import pickle
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayworks.core.errors import ConfigError
from rayworks.core.seeds import derive_small
from rayworks.systems.marl.environments.environment import Actions, Step, norm_clipped
from rayworks.systems.marl.environments.particle_scenarios import GOAL, team_view
from rayworks.systems.marl.environments.scenes import ActionLayout, Scene, TeamSpec, kinds_named

# pygame, which mpe2 draws with, greets on standard output.
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

USUAL_HORIZON = 25


class Mpe2Environment:
    """B copies of an mpe2 scenario, stepped one after the other; an :class:`~.environment.Environment`.

    Scenes are those of :class:`~.particle_environment.ParticleEnvironment`: policies go from one to the other.
    """

    resumable = True

    def __init__(self, name: str, num_envs: int, seed: int, *, vectors: bool, horizon: int = USUAL_HORIZON) -> None:
        """Raises:
        ConfigError: no such scenario, or agents that speak or cannot move.
        """
        self.num_envs, self.horizon, self._vectors = num_envs, horizon, vectors
        self._games = [_make(name, vectors, horizon) for _ in range(num_envs)]
        self._seeds, self._episode = [derive_small(seed, "mpe2", copy) % 2**31 for copy in range(num_envs)], 0
        self._reset_all()
        world = self._games[0].unwrapped.world
        mute = [agent.name for agent in world.agents if not (agent.movable and agent.silent)]
        if mute:
            raise ConfigError(
                f"environment.name: mpe2/{name}: {', '.join(mute)} speaks or cannot move; policies here are for scenarios "
                "in which all agents move and none speaks"
            )
        self._agents: dict[str, list[int]] = {}
        for number, agent in enumerate(world.agents):
            self._agents.setdefault(agent.name.rpartition("_")[0], []).append(number)
        if name == "simple_adversary":
            self._agents = {team: self._agents[team] for team in ("agent", "adversary")}
        self.teams: dict[str, TeamSpec] = {}
        """Teams, named by the first part of their agents' names."""
        self._order: dict[str, NDArray[np.int64]] = {}
        for team in self._agents:
            layout, knows = ActionLayout(vectors=vectors), team == "agent" and _goal(self._games[0]) is not None
            view = team_view(self._agents, team, len(world.landmarks), layout, knows_goal=knows)
            self.teams[team], self._order[team] = view

    def reset(self) -> dict[str, Scene]:
        """New episodes, each from a seed of its own."""
        self._reset_all()
        return self._scenes()

    def step(self, actions: Actions) -> Step:
        """See :class:`~rayworks.systems.marl.environments.environment.Environment`."""
        given = {
            team: norm_clipped(actions[team]).astype(np.float32) if self._vectors else actions[team]
            for team in self._agents
        }
        rewards = {team: np.zeros((self.num_envs, len(own)), np.float32) for team, own in self._agents.items()}
        ended = np.zeros((2, self.num_envs), bool)
        for copy, game in enumerate(self._games):
            names = game.possible_agents
            chosen = {
                names[agent]: self._action(given[team][copy, index])
                for team, own in self._agents.items()
                for index, agent in enumerate(own)
            }
            _, got, terminated, truncated, _ = game.step(chosen)
            for team, own in self._agents.items():
                rewards[team][copy] = [got[names[agent]] for agent in own]
            ended[:, copy] = all(terminated.values()), all(truncated.values()) and not all(terminated.values())
        last = self._scenes()
        over = ended.any(0)
        for copy in np.nonzero(over)[0]:
            self._reset(int(copy))
        alive = {team: np.ones((self.num_envs, len(own)), bool) for team, own in self._agents.items()}
        return Step(self._scenes() if over.any() else last, last, rewards, alive, ended[0], ended[1], {})

    def state(self) -> bytes:
        """See :class:`~.environment.Environment`; trusted like any pickle: it stays within a run."""
        games = [
            ([(e.state.p_pos, e.state.p_vel) for e in _entities(game)], _goal(game), game.unwrapped.steps)
            for game in self._games
        ]
        return pickle.dumps((games, self._episode, self._begun))

    def restore(self, state: bytes) -> dict[str, Scene]:
        """See :class:`~rayworks.systems.marl.environments.environment.Environment`."""
        games, self._episode, self._begun = pickle.loads(state)
        for game, (entities, goal, steps), begun in zip(self._games, games, self._begun, strict=True):
            game.reset(seed=begun)
            for entity, (position, speed) in zip(_entities(game), entities, strict=True):
                entity.state.p_pos, entity.state.p_vel = position.copy(), speed.copy()
            if goal is not None:
                for agent in game.unwrapped.world.agents:
                    agent.goal_a = game.unwrapped.world.landmarks[goal]
            game.unwrapped.steps = steps
        return self._scenes()

    def close(self) -> None:
        """End the games, and their windows if they had any."""
        for game in self._games:
            game.close()

    def _reset_all(self) -> None:
        self._begun = [0] * self.num_envs
        for copy in range(self.num_envs):
            self._reset(copy)

    def _reset(self, copy: int) -> None:
        self._episode += 1
        self._begun[copy] = derive_small(self._seeds[copy], "episode", self._episode) % 2**31
        self._games[copy].reset(seed=self._begun[copy])

    def _action(self, given: Any) -> Any:
        if not self._vectors:
            return int(given)
        across, up = given
        force = [0, max(-across, 0), max(across, 0), max(-up, 0), max(up, 0)]
        return np.minimum(np.array(force, np.float32), 1)

    def _scenes(self) -> dict[str, Scene]:
        return {team: self._scene(team) for team in self.teams}

    def _scene(self, team: str) -> Scene:
        spec = self.teams[team]
        features = np.repeat(kinds_named(spec.kinds, spec.features)[None], self.num_envs, 0)
        if GOAL in spec.features:
            goals = np.array([_goal(game) for game in self._games], int)
            features[np.arange(self.num_envs), spec.kinds.index("landmark") + goals, -1] = 1
        states = [[(entity.state.p_pos, entity.state.p_vel) for entity in _entities(game)] for game in self._games]
        moving = np.array(states, np.float32)[:, self._order[team]]
        return spec.open_scene(moving[:, :, 0], moving[:, :, 1], features)


def _make(name: str, vectors: bool, horizon: int) -> Any:
    from mpe2.all_modules import mpe_environments

    versions = {re.sub(r"^mpe/|_v\d+$", "", full): full.removeprefix("mpe/") for full in mpe_environments}
    if name not in versions:
        raise ConfigError(f"environment.name: mpe2/{name} is unknown; mpe2 has {', '.join(sorted(versions))}")
    module = importlib.import_module(f"mpe2.{versions[name]}")
    return module.parallel_env(max_cycles=horizon, continuous_actions=vectors)


def _entities(game: Any) -> list[Any]:
    world = game.unwrapped.world
    return [*world.agents, *world.landmarks]


def _goal(game: Any) -> int | None:
    """Which landmark is the goal, where there is one."""
    world = game.unwrapped.world
    chosen = getattr(world.agents[-1], "goal_a", None)
    return None if chosen is None else world.landmarks.index(chosen)
