"""The same layers by torch-geometric message passing, over the edges that exist: for large graphs with few edges."""

import torch
from torch import Tensor
from torch_geometric.nn import MessagePassing

from rayworks.systems.marl.equivariant_layers import GraphLayer, Nodes, Sums


class SparseMessages(MessagePassing):
    """One round of a :class:`~.equivariant_layers.GraphLayer` with its weights; equal to the dense layer but for rounding."""

    def __init__(self) -> None:
        super().__init__(aggr="sum")

    def forward(self, layer: GraphLayer, nodes: Nodes, edges: Tensor) -> Nodes:
        """As :meth:`.GraphLayer.forward`. Cost: M evaluations of the edge networks for M edges over all rows."""
        rows, received, entities = edges.shape
        row, receiver, sender = edges.nonzero(as_tuple=True)
        index = torch.stack([row * entities + sender, row * entities + receiver])
        flat = Nodes(nodes.invariant.flatten(0, 1), nodes.vectors.flatten(0, 1))
        channels = flat.vectors.shape[1]
        # In a tuple, or it would count as a part of this module.
        self._of = (layer,)
        ends = layer.ends(flat, flat)
        summed = self.propagate(
            index,
            receive=torch.cat([receive for receive, _ in ends], -1),
            send=torch.cat([send for _, send in ends], -1),
            vectors=flat.vectors.flatten(1),
            size=(rows * entities, rows * entities),
        )
        hidden = nodes.invariant.shape[-1]
        summed = summed.view(rows, entities, -1)[:, :received]
        parts = list(torch.split(summed, [hidden] * len(ends) + [summed.shape[-1] - hidden * len(ends)], -1))
        pull = parts.pop()
        totals = Sums(
            None if layer.update == "none" else parts[0],
            parts[-1] if layer.update in ("none", "penguin") else None,
            pull.reshape(rows, received, channels, 2) if self._pulled else None,
        )
        own = Nodes(nodes.invariant[:, :received], nodes.vectors[:, :received])
        updated = layer.updated(own, totals, edges.sum(-1, keepdim=True).clamp(min=1))
        messages = nodes.invariant.new_zeros(rows, received, entities, hidden)
        return updated._replace(messages=messages.index_put((row, receiver, sender), self._sent))

    def message(self, receive_i: Tensor, send_j: Tensor, vectors_i: Tensor, vectors_j: Tensor) -> Tensor:
        """All that goes along each edge, side by side: (M, messages and pulls)."""
        difference = (vectors_i - vectors_j).view(len(vectors_i), -1, 2)
        (layer,) = self._of
        bound, free, pull = layer.sent(torch.split(receive_i + send_j, layer.hidden, -1), difference)
        sent = [part for part in (bound, free) if part is not None]
        self._sent, self._pulled = sent[0], pull is not None
        return torch.cat([*sent, *([] if pull is None else [pull.flatten(1)])], -1)
