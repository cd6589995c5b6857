"""Gradients of a target's log-probability with respect to which tokens stand at chosen positions.

The one-hot of a token is what an embedding layer multiplies; its gradient says, to first order, by how much the target's
log-probability would change if another token stood there (HotFlip, arXiv 1712.06751; GCG, arXiv 2307.15043).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from rayworks.core.errors import DataError
from rayworks.lm.causal_model import CausalModel
from rayworks.lm.packed_linear import PackedLinear
from rayworks.lm.prefix_tree import agreeing
from rayworks.lm.scoring import output_logits


@dataclass(frozen=True)
class GradientRequest:
    """Tokens whose last are the target, and the positions to change.

    Raises:
        DataError: the target is empty or all there is, or a position is outside what stands before it.
    """

    tokens: tuple[int, ...]
    """Prompt and target."""
    target_tokens: int
    """How many of the last are the target."""
    positions: tuple[int, ...]
    """Where other tokens might stand; before the target."""

    def __post_init__(self) -> None:
        start = len(self.tokens) - self.target_tokens
        if self.target_tokens < 1 or start < 1:
            raise DataError(
                f"target_tokens: {self.target_tokens} of {len(self.tokens)}; give a prompt and a target behind it"
            )
        distinct = len(set(self.positions)) == len(self.positions)
        if not self.positions or not distinct or not all(0 <= position < start for position in self.positions):
            raise DataError(
                f"positions: {list(self.positions)}; give different ones from 0 to {start - 1}, before the target"
            )


@dataclass(frozen=True)
class TokenGradient:
    """Of one request."""

    logprob: float
    """log p(target | what stands before it), in nats."""
    gradient: Tensor
    """``[positions, vocabulary]``: its derivative by the one-hot of each token at each position."""


def token_gradients(causal: CausalModel, requests: Sequence[GradientRequest]) -> list[TokenGradient]:
    """Gradients of all requests, a forward and a backward for as many as the model has slots.

    What stands before a request's first position is read without gradients, and not again by a later call where the model
    knows it as a prefix. The model keeps its own embedding, scaled or not, and its weights get no gradient.

    Raises:
        DataError: the model's layers are packed, or a request is longer than it.
    """
    if any(isinstance(module, PackedLinear) for module in causal.model.modules()):
        raise DataError(
            "model: its layers are packed, which have no gradients; load the engine with differentiable=True"
        )
    for request in requests:
        if len(request.tokens) > causal.max_length:
            raise DataError(
                f"tokens: {len(request.tokens)} exceed the model's {causal.max_length} ({causal.max_length_reason}); "
                "shorten them"
            )
        if not 0 <= min(request.tokens) <= max(request.tokens) < causal.readable_ids:
            raise DataError(f"tokens: hold ids that the model does not have; it has {causal.readable_ids}")
    embed = causal.model.get_input_embeddings()
    with torch.no_grad():
        table = embed(torch.arange(embed.num_embeddings, device=causal.model.device)).float()
    slots = causal.cache.slots
    batches = [requests[at : at + slots] for at in range(0, len(requests), slots)]
    return [found for batch in batches for found in _gradients(causal, batch, table)]


def _gradients(causal: CausalModel, requests: Sequence[GradientRequest], table: Tensor) -> list[TokenGradient]:
    model, starts = causal.model, [min(request.positions) for request in requests]
    device, embed = model.device, model.get_input_embeddings()
    cache, read = _prefixes(causal, [request.tokens[:start] for request, start in zip(requests, starts, strict=True)])
    width = max(len(request.tokens) - start for request, start in zip(requests, starts, strict=True))
    ids, new = (torch.zeros((len(requests), width), dtype=torch.long) for _ in range(2))
    for row, (request, start) in enumerate(zip(requests, starts, strict=True)):
        count = len(request.tokens) - start
        ids[row, :count], new[row, :count] = torch.tensor(request.tokens[start:]), 1
    changed = [
        (row, p - start)
        for row, (request, start) in enumerate(zip(requests, starts, strict=True))
        for p in request.positions
    ]
    at = tuple(torch.tensor(part, device=device) for part in zip(*changed, strict=True))
    with torch.enable_grad():
        embedded = embed(ids.to(device)).detach()
        chosen = embedded[at].clone().requires_grad_()
        hidden = model.base_model(
            inputs_embeds=embedded.index_put(at, chosen),
            attention_mask=torch.cat([read, new], dim=1).to(device),
            position_ids=(torch.tensor(starts)[:, None] + torch.arange(width)).to(device),
            past_key_values=cache,
            use_cache=True,
        )[0]
        totals = _target_logprobs(model, hidden, requests, starts)
        (by_embedding,) = torch.autograd.grad(totals.sum(), chosen)
    by_token = by_embedding.float() @ table.T
    counts = [len(request.positions) for request in requests]
    return [TokenGradient(total, part) for total, part in zip(totals.tolist(), by_token.split(counts), strict=True)]


def _prefixes(causal: CausalModel, prefixes: Sequence[Sequence[int]]) -> tuple[DynamicCache, Tensor]:
    """Keys and values of ragged prefixes padded on the right, and which of them are tokens, ``[rows, longest]``."""
    slots = [slot for slot, prefix in enumerate(prefixes) if prefix]
    common = min(agreeing(prefixes[0], prefix) for prefix in prefixes)
    if common and len(slots) > 1:
        _read(causal, [0], [prefixes[0][:common]])
    _read(causal, slots, [prefixes[slot] for slot in slots])
    longest = max(map(len, prefixes))
    read = torch.tensor([[int(at < len(prefix)) for at in range(longest)] for prefix in prefixes], dtype=torch.long)
    cache = DynamicCache(config=causal.model.config)
    if longest:
        held = [causal.cache.copied(slot, 0, longest) for slot in range(len(prefixes))]
        for layer in range(len(held[0])):
            # What an engine computes in inference mode cannot be part of a graph before it is copied.
            keys, values = (torch.stack([part[layer][kind] for part in held]).clone() for kind in (0, 1))
            cache.update(keys, values, layer)
    for slot in slots:
        causal.release(slot)
    return cache, read.view(len(prefixes), longest)


def _read(causal: CausalModel, slots: Sequence[int], prefixes: Sequence[Sequence[int]]) -> None:
    """Have slots hold prefixes, and make these known."""
    for slot, prefix in zip(slots, prefixes, strict=True):
        causal.release(slot)
        causal.take_up(slot, prefix)
    unread = {slot: prefix[causal.held(slot) :] for slot, prefix in zip(slots, prefixes, strict=True)}
    behind = [slot for slot in slots if unread[slot]]
    if behind:
        causal.feed(behind, [unread[slot] for slot in behind])
    for slot in slots:
        causal.keep(slot)


def _target_logprobs(
    model: PreTrainedModel, hidden: Tensor, requests: Sequence[GradientRequest], starts: Sequence[int]
) -> Tensor:
    """``[requests]``: sums over the tokens of each target."""
    places = [
        (row, at - 1 - start, request.tokens[at])
        for row, (request, start) in enumerate(zip(requests, starts, strict=True))
        for at in range(len(request.tokens) - request.target_tokens, len(request.tokens))
    ]
    rows, columns, targets = (torch.tensor(part, device=hidden.device) for part in zip(*places, strict=True))
    logits = output_logits(model, hidden[rows, columns])
    logprobs = logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(dim=-1)
    return logprobs.new_zeros(len(requests)).index_add(0, rows, logprobs)
