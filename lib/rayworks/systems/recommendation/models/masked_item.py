"""BERT4Rec (Sun et al. 2019): predict masked items from both sides, and the next one from a mask at the end.

It is not causal, so a pass teaches the masked positions only, one in five.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayworks.systems.recommendation.logs.sequences import Sequences
from rayworks.systems.recommendation.models.next_item import NaturalPreference
from rayworks.systems.recommendation.models.training import Objective


@dataclass(frozen=True)
class MaskedItemOptions:
    """Size and shape."""

    items: int
    length: int = 50
    width: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.2
    masked: float = 0.2
    """Chance of a position to be masked in training."""


class MaskedItemModel(NaturalPreference):
    """Embeddings of items and positions, a bidirectional transformer, and the same embeddings as output table."""

    def __init__(self, options: MaskedItemOptions) -> None:
        super().__init__()
        self.options = options
        self.items, self.length = options.items, options.length
        self.mask = options.items + 1
        self.item = nn.Embedding(options.items + 2, options.width, padding_idx=0)
        self.position = nn.Parameter(torch.randn(options.length + 1, options.width) * 0.02)
        self.normalise, self.dropout = nn.LayerNorm(options.width), nn.Dropout(options.dropout)
        sizes = (options.width, options.heads, 4 * options.width, options.dropout)
        layer = nn.TransformerEncoderLayer(*sizes, F.gelu, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(
            layer, options.layers, nn.LayerNorm(options.width), enable_nested_tensor=False
        )
        self.bias = nn.Parameter(torch.zeros(options.items))
        nn.init.normal_(self.item.weight, std=0.02)
        with torch.no_grad():
            self.item.weight[0] = 0

    def logits(self, items: Tensor, positions: Tensor) -> Tensor:
        """(K, I) at the K true ``positions`` (B, T) of ``items`` (int64 (B, T): code + 1, ``mask``, 0 after the end)."""
        inputs = self.dropout(self.normalise(self.item(items) + self.position[: items.shape[1]]))
        states = self.encoder(inputs, src_key_padding_mask=items == 0)[positions]
        logits: Tensor = states @ self.item.weight[1 : self.mask].T + self.bias
        return logits

    def scores(self, history: Tensor, lengths: Tensor) -> Tensor:
        """See :class:`~.next_item.NaturalPreference`."""
        end = torch.arange(history.shape[1] + 1, device=history.device) == lengths[:, None]
        return self.logits(F.pad(history, (0, 1)).masked_fill(end, self.mask), end)


class MaskedItemObjective(Objective[MaskedItemModel]):
    """In training some scored positions are masked and predicted from all others; in validation each from those before it."""

    def __init__(self, options: MaskedItemOptions) -> None:
        super().__init__()
        self.model = MaskedItemModel(options)

    def forward(self, batch: Sequences) -> Tensor:
        """See :class:`~.training.Objective`; a masked position counts for those that were not; so the mean is unbiased."""
        losses = torch.zeros(batch.item.shape, device=batch.item.device)
        if self.training:
            share = self.model.options.masked
            hidden = batch.scored & (torch.rand_like(losses) < share)
            logits = self.model.logits(batch.item.masked_fill(hidden, self.model.mask), hidden)
            losses[hidden] = F.cross_entropy(logits, batch.item[hidden] - 1, reduction="none") / share
            return losses
        row, position = batch.scored.nonzero(as_tuple=True)
        before = torch.arange(batch.item.shape[1], device=batch.item.device) < position[:, None]
        logits = self.model.scores(torch.where(before, batch.item[row], 0)[:, : self.model.length], position)
        losses[row, position] = F.cross_entropy(logits, batch.item[row, position] - 1, reduction="none")
        return losses
