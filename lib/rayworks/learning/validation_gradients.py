"""The gradient of a validation loss at the present parameters, averaged over steps, in the metric of Adam."""

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from rayworks.core.errors import ConfigError, DataError
from rayworks.learning.forward_passes import (
    Gradient,
    Inputs,
    copied_state,
    device_of,
    differentiable_kernels,
    evaluating,
    outputs_of,
    trainable,
    widened,
)


def validation_gradient(
    model: nn.Module, inputs: Inputs, loss: Callable[[Tensor], Tensor], only: Collection[str] = ()
) -> tuple[Gradient, Tensor]:
    """Gradient of a loss by parameter name, and the loss.

    The pass is the one of a deployed model: evaluation mode, no autocast, float32 at least. No buffer moves and no
    ``.grad`` is touched.

    Args:
        loss: from outputs ``(M, K)`` to a scalar. Weight decay is no part of it.
        only: names of the parameters that are asked for; empty: all that are trained.

    Raises:
        ConfigError: a parameter of ``only`` is another one's, under a second name, or nothing is trained.
        DataError: the gradient of some parameter is not finite.
    """
    parameters, buffers = copied_state(model)
    names = tuple(only) or tuple(trainable(model))
    if not names:
        raise ConfigError("model: no parameter needs a gradient; let those be trained that shall learn")
    for name in names:
        if name not in parameters:
            raise ConfigError(
                f"backend last_layer: {name} is tied to another layer's weight, which its gradient alone says too little of; "
                "take jvp"
            )
    for name in names:
        parameters[name].requires_grad_()
    with evaluating(model), differentiable_kernels(device_of(model)), torch.enable_grad():
        value = loss(outputs_of(model, widened(inputs), {**parameters, **buffers}))
        parts = torch.autograd.grad(value, [parameters[name] for name in names], allow_unused=True)
    gradient = {
        name: torch.zeros_like(parameters[name]) if part is None else part
        for name, part in zip(names, parts, strict=True)
    }
    check_finite(gradient)
    return gradient, value.detach()


def check_finite(gradient: Mapping[str, Tensor]) -> None:
    """Raise a :class:`DataError` that names the first parameter whose gradient is not finite."""
    for name, part in gradient.items():
        if not part.isfinite().all():
            raise DataError(
                f"validation gradient: that of parameter {name!r} is not finite; lower the learning rate, or look for "
                "validation inputs that are no numbers"
            )


def averaged(before: Mapping[str, Tensor] | None, new: Mapping[str, Tensor], decay: float) -> Gradient:
    """The moving average ``decay * before + (1 - decay) * new``; the first is taken as it is."""
    if before is None or decay == 0.0:
        return dict(new)
    return {name: torch.lerp(part, before[name], decay) for name, part in new.items()}


def preconditioned(gradient: Mapping[str, Tensor], model: nn.Module, optimiser: torch.optim.Optimizer) -> Gradient:
    """``g / (sqrt(v) + eps)`` with Adam's second moments v: a step of Adam moves along this, not along the gradient.

    A parameter that Adam has not stepped yet keeps its gradient.

    Raises:
        ConfigError: the optimiser keeps no second moments.
    """
    groups = {id(value): group for group in optimiser.param_groups for value in group["params"]}
    if any("betas" not in group for group in optimiser.param_groups):
        raise ConfigError(
            f"precondition: {type(optimiser).__name__} has no second moments; set it to false or take Adam"
        )
    found = dict(gradient)
    for name, value in model.named_parameters():
        state = optimiser.state.get(value, {})
        if name in found and "exp_avg_sq" in state:
            group = groups[id(value)]
            second = state["max_exp_avg_sq"] if group.get("amsgrad") else state["exp_avg_sq"]
            corrected = second / (1 - group["betas"][1] ** float(state["step"]))
            found[name] = found[name] / (corrected.sqrt() + group["eps"])
    return found
