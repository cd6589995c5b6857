"""Cut users' events into token sequences of equal length, in which every event is predicted at most once."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rayworks.systems.recommendation.logs.events import REJECTED, EventLog


@dataclass(frozen=True)
class Sequences:
    """W rows of at most T consecutive events of one user, padded at the end."""

    item: Tensor
    """int64 (W, T): item code + 1, 0 where padded."""
    kind: Tensor
    """int64 (W, T): as in the log, PAD where padded."""
    row: Tensor
    """int64 (W, T): the event's row in the log, -1 where padded."""
    scored: Tensor
    """Bool (W, T): positions that this row is to predict. Each event to predict is scored in one row."""
    user: Tensor
    """int64 (W,)."""
    past: Tensor
    """int64 (W, T): how many of the row's events are before the position's instant, and so may tell of it."""

    def __len__(self) -> int:
        return len(self.item)

    def take(self, rows: Tensor) -> "Sequences":
        """Some rows (int64 (B,)), cut to the longest of them."""
        length = int((self.row[rows] >= 0).sum(1).max()) if len(rows) else 0
        parts = (self.item, self.kind, self.row, self.scored, self.past)
        item, kind, row, scored, past = (part[rows, :length] for part in parts)
        return Sequences(item, kind, row, scored, self.user[rows], past)

    def batches(self, size: int) -> Iterator["Sequences"]:
        """All rows in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.take(torch.arange(start, min(start + size, len(self))))

    def labels(self) -> Tensor:
        """Float32 (W, T): 1 accepted, 0 anything else."""
        return (self.kind > REJECTED).float()

    def to(self, device: str) -> "Sequences":
        """The same on a device."""
        parts = (part.to(device) for part in (self.item, self.kind, self.row, self.scored, self.user, self.past))
        return Sequences(*parts)


def sequences(log: EventLog, length: int, scored: np.ndarray | None = None) -> Sequences:
    """Cut the events of each user into rows of ``length``.

    A user with more events than that has several rows, each of which repeats the last half of the one before it as history
    that is not scored again.

    Args:
        length: T, at least 2.
        scored: bool (N,), events to predict; all recommendations if None. Rows without any are left out.
    """
    wanted = log.recommended if scored is None else scored
    stride = length - length // 2
    counts = np.diff(log.offsets)
    windows = np.where(counts > length, 1 + -(-(counts - length) // stride), (counts > 0).astype(np.int64))
    user = np.repeat(np.arange(len(counts)), windows)
    number = np.arange(len(user)) - np.repeat(np.cumsum(windows) - windows, windows)
    first = number * stride
    position = first[:, None] + np.arange(length)
    inside = position < counts[user][:, None]
    row = np.where(inside, log.offsets[user][:, None] + position, -1)
    fresh = inside & ((number[:, None] == 0) | (np.arange(length) >= length - stride))
    due = fresh & wanted[row]
    kept = due.any(1)
    row, due, inside, user = row[kept], due[kept], inside[kept], user[kept]
    return Sequences(
        item=torch.from_numpy(np.where(inside, log.item[row].astype(np.int64) + 1, 0)),
        kind=torch.from_numpy(np.where(inside, log.kind[row].astype(np.int64), 0)),
        row=torch.from_numpy(row),
        scored=torch.from_numpy(due),
        user=torch.from_numpy(user),
        past=torch.from_numpy(np.where(inside, np.maximum(log.instant[row] - row[:, :1], 0), 0)),
    )
