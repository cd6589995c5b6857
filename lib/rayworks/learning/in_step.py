"""Several workers that train one model in step, over ``torch.distributed`` as Ray Train sets it up."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from rayworks.core.errors import InfrastructureError


def add_up(values: Iterable[Tensor]) -> None:
    """Sum each tensor over all workers, in place.

    Raises:
        InfrastructureError: one of them is gone.
    """
    try:
        for value in values:
            distributed.all_reduce(value)
    except RuntimeError as error:
        raise InfrastructureError(f"another worker is gone ({str(error).splitlines()[0]})") from error


@dataclass(frozen=True)
class Workers:
    """Which of how many this is. Batches are dealt out row by row, so that all have as many where the count divides them."""

    rank: int = 0
    count: int = 1

    def mine(self, rows: Tensor) -> Tensor:
        """This worker's rows of a batch."""
        return rows[self.rank :: self.count]

    def whole(self, mine: Tensor) -> Tensor:
        """The batch of which each worker has as many rows; without a graph."""
        if self.count == 1:
            return mine
        kind = torch.uint8 if mine.dtype == torch.bool else mine.dtype
        found = torch.zeros(len(mine) * self.count, *mine.shape[1:], dtype=kind, device=mine.device)
        found[self.rank :: self.count] = mine.detach().to(kind)
        add_up([found])
        return found.to(mine.dtype)

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the workers."""
        if self.count == 1:
            return value
        found = value.detach().clone()
        add_up([found])
        return found / self.count


ALONE = Workers()
