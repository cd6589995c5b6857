"""The actor-critic of one team: from scenes to the parameters of action distributions, and to values.

Axes: B rows, A agents, N = B * A, K discrete actions.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.marl.config import NetworkKind, NetworkSection
from rayworks.systems.marl.environments.scenes import TeamSpec
from rayworks.systems.marl.networks.graph_networks import GraphNetwork, Perceptron
from rayworks.systems.marl.networks.graphs import Graph
from rayworks.systems.marl.networks.symmetrised import AveragedNetwork, CanonicalNetwork

LOWEST = torch.finfo(torch.float32).min
"""Logit of an action that the mask forbids; an infinite one would make the entropy NaN."""

Network = Perceptron | GraphNetwork | AveragedNetwork | CanonicalNetwork


class PolicyNetwork(nn.Module):
    """Separate networks of one kind for policy and value (the paper's choice), over team graphs or one graph per agent.

    Weights of graph networks do not depend on how many entities there are: those trained on one team load into a network
    made for another with the same features. Of an agent's own scenes (:meth:`.TeamSpec.own`) there is one graph each.
    """

    def __init__(self, kind: NetworkKind, team: TeamSpec, options: NetworkSection) -> None:
        super().__init__()
        self.team, self.kind, self._options = team, kind, options
        self._per_agent = team.mates is None and (kind == "mlp" or options.graph == "agent")
        self._central = options.critic == "central"
        if self._central and team.mates is not None:
            raise ConfigError("network.critic: central needs scenes of the whole team; an agent's own have own only")
        acting = 1 if self._per_agent else team.agents
        self.policy = _network(kind, team, options, acting, "policy")
        valued = team.agents if self._central else acting
        self.critic = _network(kind, team, self._of_the_critic, valued, "value", whole=self._central)
        if team.actions.vectors:
            # One deviation for both axes: a deviation per axis is not rotation invariant.
            self.log_std = nn.Parameter(torch.full((1,), options.log_std_init))
        self.value_shift: Tensor
        self.value_scale: Tensor
        self.register_buffer("value_shift", torch.zeros(1))
        self.register_buffer("value_scale", torch.ones(1))
        self.directions: Tensor
        self.register_buffer("directions", torch.tensor(team.actions.directions), persistent=False)

    @property
    def _of_the_critic(self) -> NetworkSection:
        """A central critic's graph is the team's: it has no agent of its own to take as origin, but the mean moves along."""
        if not self._central:
            return self._options
        frame = "centroid" if self._options.frame == "own" else self._options.frame
        return self._options.model_copy(update={"graph": "team", "frame": frame})

    def action_dist_inputs(self, scene: Mapping[str, Tensor]) -> Tensor:
        """Masked logits (N, K), or means and log standard deviations of vector actions (N, 4)."""
        decoded = self.policy.decode(self._graph(scene))
        actions, vector = self.team.actions, decoded.vector
        if self._options.vector_bound is not None:
            vector = shortened(vector, self._options.vector_bound)
        if actions.vectors:
            return torch.cat([vector, self.log_std.expand_as(vector)], -1)
        moves = decoded.moves if decoded.moves is not None else vector @ self.directions.T
        still, common = decoded.still[:, :-1], decoded.still[:, -1:]
        logits = torch.cat([still, moves + common, decoded.targets], -1)
        return logits.masked_fill(~scene["allowed"].bool().flatten(0, 1), LOWEST)

    def expected_returns(self, scene: Mapping[str, Tensor]) -> Tensor:
        """(N,), in units of reward."""
        return self.values(scene) * self.value_scale + self.value_shift

    def values(self, scene: Mapping[str, Tensor]) -> Tensor:
        """(N,), in learned units: ``value_scale`` from ``value_shift``."""
        if self._central:
            return self.critic.value(Graph.of(scene).unlimited())
        return self.critic.value(self._graph(scene))

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take up weights, perhaps trained with other numbers of entities.

        Raises:
            DataError: they belong to another kind of network, other features, or an MLP with other entities.
        """
        own = self.state_dict()
        wrong = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
        if wrong or len(weights) != len(own):
            named = wrong[0] if wrong else next(name for name in weights if name not in own)
            raise DataError(
                f"checkpoint: its {named} does not fit a {self.kind} of {self.team.agents} agents, {self.team.entities} "
                f"entities, features {', '.join(self.team.features)}; use the environment, the network settings and, for an "
                "MLP, the number of entities it was trained with"
            )
        self.load_state_dict(dict(weights))

    def _graph(self, scene: Mapping[str, Tensor]) -> Graph:
        graph = Graph.of(scene)
        return graph.own() if self._per_agent else graph


def shortened(vectors: Tensor, bound: float) -> Tensor:
    """Vectors (..., 2) with lengths below ``bound``: short ones as they are, directions unchanged."""
    length = (vectors.square().sum(-1, keepdim=True) + 1e-12).sqrt()
    return vectors * (bound * torch.tanh(length / bound) / length)


def _network(
    kind: NetworkKind, team: TeamSpec, options: NetworkSection, acting: int, head: str, *, whole: bool = False
) -> Network:
    inner: Perceptron | GraphNetwork
    inner = (
        Perceptron(team, options, head, whole=whole)
        if kind == "mlp"
        else GraphNetwork(kind, team, options, acting, head)
    )
    if options.symmetrise == "average":
        return AveragedNetwork(inner, team.actions)
    if options.symmetrise == "canonical":
        return CanonicalNetwork(inner, team.joined, absolute=options.frame == "absolute")
    return inner
