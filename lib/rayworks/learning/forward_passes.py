"""Calls of a module with other parameters, without a trace in the module: no moved buffer, no random draw more."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from rayworks.core.errors import DataError

Gradient = dict[str, Tensor]
"""A gradient by parameter name."""
Inputs = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""What a module is called with: one tensor, arguments, or arguments by name."""


def outputs_of(model: nn.Module, inputs: Inputs, state: Mapping[str, Tensor] | None = None) -> Tensor:
    """What a module says of a batch, ``(B, K)``: its output, or the ``logits`` of that, such as of transformers' outputs.

    Args:
        state: parameters and buffers by name that take the place of the module's own. A buffer that moves is the given one.

    Raises:
        DataError: the output is no such tensor.
    """
    arguments = inputs if isinstance(inputs, tuple) else () if isinstance(inputs, Mapping) else (inputs,)
    named = dict(inputs) if isinstance(inputs, Mapping) else {}
    if state is None:
        found: Any = model(*arguments, **named)
    else:
        with _its_own_afterwards(model):
            found = functional_call(model, dict(state), arguments, named)
    found = found.get("logits", found) if isinstance(found, Mapping) else getattr(found, "logits", found)
    if not isinstance(found, Tensor) or found.dim() != 2:
        shape = tuple(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise DataError(
            f"model: its output is {shape}; give a module whose output is a tensor (batch, labels), or has one as its logits"
        )
    return found


@contextmanager
def _its_own_afterwards(model: nn.Module) -> Iterator[None]:
    """Parameters and buffers as they were: ``functional_call`` loses those of a module that has two names."""
    own: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (held, dict(held)) for module in model.modules() for held in (module._parameters, module._buffers)
    ]
    try:
        yield
    finally:
        for held, before in own:
            for name, value in before.items():
                if held.get(name) is not value:
                    held[name] = value


def trainable(model: nn.Module) -> Gradient:
    """The parameters that are trained, by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def device_of(model: nn.Module) -> torch.device:
    """Where the parameters are."""
    return next((value.device for value in model.parameters()), torch.device("cpu"))


def widened(value: Any) -> Any:
    """The same tensors, float32 where they were narrower; tuples and mappings too."""
    return _mapped(value, lambda part: part.float() if part.is_floating_point() and part.dtype.itemsize < 4 else part)


def placed(inputs: Inputs, device: torch.device) -> Inputs:
    """The same inputs on a device."""
    moved: Inputs = _mapped(inputs, lambda part: part.to(device))
    return moved


def form_of(inputs: Any) -> str:
    """Shapes and types of a batch, whatever its rows, as messages say them."""
    if isinstance(inputs, Mapping):
        return f"{{{', '.join(f'{name}: {form_of(part)}' for name, part in inputs.items())}}}"
    if isinstance(inputs, tuple):
        return f"({', '.join(map(form_of, inputs))})"
    if not isinstance(inputs, Tensor):
        return f"a {type(inputs).__name__}"
    return f"{' x '.join(('rows', *map(str, inputs.shape[1:])))} {str(inputs.dtype).removeprefix('torch.')}"


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_mapped(part, change) for part in value)
    if isinstance(value, Mapping):
        return {name: _mapped(part, change) for name, part in value.items()}
    return value


def is_narrow(model: nn.Module) -> bool:
    """Whether a forward pass here and now computes in less than float32: autocast is on, or parameters are narrow."""
    kind = device_of(model).type
    return torch.is_autocast_enabled(kind) or any(
        value.is_floating_point() and value.dtype.itemsize < 4 for value in model.parameters()
    )


def copied_state(model: nn.Module) -> tuple[Gradient, Gradient]:
    """Parameters, detached, and copies of the buffers, in float32 at least: a pass with them leaves the module alone."""
    parameters = {name: cast(Tensor, widened(value.detach())) for name, value in model.named_parameters()}
    return parameters, {name: cast(Tensor, widened(value.detach().clone())) for name, value in model.named_buffers()}


@contextmanager
def differentiable_kernels(device: torch.device) -> Iterator[None]:
    """Attention by plain matrix products, which alone have all derivatives, and no autocast."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every part in evaluation mode; afterwards each in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class Draws:
    """Where the random generators stand, so that a later pass can draw the same dropout masks."""

    def __init__(self, device: torch.device) -> None:
        self._device = device if device.type == "cuda" else None
        self._here = torch.get_rng_state()
        self._there = torch.cuda.get_rng_state(self._device) if self._device else None

    @contextmanager
    def again(self) -> Iterator[None]:
        """The generators from there on; afterwards they stand where they stood before."""
        with torch.random.fork_rng(devices=[self._device] if self._device else []):
            torch.set_rng_state(self._here)
            if self._device and self._there is not None:
                torch.cuda.set_rng_state(self._there, self._device)
            yield
