"""Evaluate trained policies on the first episodes of each copy, in the training's environment or another."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayworks.core.errors import DataError
from rayworks.core.seeds import derive_small
from rayworks.systems.marl.config import EnvironmentSection, NetworkKind, NetworkSection
from rayworks.systems.marl.environments.registry import make_environment, most_envs
from rayworks.systems.marl.environments.scenes import TeamSpec
from rayworks.systems.marl.networks.acting import Game, Policy
from rayworks.systems.marl.networks.policy_network import LOWEST, PolicyNetwork

Weights = Mapping[str, Mapping[str, NDArray[np.generic]]]
"""Arrays of a policy network by team."""


@dataclass(frozen=True)
class Evaluation:
    """Means over episodes."""

    returns: float
    """Mean return of the first team, summed over its agents."""
    won: float | None
    """Share of episodes, in games that one can win."""
    episodes: int


class RandomPolicy:
    """All allowed actions equally often; vectors around zero."""

    def __init__(self, team: TeamSpec) -> None:
        self._team = team

    def action_dist_inputs(self, scene: Mapping[str, Tensor]) -> Tensor:
        """As :meth:`.PolicyNetwork.action_dist_inputs`."""
        allowed = scene["allowed"].bool().flatten(0, 1)
        if self._team.actions.vectors:
            return torch.zeros(len(allowed), 4)
        return torch.zeros(allowed.shape).masked_fill(~allowed, LOWEST)


def policies_for(
    kind: NetworkKind, teams: Mapping[str, TeamSpec], network: NetworkSection, weights: Weights
) -> dict[str, PolicyNetwork]:
    """Trained networks for teams, which may be larger or smaller than those of the training.

    Raises:
        DataError: the weights do not fit; names the array.
    """
    found = {}
    for team, spec in teams.items():
        if team not in weights:
            raise DataError(
                f"checkpoint: holds teams {', '.join(weights)}, not {team}; use the environment it was trained in"
            )
        policy = PolicyNetwork(kind, spec, network)
        policy.load({name: torch.from_numpy(np.array(array)) for name, array in weights[team].items()})
        found[team] = policy.eval()
    return found


def evaluate(
    kind: NetworkKind | None,
    environment: EnvironmentSection,
    network: NetworkSection,
    weights: Weights,
    num_envs: int,
    seed: int,
) -> Evaluation:
    """Play one episode in each copy, or all one after the other where a game has one copy.

    Args:
        kind: kind of network; None acts at random.
        num_envs: episodes.
        seed: seed of environment and actions: the same for all networks, so that they meet the same games.
    """
    playing = most_envs(environment, num_envs)
    with closing(make_environment(environment, playing, derive_small(seed, "evaluation", "environment"))) as world:
        policies: Mapping[str, Policy] = {team: RandomPolicy(spec) for team, spec in world.teams.items()}
        if kind is not None:
            policies = policies_for(kind, world.teams, network, weights)
        game = Game(world, derive_small(seed, "evaluation", "actions"))
        episodes = first_episodes(game, policies, -(-num_envs // playing))
    team = next(iter(world.teams))
    won = float(episodes["won"].mean()) if "won" in episodes else None
    return Evaluation(float(episodes[f"return {team}"].mean()), won, num_envs)


def first_episodes(game: Game, policies: Mapping[str, Policy], wanted: int) -> dict[str, NDArray[np.float64]]:
    """Values by name of the first ``wanted`` episodes of each copy: whatever comes first would favour short ones."""
    world = game.environment
    seen = np.zeros(world.num_envs, int)
    kept: dict[str, list[NDArray[np.float64]]] = {}
    while (seen < wanted).any():
        episodes = game.play(policies, world.horizon).episodes
        copy = episodes["copy"].astype(int)
        order = np.argsort(copy, kind="stable")
        number = np.empty_like(order)
        number[order] = np.arange(len(copy)) - np.searchsorted(copy[order], copy[order])
        use = seen[copy] + number < wanted
        seen += np.bincount(copy, minlength=world.num_envs)
        for name, values in episodes.items():
            kept.setdefault(name, []).append(values[use])
    return {name: np.concatenate(values) for name, values in kept.items()}
