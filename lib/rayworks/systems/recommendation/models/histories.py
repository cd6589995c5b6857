"""Histories of users, of any length each, and a model's state after them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rayworks.systems.recommendation.logs.events import NATURAL, PAD, EventLog
from rayworks.systems.recommendation.models.acceptance import AcceptanceModel


@dataclass(frozen=True)
class Histories:
    """The events of B users, at most T each, padded at the end."""

    item: Tensor
    """int64 (B, T): item code + 1, 0 where padded."""
    kind: Tensor
    """int64 (B, T)."""

    def __len__(self) -> int:
        return len(self.item)

    @property
    def length(self) -> Tensor:
        """int64 (B,): events of each user."""
        return (self.kind != PAD).sum(1)

    def only(self, wanted: Tensor) -> "Histories":
        """The events where ``wanted`` (bool (B, T)) holds, moved up to the beginning."""
        order = torch.argsort((~wanted).int(), dim=1, stable=True)
        item = torch.where(wanted, self.item, 0).gather(1, order)
        return Histories(item, torch.where(wanted, self.kind, PAD).gather(1, order))

    def last(self, length: int) -> "Histories":
        """The last ``length`` events of each user."""
        if self.item.shape[1] <= length:
            return self
        first = (self.length - length).clamp(min=0)[:, None]
        positions = first + torch.arange(length)
        return Histories(self.item.gather(1, positions), self.kind.gather(1, positions))


def histories(events: Sequence[Sequence[tuple[int, int]]]) -> Histories:
    """From lists of (item code 0..I-1, kind) per user, in order of time."""
    length = max((len(one) for one in events), default=0)
    item = torch.zeros(len(events), length, dtype=torch.int64)
    kind = torch.zeros(len(events), length, dtype=torch.int64)
    for row, one in enumerate(events):
        if one:
            item[row, : len(one)] = torch.tensor([code + 1 for code, _ in one])
            kind[row, : len(one)] = torch.tensor([which for _, which in one])
    return Histories(item, kind)


@torch.no_grad()
def states_after(model: AcceptanceModel, past: Histories) -> Tensor:
    """(B, d + 1): the state of each user after all its events, of which the last that the model can hold count."""
    past = past.last(model.options.length - 1)
    room = torch.zeros(len(past), 1, dtype=torch.int64)
    states = model.states(torch.cat([past.item, room], 1), torch.cat([past.kind, room], 1))
    return states[torch.arange(len(past)), past.length]


@torch.no_grad()
def acceptance(models: Sequence[AcceptanceModel], past: Histories, items: Tensor | None = None) -> Tensor:
    """Chance (M, B, k) by each of M models that each item (int64 (B, k), codes 0..I-1; all if None) would be accepted."""
    return torch.stack([torch.sigmoid(model.score(states_after(model, past), items)) for model in models])


def equally_long(past: Histories) -> Iterator[tuple[Tensor, Histories]]:
    """Users with equally many events together: their rows (int64 (b,)) and events, the shortest first."""
    for length in torch.unique(past.length):
        rows = torch.nonzero(past.length == length)[:, 0]
        yield rows, Histories(past.item[rows, : int(length)], past.kind[rows, : int(length)])


def histories_of(
    log: EventLog, users: np.ndarray, *, last: int | None = None, before_recommendations: bool = False
) -> Histories:
    """Events of some users (codes (B,)): the last so many, and only those before the first recommendation if asked."""
    begin, end = log.offsets[users], log.offsets[users + 1]
    if before_recommendations:
        positions = np.where(log.recommended, np.arange(len(log)), len(log))
        first = np.minimum.accumulate(positions[::-1])[::-1]
        end = np.where(begin < end, np.minimum(first[np.minimum(begin, len(log) - 1)], end), end)
    begin = begin if last is None else np.maximum(begin, end - last)
    length = int((end - begin).max(initial=0))
    row = begin[:, None] + np.arange(length)
    inside = row < end[:, None]
    row = np.where(inside, row, 0)
    item = np.where(inside, log.item[row].astype(np.int64) + 1, 0)
    return Histories(torch.from_numpy(item), torch.from_numpy(np.where(inside, log.kind[row], PAD).astype(np.int64)))


def only_natural(past: Histories, longest: int) -> Histories:
    """The last natural events of each user, at most so many."""
    natural = past.only(past.kind == NATURAL).last(longest)
    return Histories(natural.item.clone(memory_format=torch.contiguous_format), natural.kind.clone())
