"""MPE's scenarios as vectorised environments."""

import io

import numpy as np
from numpy.typing import NDArray

from rayworks.systems.marl.environments.environment import Actions, Step, norm_clipped
from rayworks.systems.marl.environments.particle_scenarios import ParticleOptions, make_scenario, team_view
from rayworks.systems.marl.environments.particle_world import Reals, World
from rayworks.systems.marl.environments.scenes import MPE_DIRECTIONS, ActionLayout, Floats, Scene, TeamSpec, kinds_named

FORCES = np.array([(0.0, 0.0), *MPE_DIRECTIONS]).T
"""(2, 5), of discrete actions."""
SIDES: dict[str, tuple[int, float]] = {"left": (0, -1.0), "right": (0, 1.0), "bottom": (1, -1.0), "top": (1, 1.0)}
"""Axis and sign of the half where things begin."""


class ParticleEnvironment:
    """B copies of a scenario, all of which end together; an :class:`~.environment.Environment`.

    Scenes show all velocities; mpe2's own vectors (:meth:`flat_observations`) hide those of team mates.
    """

    resumable = True

    def __init__(self, name: str, num_envs: int, seed: int, options: ParticleOptions) -> None:
        """Raises:
        ConfigError: no such scenario, or a number it does not leave open.
        """
        scenario = make_scenario(name, options)
        self.num_envs, self.horizon, self._options = num_envs, options.horizon, options
        self.world, self._scenario = World(scenario.bodies, num_envs, options.map_scale), scenario
        self._draw = np.random.Generator(np.random.Philox(seed))
        self.goal: NDArray[np.int64] = np.zeros(num_envs, np.int64)
        self.age = 0
        teams, landmarks = dict(scenario.teams), len(scenario.bodies.names) - scenario.bodies.agents
        self.teams: dict[str, TeamSpec] = {}
        self._order: dict[str, NDArray[np.int64]] = {}
        self._features: dict[str, Floats] = {}
        for team in teams:
            layout, knows = ActionLayout(vectors=options.vectors), team in scenario.goal_known_to
            spec, self._order[team] = team_view(teams, team, landmarks, layout, knows_goal=knows)
            self.teams[team], self._features[team] = spec, kinds_named(spec.kinds, spec.features)

    @property
    def agents(self) -> tuple[str, ...]:
        """mpe2's names, in its order."""
        return self._scenario.bodies.names[: self._scenario.bodies.agents]

    def reset(self) -> dict[str, Scene]:
        """Everything anew; what is drawn depends on the seed and on how often this was called."""
        options, bodies = self._options, self._scenario.bodies
        reach = np.repeat([1.0, self._scenario.landmark_range], [bodies.agents, len(bodies.names) - bodies.agents])
        position = self._draw.uniform(-1, 1, self.world.position.shape)
        if options.side in SIDES:
            axis, sign = SIDES[options.side]
            position[axis] = sign * np.abs(position[axis])
        self.world.position = position * reach[:, None] * options.map_scale
        self.world.speed[:] = 0
        if self._scenario.goal_known_to:
            self.goal = self._draw.integers(0, len(bodies.names) - bodies.agents, self.num_envs)
        self.world.look()
        self.age = 0
        return self.scenes()

    def step(self, actions: Actions) -> Step:
        """See :class:`~rayworks.systems.marl.environments.environment.Environment`."""
        action: Reals = np.empty((2, self._scenario.bodies.agents, self.num_envs))
        for team, agents in self._scenario.teams:
            given = actions[team]
            if self._options.vectors:
                action[:, agents] = norm_clipped(given).transpose(2, 1, 0)
            else:
                action[:, agents] = FORCES[:, given.T]
        self.world.step(action)
        self.age += 1
        rewards = self._scenario.rewards(self.world, self.goal).astype(np.float32).T
        reached, over = self.scenes(), self.age >= self.horizon
        none, teams = np.zeros(self.num_envs, bool), dict(self._scenario.teams)
        shares = {team: rewards[:, list(agents)] for team, agents in teams.items()}
        alive = {team: np.ones((self.num_envs, len(agents)), bool) for team, agents in teams.items()}
        return Step(self.reset() if over else reached, reached, shares, alive, none, none | over, {})

    def scenes(self) -> dict[str, Scene]:
        """What each team knows now."""
        position, speed = self.world.position, self.world.speed
        velocity = np.zeros_like(position)
        velocity[:, : speed.shape[1]] = speed
        return {team: self._scene(team, position, velocity) for team in self.teams}

    def flat_observations(self) -> dict[str, Reals]:
        """mpe2's vectors by agent, (B, D)."""
        return {
            name: self._scenario.observations(self.world, self.goal, agent) for agent, name in enumerate(self.agents)
        }

    def state(self) -> bytes:
        """See :class:`~rayworks.systems.marl.environments.environment.Environment`."""
        drawn = self._draw.bit_generator.state
        buffer = io.BytesIO()
        np.savez(
            buffer,
            position=self.world.position,
            speed=self.world.speed,
            goal=self.goal,
            age=self.age,
            counter=drawn["state"]["counter"],
            key=drawn["state"]["key"],
            buffer=drawn["buffer"],
            rest=np.array([drawn["buffer_pos"], drawn["has_uint32"], drawn["uinteger"]], np.uint64),
        )
        return buffer.getvalue()

    def restore(self, state: bytes) -> dict[str, Scene]:
        """See :class:`~rayworks.systems.marl.environments.environment.Environment`."""
        with np.load(io.BytesIO(state)) as stored:
            self.world.position, self.world.speed = stored["position"], stored["speed"]
            self.goal, self.age = stored["goal"], int(stored["age"])
            position, has, drawn = (int(value) for value in stored["rest"])
            self._draw.bit_generator.state = {
                "bit_generator": "Philox",
                "state": {"counter": stored["counter"], "key": stored["key"]},
                "buffer": stored["buffer"],
                "buffer_pos": position,
                "has_uint32": has,
                "uinteger": drawn,
            }
        self.world.look()
        return self.scenes()

    def close(self) -> None:
        """Nothing is held."""

    def _scene(self, team: str, position: Reals, velocity: Reals) -> Scene:
        positions, velocities = (part[:, self._order[team]].transpose(2, 1, 0) for part in (position, velocity))
        features = np.repeat(self._features[team][None], self.num_envs, 0)
        if team in self._scenario.goal_known_to:
            features[np.arange(self.num_envs), self._scenario.bodies.agents + self.goal, -1] = 1
        return self.teams[team].open_scene(positions, velocities, features)
