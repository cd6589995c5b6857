"""What a team's actor-critic does beyond its symmetries, and games played with it."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from rayworks.core.errors import DataError
from rayworks.systems.marl.config import EnvironmentSection, NetworkSection
from rayworks.systems.marl.environments.registry import make_environment
from rayworks.systems.marl.environments.scenes import TeamSpec
from rayworks.systems.marl.findings.evaluation import RandomPolicy
from rayworks.systems.marl.networks.acting import Game, as_tensors
from rayworks.systems.marl.networks.policy_network import PolicyNetwork


@pytest.mark.parametrize("name", ["mpe/simple", "mpe/simple_tag"])
def test_a_central_critic_beside_a_policy_on_own_graphs_values_teams_of_one(name: str) -> None:
    options = NetworkSection(graph="agent", critic="central")
    world = make_environment(EnvironmentSection(name=name), 3, 0)
    for team, scene in world.reset().items():
        spec = world.teams[team]
        values = PolicyNetwork("e2gn2", spec, options).values(as_tensors(scene))
        assert values.shape == (3 * spec.agents,) and values.isfinite().all()


class Diverged:
    """A policy whose training went wrong."""

    def __init__(self, team: TeamSpec) -> None:
        self._agents = team.agents

    def action_dist_inputs(self, scene: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return torch.full((len(scene["positions"]) * self._agents, 5), math.nan)


def test_a_policy_that_diverged_is_named_when_it_acts() -> None:
    world = make_environment(EnvironmentSection(name="mpe/simple_tag"), 2, 0)
    policies: dict[str, Any] = {team: RandomPolicy(spec) for team, spec in world.teams.items()}
    policies["agent"] = Diverged(world.teams["agent"])
    with pytest.raises(DataError, match=r"policy of team agent: .*lower training\.learning_rate"):
        Game(world, 0).play(policies, 3)
