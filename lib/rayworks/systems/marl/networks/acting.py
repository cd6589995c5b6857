"""Sample actions from a policy network, and play environments with it.

Axes: N acting agents over all rows, K discrete actions, B copies, A agents.
"""

import math
from collections.abc import Mapping
from operator import itemgetter
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayworks.core.errors import DataError
from rayworks.systems.marl.environments.environment import Environment, Step, check_rewards
from rayworks.systems.marl.environments.rollouts import Rollout, TeamRollout
from rayworks.systems.marl.environments.scenes import Scene, joined
from rayworks.systems.marl.networks.policy_network import LOWEST

Generator = torch.Generator


class Policy(Protocol):
    """What acts: a :class:`~.policy_network.PolicyNetwork`."""

    def action_dist_inputs(self, scene: Mapping[str, Tensor]) -> Tensor:
        """(N, K) logits or (N, 4) means and log deviations."""


def as_tensors(scene: Scene, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The arrays of a scene as a network takes them."""
    writable = {name: array if array.flags.writeable else array.copy() for name, array in scene.arrays().items()}
    return {name: torch.from_numpy(array).to(device) for name, array in writable.items()}


def draw(inputs: Tensor, *, vectors: bool, generator: Generator | None) -> tuple[Tensor, Tensor]:
    """Actions and their log probabilities.

    Args:
        inputs: (N, K) logits, or (N, 4).
        vectors: which of both.
        generator: source of randomness, on the CPU; None takes the most probable action.

    Returns:
        (N,) choices or (N, 2) vectors, and (N,).
    """
    if vectors:
        mean, log_std = inputs.chunk(2, -1)
        action = mean
        if generator is not None:
            action = mean + log_std.exp() * torch.randn(mean.shape, generator=generator).to(mean.device)
        return action, log_probabilities(inputs, action, vectors=True)
    score = inputs
    if generator is not None:
        uniform = torch.rand(inputs.shape, generator=generator).clamp_(min=1e-12).to(inputs.device)
        score = inputs - torch.log(-torch.log(uniform))
    # A forbidden action must not win by its noise.
    chosen = score.masked_fill(inputs <= LOWEST / 2, -torch.inf).argmax(-1)
    return chosen, log_probabilities(inputs, chosen, vectors=False)


def log_probabilities(inputs: Tensor, actions: Tensor, *, vectors: bool) -> Tensor:
    """Log probability or density of actions as :func:`draw` gives them, (N,)."""
    if vectors:
        mean, log_std = inputs.chunk(2, -1)
        scaled = (actions - mean) / log_std.exp()
        return (-0.5 * scaled.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
    return torch.log_softmax(inputs, -1).gather(-1, actions[:, None]).squeeze(-1)


class Game:
    """An environment that is played with policies, the randomness of actions, and the episodes under way."""

    def __init__(self, environment: Environment, seed: int) -> None:
        self.environment = environment
        self._generator = Generator().manual_seed(seed)
        self._scenes: Mapping[str, Scene] = environment.reset()
        self._returns = {team: np.zeros(environment.num_envs) for team in environment.teams}
        self._length = np.zeros(environment.num_envs)

    def state(self) -> dict[str, Any]:
        """Everything needed to go on elsewhere."""
        return {
            "environment": self.environment.state(),
            "generator": self._generator.get_state().numpy().tobytes(),
            "returns": {team: values.copy() for team, values in self._returns.items()},
            "length": self._length.copy(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a :meth:`state`."""
        self._scenes = self.environment.restore(state["environment"])
        random = np.frombuffer(state["generator"], np.uint8)
        self._generator.set_state(torch.from_numpy(random.copy()))
        # An episode that begins anew has no return yet.
        goes_on = self.environment.resumable
        self._returns = {team: values * goes_on for team, values in state["returns"].items()}
        self._length = np.array(state["length"]) * goes_on

    @torch.no_grad()
    def play(
        self, policies: Mapping[str, Policy], steps: int, *, greedy: bool = False, device: torch.device | str = "cpu"
    ) -> Rollout:
        """T steps of all copies, each team by its policy.

        Raises:
            DataError: a reward, or what a policy says, is not finite.
        """
        record: dict[str, _Record] = {team: _Record() for team in self.environment.teams}
        ends: list[Step] = []
        ended: dict[str, list[NDArray[np.float64]]] = {}
        alive = {team: scene.present[:, : scene.agents] for team, scene in self._scenes.items()}
        for _ in range(steps):
            actions: dict[str, NDArray[np.generic]] = {}
            for team, spec in self.environment.teams.items():
                scene = self._scenes[team]
                inputs = policies[team].action_dist_inputs(as_tensors(scene, device))
                if not inputs.isfinite().all():
                    raise DataError(f"policy of team {team}: its answers are not finite; lower training.learning_rate")
                action, log_probs = draw(
                    inputs, vectors=spec.actions.vectors, generator=None if greedy else self._generator
                )
                shape = (self.environment.num_envs, spec.agents)
                actions[team] = action.cpu().numpy().reshape(*shape, *action.shape[1:])
                said, chances = inputs.cpu().numpy().reshape(*shape, -1), log_probs.cpu().numpy().reshape(shape)
                record[team].acted(scene, actions[team], said, chances, alive[team])
            step = self.environment.step(actions)
            check_rewards(step.rewards)
            for team in record:
                record[team].got(step.rewards[team], step.alive[team], step.last[team].map(itemgetter(step.truncated)))
            self._count(step, ended)
            self._scenes = step.scenes
            alive = {
                team: np.where(step.ended[:, None], scene.present[:, : scene.agents], step.alive[team])
                for team, scene in self._scenes.items()
            }
            ends.append(step)
        return Rollout(
            {team: one.finished(self._scenes[team]) for team, one in record.items()},
            np.stack([step.terminated for step in ends]),
            np.stack([step.truncated for step in ends]),
            {name: np.concatenate(values) for name, values in ended.items()},
        )

    def _count(self, step: Step, ended: dict[str, list[NDArray[np.float64]]]) -> None:
        """Add up returns; keep those of episodes that ended."""
        self._length += 1
        for team, rewards in step.rewards.items():
            self._returns[team] += rewards.sum(1)
        over = step.ended
        found = {
            "copy": np.arange(len(over)),
            "length": self._length,
            **{f"return {team}": total for team, total in self._returns.items()},
            **step.info,
        }
        for name, values in found.items():
            ended.setdefault(name, []).append(np.asarray(values, np.float64)[over])
        for total in (self._length, *self._returns.values()):
            total[over] = 0


class _Record:
    """What one team did so far."""

    def __init__(self) -> None:
        self._scenes: list[Scene] = []
        self._columns: list[tuple[NDArray[np.generic], ...]] = []
        self._results: list[tuple[NDArray[np.generic], ...]] = []
        self._cut: list[Scene] = []

    def acted(self, scene: Scene, *columns: NDArray[np.generic]) -> None:
        self._scenes.append(scene)
        self._columns.append(columns)

    def got(self, rewards: NDArray[np.generic], alive: NDArray[np.generic], cut: Scene) -> None:
        self._results.append((rewards, alive))
        self._cut.append(cut)

    def finished(self, scene: Scene) -> TeamRollout:
        actions, inputs, log_probs, acting = (np.stack(column) for column in zip(*self._columns, strict=True))
        rewards, alive = (np.stack(column) for column in zip(*self._results, strict=True))
        scenes, cut = joined([*self._scenes, scene]), joined(self._cut)
        return TeamRollout(scenes, actions, inputs, log_probs, rewards.astype(np.float32), acting, alive, cut)
