"""Sampling of whole batches, each row with its own temperature, truncation and random numbers.

A row is drawn by inverting its distribution function at one uniform number, whatever rows are beside it.
"""

import torch
from torch import Tensor

GREEDY = 1e-6
"""Temperatures up to this take the most likely token; smaller ones would overflow."""


def sampling_logits(logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Logits of the sampling distribution ``[rows, vocabulary]``, -inf where a token is forbidden or cut: temperature first,
    then top-k (0 keeps all), then top-p, the smallest set of most likely tokens that reaches this mass; all are ``[rows]``.
    Greedy rows keep theirs.
    """
    temperature = torch.where(temperature > GREEDY, temperature, 1.0)
    if bool((temperature != 1.0).any()):
        logits = logits / temperature[:, None]
    vocabulary = logits.shape[-1]
    cut_k = (top_k > 0) & (top_k < vocabulary)
    cut_p = top_p < 1.0
    if not bool((cut_k | cut_p).any()):
        return logits
    ordered, order = logits.sort(dim=-1, descending=True)
    rank = torch.arange(vocabulary, device=logits.device)
    keep = ~cut_k[:, None] | (rank < top_k[:, None])
    mass = ordered.masked_fill(~keep, -torch.inf).softmax(dim=-1)
    before = mass.cumsum(dim=-1) - mass
    keep &= ~cut_p[:, None] | (before < top_p[:, None]) | (rank == 0)
    return logits.masked_fill(~torch.zeros_like(keep).scatter(-1, order, keep), -torch.inf)


def sample(logits: Tensor, uniforms: Tensor, **law: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token per row by uniforms ``[rows]`` float64 in [0, 1): ids ``[rows]`` and their log-probability under the
    sampling distribution, 0 for greedy rows; what :func:`sampling_logits` takes is the ``law``.
    """
    greedy = law["temperature"] <= GREEDY
    best = logits.argmax(dim=-1)
    if bool(greedy.all()):
        return best, torch.zeros(len(best), device=logits.device)
    log_probs = sampling_logits(logits, **law).log_softmax(dim=-1)
    cumulative = log_probs.exp().double().cumsum_(dim=-1)
    target = uniforms.to(cumulative.device) * cumulative[:, -1]
    drawn = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)
    tokens = torch.where(greedy, best, drawn)
    return tokens, log_probs.gather(-1, tokens[:, None])[:, 0].masked_fill(greedy, 0.0)
