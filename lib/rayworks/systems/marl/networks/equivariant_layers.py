"""Layers of the graph networks: GNN, EGNN, E2GN2 and PEnGUiN, on dense batched graphs.

Axes: B rows, E nodes, R receivers (the first R nodes, all or only those whose output is read), H hidden, C vector channels
(position, perhaps velocity). Cost of a layer: R * E evaluations of the edge networks, each 2 H^2 multiplications, per row.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

Update = Literal["none", "egnn", "e2gn2", "penguin"]
"""What becomes of the vectors in a layer: nothing (GNN, which reads raw coordinates instead), or the paper's updates."""
Output = Literal["both", "invariant", "vectors"]
"""What a layer has to compute; what nobody reads keeps its old value, and its networks are not made."""


class Nodes(NamedTuple):
    """State of a graph between two layers."""

    invariant: Tensor
    """h, (B, E, H)."""
    vectors: Tensor
    """u, (B, E, C, 2)."""
    messages: Tensor | None = None
    """m_ij of the layer that made these nodes, (B, R, E, H), 0 where there is no edge."""


def perceptron(inputs: int, hidden: int, outputs: int, *, bias: bool = True) -> nn.Sequential:
    """Linear, SiLU, Linear: the form of every phi but the message's."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs, bias=bias))


class Messages(nn.Module):
    r"""phi_e: m_ij = SiLU(W2 SiLU(W1 [a_i, a_j, g_ij])).

    The first product is split into its three blocks, so that those of nodes are made once per node, not once per edge; the
    result is the same but for rounding.
    """

    def __init__(self, node: int, geometry: int, hidden: int) -> None:
        super().__init__()
        self._node = node
        self.first = nn.Linear(2 * node + geometry, hidden)
        self.second = nn.Linear(hidden, hidden)

    def halves(self, receiving: Tensor, sending: Tensor) -> tuple[Tensor, Tensor]:
        """The parts of the first product that come from the two ends: (..., R, H) and (..., E, H)."""
        weight = self.first.weight
        return (
            functional.linear(receiving, weight[:, : self._node], self.first.bias),
            functional.linear(sending, weight[:, self._node : 2 * self._node]),
        )

    def finish(self, ends: Tensor, geometry: Tensor | None) -> Tensor:
        """Messages from the summed halves (..., H) and the geometry (..., G) of each edge."""
        if geometry is not None:
            ends = ends + functional.linear(geometry, self.first.weight[:, 2 * self._node :])
        return functional.silu(self.second(functional.silu(ends)))


def products(vectors: Tensor) -> Tensor:
    """All inner products between the C vectors of an edge: (..., C, 2) to (..., C (C + 1) / 2)."""
    channels = vectors.shape[-2]
    pairs = [(vectors[..., k, :] * vectors[..., n, :]).sum(-1) for k in range(channels) for n in range(k, channels)]
    return torch.stack(pairs, -1)


class GraphLayer(nn.Module):
    r"""One round of messages.

    With C_i = 1 / (number of neighbours of i):

    * ``none``:    m_ij = phi_e(h_i, u_i, h_j, u_j);  u' = u
    * ``egnn``:    m_ij = phi_e(h_i, h_j, \|u_i - u_j\|^2);  u_i' = u_i + C_i sum_j (u_i - u_j) phi_u(m_ij)
    * ``e2gn2``:   m_ij as EGNN;  u_i' = u_i phi_u2(m_i) + C_i sum_j (u_i - u_j) phi_u(m_ij)
    * ``penguin``: both kinds of messages, blended by a learned symmetry score alpha per node;
      u' = alpha u_e2gn2 + (1 - alpha) phi_n(n_i, u_i)

    and h_i' = h_i + phi_h(h_i, m_i) with m_i the sum of messages. Several vector channels replace the squared distance by
    all inner products and get a phi_u each. Sources: Satorras et al. 2021 (EGNN); arXiv 2410.02581, eq. for E2GN2;
    arXiv 2503.15615 for PEnGUiN, whose exact equations are unverified.

    Args:
        output: of a last layer, what is read.
        mean: whether m_i is the mean instead of the sum, which keeps its size when the number of entities changes.
    """

    def __init__(
        self, hidden: int, channels: int, update: Update, output: Output = "both", *, mean: bool = False
    ) -> None:
        super().__init__()
        self.update, self.hidden, self._mean = update, hidden, mean
        self._invariant_read, self._vectors_read = output != "vectors", output != "invariant" and update != "none"
        if self._invariant_read:
            self.node_update = perceptron(2 * hidden, hidden, hidden)
        if update != "none":
            self.messages = Messages(hidden, channels * (channels + 1) // 2, hidden)
        if self._vectors_read:
            self.edge_scale = perceptron(hidden, hidden, channels, bias=False)
        if self._vectors_read and update in ("e2gn2", "penguin"):
            self.own_scale = perceptron(hidden, hidden, channels, bias=False)
        if update in ("none", "penguin"):
            self.free_messages = Messages(hidden + 2 * channels, 0, hidden)
        if update == "penguin":
            self.symmetry_score = perceptron(hidden + 2 * channels, hidden, 1)
        if self._vectors_read and update == "penguin":
            self.free_vectors = perceptron(hidden + 2 * channels, hidden, 2 * channels)

    def forward(self, nodes: Nodes, edges: Tensor) -> Nodes:
        """The first R nodes after one round; edges (B, R, E) weigh 1 where j sends to i, 0 elsewhere and for i itself."""
        received = edges.shape[1]
        own = Nodes(nodes.invariant[:, :received], nodes.vectors[:, :received])
        difference = own.vectors[:, :, None] - nodes.vectors[:, None]
        bound, free, pull = self.sent(
            tuple(receive[:, :, None] + send[:, None] for receive, send in self.ends(own, nodes)), difference
        )
        weights = edges[..., None]
        bound, free = (None if kind is None else kind * weights for kind in (bound, free))
        totals = Sums(
            None if bound is None else bound.sum(2),
            None if free is None else free.sum(2),
            None if pull is None else (pull * weights[..., None]).sum(2),
        )
        updated = self.updated(own, totals, edges.sum(-1, keepdim=True).clamp(min=1))
        return updated._replace(messages=free if bound is None else bound)

    def ends(self, receiving: Nodes, sending: Nodes) -> list[tuple[Tensor, Tensor]]:
        """Per kind of message, invariant before free, what its two ends put into the first product."""
        found = []
        if self.update != "none":
            found.append(self.messages.halves(receiving.invariant, sending.invariant))
        if self.update in ("none", "penguin"):
            found.append(self.free_messages.halves(_described(receiving), _described(sending)))
        return found

    def sent(self, ends: tuple[Tensor, ...], difference: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """What goes along edges: invariant messages (..., H), free ones (..., H), and pulls (..., C, 2).

        From the summed halves (..., H) per kind of message, and u_i - u_j, (..., C, 2).
        """
        free = self.free_messages.finish(ends[-1], None) if self.update in ("none", "penguin") else None
        if self.update == "none":
            return None, free, None
        bound = self.messages.finish(ends[0], products(difference))
        pull = difference * self.edge_scale(bound)[..., None] if self._vectors_read else None
        return bound, free, pull

    def updated(self, own: Nodes, totals: "Sums", degree: Tensor) -> Nodes:
        """Nodes (..., R) after what they received, summed over senders; ``degree`` (..., R, 1)."""
        total, vectors = totals.free if totals.bound is None else totals.bound, own.vectors
        assert total is not None
        if totals.pull is not None:
            kept = vectors if self.update == "egnn" else vectors * self.own_scale(total)[..., None]
            vectors = kept + totals.pull / degree[..., None]
        if self.update == "penguin":
            assert totals.free is not None
            alpha = self.alpha(own)
            total = alpha * total + (1 - alpha) * totals.free
            if self._vectors_read:
                unbound = self.free_vectors(torch.cat([totals.free, own.vectors.flatten(-2)], -1)).view_as(vectors)
                vectors = alpha[..., None] * vectors + (1 - alpha[..., None]) * unbound
        if not self._invariant_read:
            return Nodes(own.invariant, vectors)
        received = total / degree if self._mean else total
        return Nodes(own.invariant + self.node_update(torch.cat([own.invariant, received], -1)), vectors)

    def alpha(self, nodes: Nodes) -> Tensor:
        """PEnGUiN's symmetry score of each node, (..., 1): 1 is fully equivariant."""
        return torch.sigmoid(self.symmetry_score(_described(nodes)))


class Sums(NamedTuple):
    """What nodes received; None for kinds of messages that a layer does not have."""

    bound: Tensor | None
    """(..., R, H), of invariant messages."""
    free: Tensor | None
    """(..., R, H), of messages that see raw coordinates."""
    pull: Tensor | None
    """(..., R, C, 2)."""


def _described(nodes: Nodes) -> Tensor:
    return torch.cat([nodes.invariant, nodes.vectors.flatten(-2)], -1)
