"""Causal sequence encoders: the output at a position depends on that position and those before it only.

``forward`` encodes whole sequences in one pass, for training at all positions; ``extend`` adds one event to many sequences at
the cost of one position, for roll-outs and serving. The two agree to rounding.
"""

import abc
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BackboneName = Literal["gru", "attention", "convolution", "filter"]
Cache = list[Tensor]
"""What ``extend`` remembers of B sequences; every tensor has B as its first dimension."""


class Backbone(nn.Module, abc.ABC):
    """(B, T, d) to (B, T, d), causal."""

    @abc.abstractmethod
    def forward(self, inputs: Tensor) -> Tensor:
        """Encode sequences (B, T, d) from their beginnings."""

    @abc.abstractmethod
    def start(self, count: int, like: Tensor) -> Cache:
        """The cache of ``count`` empty sequences, of the type and device of ``like``."""

    @abc.abstractmethod
    def extend(self, inputs: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """Add one position (B, d) to each sequence: its output (B, d) and the new cache."""


def make_backbone(name: BackboneName, width: int, layers: int, heads: int, length: int, dropout: float) -> Backbone:
    """A backbone of inputs and outputs of ``width`` for sequences of at most ``length`` positions."""
    if name == "gru":
        return GatedRecurrence(width, layers, dropout)
    if name == "convolution":
        return Stack([ConvolutionBlock(width, 2**layer, dropout) for layer in range(layers)], width, None)
    blocks: list[Block] = [AttentionBlock(width, heads, dropout, name == "filter") for _ in range(layers)]
    return Stack(blocks, width, length)


class GatedRecurrence(Backbone):
    """A GRU, as GRU4Rec (Hidasi et al. 2016) has it."""

    def __init__(self, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.recurrence = nn.GRU(width, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)

    def forward(self, inputs: Tensor) -> Tensor:
        """See :class:`Backbone`."""
        outputs: Tensor = self.recurrence(inputs)[0]
        return outputs

    def start(self, count: int, like: Tensor) -> Cache:
        """See :class:`Backbone`."""
        return [like.new_zeros(count, self.recurrence.num_layers, self.recurrence.hidden_size)]

    def extend(self, inputs: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """See :class:`Backbone`."""
        outputs, hidden = self.recurrence(inputs[:, None], cache[0].transpose(0, 1).contiguous())
        return outputs[:, 0], [hidden.transpose(0, 1)]


class Block(Backbone):
    """One layer of a :class:`Stack`."""

    caches: int
    """How many tensors of the cache are the block's own."""


class Stack(Backbone):
    """Blocks one after the other; ``length`` gives learned positions, None leaves order to the blocks."""

    def __init__(self, blocks: list[Block], width: int, length: int | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.position = None if length is None else nn.Parameter(torch.randn(length, width) * 0.02)
        self.normalise = nn.LayerNorm(width)

    def forward(self, inputs: Tensor) -> Tensor:
        """See :class:`Backbone`."""
        if self.position is not None:
            inputs = inputs + self.position[: inputs.shape[1]]
        for block in self.blocks:
            inputs = block(inputs)
        normalised: Tensor = self.normalise(inputs)
        return normalised

    def start(self, count: int, like: Tensor) -> Cache:
        """See :class:`Backbone`; the first tensor counts the positions so far."""
        caches = [tensor for block in self._blocks() for tensor in block.start(count, like)]
        return [torch.zeros(count, dtype=torch.int64, device=like.device), *caches]

    def extend(self, inputs: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """See :class:`Backbone`; all sequences have the same number of positions."""
        positions, *caches = cache
        if self.position is not None:
            inputs = inputs + self.position[positions]
        extended = [positions + 1]
        for block in self._blocks():
            inputs, own = block.extend(inputs, caches[: block.caches])
            caches = caches[block.caches :]
            extended += own
        return self.normalise(inputs), extended

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]


class AttentionBlock(Block):
    """Causal self-attention and a feed-forward layer, as SASRec (Kang and McAuley 2018) has them.

    With ``filtered`` the attention is mixed with a low-pass filter over time, as BSARec's block: out = .9 filter + .1
    attention, where filter = low + b^2 (x - low). BSARec takes the low frequencies of a Fourier transform over the whole
    sequence, which lets a position see later ones; here a learned causal filter of ``TAPS`` positions does it.
    """

    TAPS = 5
    MIX = 0.9

    def __init__(self, width: int, heads: int, dropout: float, filtered: bool) -> None:
        super().__init__()
        self.heads, self.dropout, self.filtered = heads, dropout, filtered
        self.before_attention, self.before_feed_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )
        self.rest = nn.Dropout(dropout)
        self.caches = 2 + filtered
        if filtered:
            self.taps = nn.Parameter(torch.full((width, self.TAPS), 1.0 / self.TAPS))
            self.high = nn.Parameter(torch.ones(width))

    def forward(self, inputs: Tensor) -> Tensor:
        """See :class:`Block`."""
        normalised = self.before_attention(inputs)
        query, key, value = self._split(normalised)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        mixed = self.merge(attended.transpose(1, 2).flatten(2))
        if self.filtered:
            padded = F.pad(normalised.transpose(1, 2), (self.TAPS - 1, 0))
            low = F.conv1d(padded, self.taps[:, None], groups=self.taps.shape[0]).transpose(1, 2)
            mixed = self._mix(normalised, low, mixed)
        return self._feed(inputs + self.rest(mixed))

    def start(self, count: int, like: Tensor) -> Cache:
        """See :class:`Block`: keys and values, and the last inputs of the filter."""
        width = self.merge.in_features
        empty = like.new_zeros(count, self.heads, 0, width // self.heads)
        return [empty, empty, *([like.new_zeros(count, self.TAPS - 1, width)] if self.filtered else [])]

    def extend(self, inputs: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """See :class:`Block`."""
        normalised = self.before_attention(inputs)
        query, key, value = self._split(normalised[:, None])
        keys, values = torch.cat([cache[0], key], 2), torch.cat([cache[1], value], 2)
        attended = F.scaled_dot_product_attention(query, keys, values)
        mixed = self.merge(attended.transpose(1, 2).flatten(2)[:, 0])
        extended = [keys, values]
        if self.filtered:
            recent = torch.cat([cache[2], normalised[:, None]], 1)
            mixed = self._mix(normalised, (recent * self.taps.T).sum(1), mixed)
            extended.append(recent[:, 1:])
        return self._feed(inputs + mixed), extended

    def _split(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, heads, T, d / heads)."""
        count, length, width = inputs.shape
        parts = self.queries_keys_values(inputs).view(count, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        return query, key, value

    def _mix(self, inputs: Tensor, low: Tensor, attended: Tensor) -> Tensor:
        filtered = low + self.high.square() * (inputs - low)
        return self.MIX * filtered + (1 - self.MIX) * attended

    def _feed(self, inputs: Tensor) -> Tensor:
        fed: Tensor = self.rest(self.feed_forward(self.before_feed_forward(inputs)))
        return inputs + fed


class ConvolutionBlock(Block):
    """A residual causal convolution over ``TAPS`` positions that lie ``dilation`` apart, as NextItNet (Yuan et al. 2019)."""

    TAPS = 3

    def __init__(self, width: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.dilation, self.reach = dilation, dilation * (self.TAPS - 1)
        self.caches = 1
        self.normalise = nn.LayerNorm(width)
        bound = 1 / math.sqrt(width * self.TAPS)
        self.taps = nn.Parameter(torch.empty(width, width, self.TAPS).uniform_(-bound, bound))
        self.merge = nn.Linear(width, width)
        self.rest = nn.Dropout(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        """See :class:`Block`."""
        padded = F.pad(self.normalise(inputs).transpose(1, 2), (self.reach, 0))
        found = F.conv1d(padded, self.taps, dilation=self.dilation).transpose(1, 2)
        return self._add(inputs, found)

    def start(self, count: int, like: Tensor) -> Cache:
        """See :class:`Block`: the inputs within reach."""
        return [like.new_zeros(count, self.reach, self.merge.in_features)]

    def extend(self, inputs: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """See :class:`Block`."""
        recent = torch.cat([cache[0], self.normalise(inputs)[:, None]], 1)
        found = torch.einsum("btd,odt->bo", recent[:, :: self.dilation], self.taps)
        return self._add(inputs, found), [recent[:, 1:]]

    def _add(self, inputs: Tensor, found: Tensor) -> Tensor:
        rest: Tensor = self.rest(self.merge(F.gelu(found)))
        return inputs + rest
