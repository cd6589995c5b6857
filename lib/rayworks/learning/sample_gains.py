"""By how much each label of each example would lower a validation loss: ``A = -(u - sum_k p_k u_k)``, for any module.

Let z be the logits of a batch, g the gradient of a validation loss, and ``u = J g`` the slope of the logits along g. A small
step on an example with soft label y lowers the validation loss by ``<y, A>`` to first order (SAFLEX, arXiv 2410.02512). One
forward pass on dual numbers gives z with its graph and u, for all examples and labels at once.
"""

import re
import traceback
from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
import torch.autograd.forward_ad as forward_mode
from torch import Tensor, nn

from rayworks.core.errors import ConfigError, DataError
from rayworks.learning.forward_passes import (
    Draws,
    Gradient,
    Inputs,
    copied_state,
    device_of,
    differentiable_kernels,
    is_narrow,
    outputs_of,
    trainable,
    widened,
)

Backend = Literal["jvp", "double_backward", "finite_diff", "one_sided", "last_layer"]
"""How slopes are computed: ``jvp``, dual numbers, whose primal is the training pass; ``double_backward``, for operations
without a forward derivative; ``finite_diff``, central differences, for those without a second one; ``one_sided``, the
difference to one more pass without a graph, the cheapest of all parameters; ``last_layer``, of the last linear layer alone,
an approximation that costs next to nothing."""
Normalise = Literal["none", "rms", "row"]
STEP = {torch.float64: 1e-4, torch.float32: 1e-2}
"""Length of the step of central differences; their error grows with its square, and with rounding over it."""
ONE_SIDED_STEP = {torch.float64: 1e-8, torch.float32: 3e-4}
"""The same of one-sided ones, whose error grows with the step itself. Against exact gains of six networks, new and trained,
they were off by at most 1e-6 in float64, and in float32 by .01 to 1.1 per cent, root mean square; central ones by up to 3.4,
since their longer step crosses more kinks of ReLU."""
TINY = 1e-12
_Call = Callable[[Mapping[str, Tensor]], Tensor]
_Method = Callable[[_Call, Gradient, Mapping[str, Tensor]], tuple[Tensor, Tensor]]
_dual: Callable[[Tensor, Tensor], Tensor] = forward_mode.make_dual
_parts: Callable[[Tensor], tuple[Tensor, Tensor | None]] = forward_mode.unpack_dual
_NEXT = {"jvp": "double_backward, or finite_diff", "double_backward": "finite_diff"}
_UNSUPPORTED = re.compile(
    r"forward AD with (?P<forward>\S+) that does not|derivative for '?(?P<reverse>[\w:.]+)'? is not implemented"
    r"|implement the jvp function|once_differentiable|not have been used in the graph"
)


def outputs_and_slopes(
    model: nn.Module,
    inputs: Inputs,
    gradient: Mapping[str, Tensor],
    backend: Backend = "jvp",
    head: str = "",
    *,
    apart: bool = False,
) -> tuple[Tensor, Tensor]:
    """The outputs of the training pass with their graph, and their slopes along the gradient, both ``(B, K)``.

    The training pass is made once: batch statistics move once and dropout draws once, whatever the backend. Under autocast,
    and where parameters are narrower than float32, slopes come from a pass of their own in float32 with the same draws.

    Args:
        gradient: by parameter name; for ``last_layer`` that of the head suffices.
        head: name of the linear layer of ``last_layer``; empty: the last one.
        apart: leave the training pass to the caller. Outputs have no graph, no buffer moves, and the caller's next pass
            draws the same dropout masks.

    Raises:
        ConfigError: an operation lacks the derivative that the backend needs, or the head is none.
        DataError: the gradient does not fit the parameters, or the outputs are no matrix.
    """
    if backend not in get_args(Backend):
        raise ConfigError(f"backend {backend!r}: unknown; choose one of {', '.join(get_args(Backend))}")
    _check(model, gradient)
    device, draws = device_of(model), Draws(device_of(model))
    if backend == "last_layer":
        if not apart:
            return _of_last_layer(model, lambda: outputs_of(model, inputs), gradient, head)
        with torch.no_grad(), differentiable_kernels(device):
            return _of_last_layer(model, lambda: _call_apart(model, inputs, draws)({}), gradient, head)
    method = _METHODS[backend]
    try:
        if not apart and backend != "finite_diff" and not is_narrow(model):
            own = {name: value for name, value in trainable(model).items() if name in gradient}
            with differentiable_kernels(device):
                if backend == "one_sided":
                    beside = _call_apart(model, inputs, draws)
                    return _one_sided(beside, own, gradient, lambda: outputs_of(model, inputs))
                return method(lambda values: outputs_of(model, inputs, values), own, gradient)
        outputs = None if apart else outputs_of(model, inputs)
        with differentiable_kernels(device), torch.no_grad():
            own = {name: value.requires_grad_() for name, value in copied_state(model)[0].items() if name in gradient}
            same, slopes = method(_call_apart(model, inputs, draws), own, gradient)
        return same.detach() if outputs is None else outputs, slopes.detach()
    except RuntimeError as error:
        raise _explained(error, backend) from error


def slopes_to_gains(logits: Tensor, slopes: Tensor) -> Tensor:
    """``A``, ``(B, K)``, of a softmax; rows satisfy ``sum_k p_k A_k = 0``."""
    chances = logits.detach().to(slopes.dtype).softmax(1)
    return (chances * slopes).sum(1, keepdim=True) - slopes


def normalised(gains: Tensor, how: Normalise) -> Tensor:
    """Gains over their root mean square, of the batch (``rms``) or of each row (``row``): g shrinks while training."""
    if how == "none":
        return gains
    square = gains.square().mean() if how == "rms" else gains.square().mean(1, keepdim=True)
    return gains / (square.sqrt() + TINY)


def head_of(model: nn.Module, head: str = "") -> tuple[str, nn.Linear]:
    """Name and module of the linear layer that makes the outputs; empty: the last one.

    Raises:
        ConfigError: there is none of this name.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    name = head or next(reversed(layers), "")
    if name not in layers:
        raise ConfigError(
            f"head {name!r}: is no linear layer; choose one of {', '.join(layers) or 'none, there is none'}"
        )
    return name, layers[name]


def head_parameters(model: nn.Module, head: str = "") -> tuple[str, ...]:
    """Names of the parameters of the head, for :func:`validation_gradient`'s ``only``."""
    name, layer = head_of(model, head)
    return tuple(f"{name}.{part}" if name else part for part, _ in layer.named_parameters())


def _check(model: nn.Module, gradient: Mapping[str, Tensor]) -> None:
    known = dict(model.named_parameters())
    for name, part in gradient.items():
        if name not in known or known[name].shape != part.shape:
            raise DataError(f"gradient: {name!r} {tuple(part.shape)} is no parameter of the model; compute it anew")
    if not gradient:
        raise DataError("gradient: is empty; give a model with a trainable parameter")


def _forwards(call: _Call, own: Gradient, gradient: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    with forward_mode.dual_level():
        duals = {name: _dual(value, gradient[name].to(value.dtype)) for name, value in own.items()}
        outputs, slopes = _parts(call(duals))
    return outputs, torch.zeros_like(outputs) if slopes is None else slopes.detach()


def _twice_backwards(call: _Call, own: Gradient, gradient: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """``v -> <J^T v, g>`` is linear in v; its gradient is ``J g``."""
    with torch.enable_grad():
        outputs = call(own)
        direction = torch.zeros_like(outputs, requires_grad=True)
        parts = torch.autograd.grad(outputs, list(own.values()), direction, create_graph=True, allow_unused=True)
        named = zip(own, parts, strict=True)
        inner = sum((part * gradient[name]).sum() for name, part in named if part is not None)
        if not isinstance(inner, Tensor) or not inner.requires_grad:
            return outputs, torch.zeros_like(outputs)
        (slopes,) = torch.autograd.grad(inner, direction, retain_graph=True)
    return outputs, slopes


def _differences(call: _Call, own: Gradient, gradient: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    step = _along(own, gradient, STEP)
    above, below = (call({name: v + sign * step * gradient[name] for name, v in own.items()}) for sign in (1.0, -1.0))
    return (above + below) / 2, (above - below) / (2 * step)


def _one_sided(
    call: _Call, own: Gradient, gradient: Mapping[str, Tensor], training: Callable[[], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """By one pass a step away, whose memory is free again when the training pass is made, if there is one."""
    step = _along(own, gradient, ONE_SIDED_STEP)
    with torch.no_grad():
        there = call({name: value + step * gradient[name] for name, value in own.items()})
    here = training() if training else call(own)
    return here, (there - here.detach()) / step


def _along(own: Gradient, gradient: Mapping[str, Tensor], lengths: Mapping[torch.dtype, float]) -> Tensor:
    """By how much of the gradient parameters are moved."""
    whole: Tensor = torch.stack([gradient[name].norm() for name in own]).norm() + TINY
    return max(lengths.get(value.dtype, lengths[torch.float32]) for value in own.values()) / whole


_METHODS: dict[str, _Method] = {
    "jvp": _forwards,
    "double_backward": _twice_backwards,
    "finite_diff": _differences,
    "one_sided": _one_sided,
}


def _call_apart(model: nn.Module, inputs: Inputs, draws: Draws) -> _Call:
    """Passes in float32 at least that leave no trace in the module and all draw the same."""
    parameters, buffers = copied_state(model)
    wide = widened(inputs)

    def call(values: Mapping[str, Tensor]) -> Tensor:
        copies = {name: value.clone() for name, value in buffers.items()}
        with draws.again():
            return outputs_of(model, wide, {**parameters, **copies, **values})

    return call


def _of_last_layer(
    model: nn.Module, run: Callable[[], Tensor], gradient: Mapping[str, Tensor], head: str
) -> tuple[Tensor, Tensor]:
    name, layer = head_of(model, head)
    seen: list[tuple[Tensor, Tensor]] = []
    handle = layer.register_forward_hook(lambda _, given, made: seen.append((given[0].detach(), made.detach())))
    try:
        outputs = run()
    finally:
        handle.remove()
    if not seen or seen[-1][1].shape != outputs.shape or not torch.equal(seen[-1][1], outputs.detach()):
        raise ConfigError(f"head {name!r}: does not make the outputs; name the last linear layer or take backend jvp")
    prefix = f"{name}." if name else ""
    weight, bias = gradient[f"{prefix}weight"], gradient.get(f"{prefix}bias")
    with torch.autocast(outputs.device.type, enabled=False), torch.no_grad():
        return outputs, nn.functional.linear(seen[-1][0].to(weight.dtype), weight, bias)


def _explained(error: Exception, backend: str) -> Exception:
    """An error of a missing derivative as one that names the operation and the backend to take; any other as it is."""
    found = _UNSUPPORTED.search(str(error))
    if not found or backend not in _NEXT:
        return error
    where = [frame for frame in traceback.extract_tb(error.__traceback__) if "/torch/" not in frame.filename]
    named = found["forward"] or found["reverse"] or (f"`{where[-1].line}`" if where else "an operation")
    return ConfigError(f"backend {backend!r}: {named} has no derivative that it needs; set backend to {_NEXT[backend]}")
