"""Symmetry from outside: any network made equivariant by averaging over turned views, or by turning each view to one side."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from rayworks.systems.marl.graphs import Graph
from rayworks.systems.marl.networks import Decoded, GraphNetwork, Perceptron
from rayworks.systems.marl.scenes import ActionLayout
from rayworks.systems.marl.symmetry_groups import QUARTER_TURNS

SMALL = 1e-6


class AveragedNetwork(nn.Module):
    """Frame averaging over the eight quarter turns and reflections: exact for moves on a grid, eight times the cost."""

    def __init__(self, inner: GraphNetwork | Perceptron, actions: ActionLayout) -> None:
        super().__init__()
        self.inner = inner
        self.turns: Tensor
        self.register_buffer("turns", torch.tensor(QUARTER_TURNS, dtype=torch.float32), persistent=False)
        still = actions.still
        self._moves = [
            torch.from_numpy(actions.turned(turn))[still : still + len(actions.directions)] - still
            for turn in QUARTER_TURNS
        ]

    def decode(self, graph: Graph) -> Decoded:
        """The mean of what the network says of all turned views, turned back."""
        turned = [self.inner.decode(graph.turned(turn)) for turn in self.turns]
        back = [replace(one, vector=one.vector @ turn) for one, turn in zip(turned, self.turns, strict=True)]
        moves = [one.moves[:, places] for one, places in zip(turned, self._moves, strict=True) if one.moves is not None]
        return Decoded(
            torch.stack([one.still for one in back]).mean(0),
            torch.stack([one.vector for one in back]).mean(0),
            torch.stack([one.targets for one in back]).mean(0),
            torch.stack(moves).mean(0) if moves else None,
        )

    def value(self, graph: Graph) -> Tensor:
        """The mean over all turned views."""
        return torch.stack([self.inner.value(graph.turned(turn)) for turn in self.turns]).mean(0)


class CanonicalNetwork(nn.Module):
    """Each agent's view turned so that its velocity points along x and the team's centre lies on the side of positive y
    (LEGO, arXiv 2509.14431). Exact for all rotations and reflections, but it jumps where the velocity is zero (the direction
    to the team's centre takes its place) or the centre lies on the axis (then all that is seen decides).

    Args:
        inner: any network on graphs per agent.
        agents: of the team, the first entities of a view.
    """

    def __init__(self, inner: GraphNetwork | Perceptron, agents: int) -> None:
        super().__init__()
        self.inner, self._agents = inner, agents

    def decode(self, graph: Graph) -> Decoded:
        """With the vector turned back."""
        turn = self._turn(graph)
        decoded = self.inner.decode(graph.turned(turn))
        return replace(decoded, vector=(decoded.vector[:, None] @ turn).squeeze(1), moves=None)

    def value(self, graph: Graph) -> Tensor:
        """(N,)."""
        return self.inner.value(graph.turned(self._turn(graph)))

    def _turn(self, graph: Graph) -> Tensor:
        """(N, 2, 2), orthogonal."""
        team = graph.positions[:, : self._agents], graph.present[:, : self._agents]
        centre = _centre(*team) - graph.positions[:, 0]
        everything = _centre(graph.positions, graph.present) - graph.positions[:, 0]
        along = _first_long([graph.velocities[:, 0], centre, everything, torch.ones_like(centre)])
        along = along / along.norm(dim=-1, keepdim=True)
        across = torch.stack([-along[:, 1], along[:, 0]], -1)
        sides = [(across * one).sum(-1, keepdim=True) for one in (centre, everything)]
        side = torch.where(_first_long([*sides, torch.ones_like(sides[0])]) < 0, -1.0, 1.0)
        return torch.stack([along, across * side], 1)


def _centre(positions: Tensor, present: Tensor) -> Tensor:
    """(N, 2), mean position of those present."""
    return (positions * present[..., None]).sum(1) / present.sum(1, keepdim=True).clamp(min=1)


def _first_long(choices: list[Tensor]) -> Tensor:
    """Per row the first of the (N, D) choices that is not nearly zero, else the last."""
    chosen = choices[-1]
    for choice in reversed(choices[:-1]):
        chosen = torch.where(choice.norm(dim=-1, keepdim=True) < SMALL, chosen, choice)
    return chosen
