"""A key-value cache of slots: a row holds its tokens at positions 0..length-1 of its own slot, whatever the others do."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PretrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin

INITIAL_LENGTH = 64

KeysAndValues = list[tuple[Tensor, Tensor]]
"""Per layer, ``[heads, tokens, size]`` each: what a model has computed of a run of tokens."""


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
        self.keys[owner.slots_written, :, owner.positions] = key_states[owner.rows_written].transpose(1, 2)
        self.values[owner.slots_written, :, owner.positions] = value_states[owner.rows_written].transpose(1, 2)
        return self.keys[owner.read, :, : owner.longest], self.values[owner.read, :, : owner.longest]

    def grow(self, length: int) -> None:
        if self.keys is not None and self.values is not None:
            more = (0, 0, 0, length - self.keys.shape[2])
            self.keys, self.values = pad(self.keys, more), pad(self.values, more)

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
        self.slots_written = self.positions = self.rows_written = torch.empty(0, dtype=torch.long)
        self.read: Tensor | slice = slice(0, 0)
        layers = config.get_text_config().num_hidden_layers
        super().__init__(layers=[_SlotLayer(self) for _ in range(layers)])

    def prepare(self, read: Tensor | slice, rows: Tensor, slots: Tensor, positions: Tensor) -> None:
        """Say what the next forward reads and writes: the slots that its rows ``read``, which of its ``rows`` are written
        (``[n]``; the others fill gaps), their ``slots`` (``[n]``) and the ``positions`` of their tokens (``[n, tokens]``).
        """
        self.read, self.rows_written, self.slots_written, self.positions = read, rows, slots[:, None], positions
        self.longest = int(positions.max()) + 1
        self._reserve(self.longest)

    def copied(self, slot: int, start: int, end: int) -> KeysAndValues:
        """A copy of what a slot holds from one position up to another."""
        return [(k[slot, :, start:end].clone(), v[slot, :, start:end].clone()) for k, v in self._filled()]

    def paste(self, slot: int, start: int, parts: KeysAndValues) -> None:
        """Write what :meth:`copied` gave into a slot, from a position on."""
        end = start + parts[0][0].shape[1]
        self._reserve(end)
        for layer, (keys, values) in zip(self.layers, parts, strict=True):
            if not layer.is_initialized:
                layer.lazy_initialization(keys[None], values[None])
            assert layer.keys is not None and layer.values is not None
            layer.keys[slot, :, start:end] = keys
            layer.values[slot, :, start:end] = values

    @torch.inference_mode()
    def wipe(self, slot: int) -> None:
        """Forget what a slot holds so that no trace is left."""
        for keys, values in self._filled():
            keys[slot], values[slot] = 0, 0

    def token_nbytes(self) -> int:
        """Bytes of a token, 0 before the first."""
        return self.nbytes() // (self.slots * self.allocated)

    def nbytes(self) -> int:
        """Bytes held."""
        return sum(tensor.nbytes for layer in self._filled() for tensor in layer)

    def _filled(self) -> KeysAndValues:
        layers = ((layer.keys, layer.values) for layer in self.layers)
        return [(keys, values) for keys, values in layers if keys is not None and values is not None]

    def _reserve(self, length: int) -> None:
        if length > self.allocated:
            self.allocated = max(length, 2 * self.allocated)
            for layer in self.layers:
                layer.grow(self.allocated)
