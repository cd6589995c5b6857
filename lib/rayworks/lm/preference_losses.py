"""Losses over preferred and rejected responses, shared by every system that trains on pairs."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

LossKind = Literal["sigmoid", "hinge"]
Reward = Literal["arm", "dpo", "simpo"]


def rewards(kind: Reward, logprobs: Tensor, lengths: Tensor, reference: Tensor | None = None) -> Tensor:
    """What a response earns before the scale, of its summed log-probability; all ``[pairs, 2]``.

    * ``arm``: the log-probability (GenARM, arXiv 2410.08193, section 4), without reference or division by length.
    * ``dpo``: less that of the frozen reference (arXiv 2305.18290, equation 7).
    * ``simpo``: divided by the number of tokens (arXiv 2405.14734, equation 4).
    """
    if kind == "dpo":
        assert reference is not None
        return logprobs - reference
    return logprobs / lengths if kind == "simpo" else logprobs


def bradley_terry_loss(
    chosen: Tensor,
    rejected: Tensor,
    *,
    beta: float,
    kind: LossKind = "sigmoid",
    margin: float = 0.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Loss of rewards ``[pairs]``, with ``z = beta (chosen - rejected) - margin``: ``sigmoid`` is
    ``-(1-e) log s(z) - e log s(-z)`` with smoothing ``e``, ``hinge`` is ``max(0, 1 - z)``.
    """
    lead = beta * (chosen - rejected) - margin
    if kind == "hinge":
        return torch.relu(1.0 - lead)
    return -(1.0 - label_smoothing) * logsigmoid(lead) - label_smoothing * logsigmoid(-lead)
