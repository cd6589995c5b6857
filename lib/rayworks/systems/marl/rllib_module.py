"""The policy of a team as an RLlib module (new API stack), for our runner and for RLlib's own.

Rows are scenes. A scene of A agents gives A actions and values: outputs have N = B * A rows, agents of a row together. With
scenes of one agent, as :mod:`~.rllib_environment` gives, RLlib's own runner, connectors and PPO learner work unchanged.
"""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import Tensor

from rayworks.systems.marl.config import NetworkKind, NetworkSection
from rayworks.systems.marl.policy_network import PolicyNetwork
from rayworks.systems.marl.scenes import TeamSpec


class TeamModule(TorchRLModule, ValueFunctionAPI):
    """A :class:`~.policy_network.PolicyNetwork` behind RLlib's calls. ``model_config``: ``kind``, ``team``, ``network``."""

    def setup(self) -> None:
        """Make the network. Values are learned in units of ``value_scale``, from ``value_shift``."""
        options = self.model_config
        self.network = PolicyNetwork(options["kind"], options["team"], options["network"])
        self.value_shift: Tensor
        self.value_scale: Tensor
        self.register_buffer("value_shift", torch.zeros(()))
        self.register_buffer("value_scale", torch.ones(()))

    def _forward(self, batch: Mapping[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        return {Columns.ACTION_DIST_INPUTS: self.network.action_inputs(batch[Columns.OBS])}

    def compute_values(self, batch: Mapping[str, Any], embeddings: Any = None) -> Tensor:
        """(N,), in learned units, as the loss compares them."""
        return self.network.values(batch[Columns.OBS])

    def expected_returns(self, scene: Mapping[str, Tensor]) -> Tensor:
        """(N,), in units of reward."""
        return self.network.values(scene) * self.value_scale + self.value_shift


def observation_space(team: TeamSpec) -> gymnasium.spaces.Dict:
    """Of one scene of the team."""
    box, binary = gymnasium.spaces.Box, gymnasium.spaces.MultiBinary
    entities, agents, actions = team.entities, team.agents, team.actions
    return gymnasium.spaces.Dict(
        {
            "positions": box(-np.inf, np.inf, (entities, 2), np.float32),
            "velocities": box(-np.inf, np.inf, (entities, 2), np.float32),
            "features": box(-np.inf, np.inf, (entities, len(team.features)), np.float32),
            "present": binary((entities,)),
            "visible": binary((agents, entities)),
            "allowed": binary((agents, actions.choices)),
            "targets": box(0, np.iinfo(np.int16).max, (agents, actions.targets), np.int16),
        }
    )


def action_space(team: TeamSpec) -> gymnasium.Space[Any]:
    """Of one agent. Vectors are unbounded: RLlib clips bounded ones by coordinate, which no rotation survives."""
    if team.actions.vectors:
        return gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    return gymnasium.spaces.Discrete(team.actions.choices)


def module_spec(kind: NetworkKind, team: TeamSpec, network: NetworkSection) -> RLModuleSpec:
    """What RLlib builds the team's module from."""
    return RLModuleSpec(
        module_class=TeamModule,
        observation_space=observation_space(team),
        action_space=action_space(team),
        model_config={"kind": kind, "team": team, "network": network},
    )
