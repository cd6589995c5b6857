"""A team's policy as an RLlib module (new API stack), for our runner and for RLlib's own.

Rows are scenes. A scene of A agents gives A actions and values: outputs have N = B * A rows, agents of a row together. With
scenes of one agent, as :mod:`~.rllib_environment` gives, RLlib's own runner, connectors and PPO learner work unchanged.
"""

import logging
import warnings
from collections.abc import Mapping
from typing import Any

from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import Tensor

from rayworks.systems.marl.config import NetworkKind, NetworkSection
from rayworks.systems.marl.environments.scenes import TeamSpec
from rayworks.systems.marl.environments.spaces import action_space, observation_space
from rayworks.systems.marl.networks.policy_network import PolicyNetwork


class TeamModule(TorchRLModule, ValueFunctionAPI):
    """A :class:`~.policy_network.PolicyNetwork` behind RLlib's calls. ``model_config``: ``kind``, ``team``, ``network``."""

    def setup(self) -> None:
        """Make the network."""
        options = self.model_config
        self.network = PolicyNetwork(options["kind"], options["team"], options["network"])

    def _forward(self, batch: Mapping[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        return {Columns.ACTION_DIST_INPUTS: self.network.action_dist_inputs(batch[Columns.OBS])}

    def compute_values(self, batch: Mapping[str, Any], embeddings: Any = None) -> Tensor:
        """(N,), in learned units, as the loss compares them."""
        return self.network.values(batch[Columns.OBS])


def module_spec(kind: NetworkKind, team: TeamSpec, network: NetworkSection) -> RLModuleSpec:
    """RLlib's specification of the team's module."""
    return RLModuleSpec(
        module_class=TeamModule,
        observation_space=observation_space(team),
        action_space=action_space(team),
        model_config={"kind": kind, "team": team, "network": network},
    )


def quiet_rllib() -> None:
    """Hide RLlib's warnings about its own use of deprecated parts, in this process."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for name in ("ray.rllib", "ray.tune", "ray._common.deprecation"):
        logging.getLogger(name).setLevel(logging.ERROR)
