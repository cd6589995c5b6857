"""PPO for teams on RLlib: runners that play groups of environments, a learner of whole teams, exact replay."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import ray
from ray.rllib.algorithms.ppo import PPO, PPOConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils import metrics as names

from rayworks.core.errors import ConfigError, InfrastructureError, RayworksError
from rayworks.core.seeds import derive_small
from rayworks.runtime.failures import Failure, classify
from rayworks.systems.marl.config import Config, NetworkKind, TrainingSection
from rayworks.systems.marl.environments.registry import team_specs
from rayworks.systems.marl.environments.rollouts import Rollout
from rayworks.systems.marl.rllib.learner import TeamLearner
from rayworks.systems.marl.rllib.module import module_spec
from rayworks.systems.marl.rllib.runner import State, TeamRunner

ANY_BUNDLE = -1
SHARED = "shared"
ATTEMPTS = 5
"""Attempts to have a group played, each by the runners that are alive then."""


class TeamRunnerGroup(EnvRunnerGroup):
    """Runners in whatever bundle of the run's placement group is free.

    RLlib pins runner k to bundle k, as if the trainer had bundle 0 and no other trainer were there, and waits for ever where
    that bundle is taken.
    """

    def _make_worker(self, *, worker_index: int, **options: Any) -> Any:
        self._pg_offset = ANY_BUNDLE - worker_index
        return super()._make_worker(worker_index=worker_index, **options)


class TeamPPO(PPO):
    """RLlib's PPO, with steps gathered group by group.

    Each iteration, every group of copies is played from the state it was left in. Groups of a runner that died are played
    again by another, from the same state with the same weights: the training takes the same course, whatever dies.
    """

    config: Any
    env_runner_group: Any

    @classmethod
    def get_default_config(cls) -> PPOConfig:
        """PPO's, for this class."""
        return PPOConfig(algo_class=cls)

    def setup(self, config: Any) -> None:
        """Set up PPO, with all groups at their beginning."""
        self.groups: dict[int, State | None] = dict.fromkeys(range(config.env_config["sampling"].groups))
        self.episodes: dict[str, list[float]] = {}
        runners = config.num_env_runners
        # RLlib sets up by its own config, not by the one handed in, and would make a group of runners that may wait for ever.
        self.config = config.copy(copy_frozen=False).env_runners(num_env_runners=0)
        self.config.freeze()
        super().setup(self.config)
        if runners:
            self.env_runner_group.stop()
            self.config = self.config.copy(copy_frozen=False).env_runners(num_env_runners=runners)
            self.config.freeze()
            self.env_runner_group = TeamRunnerGroup(
                env_creator=self.env_creator, config=self.config, local_env_runner=True, logdir=self.logdir
            )

    def training_step(self) -> None:
        """Sample, then learn."""
        weights = self.learner_group.get_weights()
        with self.metrics.log_time((names.TIMERS, names.ENV_RUNNER_SAMPLING_TIMER)):
            rollouts = self._play(weights)
        steps = sum(len(rollout) for rollout in rollouts)
        counts = {names.NUM_ENV_STEPS_SAMPLED: "sum", names.NUM_ENV_STEPS_SAMPLED_LIFETIME: "lifetime_sum"}
        for name, reduce in counts.items():
            self.metrics.log_value((names.ENV_RUNNER_RESULTS, name), steps, reduce=reduce)
        self.episodes = {
            name: [float(value) for rollout in rollouts for value in rollout.episodes[name]]
            for name in rollouts[0].episodes
        }
        with self.metrics.log_time((names.TIMERS, names.LEARNER_UPDATE_TIMER)):
            results = self.learner_group.update(
                episodes=rollouts,
                timesteps={names.NUM_ENV_STEPS_SAMPLED_LIFETIME: steps * (self.iteration + 1)},
                num_epochs=self.config.num_epochs,
                minibatch_size=self.config.minibatch_size,
            )
        self.metrics.aggregate(results, key=names.LEARNER_RESULTS)

    def get_state(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """RLlib's state, and the games under way."""
        state: dict[str, Any] = super().get_state(*arguments, **options)
        return {**state, "groups": self.groups}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore such a state."""
        super().set_state({name: value for name, value in state.items() if name != "groups"})
        self.groups = dict(state.get("groups", self.groups))

    def _play(self, weights: Mapping[str, Any]) -> list[Rollout]:
        """One fragment of every group, in the order of the groups."""
        group = self.env_runner_group
        if not group.num_remote_workers():
            played = group.local_env_runner.sample(weights=weights, groups=self.groups)
        else:
            played = self._play_remotely(ray.put(weights))
        self.groups = {number: played[number][1] for number in sorted(played)}
        return [played[number][0] for number in sorted(played)]

    def _play_remotely(self, weights: Any) -> dict[int, tuple[Rollout, State]]:
        """Raises:
        RayworksError: what a runner reports of the game or the policy.
        InfrastructureError: runners keep dying.
        """
        played: dict[int, tuple[Rollout, State]] = {}
        for _ in range(ATTEMPTS):
            runners = self.env_runner_group.healthy_env_runner_ids()
            missing = [number for number in self.groups if number not in played]
            shares = [missing[first :: len(runners)] for first in range(len(runners))] if runners else []
            busy = [(runner, share) for runner, share in zip(runners, shares, strict=True) if share]
            calls = [partial(_sample, weights=weights, groups={n: self.groups[n] for n in share}) for _, share in busy]
            if calls:
                answers = self.env_runner_group.foreach_env_runner(
                    calls, local_env_runner=False, remote_worker_ids=[runner for runner, _ in busy]
                )
                for answer in answers:
                    if isinstance(answer, Failure):
                        raise answer.as_error()
                    played |= answer
            if len(played) == len(self.groups):
                return played
            self.restore_env_runners(self.env_runner_group)
        raise InfrastructureError(
            f"env runners: after {ATTEMPTS} attempts {len(self.groups) - len(played)} groups are unplayed"
        )


def _sample(
    runner: TeamRunner, weights: Any, groups: Mapping[int, State | None]
) -> dict[int, tuple[Rollout, State]] | Failure:
    """What was played, or why not: RLlib would log an exception of ours, end the runner and try again."""
    try:
        return runner.sample(weights=weights, groups=groups)
    except RayworksError as error:
        return classify(error)


def policies_of(teams: Mapping[str, Any], training: TrainingSection) -> dict[str, str]:
    """Team to the name of its policy.

    Raises:
        ConfigError: one policy for teams of different shapes.
    """
    if training.policies == "team":
        return {team: team for team in teams}
    if len({(spec.agents, spec.entities, spec.features, spec.actions) for spec in teams.values()}) > 1:
        raise ConfigError(
            f"training.policies: teams {', '.join(teams)} differ in agents, entities, features or actions; use team"
        )
    return dict.fromkeys(teams, SHARED)


def algorithm_config(config: Config, kind: NetworkKind, seed: int) -> PPOConfig:
    """RLlib's config of one training of a kind of network; ``config.build_algo()`` makes the algorithm."""
    sampling, training, teams = config.sampling, config.training, team_specs(config.environment)
    policies = policies_of(teams, training)
    modules = {policies[team]: module_spec(kind, spec, config.network) for team, spec in teams.items()}
    options = {
        "environment": config.environment,
        "sampling": sampling,
        "policies": policies,
        "seeds": [derive_small(seed, "group", number) for number in range(sampling.groups)],
    }
    return (
        TeamPPO.get_default_config()
        .environment(env=None, env_config=options, normalize_actions=False, clip_actions=False)
        .framework("torch")
        .env_runners(env_runner_cls=TeamRunner, num_env_runners=sampling.runners)
        .fault_tolerance(
            restart_failed_env_runners=True, max_num_env_runner_restarts=1000, delay_between_env_runner_restarts_s=0
        )
        .learners(
            num_learners=0,
            num_gpus_per_learner=config.compute.gpus_per_worker,
            learner_class=TeamLearner,
            learner_config_dict={"training": training, "policies": policies},
        )
        .multi_agent(policies=set(modules), policy_mapping_fn=_same)
        .rl_module(rl_module_spec=MultiRLModuleSpec(rl_module_specs=modules))
        # RLlib compares the minibatch with environment steps; ours, of agent steps, the learner takes from its own settings.
        .training(**ppo_arguments(training, sampling.per_iteration))
        .debugging(seed=seed % 2**31, log_level="ERROR")
    )


def ppo_arguments(training: TrainingSection, steps: int) -> dict[str, Any]:
    """The settings as RLlib's PPO takes them, for iterations of so many environment steps."""
    return {
        "lr": training.learning_rate,
        "gamma": training.gamma,
        "lambda_": training.gae_lambda,
        "clip_param": training.clip_range,
        "vf_clip_param": training.value_clip,
        "entropy_coeff": training.entropy_coef,
        "use_kl_loss": False,
        "grad_clip": training.max_grad_norm,
        "grad_clip_by": "global_norm",
        "num_epochs": training.epochs,
        "minibatch_size": min(training.minibatch_size, steps),
        "train_batch_size_per_learner": steps,
    }


def _same(agent: str, *arguments: Any, **options: Any) -> str:
    return agent
