"""A causal LM that computes the next-token logits of many sequences, each in its slot of a cache."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rayworks.core.errors import DataError
from rayworks.lm.adapters import BASE, AdapterBank
from rayworks.lm.exactness import prove_decoding
from rayworks.lm.key_value_cache import SlotCache
from rayworks.lm.packed_linear import PackedLinear, pack
from rayworks.lm.positions import exact_length
from rayworks.lm.prefix_tree import PrefixTree
from rayworks.lm.scoring import gathered

ATTENTION = "rayworks"
PIECE = 512
"""Most tokens of a row that :meth:`CausalModel.read` feeds at once."""


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Attention whose key-value heads are shared by groups of query heads without being copied for each.

    Queries ``[rows, heads, queries, size]``, keys and values ``[rows, groups, keys, size]`` and the additive mask
    ``[rows, 1, queries, keys]`` give ``[rows, queries, heads, size]`` and no weights. It refuses capped scores and sinks;
    what else it does not know of is found by :func:`~rayworks.lm.exactness.prove_decoding`.
    """
    if softcap is not None or s_aux is not None:
        raise DataError(f"it {'caps its attention scores' if softcap is not None else 'has attention sinks'}")
    mixed = scaled_dot_product_attention(query, key, value, attention_mask, scale=scaling, enable_gqa=True)
    return mixed.transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attention)
# Without a mask function of its own, an attention that transformers does not know would see the future.
ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, eager_mask)


class CausalModel:
    """A frozen causal LM with a cache of slots, proved at the start to compute what the model itself does.

    Args:
        model: a decoder of transformers; frozen in place.
        slots: most sequences held at once.
        prefix_gib: most memory of shared prefixes, in GiB (see :class:`~rayworks.lm.prefix_tree.PrefixTree`).
        adapters: most adapters that rows may name.
        pack_layers: make linear layers on a CPU in float32 faster; they have no gradients then.

    :class:`DataError` where it would compute something else than the model does by itself, or the model cannot run in it.
    """

    def __init__(
        self, model: PreTrainedModel, slots: int, prefix_gib: float = 0.5, adapters: int = 0, pack_layers: bool = True
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        output: Any = model.get_output_embeddings()
        self.vocabulary_size: int = output.out_features
        self.readable_ids: int = model.get_input_embeddings().num_embeddings
        """Ids from this on cannot be fed."""
        takes = inspect.signature(type(model).forward).parameters
        if "past_key_values" not in takes:
            raise DataError(f"model {model.config.model_type}: has no attention whose keys and values could be kept")
        counted = getattr(model.config.get_text_config(), "max_position_embeddings", None) is not None
        if not counted and "position_ids" not in takes:
            raise DataError(f"model {model.config.model_type}: cannot be told where a token stands (ALiBi)")
        self.max_length, self.max_length_reason = exact_length(model.config)
        self.prefixes = PrefixTree(prefix_gib)
        self.proof = ""
        self.adapters = AdapterBank(model, adapters)
        with prove_decoding(self):
            self.model.set_attn_implementation(ATTENTION)
            if pack_layers:
                pack(self.model)
            self._reset(max(slots, 3))
        self._reset(slots)

    def _reset(self, slots: int) -> None:
        self.forwards = self.tokens_fed = 0
        self.cache = SlotCache(self.model.config, slots)
        self._held: list[list[int]] = [[] for _ in range(slots)]
        self._adapter = [BASE] * slots
        self._unsound: set[int] = set()

    def held(self, slot: int) -> int:
        """How many tokens a slot holds."""
        return len(self._held[slot])

    @torch.inference_mode()
    def feed(self, slots: Sequence[int], tokens: Sequence[Sequence[int]]) -> Tensor:
        """Add tokens, ragged, behind what ascending slots hold; float32 logits after the last of each, ``[rows, ids]``."""
        width = max(map(len, tokens))
        # A short row repeats its last token at its last position, which changes nothing.
        ids = torch.tensor([[*new, *[new[-1]] * (width - len(new))] for new in tokens])
        starts = torch.tensor([self.held(slot) for slot in slots])[:, None]
        lasts = torch.tensor([len(new) for new in tokens])[:, None] - 1
        positions = starts + torch.arange(width).minimum(lasts)
        read, rows, (ids, read_positions) = self._with_gaps(slots, ids, positions)
        device = self.model.device
        rows = rows.to(device)
        self.cache.prepare(read, rows, torch.tensor(slots, device=device), positions.to(device))
        seen = torch.arange(self.cache.longest) <= read_positions[:, None, :, None]
        mask = torch.zeros(seen.shape, dtype=self.model.dtype).masked_fill_(~seen, torch.finfo(self.model.dtype).min)
        adapters = dict(zip(rows.tolist(), (self._adapter[slot] for slot in slots), strict=True))
        numbers = [adapters.get(row, BASE) for row in range(len(ids))]
        self.forwards += 1
        self.tokens_fed += sum(map(len, tokens))
        with self.adapters.selected(numbers, device):
            output = self.model(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                position_ids=read_positions.to(device),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        for slot, new in zip(slots, tokens, strict=True):
            self._held[slot] += new
        logits: Tensor = output.logits[:, 0].float()
        logits = logits if len(logits) == len(slots) else logits[rows]
        sound = logits.amax(dim=-1).isfinite().tolist()
        self._unsound |= {slot for slot, good in zip(slots, sound, strict=True) if not good}
        return logits

    def read(self, slots: Sequence[int], tokens: Sequence[Sequence[int]]) -> Tensor:
        """The same for any lengths: in batches of like length, long ones in pieces."""
        found: dict[int, Tensor] = {}
        for batch in alike([len(new) for new in tokens]):
            left = {row: tokens[row] for row in sorted(batch)}
            while left:
                logits = self.feed([slots[row] for row in left], [new[:PIECE] for new in left.values()])
                found |= dict(zip(left, logits, strict=True))
                left = {row: new[PIECE:] for row, new in left.items() if len(new) > PIECE}
        return torch.stack([found[row] for row in range(len(slots))])

    def rewind(self, slot: int, length: int) -> None:
        """Forget what a slot holds beyond its first ``length`` tokens."""
        del self._held[slot][length:]

    def release(self, slot: int, adapter: int = BASE) -> None:
        """Forget all that a slot holds; what comes next is read with an adapter of :attr:`adapters`."""
        self.rewind(slot, 0)
        self._adapter[slot] = adapter
        if slot in self._unsound:
            # A shorter row would multiply what is no number by 0.
            self.cache.wipe(slot)
            self._unsound.remove(slot)

    def known(self, slot: int, tokens: Sequence[int]) -> int:
        """How many of the first ``tokens`` :meth:`take_up` would find."""
        return self.prefixes.known(tokens, self._adapter[slot])

    @torch.inference_mode()
    def fork(self, source: int, slot: int, length: int | None = None) -> None:
        """Give a slot a copy of the first ``length`` tokens of another, and its adapter; ``None``: of all."""
        tokens = self._held[source][:length]
        if tokens:
            self.cache.paste(slot, 0, self.cache.copied(source, 0, len(tokens)))
        self._held[slot], self._adapter[slot] = tokens, self._adapter[source]

    @torch.inference_mode()
    def take_up(self, slot: int, tokens: Sequence[int]) -> None:
        """Start an empty slot with the longest known prefix of ``tokens``."""
        count = self.prefixes.load(tokens, self.cache, slot, self._adapter[slot])
        self._held[slot] = list(tokens[:count])

    @torch.inference_mode()
    def keep(self, slot: int) -> None:
        """Make what a slot holds a known prefix."""
        if self._held[slot] and slot not in self._unsound:
            self.prefixes.store(self._held[slot], self.cache, slot, self._adapter[slot])

    def nbytes(self) -> int:
        """Bytes of weights, cache and known prefixes."""
        weights = {parameter.data_ptr(): parameter.nbytes for parameter in self.model.parameters()}
        packed = sum(module.nbytes() for module in self.model.modules() if isinstance(module, PackedLinear))
        return int(sum(weights.values())) + packed + self.cache.nbytes() + self.prefixes.nbytes()

    def _with_gaps(self, slots: Sequence[int], *parts: Tensor) -> tuple[Tensor | slice, Tensor, Sequence[Tensor]]:
        """The slots that the forward reads, and its rows that count; ids and positions, the ``parts``, of all its rows.

        Neighbouring slots are read in place, where others are copied first. A step of one token each costs little more for
        one row more, so gaps are filled as long as no more rows fill than count.
        """
        first, count, span = slots[0], len(slots), slots[-1] - slots[0] + 1
        width = parts[0].shape[1]
        if count < span and (width > 1 or span > 2 * count):
            return torch.tensor(slots, device=self.model.device), torch.arange(count), parts
        rows, gaps = torch.tensor(slots) - first, torch.zeros((span, width), dtype=torch.long)
        return slice(first, first + span), rows, [gaps.index_copy(0, rows, part) for part in parts]


def alike(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of rows in batches of which the longest is at most twice the shortest."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    return gathered(order, lambda batch, index: lengths[index] <= 2 * lengths[batch[0]])
