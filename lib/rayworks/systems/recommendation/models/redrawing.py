"""Draw a log's decisions anew from a model: what the same recipe then learns tells its bias as well as its spread.

This is the parametric bootstrap (Efron 1979). Users, items, times and natural events stay; each decision is drawn given those
that were drawn before it.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rayworks.core import seeds
from rayworks.systems.recommendation.logs.events import ACCEPTED, REJECTED, EventLog
from rayworks.systems.recommendation.models.acceptance import AcceptanceModel

USERS_AT_ONCE = 4096


@torch.no_grad()
def redrawn(model: AcceptanceModel, log: EventLog, seed: int) -> EventLog:
    """The same log with decisions of the model's choice.

    A user with more events than the model holds is followed in stretches, each begun from the last half of what it holds.

    Args:
        seed: seed of the draws, one of each event, so that users do not depend on each other.
    """
    model = model.cpu().eval()
    uniform = torch.from_numpy(seeds.stream(seed, "redrawn").random(len(log)))
    kind = log.kind.copy()
    users = np.flatnonzero(np.diff(log.offsets))
    for first in range(0, len(users), USERS_AT_ONCE):
        part = users[first : first + USERS_AT_ONCE]
        length = int(np.diff(log.offsets)[part].max())
        row = log.offsets[part][:, None] + np.arange(length)
        inside = row < log.offsets[part + 1][:, None]
        row = np.where(inside, row, 0)
        found = _followed(model, log, row, inside, uniform)
        kind[row[inside]] = found.numpy()[inside]
    return replace(log, kind=kind)


def _followed(model: AcceptanceModel, log: EventLog, row: np.ndarray, inside: np.ndarray, uniform: Tensor) -> Tensor:
    """Kinds (B, T) of the events in ``row`` (B, T) where ``inside`` holds, one position of all users after the other."""
    item = torch.from_numpy(np.where(inside, log.item[row].astype(np.int64) + 1, 0))
    kind = torch.from_numpy(np.where(inside, log.kind[row].astype(np.int64), 0))
    begins = torch.from_numpy(log.instant[row] == row)
    draw = uniform[torch.from_numpy(row)]
    half = model.options.length // 2
    stretch = model.options.length - half
    memory = model.remember(len(item))
    state = memory.state
    for at in range(item.shape[1]):
        if at >= model.options.length and (at - model.options.length) % stretch == 0:
            memory = model.read(item[:, at - half : at], kind[:, at - half : at])
        # What shares an instant with a decision is not known to it.
        state = torch.where(begins[:, at, None], memory.state, state)
        chance = torch.sigmoid(model.score(state, (item[:, at, None] - 1).clamp(min=0)))[:, 0].double()
        drawn = torch.where(draw[:, at] < chance, ACCEPTED, REJECTED)
        kind[:, at] = torch.where(kind[:, at] >= REJECTED, drawn, kind[:, at])
        memory = model.extend(memory, item[:, at], kind[:, at])
    return kind
