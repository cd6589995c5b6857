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
from rayworks.lm.packed_linear import PackedLinear
from rayworks.lm.prefix_tree import agreeing
from rayworks.lm.scoring import output_logits, require_room


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


def token_gradients(model: PreTrainedModel, requests: Sequence[GradientRequest]) -> list[TokenGradient]:
    """Gradients of all requests in one forward and one backward.

    What all of them have in common before their first position is computed once, without gradients. The model keeps its own
    embedding, scaled or not, and its weights get no gradient; it must not be one that an engine has packed.

    Raises:
        DataError: no request, or one longer than the model.
    """
    if not requests:
        raise DataError("requests: there is none")
    if any(isinstance(module, PackedLinear) for module in model.modules()):
        raise DataError(
            "model: its layers are packed, which have no gradients; load the engine with differentiable=True"
        )
    require_room(model, max(len(request.tokens) for request in requests))
    start = _shared(requests)
    ids, attended = _padded(requests, start)
    rows = torch.tensor([row for row, request in enumerate(requests) for _ in request.positions])
    places = torch.tensor([position - start for request in requests for position in request.positions])
    device, embed = model.device, model.get_input_embeddings()
    with torch.enable_grad():
        embedded = embed(ids.to(device)).detach()
        at = rows.to(device), places.to(device)
        chosen = embedded[at].clone().requires_grad_()
        hidden = model.base_model(
            inputs_embeds=embedded.index_put(at, chosen),
            attention_mask=attended.to(device),
            past_key_values=_prefix(model, requests[0].tokens[:start], len(requests)),
            use_cache=start > 0,
        )[0]
        totals = _target_logprobs(model, hidden, requests, start)
        (by_embedding,) = torch.autograd.grad(totals.sum(), chosen)
    with torch.no_grad():
        table = embed(torch.arange(embed.num_embeddings, device=device))
        by_token = by_embedding.float() @ table.float().T
    counts = [len(request.positions) for request in requests]
    return [TokenGradient(total, part) for total, part in zip(totals.tolist(), by_token.split(counts), strict=True)]


def _shared(requests: Sequence[GradientRequest]) -> int:
    """Tokens that all begin with, before any that may change and before the last one of every prompt."""
    first = requests[0].tokens
    return min(
        min(agreeing(first, request.tokens), min(request.positions), len(request.tokens) - request.target_tokens - 1)
        for request in requests
    )


def _padded(requests: Sequence[GradientRequest], start: int) -> tuple[Tensor, Tensor]:
    """Ids behind the shared ones, padded on the right, and what is attended to, the shared ones included."""
    longest = max(len(request.tokens) for request in requests)
    ids, attended = (torch.zeros((len(requests), longest), dtype=torch.long) for _ in range(2))
    for row, request in enumerate(requests):
        ids[row, : len(request.tokens)] = torch.tensor(request.tokens)
        attended[row, : len(request.tokens)] = 1
    return ids[:, start:], attended


def _prefix(model: PreTrainedModel, tokens: Sequence[int], rows: int) -> DynamicCache | None:
    if not tokens:
        return None
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model.base_model(input_ids=torch.tensor([tokens], device=model.device), past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(rows)
    return cache


def _target_logprobs(model: PreTrainedModel, hidden: Tensor, requests: Sequence[GradientRequest], start: int) -> Tensor:
    """``[requests]``: sums over the tokens of each target."""
    places = [
        (row, at - 1 - start, request.tokens[at])
        for row, request in enumerate(requests)
        for at in range(len(request.tokens) - request.target_tokens, len(request.tokens))
    ]
    rows, columns, targets = (torch.tensor(part, device=hidden.device) for part in zip(*places, strict=True))
    logits = output_logits(model, hidden[rows, columns])
    logprobs = logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(dim=-1)
    return logprobs.new_zeros(len(requests)).index_add(0, rows, logprobs)
