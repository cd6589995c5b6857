"""The simulator as a Gymnasium environment for training recommenders.

An action is the item to recommend, the reward 1 where it is accepted. An observation is what a platform sees: natural items,
what was shown and decided so far; tastes and trust stay hidden.
"""

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from rayworks.systems.recommendation.logs.events import ACCEPTED, PAD, REJECTED
from rayworks.systems.recommendation.logs.simulator import Simulator, SimulatorOptions, UserState

Observation = dict[str, np.ndarray]
DEFAULTS = SimulatorOptions()


def observation_space(options: SimulatorOptions) -> spaces.Dict:
    """Space of one user: ``natural`` (observed,) item codes; ``shown`` (steps,) item code + 1, ``decisions`` (steps,) kinds
    of events, both 0 for what is to come.
    """
    return spaces.Dict(
        {
            "natural": spaces.MultiDiscrete([options.items] * options.observed),
            "shown": spaces.MultiDiscrete([options.items + 1] * options.steps),
            "decisions": spaces.MultiDiscrete([ACCEPTED + 1] * options.steps),
        }
    )


class RecommenderVectorEnvironment(VectorEnv[Observation, np.ndarray, np.ndarray]):
    """All simulated users side by side, each in its own environment; they begin and end together.

    A step of U users costs one gather and a few vector operations of length U. ``info["probability"]`` (U,) has the true
    chances that the items shown would be accepted.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}

    def __init__(self, options: SimulatorOptions = DEFAULTS, population_seed: int = 0) -> None:
        self.options, self.num_envs = options, options.users
        self.simulator = Simulator(options, population_seed)
        self.single_observation_space = observation_space(options)
        self.single_action_space = spaces.Discrete(options.items)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, self.num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, self.num_envs)
        self._natural = self.simulator.natural_sequences().numpy()
        self._generator = np.random.default_rng(population_seed)
        self._state: UserState = self.simulator.start()
        self._step = 0
        self._shown, self._decisions = self._nothing()

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """All users before their first recommendation; ``seed`` is that of their decisions."""
        if seed is not None:
            self._generator = np.random.default_rng(seed if isinstance(seed, int) else seed[0])
        self._begin()
        return self._observe(), {}

    def step(self, actions: np.ndarray) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Recommend item ``actions[u]`` to user u; the step after the last begins anew."""
        count = self.num_envs
        no = np.zeros(count, bool)
        if self._step == self.options.steps:
            self._begin()
            return self._observe(), np.zeros(count), no, no.copy(), {}
        uniform = torch.from_numpy(self._generator.random(count))
        items = torch.from_numpy(np.asarray(actions, np.int64))
        self._state, accepted, probability = self.simulator.react(self._state, items, uniform)
        self._shown[:, self._step] = np.asarray(actions) + 1
        self._decisions[:, self._step] = np.where(accepted.numpy(), ACCEPTED, REJECTED)
        self._step += 1
        ended = np.full(count, self._step == self.options.steps)
        return self._observe(), accepted.numpy().astype(np.float64), ended, no, {"probability": probability.numpy()}

    def _begin(self) -> None:
        self._state, self._step = self.simulator.start(), 0
        self._shown, self._decisions = self._nothing()

    def _nothing(self) -> tuple[np.ndarray, np.ndarray]:
        shape = (self.num_envs, self.options.steps)
        return np.zeros(shape, np.int64), np.full(shape, PAD, np.int64)

    def _observe(self) -> Observation:
        return {"natural": self._natural.copy(), "shown": self._shown.copy(), "decisions": self._decisions.copy()}


class RecommenderEnvironment(gymnasium.Env[Observation, np.int64]):
    """One user at a time, drawn from the simulated population at each reset."""

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, options: SimulatorOptions = DEFAULTS, population_seed: int = 0) -> None:
        self._everyone = Simulator(options, population_seed)
        self._natural = self._everyone.natural_sequences().numpy()
        self.observation_space = observation_space(options)
        self.action_space: spaces.Discrete = spaces.Discrete(options.items)
        self._step, self._shown = 0, np.zeros(0, np.int64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Another user before its first recommendation; ``options["user"]`` chooses it."""
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(len(self._natural)))
        self._user = (options or {}).get("user", drawn)
        # A population of this one user keeps the dynamics in one place.
        self._alone = self._everyone.only(self._user)
        self._state, self._step = self._alone.start(), 0
        steps = self._everyone.options.steps
        self._shown, self._decisions = np.zeros(steps, np.int64), np.full(steps, PAD, np.int64)
        return self._observe(), {"user": self._user}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Recommend an item.

        Raises:
            ValueError: no such item, or no user is there: reset first.
        """
        if not 0 <= action < self.action_space.n:
            raise ValueError(f"action {action}: is not an item; give 0 to {self.action_space.n - 1}")
        if self._step == len(self._shown):
            raise ValueError("no user is there; reset first")
        uniform = torch.tensor([self.np_random.random()], dtype=torch.float64)
        self._state, accepted, probability = self._alone.react(self._state, torch.tensor([int(action)]), uniform)
        self._shown[self._step], self._decisions[self._step] = action + 1, ACCEPTED if accepted[0] else REJECTED
        self._step += 1
        ended = self._step == len(self._shown)
        return self._observe(), float(accepted[0]), ended, False, {"probability": float(probability[0])}

    def _observe(self) -> Observation:
        return {"natural": self._natural[self._user], "shown": self._shown.copy(), "decisions": self._decisions.copy()}
