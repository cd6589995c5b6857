"""Rollouts of a vectorised environment as arrays, and generalised advantage estimation.

Axes: T steps, B copies, A agents of a team, N truncated episodes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayworks.systems.marl.environments.scenes import Flags, Floats, Scene


@dataclass(frozen=True)
class TeamRollout:
    """Observations, actions and rewards of one team."""

    scenes: Scene
    """(T + 1) * B rows, step by step."""
    actions: NDArray[np.generic]
    """(T, B, A) choices or (T, B, A, 2) vectors, before the environment shortens them."""
    dist_inputs: Floats
    """(T, B, A, K), parameters of the distributions the actions were drawn from."""
    log_probs: Floats
    """(T, B, A)."""
    rewards: Floats
    """(T, B, A)."""
    acting: Flags
    """(T, B, A): the agent was alive when it acted."""
    alive: Flags
    """(T, B, A): the agent was alive after the step."""
    cut: Scene
    """N rows: the last scenes of the episodes that were truncated, in order of step and copy."""


@dataclass(frozen=True)
class Rollout:
    """T steps of B copies."""

    teams: Mapping[str, TeamRollout]
    terminated: Flags
    """(T, B)."""
    truncated: Flags
    """(T, B)."""
    episodes: Mapping[str, NDArray[np.float64]]
    """One value per ended episode, by name: ``copy``, ``length``, ``return TEAM`` (over agents), the game's own."""

    def __len__(self) -> int:
        """Environment steps: T * B."""
        return self.terminated.size


def advantages(
    rewards: Tensor,
    values: Tensor,
    following: Tensor,
    goes_on: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    r"""Generalised advantage estimates (Schulman et al. 2016): delta_t = r_t + gamma V'_t - V_t, summed with decay.

    Args:
        rewards: (T, B, A).
        values: (T, B, A), of the scenes acted in.
        following: (T, B, A), V': of what was reached, 0 where the agent's episode terminated or it died.
        goes_on: (T, B, A), whether step t + 1 belongs to the same life.

    Returns:
        (T, B, A). T steps in a loop, vectorised over the rest.
    """
    result = torch.empty_like(values)
    carried = torch.zeros_like(values[0])
    delta = rewards + gamma * following - values
    decay = gamma * gae_lambda * goes_on
    for step in reversed(range(len(values))):
        carried = delta[step] + decay[step] * carried
        result[step] = carried
    return result


def next_values(values: Tensor, cut_values: Tensor, team: TeamRollout, rollout: Rollout) -> tuple[Tensor, Tensor]:
    """V' and whether lives go on, as :func:`advantages` takes them; values (T + 1, B, A), (N, A) of ``cut`` scenes."""
    alive = torch.tensor(team.alive, device=values.device)
    truncated = torch.tensor(rollout.truncated, device=values.device)
    terminated = torch.tensor(rollout.terminated, device=values.device)
    following = values[1:].clone()
    following[truncated] = cut_values
    following = torch.where(terminated[..., None], 0.0, following)
    following = torch.where(alive, following, 0.0)
    return following, alive & ~(truncated | terminated)[..., None]
