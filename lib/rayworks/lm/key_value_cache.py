"""A key-value cache of slots: a row holds its tokens at positions 0..length-1 of its own slot.

Rows are not padded on the left, so a row can leave and another can take its slot while the rest go on.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin

INITIAL_LENGTH = 64


class _SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, ``[slots, heads, length, size]``; where to write is read from the shared cache."""

    def __init__(self, owner: "SlotCache") -> None:
        super().__init__()
        self._owner = owner

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        slots, length = self._owner.slots, self._owner.allocated
        self.keys = key_states.new_zeros((slots, key_states.shape[1], length, key_states.shape[3]))
        self.values = value_states.new_zeros((slots, value_states.shape[1], length, value_states.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        owner = self._owner
        if owner.copies is not None:
            length = key_states.shape[2]
            self.keys[owner.rows, :, :length] = key_states[owner.copies]
            self.values[owner.rows, :, :length] = value_states[owner.copies]
            return key_states, value_states
        self.keys[owner.rows, :, owner.positions] = key_states[:, :, 0]
        self.values[owner.rows, :, owner.positions] = value_states[:, :, 0]
        return self.keys[owner.selection, :, : owner.longest], self.values[owner.selection, :, : owner.longest]

    def grow(self, length: int) -> None:
        if self.keys is not None and self.values is not None:
            extra = length - self.keys.shape[2]
            self.keys = torch.nn.functional.pad(self.keys, (0, 0, 0, extra))
            self.values = torch.nn.functional.pad(self.values, (0, 0, 0, extra))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._owner.longest, 0

    def get_seq_length(self) -> int:
        return self._owner.longest

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):
    """The cache of one model for up to ``slots`` rows; memory grows by doubling with the longest row."""

    def __init__(self, config: PretrainedConfig, slots: int) -> None:
        self.slots = slots
        self.allocated = INITIAL_LENGTH
        self.longest = 0
        self.rows = self.positions = torch.empty(0, dtype=torch.long)
        self.copies: Tensor | None = None
        self.selection: Tensor | slice = slice(0, 0)
        layers = config.get_text_config().num_hidden_layers
        super().__init__(layers=[_SlotLayer(self) for _ in range(layers)])

    def prepare_prefill(self, rows: Tensor, copies: Tensor, length: int) -> None:
        """The next forward is a prefill of ``length`` positions; its row ``copies[i]`` goes to slot ``rows[i]``."""
        self._reserve(length)
        self.rows, self.copies, self.longest = rows, copies, length

    def prepare_step(self, rows: Tensor, positions: Tensor) -> None:
        """The next forward adds one token to each of the slots ``rows`` (ascending), at ``positions``.

        When they are the first slots, attention reads the cache in place; else their keys are gathered.
        """
        self.copies, self.rows, self.positions = None, rows, positions
        self.longest = int(positions.max()) + 1
        self._reserve(self.longest)
        count = len(rows)
        self.selection = slice(0, count) if int(rows[-1]) == count - 1 else rows

    def nbytes(self) -> int:
        """Bytes held."""
        tensors = [t for layer in self.layers for t in (layer.keys, layer.values) if t is not None]
        return sum(t.numel() * t.element_size() for t in tensors)

    def _reserve(self, length: int) -> None:
        if length > self.allocated:
            self.allocated = max(length, 2 * self.allocated)
            for layer in self.layers:
                layer.grow(self.allocated)
