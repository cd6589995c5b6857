"""A step of learned sample weights as the literature makes it: by a virtual step of the model, and a second backward pass."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks import peers

VIRTUAL_RATE = 1e-3


def two_pass_slopes(
    model: nn.Module, batch: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor], rate: float = VIRTUAL_RATE
) -> Tensor:
    """Slope of the validation loss along each sample's weight, ``(B,)``: L2RW's official procedure (Ren et al. 2018)."""
    own: dict[str, Tensor] = dict(model.named_parameters())
    weights = torch.zeros(len(batch[0]), dtype=batch[0].dtype, requires_grad=True)
    loss = (weights * F.cross_entropy(functional_call(model, own, (batch[0],)), batch[1], reduction="none")).sum()
    parts = torch.autograd.grad(loss, list(own.values()), create_graph=True)
    moved = {name: value - rate * part for (name, value), part in zip(own.items(), parts, strict=True)}
    after = F.cross_entropy(functional_call(model, moved, (validation[0],)), validation[1])
    return torch.autograd.grad(after, weights)[0]


def higher_slopes(
    model: nn.Module, batch: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor], rate: float = VIRTUAL_RATE
) -> Tensor:
    """The same by the package higher 0.2.1.

    Raises:
        InfrastructureError: it can not be installed.
    """
    higher: Any = peers.module("higher", "higher==0.2.1")
    weights = torch.zeros(len(batch[0]), dtype=batch[0].dtype, requires_grad=True)
    with higher.innerloop_ctx(model, torch.optim.SGD(model.parameters(), rate)) as (inner, optimiser):
        optimiser.step((weights * F.cross_entropy(inner(batch[0]), batch[1], reduction="none")).sum())
        return torch.autograd.grad(F.cross_entropy(inner(validation[0]), validation[1]), weights)[0]
