"""Losses over preferred and rejected responses, shared by every system that trains on pairs."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

LossKind = Literal["sigmoid", "hinge"]


def bradley_terry_loss(
    chosen: Tensor,
    rejected: Tensor,
    *,
    beta: float,
    kind: LossKind = "sigmoid",
    margin: float = 0.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Loss of a reward that is ``beta`` times a log-probability (GenARM, arXiv 2410.08193, section 4).

    With ``z = beta (chosen - rejected) - margin``: sigmoid is ``-(1-e) log s(z) - e log s(-z)`` with smoothing ``e``,
    hinge is ``max(0, 1 - z)``. No reference model and no division by length. All are ``[pairs]``: ``chosen`` and ``rejected``
    are sums of the token log-probabilities of a response.
    """
    lead = beta * (chosen - rejected) - margin
    if kind == "hinge":
        return torch.relu(1.0 - lead)
    return -(1.0 - label_smoothing) * logsigmoid(lead) - label_smoothing * logsigmoid(-lead)
