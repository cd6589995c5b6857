"""Weights as a small network of the sample's loss, trained by the same gains (Shu et al. 2019, arXiv 1902.07379)."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from rayworks.core import seeds

WIDTH, RATE, DECAY = 100, 1e-3, 1e-4


class MetaWeightNet:
    """One hidden layer and a sigmoid, from loss to weight.

    The slope of the validation loss along the weight of a sample is ``-eta <y, A>``, so one backward pass through the
    network chains the gains into its parameters.
    """

    def __init__(self, seed: int = 0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds.derive_small(seed, "meta-weight-net"))
            self.net = nn.Sequential(nn.Linear(1, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1), nn.Sigmoid())
        self._optimiser = torch.optim.Adam(self.net.parameters(), RATE, weight_decay=DECAY)

    def weights(self, losses: Tensor, scores: Tensor) -> Tensor:
        """Weights ``(B,)`` in [0, 1] after one step of the network up the scores, both ``(B,)``."""
        column = losses.detach().float()[:, None]
        with torch.enable_grad():
            before = self.net.to(column.device)(column)[:, 0]
            share = before / before.sum().clamp_min(1e-12)
            self._optimiser.zero_grad()
            (-(share * scores.detach().float()).sum()).backward()
        self._optimiser.step()
        with torch.no_grad():
            found: Tensor = self.net(column)[:, 0].to(scores.dtype)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Everything to go on from."""
        return copy.deepcopy({"net": self.net.state_dict(), "optimiser": self._optimiser.state_dict()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.net.load_state_dict(state["net"])
        self._optimiser.load_state_dict(state["optimiser"])
