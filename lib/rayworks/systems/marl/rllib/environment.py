"""PettingZoo parallel environments and this package's modules in plain RLlib's PPO.

For environments that are not vectorised here, and as the peer that our runner and learner are measured against.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from pettingzoo import ParallelEnv
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.tune.registry import register_env

from rayworks.core.errors import DataError
from rayworks.systems.marl.config import TrainingSection
from rayworks.systems.marl.rllib.algorithm import ppo_arguments

Maker = Callable[[], ParallelEnv[str, Any, Any]]
ALL = "__all__"


class ParallelMultiAgentEnv(MultiAgentEnv):
    """RLlib's own adapter, with agents in a fixed order and episodes that end when every agent is done in either way."""

    def __init__(self, environment: ParallelEnv[str, Any, Any]) -> None:
        super().__init__()
        self.environment = environment
        self.possible_agents = sorted(environment.possible_agents)
        self.agents = list(self.possible_agents)
        self.observation_spaces = {agent: environment.observation_space(agent) for agent in self.possible_agents}
        self.action_spaces = {agent: environment.action_space(agent) for agent in self.possible_agents}
        self._step = 0

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[Any, Any]:
        """A new episode."""
        observations, infos = self.environment.reset(seed=seed, options=dict(options) if options else None)
        self.agents, self._step = sorted(observations), 0
        return _sorted(observations), _sorted(infos)

    def step(self, actions: Mapping[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        """Actions of the agents that live.

        Raises:
            DataError: a reward is not finite; names agent and step.
        """
        observations, rewards, terminated, truncated, infos = self.environment.step(dict(actions))
        self._step += 1
        for agent, reward in rewards.items():
            if not math.isfinite(reward):
                raise DataError(f"reward of {agent} at step {self._step}: is {reward}; mend the environment's reward")
        done = {agent: bool(terminated[agent] or truncated[agent]) for agent in terminated}
        self.agents = [agent for agent in self.agents if not done.get(agent, False)]
        over = not self.agents
        terminated = {**_sorted(terminated), ALL: over and all(terminated.values())}
        truncated = {**_sorted(truncated), ALL: over and not terminated[ALL]}
        return _sorted(observations), _sorted(rewards), terminated, truncated, _sorted(infos)


def plain_config(
    make: Maker,
    modules: Mapping[str, RLModuleSpec],
    module_of: Callable[[str], str],
    training: TrainingSection,
    *,
    steps: int,
    runners: int = 0,
    num_envs: int = 1,
    seed: int = 0,
    evaluation_interval: int | None = None,
    connectors: Callable[..., Any] | None = None,
) -> PPOConfig:
    """RLlib's own PPO, runner, connectors and learner, with the same updates as :mod:`~.rllib_algorithm`.

    Args:
        module_of: agent to the name of its module.
        training: settings of PPO; normalised values and augmentation are ours alone.
        steps: environment steps of an iteration.
        evaluation_interval: iterations between evaluations on an env runner of their own; None for none.
        connectors: makes the env-to-module connector, such as :class:`~.rllib_connectors.SceneFromVector`.
    """
    name = f"parallel-{id(make):x}"
    register_env(name, lambda _: ParallelMultiAgentEnv(make()))
    config = (
        PPOConfig()
        .environment(name, disable_env_checking=True, normalize_actions=False, clip_actions=False)
        .framework("torch")
        .env_runners(
            num_env_runners=runners,
            num_envs_per_env_runner=num_envs,
            rollout_fragment_length="auto",
            env_to_module_connector=connectors,
        )
        .fault_tolerance(restart_failed_env_runners=True)
        .learners(num_learners=0)
        .multi_agent(policies=set(modules), policy_mapping_fn=lambda agent, *_, **__: module_of(agent))
        .rl_module(rl_module_spec=MultiRLModuleSpec(rl_module_specs=dict(modules)))
        .training(**ppo_arguments(training, steps))
        .debugging(seed=seed, log_level="ERROR")
    )
    if evaluation_interval is not None:
        config = config.evaluation(
            evaluation_interval=evaluation_interval, evaluation_duration=10, evaluation_num_env_runners=1
        )
    return config


def _sorted(values: Mapping[str, Any]) -> dict[str, Any]:
    return {agent: values[agent] for agent in sorted(values)}
