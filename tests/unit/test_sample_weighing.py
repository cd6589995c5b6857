"""Weights by the server's gradient: exact to autograd, and true to what a step does."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.func import functional_call, jvp

from rayworks.core.errors import DataError
from rayworks.systems.federation.config import ModelSection
from rayworks.systems.federation.training.classifiers import Classifier, make
from rayworks.systems.federation.training.sample_weighing import gains, read_gradient, server_gradient, weigh


@pytest.fixture
def model() -> Classifier:
    return make(ModelSection(kind="convolutional", hidden=8), (1, 8, 8), 3, 0).double()


def test_gains_are_inner_products_of_gradients(model: Classifier) -> None:
    torch.manual_seed(0)
    inputs, labels, pseudo = torch.rand(6, 1, 8, 8).double(), torch.arange(6) % 3, torch.rand(4, 1, 8, 8).double()
    gradient = server_gradient(model, inputs, labels)
    found = gains(model, pseudo, gradient)
    log_chances = F.log_softmax(model(pseudo), 1)
    for row in range(4):
        for label in range(3):
            parts = torch.autograd.grad(log_chances[row, label], list(model.parameters()), retain_graph=True)
            inner = sum(
                (part * gradient[name]).sum() for (name, _), part in zip(model.named_parameters(), parts, strict=True)
            )
            assert float(found[row, label].detach()) == pytest.approx(-float(inner), abs=1e-12)
    assert float((log_chances.exp() * found).detach().sum(1).abs().max()) < 1e-14


def test_a_step_on_an_example_lowers_the_servers_loss_by_its_gain(model: Classifier) -> None:
    torch.manual_seed(1)
    inputs, labels = torch.rand(5, 1, 8, 8).double(), torch.tensor([0, 1, 2, 0, 1])
    pseudo, soft = torch.rand(1, 1, 8, 8).double(), torch.tensor([[0.2, 0.5, 0.3]]).double()
    gain = float((gains(model, pseudo, server_gradient(model, inputs, labels)) * soft).sum().detach())
    before = float(F.cross_entropy(model(inputs), labels).detach())
    slope = torch.autograd.grad(F.cross_entropy(model(pseudo), soft), list(model.parameters()))
    rate = 1e-4
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), slope, strict=True):
            parameter -= rate * value
    change = (before - float(F.cross_entropy(model(inputs), labels).detach())) / rate
    assert change == pytest.approx(gain, rel=5e-3)


@pytest.mark.parametrize("kind", ["perceptron", "convolutional", "lenet", "resnet18"])
def test_gains_are_what_they_were_before_they_moved_to_learning(kind: str) -> None:
    """By ``torch.func.jvp``, which computes GroupNorm's derivative in another order: resnet18 alone differs, by rounding."""
    model = make(ModelSection(kind=kind), (1, 16, 16), 3, 0)
    torch.manual_seed(0)
    inputs, pseudo = torch.rand(6, 1, 16, 16), torch.rand(8, 1, 16, 16)
    gradient = server_gradient(model, inputs, torch.arange(6) % 3)
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    outputs, slopes = jvp(lambda values: functional_call(model, values, (pseudo,)), (parameters,), (gradient,))
    expected = -(slopes - (outputs.softmax(1) * slopes).sum(1, keepdim=True))
    found = gains(model, pseudo, gradient)
    if kind != "resnet18":
        assert torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))


def test_weights_are_positive_parts_of_mean_one() -> None:
    gain = torch.tensor([[3.0, -1.0], [-2.0, -2.0], [0.5, 0.1]])
    labels, weights = weigh(gain, 0.5)
    torch.testing.assert_close(labels.sum(1), torch.ones(3))
    assert labels[0].argmax() == 0
    assert weights[1] == 0
    assert weights[0] > weights[2] > 0
    assert float(weights.mean()) == pytest.approx(1.0)
    scaled_labels, scaled_weights = weigh(100 * gain, 0.5)
    torch.testing.assert_close(scaled_labels, labels)
    torch.testing.assert_close(scaled_weights, weights)
    assert not weigh(-torch.ones(2, 3), 1.0)[1].any()


def test_a_gradient_file_is_checked(model: Classifier, tmp_path: Path) -> None:
    path = tmp_path / "gradient.safetensors"
    gradient = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in model.named_parameters()}
    save_file(gradient, path)
    assert read_gradient(str(path), model).keys() == gradient.keys()
    for broken in ({**gradient, "head.bias": torch.zeros(7)}, {**gradient, "head.bias": torch.full((3,), np.nan)}):
        save_file(broken, path)
        with pytest.raises(DataError, match=r"head\.bias"):
            read_gradient(str(path), model)
    with pytest.raises(DataError, match=r"balance\.gradient_file"):
        read_gradient(str(tmp_path / "none.safetensors"), model)
