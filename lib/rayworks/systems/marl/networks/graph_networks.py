"""Network backbones: E2GN2 and its relatives, and the MLP.

Axes: N = B * A acting agents over all rows, T target slots.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from rayworks.systems.marl.config import NetworkKind, NetworkSection
from rayworks.systems.marl.environments.scenes import TeamSpec
from rayworks.systems.marl.networks.equivariant_layers import GraphLayer, Nodes, Output, Update
from rayworks.systems.marl.networks.graphs import Graph, joined
from rayworks.systems.marl.networks.sparse_messages import sparse_round


@dataclass(frozen=True)
class Decoded:
    """Outputs that actions are made from."""

    still: Tensor
    """(N, still + 1): logits of actions without direction, then what all moves have in common; empty for vector actions."""
    vector: Tensor
    """(N, 2), turns with the world."""
    targets: Tensor
    """(N, T) logits."""
    moves: Tensor | None = None
    """(N, moves) logits of a network that knows no directions; else they come from the vector."""


def updates(kind: NetworkKind, layers: int) -> list[Update]:
    """What each layer does to the vectors. ``e2gn2-last`` moves as EGNN does in all but the last layer, so that distances
    stay those between the entities, whatever the depth, and the vectors do not vanish.
    """
    names: dict[NetworkKind, tuple[Update, Update]] = {
        "gnn": ("none", "none"),
        "egnn": ("egnn", "egnn"),
        "e2gn2": ("e2gn2", "e2gn2"),
        "e2gn2-last": ("egnn", "e2gn2"),
        "penguin": ("penguin", "penguin"),
    }
    below, last = names[kind]
    return [below] * (layers - 1) + [last]


class GraphNetwork(nn.Module):
    """Embedding, layers of messages, and the readouts of one half of an actor-critic.

    The last layer computes only nodes that are read: the acting agents', and the targets' where they decide about themselves.

    Args:
        kind: any but ``mlp``.
        acting: A of the graphs: the team's agents, or 1.
        head: ``policy`` or ``value``.
    """

    def __init__(self, kind: NetworkKind, team: TeamSpec, options: NetworkSection, acting: int, head: str) -> None:
        super().__init__()
        self._acting, self._mates, self._options = acting, team.joined, options
        self._kind = kind
        tips = team.joined if options.velocity == "tip" else 0
        split = options.graph == "agent" and team.mates is None and acting == 1
        inputs = len(team.features) + split + bool(tips)
        inputs += options.velocity in ("channel", "speed")
        self._channels = 2 if options.velocity == "channel" else 1
        self.joined: Tensor
        self.register_buffer("joined", joined(team, tips), persistent=False)
        self.embedding = nn.Linear(inputs, options.hidden)
        vectors = team.actions.vectors
        read: Output = "invariant" if head == "value" else "vectors" if vectors and kind != "gnn" else "both"
        whole: Output = "both"
        outputs = [whole] * (options.layers - 1) + [read]
        self.layers = nn.ModuleList(
            GraphLayer(options.hidden, self._channels, update, output, mean=options.mean_messages)
            for update, output in zip(updates(kind, options.layers), outputs, strict=True)
        )
        if head == "value":
            self.readout = nn.Linear(options.hidden, 1)
            return
        self._vectors_only = vectors
        if not vectors:
            self.readout = nn.Linear(options.hidden, team.actions.still + 1)
        if kind == "gnn":
            self.vector_readout = nn.Linear(options.hidden, 2)
        else:
            self.channel_scale = nn.Parameter(torch.full((self._channels,), options.vector_scale))
        if team.actions.targets:
            self.target_readout = nn.Linear(options.hidden, 1)

    def forward(self, graph: Graph, read: int) -> Nodes:
        """The first ``read`` nodes after all layers."""
        options = self._options
        graph = graph.in_frame(options.frame)
        features = graph.features
        if options.velocity in ("channel", "speed"):
            features = torch.cat([features, graph.velocities.square().sum(-1, keepdim=True)], -1)
        if options.velocity == "tip":
            graph = graph.with_velocity_tips(self._mates)
            features = graph.features
        vectors = [graph.positions, graph.velocities][: self._channels]
        nodes = Nodes(self.embedding(features), torch.stack(vectors, 2))
        entities = features.shape[1]
        edges = graph.edges(self.joined, entities)
        for layer in self.layers[:-1]:
            nodes = self._round(layer, nodes, edges)
        return self._round(self.layers[-1], nodes, edges[:, :read])

    def _round(self, layer: nn.Module, nodes: Nodes, edges: Tensor) -> Nodes:
        if self._options.messages == "sparse":
            assert isinstance(layer, GraphLayer)
            return sparse_round(layer, nodes, edges)
        updated: Nodes = layer(nodes, edges)
        return updated

    def decode(self, graph: Graph) -> Decoded:
        """See :class:`Decoded`."""
        acting, by_node = self._acting, self._options.target_decoder == "node"
        wanted = graph.targets.shape[2] > 0
        nodes = self(graph, graph.positions.shape[1] if wanted and by_node else acting)
        own = nodes.invariant[:, :acting]
        if self._kind == "gnn":
            vector = self.vector_readout(own)
        else:
            vector = (nodes.vectors[:, :acting] * self.channel_scale[:, None]).sum(2)
        targets = own.new_zeros(*graph.targets.shape)
        if wanted and by_node:
            logits = self.target_readout(nodes.invariant).squeeze(-1)
            targets = logits[:, None].expand(-1, acting, -1).gather(2, graph.targets)
        elif wanted and nodes.messages is not None:
            targets = self.target_readout(nodes.messages[:, :acting]).squeeze(-1).gather(2, graph.targets)
        still = own.new_zeros(*own.shape[:2], 0) if self._vectors_only else self.readout(own)
        return Decoded(still.flatten(0, 1), vector.flatten(0, 1), targets.flatten(0, 1))

    def value(self, graph: Graph) -> Tensor:
        """(N,), from the invariant state of the agent's node."""
        nodes = self(graph, self._acting)
        values: Tensor = self.readout(nodes.invariant[:, : self._acting]).flatten()
        return values


class Perceptron(nn.Module):
    """All entities of a view in one row, into an MLP: no symmetry, a fixed number of entities.

    Args:
        options: widths, and what becomes of velocities.
        head: ``policy`` or ``value``.
        whole: whether graphs are the team's and all agents are valued at once, instead of graphs per agent.
    """

    def __init__(self, team: TeamSpec, options: NetworkSection, head: str, *, whole: bool = False) -> None:
        super().__init__()
        self._frame, self._velocity, self._layout = options.frame, options.velocity, team.actions
        width = options.mlp_hidden
        moving = {"none": 0, "speed": 1}.get(options.velocity, 2)
        marked = team.mates is None and not whole
        inputs = team.entities * (len(team.features) + marked + 2 + moving + 1)
        sizes = pairwise([inputs, *[width] * options.layers])
        hidden = [layer for before, after in sizes for layer in (nn.Linear(before, after), nn.Tanh())]
        actions = team.actions
        valued = team.agents if whole else 1
        outputs = valued if head == "value" else actions.still + 1 + 2 + len(actions.directions) + actions.targets
        self.body = nn.Sequential(*hidden, nn.Linear(width, outputs))

    def forward(self, graph: Graph) -> Tensor:
        """(N, outputs)."""
        graph = graph.in_frame(self._frame)
        moving = graph.velocities
        if self._velocity in ("none", "speed"):
            moving = moving.square().sum(-1, keepdim=True)[..., : self._velocity == "speed"]
        entities = [graph.positions, moving, graph.features, graph.present[..., None].float()]
        answer: Tensor = self.body(torch.cat(entities, -1).flatten(1))
        return answer

    def decode(self, graph: Graph) -> Decoded:
        """Decode the nodes, with separate logits for moves."""
        layout = self._layout
        parts = [layout.still + 1, 2, len(layout.directions), layout.targets]
        still, vector, moves, targets = torch.split(self(graph), parts, -1)
        return Decoded(still, vector, targets, moves)

    def value(self, graph: Graph) -> Tensor:
        """(N,)."""
        values: Tensor = self(graph).flatten()
        return values
