"""A causal LM that computes the next-token logits of many sequences, through a slot cache."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rayworks.core.errors import DataError
from rayworks.lm.key_value_cache import SlotCache
from rayworks.lm.packed_linear import PackedLinear, pack

ATTENTION = "rayworks_grouped"


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Attention whose key-value heads are shared by groups of query heads without being copied for each.

    Args:
        query: ``[rows, heads, queries, size]``.
        key: ``[rows, groups, keys, size]``; ``heads`` is a multiple of ``groups``.
        value: as ``key``.
        attention_mask: additive, ``[rows, 1, queries, keys]``.
        scaling: factor on the scores; ``size ** -0.5`` when ``None``.

    Returns:
        ``[rows, queries, heads, size]`` and no weights.

    Raises:
        DataError: the model caps its scores.
    """
    if softcap is not None:
        raise DataError("model: caps its attention scores (softcap), which this engine does not do")
    rows, heads, queries, size = query.shape
    groups = key.shape[1]
    scaling = size**-0.5 if scaling is None else scaling
    grouped = (query * scaling).reshape(rows, groups, heads // groups * queries, size)
    scores = grouped @ key.transpose(2, 3)
    if attention_mask is not None:
        scores = scores.view(rows, groups, heads // groups, queries, -1) + attention_mask[:, :, None]
        scores = scores.view(rows, groups, heads // groups * queries, -1)
    mixed = scores.softmax(dim=-1) @ value
    return mixed.view(rows, heads, queries, size).transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, grouped_attention)
# Without a mask function of its own, an attention that transformers does not know would see the future.
ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, eager_mask)


class CausalModel:
    """A frozen causal LM with a slot cache that is brought up to date by what it is asked.

    Args:
        model: any transformers decoder that uses the attention interface; frozen in place, and on a CPU in float32 its
            linear layers are packed.

    Raises:
        DataError: the model attends through a sliding window, which a slot cache does not hold.
    """

    def __init__(self, model: PreTrainedModel, slots: int) -> None:
        config = model.config.get_text_config()
        window = getattr(config, "sliding_window", None) or config.max_position_embeddings
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"} or window < config.max_position_embeddings:
            raise DataError(f"model {model.config.model_type}: has a sliding window, which this engine does not run")
        self.model = model.eval().requires_grad_(False)
        self.model.set_attn_implementation(ATTENTION)
        output: Any = model.get_output_embeddings()
        self.vocabulary_size: int = output.out_features
        pack(self.model)
        self.max_length: int = config.max_position_embeddings
        self.cache = SlotCache(model.config, slots)
        self.forwards = 0
        self._held = [0] * slots

    def next_logits(self, sequences: Sequence[Sequence[int]], slots: Sequence[int]) -> Tensor:
        """Logits of the token that follows each sequence.

        A slot that holds all but the last token takes one step; any other is filled anew, equal sequences once. So a
        row may enter, pause or come back at any time, and pays only for what the cache lacks.

        Args:
            sequences: all ids of each row, ragged, none empty.
            slots: the slot of each row, ascending.

        Returns:
            ``[rows, vocabulary]`` in float32.
        """
        current = [row for row, slot in enumerate(slots) if 0 < self._held[slot] == len(sequences[row]) - 1]
        stale = [row for row in range(len(slots)) if row not in set(current)]
        parts = []
        if stale:
            parts.append(self._prefill([tuple(sequences[row]) for row in stale], [slots[row] for row in stale]))
        if current:
            parts.append(self._step([sequences[row][-1] for row in current], [slots[row] for row in current]))
        for row, slot in enumerate(slots):
            self._held[slot] = len(sequences[row])
        if len(parts) == 1:
            return parts[0].float()
        order = torch.tensor(stale + current).argsort()
        return torch.cat(parts)[order].float()

    def release(self, slot: int) -> None:
        """Forget a row and free its slot."""
        self._held[slot] = 0

    def nbytes(self) -> int:
        """Bytes of weights and cache."""
        weights = {p.data_ptr(): p.numel() * p.element_size() for p in self.model.parameters()}
        packed = sum(module.nbytes() for module in self.model.modules() if isinstance(module, PackedLinear))
        return int(sum(weights.values())) + packed + self.cache.nbytes()

    def _prefill(self, prompts: list[tuple[int, ...]], slots: list[int]) -> Tensor:
        distinct = list(dict.fromkeys(prompts))
        position = {prompt: index for index, prompt in enumerate(distinct)}
        copies = torch.tensor([position[prompt] for prompt in prompts])
        lengths = torch.tensor([len(prompt) for prompt in distinct])
        longest = int(lengths.max())
        ids = torch.zeros((len(distinct), longest), dtype=torch.long)
        for row, prompt in enumerate(distinct):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        # Padding stands right of each prompt, where causal attention never looks.
        positions = torch.arange(longest)
        allowed = (positions[None, :] <= positions[:, None]).expand(len(distinct), 1, longest, longest)
        last, which = torch.unique(lengths - 1, return_inverse=True)
        self.cache.prepare_prefill(torch.tensor(slots), copies, longest)
        logits = self._forward(ids, positions.expand_as(ids), allowed, last)
        return logits[torch.arange(len(distinct)), which][copies]

    def _step(self, tokens: list[int], slots: list[int]) -> Tensor:
        positions = torch.tensor([self._held[slot] for slot in slots])
        self.cache.prepare_step(torch.tensor(slots), positions)
        allowed = torch.arange(self.cache.longest) <= positions[:, None]
        return self._forward(torch.tensor(tokens)[:, None], positions[:, None], allowed[:, None, None], 0)[:, 0]

    @torch.inference_mode()
    def _forward(self, ids: Tensor, positions: Tensor, allowed: Tensor, keep: Tensor | int) -> Tensor:
        self.forwards += 1
        mask = torch.zeros(allowed.shape, dtype=self.model.dtype).masked_fill_(
            ~allowed, torch.finfo(self.model.dtype).min
        )
        device = self.model.device
        output = self.model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=keep.to(device) if isinstance(keep, Tensor) else keep,
        )
        logits: Tensor = output.logits
        return logits
