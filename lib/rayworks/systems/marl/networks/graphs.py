"""Build the networks' input graphs from scenes: one per team or one per agent, in a frame of coordinates.

Axes: B rows, A agents, E entities, F features.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rayworks.systems.marl.environments.scenes import TeamSpec, own_order

Frame = Literal["absolute", "own", "centroid"]


@dataclass(frozen=True)
class Graph:
    """A :class:`~.scenes.Scene` as tensors: floats, then flags, then whole numbers, in the shapes given there."""

    positions: Tensor
    velocities: Tensor
    features: Tensor
    present: Tensor
    visible: Tensor
    targets: Tensor

    @classmethod
    def of(cls, scene: Mapping[str, Tensor]) -> "Graph":
        """From the arrays of a :class:`~.scenes.Scene`, as RLlib carries them."""
        reals = {name: scene[name].float() for name in ("positions", "velocities", "features")}
        return cls(
            **reals, present=scene["present"].bool(), visible=scene["visible"].bool(), targets=scene["targets"].long()
        )

    def own(self) -> "Graph":
        """A graph per agent; see :meth:`.Scene.own`, whose result this equals."""
        rows, agents, entities = self.visible.shape
        order = own_order(agents, entities)
        index = torch.from_numpy(np.argsort(order, axis=1)).to(self.positions.device)
        each = np.arange(agents)[:, None]
        seen = (self.visible & self.present[:, None])[:, each, order].reshape(rows * agents, entities)
        shown = seen[..., None]

        def split(values: Tensor) -> Tensor:
            return values[:, order].reshape(rows * agents, entities, -1) * shown

        mark = torch.zeros_like(seen, dtype=self.features.dtype)
        mark[:, 0] = 1
        targets = index.expand(rows, agents, entities).gather(2, self.targets)
        return Graph(
            split(self.positions),
            split(self.velocities),
            torch.cat([split(self.features), mark[..., None]], -1),
            seen,
            seen[:, None],
            targets.reshape(rows * agents, 1, -1),
        )

    def in_frame(self, frame: Frame) -> "Graph":
        """Positions from the centre of the map (``absolute``), from the first agent, or from the mean of what agents see."""
        if frame == "absolute":
            return self
        present = self.present[..., None]
        if frame == "own":
            origin = self.positions[:, :1]
        else:
            seen = present & self.visible.any(1)[..., None]
            origin = (self.positions * seen).sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp(min=1)
        return replace(self, positions=(self.positions - origin) * present)

    def turned(self, matrices: Tensor) -> "Graph":
        """Positions and velocities multiplied by orthogonal matrices, (2, 2) or one per row (B, 2, 2)."""
        turn = matrices.transpose(-1, -2)
        return replace(self, positions=self.positions @ turn, velocities=self.velocities @ turn)

    def unlimited(self) -> "Graph":
        """The same graph as if every agent saw everything that is present."""
        return replace(self, visible=self.present[:, None].expand_as(self.visible))

    def with_velocity_tips(self, agents: int) -> "Graph":
        """Velocities as nodes: one for each of the first ``agents`` at position plus velocity, marked by a new feature."""
        present, visible = self.present[:, :agents], self.visible[:, :, :agents]
        mark = torch.zeros_like(self.features[..., :1])
        tips = torch.cat([torch.zeros_like(self.features[:, :agents]), torch.ones_like(mark[:, :agents])], -1)
        return Graph(
            torch.cat([self.positions, self.positions[:, :agents] + self.velocities[:, :agents]], 1),
            torch.cat([self.velocities, torch.zeros_like(self.velocities[:, :agents])], 1),
            torch.cat([torch.cat([self.features, mark], -1), tips * present[..., None]], 1),
            torch.cat([self.present, present], 1),
            torch.cat([self.visible, visible], 2),
            self.targets,
        )

    def edges(self, joined: Tensor, receivers: int) -> Tensor:
        """Who sends to whom of the pairs (E, E) that ever do: (B, R, E) of 0 and 1, for the first R entities as receivers."""
        agents = self.visible.shape[1]
        pair = self.present[:, :receivers, None] & self.present[:, None] & joined[:receivers]
        seeing = min(agents, receivers)
        rows = [pair[:, :seeing] & self.visible[:, :seeing]]
        if receivers > agents:
            seen = self.visible[:, :, agents:receivers].transpose(1, 2)
            rows.append(torch.cat([pair[:, agents:, :agents] & seen, pair[:, agents:, agents:]], 2))
        return torch.cat(rows, 1).float()


def joined(team: TeamSpec, tips: int = 0) -> Tensor:
    """Pairs of entities that a graph may join, (E + tips, E + tips) bool: never an entity with itself."""
    entities = team.entities + tips
    own = torch.arange(entities) < team.joined
    pairs = torch.ones(entities, entities, dtype=torch.bool) if team.complete else own[:, None] | own[None]
    return pairs & ~torch.eye(entities, dtype=torch.bool)
