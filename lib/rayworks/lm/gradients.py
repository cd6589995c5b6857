"""Gradients of a target's log-probability by the one-hot of tokens: to first order, by how much it would change if another
token stood at a position (HotFlip, arXiv 1712.06751; GCG, arXiv 2307.15043).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from rayworks.core.errors import DataError
from rayworks.lm.causal_model import CausalModel
from rayworks.lm.engine import require_list, token_ids
from rayworks.lm.packed_linear import PackedLinear
from rayworks.lm.prefix_tree import agreeing
from rayworks.lm.scoring import padded, summed, token_logprobs


@dataclass(frozen=True)
class GradientRequest:
    """Tokens whose last are the target, and the positions before it to change; :class:`DataError` where that cannot be."""

    tokens: tuple[int, ...]
    target_tokens: int
    """How many of the last are the target."""
    positions: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("tokens", "positions"):
            object.__setattr__(self, name, token_ids(name, getattr(self, name)))
        count = len(self.tokens)
        start = count - self.target_tokens
        if not 0 < self.target_tokens < count:
            raise DataError(f"target_tokens: {self.target_tokens} of {count}; give a prompt and a target behind it")
        distinct = len(set(self.positions)) == len(self.positions)
        if not self.positions or not distinct or not all(0 <= position < start for position in self.positions):
            places = list(self.positions)
            raise DataError(f"positions: {places}; give different ones from 0 to {start - 1}, before the target")


@dataclass(frozen=True)
class TokenGradient:
    """Of one request: log p(target | what stands before it), in nats, and its derivative by the one-hot of each token at
    each position, ``[positions, vocabulary]``.
    """

    logprob: float
    gradient: Tensor


def token_gradients(causal: CausalModel, requests: Sequence[GradientRequest]) -> list[TokenGradient]:
    """Gradients of all requests, a forward and a backward for as many as the model has slots.

    What stands before a request's first position is read without gradients, and not again by a later call where the model
    knows it as a prefix. The model keeps its own embedding, scaled or not, and its weights get no gradient.
    :class:`DataError` where the model's layers are packed, or a request is longer than it or has other ids.
    """
    require_list(requests)
    if any(isinstance(module, PackedLinear) for module in causal.model.modules()):
        raise DataError("model: its packed layers have no gradients; load the engine with differentiable=True")
    for request in requests:
        if len(request.tokens) > causal.max_length:
            bound = f"{causal.max_length} ({causal.max_length_reason})"
            raise DataError(f"tokens: {len(request.tokens)} exceed the model's {bound}; shorten them")
        if not 0 <= min(request.tokens) <= max(request.tokens) < causal.readable_ids:
            raise DataError(f"tokens: hold ids that the model does not have; it has {causal.readable_ids}")
    embed = causal.model.get_input_embeddings()
    with torch.no_grad():
        table = embed(torch.arange(embed.num_embeddings, device=causal.model.device)).float()
    slots = causal.cache.slots
    batches = [requests[at : at + slots] for at in range(0, len(requests), slots)]
    return [found for batch in batches for found in _gradients(causal, batch, table)]


def _gradients(causal: CausalModel, requests: Sequence[GradientRequest], table: Tensor) -> list[TokenGradient]:
    model, device, embed = causal.model, causal.model.device, causal.model.get_input_embeddings()
    starts = [min(request.positions) for request in requests]
    cache, read = _prefixes(causal, [request.tokens[:start] for request, start in zip(requests, starts, strict=True)])
    new = [request.tokens[start:] for request, start in zip(requests, starts, strict=True)]
    ids, attended = padded(new), torch.cat([read, padded([[1] * len(row) for row in new])], dim=1)
    changed = [(row, at - start) for row, start in enumerate(starts) for at in requests[row].positions]
    rows, columns = torch.tensor(changed, device=device).unbind(-1)
    with torch.enable_grad():
        embedded = embed(ids.to(device)).detach()
        chosen = embedded[rows, columns].requires_grad_()
        hidden = model.base_model(
            inputs_embeds=embedded.index_put((rows, columns), chosen),
            attention_mask=attended.to(device),
            position_ids=(torch.tensor(starts)[:, None] + torch.arange(ids.shape[1])).to(device),
            past_key_values=cache,
            use_cache=True,
        )[0]
        counts = [request.target_tokens for request in requests]
        targets = [(len(row) - count - 1, row[-count:]) for row, count in zip(new, counts, strict=True)]
        places = [
            (n, at, token) for n, (before, target) in enumerate(targets) for at, token in enumerate(target, before)
        ]
        logprobs = token_logprobs(model, hidden, places)
        (by_embedding,) = torch.autograd.grad(logprobs.sum(), chosen)
    totals = summed(logprobs.detach(), counts).tolist()
    by_token = torch.split(by_embedding.float() @ table.T, [len(request.positions) for request in requests])
    return [TokenGradient(total, part) for total, part in zip(totals, by_token, strict=True)]


def _prefixes(causal: CausalModel, prefixes: Sequence[Sequence[int]]) -> tuple[DynamicCache, Tensor]:
    """Keys and values of ragged prefixes padded on the right, and which of them are tokens, ``[rows, longest]``."""
    slots = [slot for slot, prefix in enumerate(prefixes) if prefix]
    common = min(agreeing(prefixes[0], prefix) for prefix in prefixes)
    if common and len(slots) > 1:
        _read(causal, [0], [prefixes[0][:common]])
    _read(causal, slots, [prefixes[slot] for slot in slots])
    read = padded([[1] * len(prefix) for prefix in prefixes])
    cache = DynamicCache(config=causal.model.config)
    if longest := read.shape[1]:
        held = [causal.cache.copied(slot, 0, longest) for slot in range(len(prefixes))]
        for layer, parts in enumerate(zip(*held, strict=True)):
            # What an engine computes in inference mode cannot be part of a graph before it is copied.
            cache.update(*(torch.stack(kind).clone() for kind in zip(*parts, strict=True)), layer)
    for slot in slots:
        causal.release(slot)
    return cache, read


def _read(causal: CausalModel, slots: Sequence[int], prefixes: Sequence[Sequence[int]]) -> None:
    """Have slots hold prefixes, and make these known."""
    for slot, prefix in zip(slots, prefixes, strict=True):
        causal.release(slot)
        causal.take_up(slot, prefix)
    unread = {slot: prefix[causal.held(slot) :] for slot, prefix in zip(slots, prefixes, strict=True)}
    if behind := {slot: new for slot, new in unread.items() if new}:
        causal.feed(list(behind), list(behind.values()))
    for slot in slots:
        causal.keep(slot)
