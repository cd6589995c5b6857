"""Where a process trains and reads language models, and with how many others in step."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rayworks.lm.training import Shard


@dataclass(frozen=True)
class Place:
    """A device of torch, and which of the processes this is that train in step."""

    device: str = "cpu"
    rank: int = 0
    workers: int = 1

    @property
    def shard(self) -> "Shard":
        """Its part of every training step."""
        from rayworks.lm.training import Shard

        return Shard(self.rank, self.workers)


HERE = Place()
