"""Next-item recommenders of natural events, trained at all positions of a sequence in one pass.

They give natural preference to the acceptance model's constraint, and stand as baselines. SASRec is the backbone
``attention``, GRU4Rec ``gru``; BERT4Rec, which is not causal, is in :mod:`~.masked_item`.
"""

import abc
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayworks.systems.recommendation.logs.events import EventLog
from rayworks.systems.recommendation.logs.sequences import Sequences, sequences
from rayworks.systems.recommendation.measures.metrics import ranks
from rayworks.systems.recommendation.models.backbones import BackboneName, make_backbone
from rayworks.systems.recommendation.models.training import Objective

NextItemLoss = Literal["cross-entropy", "bpr", "bce"]


class NaturalPreference(nn.Module, abc.ABC):
    """A recommender of the next item, trained here or elsewhere, seen only through its scores."""

    items: int
    """I."""
    length: int
    """The most items it looks back on."""

    @abc.abstractmethod
    def scores(self, history: Tensor, lengths: Tensor) -> Tensor:
        """Scores (B, I) of the next item after ``history`` (int64 (B, T), code + 1, 0 after the end), T <= ``length``.

        ``lengths`` (int64 (B,)) says how many items each history has.
        """

    @torch.no_grad()
    def log_probability(self, history: Tensor, lengths: Tensor) -> Tensor:
        """(B, I): log softmax of the scores over all items, by the model's own item table."""
        return torch.log_softmax(self.scores(history, lengths).double(), 1)


@dataclass(frozen=True)
class NextItemOptions:
    """Size and shape."""

    items: int
    length: int = 50
    backbone: BackboneName = "attention"
    width: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.2
    loss: NextItemLoss = "cross-entropy"
    """Over all items; ``bpr`` and ``bce`` take one sampled negative for each target."""


class NextItemModel(NaturalPreference):
    """Item embeddings, a causal backbone, and the same embeddings as output table."""

    def __init__(self, options: NextItemOptions) -> None:
        super().__init__()
        self.options = options
        self.items, self.length = options.items, options.length
        self.item = nn.Embedding(options.items + 1, options.width, padding_idx=0)
        self.normalise, self.dropout = nn.LayerNorm(options.width), nn.Dropout(options.dropout)
        self.backbone = make_backbone(
            options.backbone, options.width, options.layers, options.heads, options.length, options.dropout
        )
        nn.init.normal_(self.item.weight, std=0.02)
        with torch.no_grad():
            self.item.weight[0] = 0

    def states(self, history: Tensor) -> Tensor:
        """(B, T, d) after each position of ``history`` (int64 (B, T), code + 1)."""
        inputs = self.dropout(self.normalise(self.item(history)))
        states: Tensor = self.backbone(inputs)
        return states

    def scores(self, history: Tensor, lengths: Tensor) -> Tensor:
        """See :class:`NaturalPreference`."""
        states = self.states(history)[torch.arange(len(history)), lengths - 1]
        return states @ self.item.weight[1:].T


class NextItemObjective(Objective[NextItemModel]):
    """Each scored position is predicted from the items before it."""

    def __init__(self, options: NextItemOptions) -> None:
        super().__init__()
        self.model = NextItemModel(options)

    def forward(self, batch: Sequences) -> Tensor:
        """See :class:`~.training.Objective`; the first position of a sequence has no items before it and no loss."""
        positions = batch.scored[:, 1:]
        states = self.model.states(batch.item[:, :-1])[positions]
        target = batch.item[:, 1:][positions]
        losses = torch.zeros_like(batch.item, dtype=states.dtype)
        losses[:, 1:][positions] = self._losses(states, target)
        return losses

    def _losses(self, states: Tensor, target: Tensor) -> Tensor:
        table, loss = self.model.item, self.model.options.loss
        if loss == "cross-entropy" or not self.training:
            return F.cross_entropy(states @ table.weight[1:].T, target - 1, reduction="none")
        negative = torch.randint(1, self.model.items + 1, target.shape, device=target.device)
        taken = (states * table(target)).sum(-1)
        not_taken = (states * table(negative)).sum(-1)
        if loss == "bpr":
            return -F.logsigmoid(taken - not_taken)
        return F.softplus(-taken) + F.softplus(not_taken)


def natural_sequences(log: EventLog, length: int, held_out: int) -> tuple[Sequences, Sequences]:
    """What users took by themselves, as sequences to train on and to validate with.

    Recommendations are left out, accepted ones too: they were not the user's own choice.

    Args:
        length: most items of a sequence.
        held_out: last natural items of each user that training does not see; the first of them is for validation, predicted
            from the ``length - 1`` items before it.
    """
    natural = log.keep(~log.recommended)
    position = np.arange(len(natural)) - natural.offsets[:-1][natural.user]
    left = np.diff(natural.offsets)[natural.user] - position - 1
    seen = natural.keep(left >= held_out)
    first = np.isin(np.arange(len(seen)), seen.offsets[:-1])
    kept = (left >= held_out - 1) & (left < held_out - 1 + length)
    is_valid = ((left == held_out - 1) & (position > 0))[kept]
    return sequences(seen, length, ~first), sequences(natural.keep(kept), length, is_valid)


@torch.no_grad()
def rank_held_out(model: NaturalPreference, log: EventLog, *, exclude_seen: bool = False) -> np.ndarray:
    """Rank (U',), 1 the best, of each user's last natural item among all items, from the ``length`` before it.

    Users with a single item are left out.

    Args:
        model: in evaluation mode.
        exclude_seen: whether items of the user's own history compete.
    """
    natural = log.keep(~log.recommended)
    left = natural.offsets[1:][natural.user] - np.arange(len(natural)) - 1
    natural = natural.keep(left <= model.length)
    last = natural.offsets[1:] - 1
    wanted = np.zeros(len(natural), bool)
    wanted[last[np.diff(natural.offsets) > 1]] = True
    found = []
    for batch in sequences(natural, model.length + 1, wanted).batches(512):
        position = batch.scored.int().argmax(1)
        target = batch.item.gather(1, position[:, None])[:, 0] - 1
        before = torch.where(torch.arange(batch.item.shape[1]) < position[:, None], batch.item, 0)
        scores = model.scores(before[:, : model.length], position)
        seen = None
        if exclude_seen:
            seen = torch.zeros(len(before), model.items + 1, dtype=torch.bool).scatter(1, before, True)[:, 1:].numpy()
        found.append(ranks(scores.double().numpy(), target.numpy(), seen))
    return np.concatenate([np.empty(0), *found])
