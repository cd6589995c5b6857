"""Gains by every backend: equal to explicit gradients, true to what a step does, and without a trace in the model."""

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayworks.core.errors import ConfigError, DataError
from rayworks.learning.forward_passes import outputs_of
from rayworks.learning.sample_gains import (
    Backend,
    head_parameters,
    normalised,
    outputs_and_slopes,
    slopes_to_gains,
)
from rayworks.learning.validation_gradients import averaged, preconditioned, validation_gradient

EXACT: tuple[Backend, ...] = ("jvp", "double_backward")
AGREEMENT: dict[Backend, float] = {"jvp": 1e-12, "double_backward": 1e-12, "finite_diff": 1e-5, "one_sided": 1e-6}


class Attentive(nn.Module):
    """Two kinds of attention with dropout, and a head."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, dropout=dropout)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout, "gelu", batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        inner = self.attention(inputs, inputs, inputs, need_weights=False)[0]
        found: Tensor = self.head(self.layer(inner).mean(1))
        return found


def normalising() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(4 * 16, 3)
    )


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


CASES = {"batch norm": (normalising, (1, 6, 6)), "attention": (Attentive, (4, 8)), "perceptron": (perceptron, (5,))}


def case(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    make, shape = CASES[name]
    return make().double(), torch.rand(6, *shape).double(), torch.arange(6) % 3


def gradient_of(model: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    return validation_gradient(model, inputs, lambda outputs: F.cross_entropy(outputs, labels))[0]


def explicit(model: nn.Module, inputs: Tensor, gradient: dict[str, Tensor]) -> Tensor:
    """``-<grad log p_ik, g>`` by one backward pass for each entry."""
    chances = outputs_of(model, inputs).log_softmax(1)
    found = torch.zeros_like(chances)
    for row, label in [(row, label) for row in range(len(chances)) for label in range(chances.shape[1])]:
        parts = torch.autograd.grad(chances[row, label], list(model.parameters()), retain_graph=True)
        names = [name for name, _ in model.named_parameters()]
        found[row, label] = -sum((part * gradient[name]).sum() for name, part in zip(names, parts, strict=True))
    return found.detach()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", AGREEMENT)
def test_backends_agree_with_explicit_gradients(name: str, backend: Backend) -> None:
    model, inputs, labels = case(name)
    gradient = gradient_of(model, inputs, labels)
    torch.manual_seed(1)
    expected = explicit(copy.deepcopy(model), inputs, gradient)
    torch.manual_seed(1)
    outputs, slopes = outputs_and_slopes(model, inputs, gradient, backend)
    gains = slopes_to_gains(outputs, slopes)
    assert float((gains - expected).abs().max() / expected.abs().max()) < AGREEMENT[backend]
    assert float((outputs.detach().softmax(1) * gains).sum(1).abs().max()) < 1e-12


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", [*AGREEMENT, "last_layer"])
def test_the_training_pass_is_the_one_the_model_would_have_made(name: str, backend: Backend) -> None:
    """Same outputs, same gradients, batch statistics moved once, as many random draws: the gains leave no trace."""
    model, inputs, labels = case(name)
    plain = copy.deepcopy(model)
    gradient = gradient_of(model, inputs, labels)
    torch.manual_seed(2)
    outputs, slopes = outputs_and_slopes(model, inputs, gradient, backend)
    F.cross_entropy(outputs, labels).backward()
    next_draw = torch.rand(1)
    torch.manual_seed(2)
    expected = plain(inputs)
    F.cross_entropy(expected, labels).backward()
    assert torch.equal(next_draw, torch.rand(1))
    assert not slopes.requires_grad
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-13)
    for (key, mine), (_, theirs) in zip(model.named_buffers(), plain.named_buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-15, msg=key)
    for (key, one), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-13, msg=key)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", [*AGREEMENT, "last_layer"])
def test_a_pass_apart_tells_of_the_next_pass_and_leaves_no_trace(name: str, backend: Backend) -> None:
    model, inputs, labels = case(name)
    gradient = gradient_of(model, inputs, labels)
    buffers = [value.clone() for value in model.buffers()]
    torch.manual_seed(2)
    outputs, slopes = outputs_and_slopes(model, inputs, gradient, backend, apart=True)
    assert not outputs.requires_grad
    assert all(torch.equal(one, other) for one, other in zip(buffers, model.buffers(), strict=True))
    expected = outputs_and_slopes(model, inputs, gradient, backend)
    tolerance = 1e-6 if backend in ("finite_diff", "one_sided") else 1e-13
    torch.testing.assert_close(outputs, expected[0].detach(), rtol=0, atol=tolerance)
    torch.testing.assert_close(slopes, expected[1], rtol=0, atol=tolerance)


def kinked() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)
    )


@pytest.mark.parametrize("name", [*CASES, "kinked"])
@pytest.mark.parametrize("steps", [0, 40])
def test_one_sided_differences_are_within_their_stated_error_in_float32(name: str, steps: int) -> None:
    """New and trained; the exact gains are those of forward mode in float64."""
    torch.manual_seed(0)
    make, shape = {**CASES, "kinked": (kinked, (1, 6, 6))}[name]
    model, inputs, labels = make(), torch.rand(32, *shape), torch.arange(32) % 3
    optimiser = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimiser.step()
    model.eval()
    wide, batch = copy.deepcopy(model).double(), torch.rand(32, *shape)
    gradient = gradient_of(wide, inputs.double(), labels)
    exact = slopes_to_gains(*outputs_and_slopes(wide, batch.double(), gradient))
    narrow = {part: value.float() for part, value in gradient.items()}
    outputs, slopes = outputs_and_slopes(model, batch, narrow, "one_sided")
    assert outputs.requires_grad and not slopes.requires_grad and slopes.dtype == torch.float32
    error = (slopes_to_gains(outputs, slopes).double() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert float(error) < 0.011


def test_a_validation_gradient_moves_nothing_and_restores_each_mode() -> None:
    model, inputs, labels = case("batch norm")
    model[1].eval()
    before = [value.clone() for value in model.buffers()]
    gradient, loss = validation_gradient(model, inputs, lambda outputs: F.cross_entropy(outputs, labels))
    assert all(torch.equal(one, other) for one, other in zip(before, model.buffers(), strict=True))
    assert [module.training for module in model.modules()] == [True, True, False, True, True, True, True]
    assert all(value.grad is None for value in model.parameters())
    assert gradient.keys() == dict(model.named_parameters()).keys()
    assert float(loss) > 0


@pytest.mark.parametrize("narrow", ["autocast", "parameters"])
@pytest.mark.parametrize("backend", [*EXACT, "one_sided"])
def test_slopes_are_float32_under_mixed_precision(narrow: str, backend: Backend) -> None:
    torch.manual_seed(0)
    model, inputs, labels = perceptron(), torch.rand(6, 5), torch.arange(6) % 3
    if narrow == "parameters":
        model, inputs = model.bfloat16(), inputs.bfloat16()
    wide = copy.deepcopy(model).float()
    expected = outputs_and_slopes(wide, inputs.float(), gradient_of(wide, inputs.float(), labels), backend)[1]
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow == "autocast"):
        gradient = gradient_of(model, inputs, labels)
        outputs, slopes = outputs_and_slopes(model, inputs, gradient, backend)
    assert outputs.dtype == torch.bfloat16 and outputs.requires_grad
    assert slopes.dtype == torch.float32
    tolerance: dict[str, float] = {"rtol": 1e-2, "atol": 1e-3} if backend == "one_sided" else {}
    torch.testing.assert_close(slopes, expected, **tolerance)


def test_a_step_on_an_example_lowers_the_validation_loss_by_its_gain() -> None:
    """The relative error of the prediction halves with the step."""
    model, inputs, labels = case("perceptron")
    torch.manual_seed(3)
    batch, soft = torch.rand(4, 5).double(), torch.rand(4, 3).double().softmax(1)
    gains = slopes_to_gains(*outputs_and_slopes(model, batch, gradient_of(model, inputs, labels)))
    errors = []
    for rate in (1e-2, 5e-3, 2.5e-3):
        moved = copy.deepcopy(model)
        optimiser = torch.optim.SGD(moved.parameters(), rate)
        F.cross_entropy(moved(batch), soft, reduction="sum").backward()
        optimiser.step()
        with torch.no_grad():
            change = F.cross_entropy(moved(inputs), labels) - F.cross_entropy(model(inputs), labels)
        predicted = -rate * float((soft * gains).sum())
        errors.append(abs(float(change) / predicted - 1))
    assert errors[-1] < 0.05
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.2)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.2)


def test_the_last_layer_is_that_part_of_the_gains_which_its_own_gradient_makes() -> None:
    model, inputs, labels = case("perceptron")
    names = head_parameters(model)
    assert names == ("2.weight", "2.bias")
    gradient, _ = validation_gradient(model, inputs, lambda outputs: F.cross_entropy(outputs, labels), names)
    assert tuple(gradient) == names
    of_head = outputs_and_slopes(model, inputs, gradient, "last_layer", "2")[1]
    torch.testing.assert_close(of_head, outputs_and_slopes(model, inputs, gradient, "jvp")[1])
    alone = nn.Linear(5, 3).double()
    assert head_parameters(alone) == ("weight", "bias")
    assert outputs_and_slopes(alone, inputs, gradient_of(alone, inputs, labels), "last_layer")[1].shape == (6, 3)
    with pytest.raises(ConfigError, match="choose one of 0, 2"):
        head_parameters(model, "fc")
    with pytest.raises(ConfigError, match="does not make the outputs"):
        outputs_and_slopes(model, inputs, gradient, "last_layer", "0")
    with pytest.raises(ConfigError, match="there is none"):
        head_parameters(nn.Conv2d(1, 1, 1))


class Distance(nn.Module):
    """Distances to three points: an operation without forward or second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cdist(self.inner(inputs), torch.eye(3))


class Square(torch.autograd.Function):
    """A function of the user's own, once differentiable."""

    @staticmethod
    def forward(context, inputs):
        context.save_for_backward(inputs)
        return inputs * inputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, gradient):
        return 2 * context.saved_tensors[0] * gradient


class Own(Distance):
    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = Square.apply(self.inner(inputs))
        return found


@pytest.mark.parametrize(
    ("model", "backend", "message"),
    [
        (Distance, "jvp", "_cdist_forward has no derivative.*double_backward, or finite_diff"),
        (Distance, "double_backward", "_cdist_backward has no derivative.*finite_diff"),
        (Own, "jvp", r"Square\.apply.*has no derivative.*double_backward, or finite_diff"),
        (Own, "double_backward", "has no derivative.*finite_diff"),
    ],
)
def test_an_operation_without_a_derivative_is_named_with_the_backend_to_take(
    model: type[Distance], backend: Backend, message: str
) -> None:
    torch.manual_seed(0)
    made, inputs = model(), torch.rand(4, 5)
    gradient = gradient_of(made, inputs, torch.arange(4) % 3)
    with pytest.raises(ConfigError, match=message):
        outputs_and_slopes(made, inputs, gradient, backend)
    for other in ("finite_diff", "one_sided"):
        assert outputs_and_slopes(made, inputs, gradient, other)[1].isfinite().all()


def test_bad_models_and_gradients_are_named() -> None:
    model, inputs, labels = case("perceptron")
    gradient = gradient_of(model, inputs, labels)
    with pytest.raises(ConfigError, match="backend 'forward'"):
        outputs_and_slopes(model, inputs, gradient, "forward")
    with pytest.raises(DataError, match="is empty"):
        outputs_and_slopes(model, inputs, {})
    with pytest.raises(DataError, match=r"'0\.weight' \(2,\)"):
        outputs_and_slopes(model, inputs, {"0.weight": torch.zeros(2)})
    with pytest.raises(DataError, match=r"\(batch, labels\)"):
        outputs_of(nn.Flatten(0), inputs)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        outputs_and_slopes(model, inputs[:, :2], gradient)
    with pytest.raises(DataError, match=r"'0\.weight' is not finite"):
        gradient_of(model, inputs * torch.nan, labels)


def test_frozen_parameters_have_no_share_and_mappings_are_read() -> None:
    model, inputs, labels = case("perceptron")
    model[0].requires_grad_(False)
    gradient = gradient_of(model, inputs, labels)
    assert tuple(gradient) == ("2.weight", "2.bias")

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, values: Tensor) -> dict[str, Tensor]:
            return {"loss": values.sum(), "logits": self.inner(values)}

    renamed = {f"inner.{name}": value for name, value in gradient.items()}
    for backend in (*AGREEMENT, "last_layer"):
        found = outputs_and_slopes(Named(), {"values": inputs}, renamed, backend)[1]
        torch.testing.assert_close(found, outputs_and_slopes(model, (inputs,), gradient)[1], rtol=1e-6, atol=1e-9)


class Wrapped(nn.Module):
    """A module of which only the output differs."""

    def __init__(self, wrap: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.inner, self.wrap = nn.Linear(5, 3).double(), wrap

    def forward(self, inputs: Tensor) -> object:
        return self.wrap(self.inner(inputs))


class WithLogits(NamedTuple):
    logits: Tensor
    hidden: Tensor


@pytest.mark.parametrize("backend", [*AGREEMENT, "last_layer"])
@pytest.mark.parametrize(
    "wrap", [lambda z: {"logits": z}, lambda z: WithLogits(z, z), lambda z: SimpleNamespace(logits=z)]
)
def test_outputs_may_have_their_logits_under_that_name(wrap: Callable[[Tensor], object], backend: Backend) -> None:
    torch.manual_seed(0)
    model, inputs, labels = Wrapped(wrap), torch.rand(4, 5).double(), torch.arange(4) % 3
    gradient = gradient_of(model, inputs, labels)
    plain = {name.removeprefix("inner."): part for name, part in gradient.items()}
    found = outputs_and_slopes(model, inputs, gradient, backend)[1]
    torch.testing.assert_close(found, outputs_and_slopes(model.inner, inputs, plain)[1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("wrap", "what"),
    [
        (lambda z: (z, z), "a tuple"),
        (lambda z: {"scores": z}, "a dict"),
        (lambda z: z[:, 0], r"\(4,\)"),
        (lambda z: WithLogits(z[0], z), r"\(3,\)"),
        (lambda z: None, "a NoneType"),
    ],
)
def test_outputs_of_two_meanings_are_refused(wrap: Callable[[Tensor], object], what: str) -> None:
    with pytest.raises(DataError, match=rf"model: its output is {what}; give a module whose output is .*as its logits"):
        outputs_of(Wrapped(wrap), torch.rand(4, 5).double())


def test_gains_are_normalised_by_batch_or_row() -> None:
    gains = torch.tensor([[3.0, -1.0], [0.0, 0.0], [0.3, 0.1]])
    assert float(normalised(gains, "rms").square().mean()) == pytest.approx(1)
    torch.testing.assert_close(normalised(gains, "row").square().mean(1), torch.tensor([1.0, 0.0, 1.0]))
    assert normalised(gains, "none") is gains
    assert normalised(torch.zeros(2, 2), "rms").isfinite().all()
    assert normalised(torch.zeros(0, 2), "row").shape == (0, 2)


def test_gradients_are_averaged_and_measured_as_adam_does() -> None:
    model, inputs, labels = case("perceptron")
    first = gradient_of(model, inputs, labels)
    assert averaged(None, first, 0.9) == first
    second = {name: torch.ones_like(part) for name, part in first.items()}
    mean = averaged(first, second, 0.9)
    torch.testing.assert_close(mean["2.bias"], 0.9 * first["2.bias"] + 0.1)
    adam = torch.optim.Adam(model.parameters(), 1e-3)
    assert preconditioned(first, model, adam)["2.bias"] is first["2.bias"]
    F.cross_entropy(model(inputs), labels).backward()
    adam.step()
    moments = adam.state[model[2].bias]["exp_avg_sq"] / (1 - 0.999)
    torch.testing.assert_close(preconditioned(first, model, adam)["2.bias"], first["2.bias"] / (moments.sqrt() + 1e-8))
    with pytest.raises(ConfigError, match="SGD has no second moments"):
        preconditioned(first, model, torch.optim.SGD(model.parameters(), 0.1))
