"""The acceptance model's loss: cross-entropy, and the method's constraint (arXiv 2409.05872).

The constraint pulls predictions to the do-recursion of a natural-preference model.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayworks.systems.recommendation.logs.events import REJECTED
from rayworks.systems.recommendation.logs.sequences import Sequences
from rayworks.systems.recommendation.models.acceptance import AcceptanceModel, AcceptanceOptions, at_positions
from rayworks.systems.recommendation.models.training import Objective


@dataclass(frozen=True)
class ConstraintOptions:
    """How strong the pull is, and on what scale natural preference is read."""

    weight: float = 0.0
    """Weight of the squared difference, beside a cross-entropy of weight 1; 0: no constraint."""
    form: Literal["calibrated", "raw"] = "calibrated"
    """``raw`` takes the softmax over items as if it were an acceptance probability, as the authors' code does."""


class Constraint(nn.Module):
    """Squared difference of p_t and q1 p_{t-1} + q0 (1 - p_{t-1}).

    q_d is the natural-preference model's probability of the item shown at t when the item shown at t-1 was rejected (d = 0:
    history unchanged) or accepted (d = 1: history with that item appended). Calibrated, it is sigma(a_d (log q_d + log I) +
    b_d) with learned a and b, and the target gives no gradient to p_{t-1}. The first step has no t-1 and no constraint.

    Args:
        log_natural: float32 (N, 2), log q0 and log q1 at each recommendation of the log; other rows are not read.
        items: I.
    """

    log_natural: Tensor

    def __init__(self, options: ConstraintOptions, log_natural: Tensor, items: int) -> None:
        super().__init__()
        self.options = options
        self._log_items = math.log(items)
        self.register_buffer("log_natural", log_natural, persistent=False)
        self.scale = nn.Parameter(torch.ones(2))
        self.shift = nn.Parameter(torch.zeros(2))

    def forward(self, logits: Tensor, batch: Sequences) -> Tensor:
        """Weighted squared difference (B, T); 0 where there is no recommendation before in the sequence."""
        recommended = batch.kind >= REJECTED
        previous = at_positions(previous_place(recommended), batch.past)
        probability = torch.sigmoid(logits)
        before = probability.gather(1, previous.clamp(min=0))
        log_natural = self.log_natural[batch.row.clamp(min=0)]
        if self.options.form == "raw":
            natural = log_natural.exp()
        else:
            natural = torch.sigmoid(self.scale * (log_natural + self._log_items) + self.shift)
            before = before.detach()
        target = recursion_step(before, natural[..., 0], natural[..., 1])
        exists = recommended & (previous >= 0)
        difference = torch.where(exists, probability - target, 0.0)
        return self.options.weight * difference.square()


class AcceptanceObjective(Objective[AcceptanceModel]):
    """Cross-entropy of decisions, with smoothed labels and a constraint while training.

    Args:
        label_smoothing: in [0, 1): 1 and 0 become 1 - s / 2 and s / 2.
    """

    def __init__(
        self, options: AcceptanceOptions, label_smoothing: float = 0.0, constraint: Constraint | None = None
    ) -> None:
        super().__init__()
        self.model = AcceptanceModel(options)
        self._smoothing, self._constraint = label_smoothing, constraint

    def forward(self, batch: Sequences) -> Tensor:
        """See :class:`~.training.Objective`."""
        logits = self.model(batch.item, batch.kind, batch.past)
        labels = batch.labels()
        if not self.training:
            return F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        labels = labels * (1 - self._smoothing) + self._smoothing / 2
        losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        if self._constraint is not None:
            losses = losses + self._constraint(logits, batch)
        return losses


def previous_place(recommended: Tensor) -> Tensor:
    """int64 (B, T): the position of the last recommendation before each position, -1 where there is none."""
    positions = torch.where(recommended, torch.arange(recommended.shape[1], device=recommended.device), -1)
    last = positions.cummax(1).values
    return torch.cat([torch.full_like(last[:, :1], -1), last[:, :-1]], 1)


def recursion_step(before: Tensor, if_rejected: Tensor, if_accepted: Tensor) -> Tensor:
    """P(D_t = 1) from P(D_{t-1} = 1) and P(D_t = 1) given either decision."""
    return if_accepted * before + if_rejected * (1 - before)
