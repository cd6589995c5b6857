"""RecBole 1.2.1's networks (arXiv 2011.01731) for prediction, with its parameter names, so that its weights load.

Sequences are its own item ids (int64 (B, T), from 1, padded with 0 after the end) and their lengths (int64 (B,), at least 1).
"""

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
"""Activations by RecBole's ``hidden_act``; its gelu is the exact one."""


@dataclass(frozen=True)
class RecBoleOptions:
    """What the shapes of a network's weights do not say."""

    length: int
    """``MAX_ITEM_LIST_LENGTH``."""
    heads: int = 1
    activation: str = "gelu"
    epsilon: float = 1e-12
    """Epsilon of layer normalisation."""


class RecBoleModel(nn.Module, abc.ABC):
    """A next-item network: ``full_sort_predict`` of the RecBole class of the same name."""

    needs: ClassVar[tuple[str, ...]] = ()
    """Names in RecBole's config that must be set."""

    @classmethod
    @abc.abstractmethod
    def like(cls, weights: Mapping[str, Tensor], options: RecBoleOptions) -> "RecBoleModel":
        """A network of the size of these weights.

        Raises:
            KeyError: a weight that gives a size is missing.
        """

    @abc.abstractmethod
    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Scores (B, items + 1) by RecBole's id, the padding's among them."""


class SASRec(RecBoleModel):
    """A causal transformer, normalised after each part, with the item table as output."""

    needs = ("n_heads", "hidden_act", "layer_norm_eps")

    def __init__(self, rows: int, width: int, inner: int, layers: int, options: RecBoleOptions) -> None:
        super().__init__()
        self.item_embedding = nn.Embedding(rows, width, padding_idx=0)
        self.position_embedding = nn.Embedding(options.length, width)
        self.trm_encoder = nn.ModuleDict(
            {"layer": nn.ModuleList([_Layer(width, inner, options) for _ in range(layers)])}
        )
        self.LayerNorm = nn.LayerNorm(width, eps=options.epsilon)

    @classmethod
    def like(cls, weights: Mapping[str, Tensor], options: RecBoleOptions) -> RecBoleModel:
        """See :class:`RecBoleModel`."""
        rows, width = weights["item_embedding.weight"].shape
        inner = len(weights["trm_encoder.layer.0.feed_forward.dense_1.weight"])
        layers = len({name.split(".")[2] for name in weights if name.startswith("trm_encoder.layer.")})
        return cls(rows, width, inner, layers, options)

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        """See :class:`RecBoleModel`."""
        causal = torch.ones(items.shape[1], items.shape[1], dtype=torch.bool).tril()
        return self._last(items, lengths, causal) @ self.item_embedding.weight.T

    def _last(self, items: Tensor, lengths: Tensor, visible: Tensor) -> Tensor:
        """(B, d): output at the last position, each position seeing those where ``visible`` (bool, to (B, 1, T, T)) holds."""
        states = self.LayerNorm(self.item_embedding(items) + self.position_embedding.weight[: items.shape[1]])
        for layer in self.trm_encoder["layer"].children():
            states = layer(states, visible)
        found: Tensor = states[torch.arange(len(items)), lengths - 1]
        return found


class BERT4Rec(SASRec):
    """A bidirectional transformer that reads a mask after the history."""

    def __init__(self, rows: int, width: int, inner: int, layers: int, options: RecBoleOptions) -> None:
        super().__init__(rows, width, inner, layers, options)
        self.output_ffn = nn.Linear(width, width)
        self.output_ln = nn.LayerNorm(width, eps=options.epsilon)
        self.output_bias = nn.Parameter(torch.zeros(rows - 1))

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        """See :class:`RecBoleModel`. As in RecBole the first item makes room for the mask, also where there is space."""
        mask = len(self.output_bias)
        masked = torch.cat([items, torch.zeros_like(items[:, :1])], 1).scatter(1, lengths[:, None], mask)[:, 1:]
        state = self._last(masked, lengths, (masked != 0)[:, None, None])
        state = self.output_ln(F.gelu(self.output_ffn(state)))
        found: Tensor = state @ self.item_embedding.weight[:mask].T + self.output_bias
        return found


class GRU4Rec(RecBoleModel):
    """A GRU without biases, then a linear layer to the width of the item table."""

    def __init__(self, rows: int, width: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.item_embedding = nn.Embedding(rows, width, padding_idx=0)
        self.gru_layers = nn.GRU(width, hidden, layers, bias=False, batch_first=True)
        self.dense = nn.Linear(hidden, width)

    @classmethod
    def like(cls, weights: Mapping[str, Tensor], options: RecBoleOptions) -> RecBoleModel:
        """See :class:`RecBoleModel`."""
        rows, width = weights["item_embedding.weight"].shape
        hidden = weights["gru_layers.weight_hh_l0"].shape[1]
        return cls(rows, width, hidden, sum(name.startswith("gru_layers.weight_hh_l") for name in weights))

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        """See :class:`RecBoleModel`."""
        states = self.gru_layers(self.item_embedding(items))[0][torch.arange(len(items)), lengths - 1]
        found: Tensor = self.dense(states) @ self.item_embedding.weight.T
        return found


class _Layer(nn.Module):
    """RecBole's TransformerLayer."""

    def __init__(self, width: int, inner: int, options: RecBoleOptions) -> None:
        super().__init__()
        self.multi_head_attention = _Attention(width, options)
        self.feed_forward = _FeedForward(width, inner, options)

    def forward(self, states: Tensor, visible: Tensor) -> Tensor:
        found: Tensor = self.feed_forward(self.multi_head_attention(states, visible))
        return found


class _Attention(nn.Module):
    def __init__(self, width: int, options: RecBoleOptions) -> None:
        super().__init__()
        self.heads = options.heads
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.dense = nn.Linear(width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=options.epsilon)

    def forward(self, states: Tensor, visible: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(states), self.key(states), self.value(states))
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        found: Tensor = self.LayerNorm(self.dense(attended.transpose(1, 2).flatten(2)) + states)
        return found


class _FeedForward(nn.Module):
    def __init__(self, width: int, inner: int, options: RecBoleOptions) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[options.activation]
        self.dense_1, self.dense_2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.LayerNorm = nn.LayerNorm(width, eps=options.epsilon)

    def forward(self, states: Tensor) -> Tensor:
        found: Tensor = self.LayerNorm(self.dense_2(self.activation(self.dense_1(states))) + states)
        return found


MODELS: Mapping[str, type[RecBoleModel]] = {model.__name__: model for model in (SASRec, GRU4Rec, BERT4Rec)}
