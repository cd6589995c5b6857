"""Make any network equivariant, by averaging over rotated views or by rotating each view to a canonical one."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from rayworks.systems.marl.environments.scenes import ActionLayout
from rayworks.systems.marl.networks.graph_networks import Decoded, GraphNetwork, Perceptron
from rayworks.systems.marl.networks.graphs import Graph
from rayworks.systems.marl.networks.symmetry_groups import QUARTER_TURNS

SMALL = 1e-5
"""Lengths below it are rounding."""


class _Symmetrised(nn.Module):
    """The mean of what a network says of turned views, turned back."""

    def __init__(self, inner: GraphNetwork | Perceptron) -> None:
        super().__init__()
        self.inner = inner
        self.turns: Tensor
        self.register_buffer("turns", torch.tensor(QUARTER_TURNS, dtype=torch.float32), persistent=False)

    def _views(self, graph: Graph) -> Sequence[Tensor]:
        """Orthogonal matrices of the views: (2, 2) of all, or (N, 2, 2)."""
        return list(self.turns)

    def _back(self, answer: Decoded, turn: Tensor, number: int) -> Decoded:
        raise NotImplementedError("a network that is symmetrised says how an answer of a view is turned back")

    def decode(self, graph: Graph) -> Decoded:
        """The mean over the views of what to do."""
        views = enumerate(self._views(graph))
        answers = [self._back(self.inner.decode(graph.turned(turn)), turn, number) for number, turn in views]
        names = ("still", "vector", "targets", *(["moves"] if answers[0].moves is not None else []))
        return Decoded(**{name: torch.stack([getattr(one, name) for one in answers]).mean(0) for name in names})

    def value(self, graph: Graph) -> Tensor:
        """The mean over the views, (N,)."""
        return torch.stack([self.inner.value(graph.turned(turn)) for turn in self._views(graph)]).mean(0)


class AveragedNetwork(_Symmetrised):
    """Frame averaging over the eight quarter turns and reflections: exact for moves on a grid, eight times the cost."""

    def __init__(self, inner: GraphNetwork | Perceptron, actions: ActionLayout) -> None:
        super().__init__(inner)
        still = actions.still
        self._moves = [
            torch.from_numpy(actions.turned(turn))[still : still + len(actions.directions)] - still
            for turn in QUARTER_TURNS
        ]

    def _back(self, answer: Decoded, turn: Tensor, number: int) -> Decoded:
        moves = None if answer.moves is None else answer.moves[:, self._moves[number]]
        return replace(answer, vector=answer.vector @ turn, moves=moves)


class CanonicalNetwork(_Symmetrised):
    """Each agent's view turned so that its velocity points along x and the team's centre lies on the side of positive y
    (LEGO, arXiv 2509.14431).

    Where the velocity is zero, a direction is taken from the team's centre, from all that is seen or, in the absolute frame,
    from the agent's own position; where nothing lies to a side, both sides are averaged. So it is exact for all rotations and
    reflections, except that an agent with no such direction (all that it sees is balanced around it) averages over the eight
    symmetries of a square: exact for those, and for any turn if it is alone. It jumps where the choice changes.

    Args:
        inner: any network on graphs per agent.
        agents: agents of the team, the first entities of a view.
        absolute: whether coordinates have an origin of their own, so that the agent's position is a direction.
    """

    def __init__(self, inner: GraphNetwork | Perceptron, agents: int, *, absolute: bool) -> None:
        super().__init__(inner)
        self._agents, self._absolute = agents, absolute

    def _back(self, answer: Decoded, turn: Tensor, number: int) -> Decoded:
        return replace(answer, vector=(answer.vector[:, None] @ turn).squeeze(1), moves=None)

    def _views(self, graph: Graph) -> list[Tensor]:
        """Orthogonal matrices (N, 2, 2), whose answers are averaged: one, two if a side is open, eight without direction."""
        own, acting = graph.positions[:, 0], graph.present[:, :1]
        centre = _centre(graph.positions[:, : self._agents], graph.present[:, : self._agents]) - own
        everything = _centre(graph.positions, graph.present) - own
        points = [centre, everything, *([own] if self._absolute else [])]
        along = _first_long([graph.velocities[:, 0], *points])
        length = along.norm(dim=-1, keepdim=True)
        lost = (length < SMALL) & acting
        along = along / length.clamp(min=SMALL)
        across = torch.stack([-along[:, 1], along[:, 0]], -1)
        side = _first_long([(across * one).sum(-1, keepdim=True) for one in points])
        open_sided = (side.abs() < SMALL) & acting
        count = len(self.turns) if lost.any() else 2 if open_sided.any() else 1
        views = []
        for number, turn in enumerate(self.turns[:count]):
            sign = torch.where(side < 0, -1.0, 1.0)
            sign = torch.where(open_sided, (-1.0) ** number, sign)
            turned = torch.stack([along, across * sign], 1)
            views.append(torch.where(lost[..., None], turn, turned))
        return views


def _centre(positions: Tensor, present: Tensor) -> Tensor:
    """(N, 2), mean position of those present."""
    return (positions * present[..., None]).sum(1) / present.sum(1, keepdim=True).clamp(min=1)


def _first_long(choices: list[Tensor]) -> Tensor:
    """Per row the first of the (N, D) choices that is not nearly zero, else the last."""
    chosen = choices[-1]
    for choice in reversed(choices[:-1]):
        chosen = torch.where(choice.norm(dim=-1, keepdim=True) < SMALL, chosen, choice)
    return chosen
