"""Wrap one copy of an environment as a PettingZoo parallel environment, each agent with its own view."""

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from pettingzoo import ParallelEnv

from rayworks.systems.marl.environments.environment import Environment
from rayworks.systems.marl.environments.scenes import Scene, TeamSpec
from rayworks.systems.marl.environments.spaces import action_space, observation_space

Maker = Callable[[int], Environment]
"""From a seed to an environment of one copy."""


class ParallelScenes(ParallelEnv[str, dict[str, Any], Any]):
    """Agents ``TEAM_NUMBER``, sorted as the teams are; an agent that dies leaves, the others go on.

    An observation is the agent's own scene (:meth:`.Scene.own`): itself first, what it does not see absent. A reset with
    a seed makes the environment anew.
    """

    def __init__(self, make: Maker, name: str = "scenes") -> None:
        self.metadata = {"name": name, "render_modes": [], "is_parallelizable": True}
        self.render_mode = None
        self._make, self._world = make, make(0)
        self._of = {
            f"{team}_{number}": (team, number)
            for team, spec in self._world.teams.items()
            for number in range(spec.agents)
        }
        self.possible_agents = list(self._of)
        self.agents: list[str] = []
        own = {team: spec.own() for team, spec in self._world.teams.items()}
        self._observations = {agent: observation_space(own[team]) for agent, (team, _) in self._of.items()}
        self._actions = {agent: action_space(own[team]) for agent, (team, _) in self._of.items()}
        self._scenes: Mapping[str, Scene] = {}

    @property
    def teams(self) -> Mapping[str, TeamSpec]:
        """Teams of the environment."""
        return self._world.teams

    def observation_space(self, agent: str) -> gymnasium.spaces.Dict:
        """The same object whenever asked."""
        return self._observations[agent]

    def action_space(self, agent: str) -> gymnasium.Space[Any]:
        """The same object whenever asked."""
        return self._actions[agent]

    def reset(
        self, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
        """A new episode; with a seed always the same."""
        if seed is not None:
            self._world.close()
            self._world = self._make(seed)
        self._scenes = self._world.reset()
        self.agents = self._living({team: s.present[:, : s.agents] for team, s in self._scenes.items()})
        return self._views(self.agents, self._scenes), {agent: {} for agent in self.agents}

    def step(self, actions: Mapping[str, Any]) -> tuple[Any, ...]:
        """PettingZoo's five results, for the agents that acted."""
        given: dict[str, np.ndarray[Any, Any]] = {}
        for team, spec in self._world.teams.items():
            shape = (1, spec.agents, 2) if spec.actions.vectors else (1, spec.agents)
            given[team] = np.zeros(shape, np.float32 if spec.actions.vectors else np.int64)
        for agent, action in actions.items():
            team, number = self._of[agent]
            given[team][0, number] = action
        step = self._world.step(given)
        acted, over, living = self.agents, bool(step.ended[0]), self._living(step.alive)
        dead = set(acted) - set(living)
        rewards = {agent: float(step.rewards[team][0, k]) for agent, (team, k) in self._of.items() if agent in acted}
        terminated = {agent: agent in dead or bool(step.terminated[0]) for agent in acted}
        truncated = {agent: bool(step.truncated[0]) and not terminated[agent] for agent in acted}
        views = self._views(acted, step.last)
        infos = {agent: {name: values[0] for name, values in step.info.items()} if over else {} for agent in acted}
        self._scenes = step.scenes
        self.agents = [] if over else [agent for agent in acted if agent not in dead]
        return views, rewards, terminated, truncated, infos

    def state(self) -> np.ndarray[Any, Any]:
        """Positions and velocities of everything, as the first team knows them."""
        scene = next(iter(self._scenes.values()))
        return np.concatenate([scene.positions.ravel(), scene.velocities.ravel()])

    def render(self) -> None:
        """Nothing: films are drawn by :mod:`~.episodes`."""

    def close(self) -> None:
        """Close the environment."""
        self._world.close()

    def _living(self, alive: Mapping[str, np.ndarray[Any, Any]]) -> list[str]:
        return [agent for agent, (team, number) in self._of.items() if alive[team][0, number]]

    def _views(self, agents: list[str], scenes: Mapping[str, Scene]) -> dict[str, dict[str, Any]]:
        own = {team: scene.own().arrays() for team, scene in scenes.items()}
        seen = {agent: self._of[agent] for agent in agents}
        return {agent: {name: array[k] for name, array in own[team].items()} for agent, (team, k) in seen.items()}
