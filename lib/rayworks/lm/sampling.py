"""Sampling of whole batches, each row with its own temperature, truncation and random numbers.

A row is drawn by inverting the distribution function at one uniform number, so a draw depends on nothing but the row's
own distribution and its own seed: not on the batch it is in, nor on the rows beside it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

GREEDY = 1e-6
"""Temperatures up to this take the most likely token; smaller ones would overflow."""


@dataclass(frozen=True)
class SamplingParameters:
    """How rows are drawn, one entry per row."""

    temperature: Tensor
    """``[rows]``; 0 (up to ``GREEDY``) takes the most likely token."""
    top_k: Tensor
    """``[rows]``; 0 keeps all."""
    top_p: Tensor
    """``[rows]``; the smallest set of most likely tokens that reaches this mass; 1 keeps all."""


def sampling_logits(logits: Tensor, parameters: SamplingParameters) -> Tensor:
    """Logits of the sampling distribution: temperature first, then top-k, then top-p.

    ``[rows, vocabulary]`` float32 come and go, with -inf where a token is forbidden or cut. Greedy rows keep their logits.
    """
    temperature = torch.where(parameters.temperature > GREEDY, parameters.temperature, 1.0)
    if bool((temperature != 1.0).any()):
        logits = logits / temperature[:, None]
    vocabulary = logits.shape[-1]
    cut_k = (parameters.top_k > 0) & (parameters.top_k < vocabulary)
    cut_p = parameters.top_p < 1.0
    if not bool((cut_k | cut_p).any()):
        return logits
    ordered, order = logits.sort(dim=-1, descending=True)
    rank = torch.arange(vocabulary, device=logits.device)
    keep = ~cut_k[:, None] | (rank < parameters.top_k[:, None])
    mass = ordered.masked_fill(~keep, -torch.inf).softmax(dim=-1)
    before = mass.cumsum(dim=-1) - mass
    keep &= ~cut_p[:, None] | (before < parameters.top_p[:, None]) | (rank == 0)
    return logits.masked_fill(~torch.zeros_like(keep).scatter(-1, order, keep), -torch.inf)


def sample(logits: Tensor, parameters: SamplingParameters, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token per row of logits ``[rows, vocabulary]`` by uniforms ``[rows]`` float64 in [0, 1).

    Returns:
        token ids ``[rows]`` and their log-probability under the sampling distribution ``[rows]`` (0 for greedy rows).
    """
    greedy = parameters.temperature <= GREEDY
    best = logits.argmax(dim=-1)
    if bool(greedy.all()):
        return best, torch.zeros(len(best), device=logits.device)
    log_probs = sampling_logits(logits, parameters).log_softmax(dim=-1)
    cumulative = log_probs.exp().double().cumsum_(dim=-1)
    target = uniforms.to(cumulative.device) * cumulative[:, -1]
    drawn = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)
    tokens = torch.where(greedy, best, drawn)
    return tokens, log_probs.gather(-1, tokens[:, None])[:, 0].masked_fill(greedy, 0.0)
