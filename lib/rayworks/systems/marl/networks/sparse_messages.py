"""The same layers by torch-geometric, over existing edges only: for large, sparse graphs."""

from torch import Tensor

from rayworks.systems.marl.networks.equivariant_layers import GraphLayer, Nodes, Sums


def sparse_round(layer: GraphLayer, nodes: Nodes, edges: Tensor) -> Nodes:
    """As :meth:`.GraphLayer.forward`, equal to it but for rounding. Cost: M evaluations of the edge networks for M edges over
    all rows. It keeps nothing between calls.
    """
    # Takes a second to import, and dense graphs do without.
    from torch_geometric.utils import scatter

    rows, received, entities = edges.shape
    row, receiver, sender = edges.nonzero(as_tuple=True)
    to, origin = row * entities + receiver, row * entities + sender
    flat = Nodes(nodes.invariant.flatten(0, 1), nodes.vectors.flatten(0, 1))
    ends = tuple(receive[to] + send[origin] for receive, send in layer.ends(flat, flat))
    bound, free, pull = layer.sent(ends, flat.vectors[to] - flat.vectors[origin])

    def summed(sent: Tensor | None) -> Tensor | None:
        if sent is None:
            return None
        total: Tensor = scatter(sent, row * received + receiver, dim_size=rows * received)
        return total.view(rows, received, *sent.shape[1:])

    own = Nodes(nodes.invariant[:, :received], nodes.vectors[:, :received])
    updated = layer.updated(
        own, Sums(summed(bound), summed(free), summed(pull)), edges.sum(-1, keepdim=True).clamp(min=1)
    )
    sent = free if bound is None else bound
    assert sent is not None
    messages = nodes.invariant.new_zeros(rows, received, entities, layer.hidden)
    return updated._replace(messages=messages.index_put((row, receiver, sender), sent))
