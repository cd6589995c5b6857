"""Playing trained policies: the first episode of each of many copies, in the training's environment or another."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayworks.core.errors import DataError
from rayworks.core.seeds import derive_small
from rayworks.systems.marl.acting import Game, Policy
from rayworks.systems.marl.config import EnvironmentSection, NetworkKind, NetworkSection
from rayworks.systems.marl.environments import make_environment
from rayworks.systems.marl.policy_network import LOWEST, PolicyNetwork
from rayworks.systems.marl.scenes import TeamSpec

Weights = Mapping[str, Mapping[str, NDArray[np.generic]]]
"""Arrays of a policy network by team."""
RANDOM = "random"


@dataclass(frozen=True)
class Evaluation:
    """Means over episodes."""

    returns: float
    """Of the first team, summed over its agents."""
    won: float | None
    """Share of episodes, in games that one can win."""
    episodes: int

    @property
    def score(self) -> float:
        """What is compared: wins where there are any."""
        return self.returns if self.won is None else self.won


class RandomPolicy:
    """All allowed actions equally often; vectors around zero."""

    def __init__(self, team: TeamSpec) -> None:
        self._team = team

    def action_inputs(self, scene: Mapping[str, Tensor]) -> Tensor:
        """As :meth:`.PolicyNetwork.action_inputs`."""
        allowed = scene["allowed"].bool().flatten(0, 1)
        if self._team.actions.vectors:
            return torch.zeros(len(allowed), 4)
        return torch.zeros(allowed.shape).masked_fill(~allowed, LOWEST)


def policies_for(
    kind: NetworkKind, teams: Mapping[str, TeamSpec], network: NetworkSection, weights: Weights
) -> dict[str, Policy]:
    """Trained networks for teams, which may be larger or smaller than those of the training.

    Raises:
        DataError: the weights do not fit; names the array.
    """
    found: dict[str, Policy] = {}
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
    copies: int,
    seed: int,
    *,
    greedy: bool = False,
) -> Evaluation:
    """Play one episode in each copy.

    Args:
        kind: of network; None acts at random.
        environment: to play in.
        network: widths and switches of the training.
        weights: by team.
        copies: episodes.
        seed: of environment and actions: the same for all networks, so that they meet the same games.
        greedy: take the most probable actions.
    """
    world = make_environment(environment, copies, derive_small(seed, "evaluation", "environment"))
    policies: Mapping[str, Policy]
    if kind is None:
        policies = {team: RandomPolicy(spec) for team, spec in world.teams.items()}
    else:
        policies = policies_for(kind, world.teams, network, weights)
    game = Game(world, derive_small(seed, "evaluation", "actions"))
    first: dict[str, NDArray[np.float64]] = {}
    seen = np.zeros(copies, bool)
    while not seen.all():
        episodes = game.play(policies, world.horizon, greedy=greedy).episodes
        copy = episodes["copy"].astype(int)
        fresh = np.zeros(len(copy), bool)
        fresh[np.unique(copy, return_index=True)[1]] = True
        fresh &= ~seen[copy]
        seen[copy] = True
        for name, values in episodes.items():
            first[name] = np.concatenate([first.get(name, np.zeros(0)), values[fresh]])
    team = next(iter(world.teams))
    won = float(first["won"].mean()) if "won" in first else None
    return Evaluation(float(first[f"return {team}"].mean()), won, copies)
