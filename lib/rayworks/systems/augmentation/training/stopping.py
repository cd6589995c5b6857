"""Stopping early: the state of a training that a hold-out likes best, for no step and no sample more."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import nn

LOOKS = 40
"""Looks at the hold-out in a training, evenly apart."""


class BestState:
    """The state of lowest loss on a hold-out so far, and what every look found of its rows."""

    def __init__(self) -> None:
        self.step, self.model = 0, dict[str, Any]()
        """Of the best state; empty before the first look."""
        self._losses, self._right = torch.zeros(0, 0, dtype=torch.float64), torch.zeros(0, 0, dtype=torch.int32)

    def due(self, step: int, steps: int) -> bool:
        """Whether to look after so many steps of so many; always at the end."""
        return step == steps or step % max(1, steps // LOOKS) == 0

    def look(self, step: int, found: Mapping[str, Any], model: nn.Module) -> None:
        """Keep the state if it is the best; of equals the first stays.

        Args:
            found: ``losses`` and ``right`` of each row, as :meth:`.ArmRun.evaluate` gives them.
        """
        losses, right = (
            torch.tensor(found["losses"], dtype=torch.float64)[None],
            torch.tensor(found["right"])[None].int(),
        )
        if float(losses.mean()) < self.best_loss:
            self.step, self.model = step, deepcopy(model.state_dict())
        self._losses = torch.cat([self._losses, losses]) if len(self._losses) else losses
        self._right = torch.cat([self._right, right]) if len(self._right) else right

    @property
    def best_loss(self) -> float:
        """Mean over rows, in nats; infinite before the first look."""
        return float(self._losses.mean(1).min()) if len(self._losses) else float("inf")

    def crossed(self) -> dict[str, list[Any]]:
        """``losses`` and ``right`` of each row at a stop: of either half of the rows at that which the other half likes best.

        A hold-out that chose a stop itself flatters it.
        """
        half = torch.arange(self._losses.shape[1]) % 2 == 0
        one, other = (int(self._losses[:, part].mean(1).argmin()) for part in (half, ~half))
        return {
            name: torch.where(half, part[other], part[one]).tolist()
            for name, part in (("losses", self._losses), ("right", self._right))
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything to go on from."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        vars(self).update(state)
        self._losses, self._right = self._losses.cpu(), self._right.cpu()
