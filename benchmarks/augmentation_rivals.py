"""A step of learned sample weights as the literature makes it: by a virtual step of the model, and a second backward pass."""

from collections.abc import Callable
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


def betty_step(
    model: nn.Module, optimiser: torch.optim.Optimizer, batch: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor]
) -> Callable[[], None]:
    """One step of the model and one of its weights by the package betty-ml 0.1.1, the newest that can be had.

    The weights are a network of the loss, as in Meta-Weight-Net; its gradient is betty's default, DARTS' finite difference
    of two training passes, after one unrolled step.

    Raises:
        InfrastructureError: it can not be installed.
    """
    peers.module("betty", "betty-ml==0.1.1")
    from betty.configs import Config, EngineConfig
    from betty.engine import Engine
    from betty.problems import ImplicitProblem

    class Inner(ImplicitProblem):
        def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            losses = F.cross_entropy(self.module(batch[0]), batch[1], reduction="none")
            weights: Tensor = self.outer(losses.detach()[:, None])[:, 0]
            return (weights * losses).mean()

    class Outer(ImplicitProblem):
        def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            return F.cross_entropy(self.inner(batch[0]), batch[1])

    weights = nn.Sequential(nn.Linear(1, 100), nn.ReLU(), nn.Linear(100, 1), nn.Sigmoid())
    adam = torch.optim.Adam(weights.parameters(), 1e-3)
    settings = Config(type="darts", unroll_steps=1)
    inner = Inner("inner", settings, model, optimiser, train_data_loader=[batch], device="cpu")
    outer = Outer("outer", settings, weights, adam, train_data_loader=[validation], device="cpu")
    engine = Engine([inner, outer], EngineConfig(), {"u2l": {outer: [inner]}, "l2u": {inner: [outer]}})
    engine.train()
    step: Callable[[], None] = engine.train_step
    return step
