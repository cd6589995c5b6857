"""Every loss: its gains are explicit inner products of gradients, and one engine gives its rivals."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.augmentation_rivals import two_pass_slopes
from rayworks.core.errors import ConfigError, DataError
from rayworks.learning.sample_gains import outputs_and_slopes
from rayworks.learning.validation_gradients import validation_gradient
from rayworks.systems.augmentation.engine.losses import Classification, Contrastive, Loss, MultiLabel, Regression
from rayworks.systems.augmentation.engine.meta_weight_net import MetaWeightNet
from rayworks.systems.augmentation.engine.settings import EngineSettings


class Pairs(nn.Module):
    """Similarities of B images and B captions."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(5, 4), nn.Linear(3, 4)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        one, other = F.normalize(self.image(images), dim=1), F.normalize(self.text(texts), dim=1)
        return self.scale.exp() * one @ other.T


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))


CASES: dict[str, tuple[Loss, Tensor]] = {
    "classification": (Classification(), torch.tensor([0, 2, 1, 0])),
    "multi-label": (MultiLabel(), torch.tensor([[1.0, 0, 1], [0, 0, 0], [0.5, 1, 1], [0, 1, 0]])),
    "regression": (Regression(), torch.tensor([[1.0, -2, 0.3], [0, 0, 0], [0.5, 1, 1], [4, 1, 0]])),
    "contrastive": (Contrastive(), torch.tensor([0, 1, 1, 3])),
}


@pytest.mark.parametrize("name", CASES)
def test_gains_and_scores_are_inner_products_of_gradients(name: str) -> None:
    """The score of a sample is ``-<grad loss_i(Y_i), -g>`` for any label; a finite step confirms the gain of each label."""
    loss, labels = CASES[name]
    torch.manual_seed(0)
    model = (Pairs() if name == "contrastive" else plain()).double()
    inputs, held = (
        (torch.randn(4, 5).double(), torch.randn(4, 3).double())
        if name == "contrastive"
        else torch.randn(4, 5).double()
        for _ in range(2)
    )
    gradient, _ = validation_gradient(model, held, lambda z: loss.per_sample(z, loss.prepared(labels, z)).mean())
    outputs, slopes = outputs_and_slopes(model, inputs, gradient)
    gains = loss.gains(outputs.detach(), slopes)
    soft = torch.rand(4, outputs.shape[1]).double()
    if name in ("classification", "contrastive"):
        soft = soft / soft.sum(1, keepdim=True)
    scores = loss.scores(soft, outputs.detach(), gains)
    again = outputs_and_slopes(model, inputs, gradient)[0]
    for row, value in enumerate(loss.per_sample(again, soft)):
        parts = torch.autograd.grad(value, list(model.parameters()), retain_graph=True)
        inner = sum((part * g).sum() for part, g in zip(parts, gradient.values(), strict=True))
        assert float(scores[row]) == pytest.approx(float(inner), abs=1e-12)
    if name == "classification":
        assert float((outputs.detach().softmax(1) * gains).sum(1).abs().max()) < 1e-12


def test_contrastive_gains_are_the_mean_of_both_directions() -> None:
    similarities, slopes = torch.randn(3, 3).double(), torch.randn(3, 3).double()
    rows, columns = similarities.softmax(1), similarities.softmax(0)
    expected = -(2 * slopes - (rows * slopes).sum(1, keepdim=True) - (columns * slopes).sum(0)) / 2
    torch.testing.assert_close(Contrastive().gains(similarities, slopes), expected)
    same = Contrastive().prepared(torch.tensor([7, 3, 7]), similarities)
    assert same.tolist() == [[0.5, 0, 0.5], [0, 1, 0], [0.5, 0, 0.5]]
    with pytest.raises(DataError, match="B images and B captions"):
        Contrastive().prepared(torch.tensor([1, 2]), torch.zeros(2, 3))
    with pytest.raises(DataError, match="one caption number"):
        Contrastive().prepared(torch.tensor([1, 2]), similarities)
    with pytest.raises(ConfigError, match="gain_average"):
        Contrastive().check(EngineSettings(gain_average=0.5))


def test_regression_labels_maximise_their_penalised_gain() -> None:
    gains, upstream = torch.tensor([[0.6]]).double(), torch.tensor([[1.0]]).double()
    found = Regression().learned(gains, upstream, upstream, EngineSettings(beta=2.0))
    grid = torch.linspace(-3, 3, 6001).double()
    assert float(found) == pytest.approx(float(grid[(grid * 0.6 - (grid - 1).square()).argmax()]), abs=1e-3)
    for settings in (EngineSettings(beta=0.0), EngineSettings(mode="lp")):
        with pytest.raises(ConfigError, match="mode penalised and a beta"):
            Regression().check(settings)


@pytest.mark.parametrize("rows", [1, 7])
def test_learning_to_reweight_is_a_special_case(rows: int) -> None:
    """The slope along each weight, by the official two-pass procedure, is ``-eta <y_i, A_i>``."""
    torch.manual_seed(1)
    model, inputs, labels = plain().double(), torch.randn(rows, 5).double(), torch.arange(rows) % 3
    held, truth = torch.randn(6, 5).double(), torch.arange(6) % 3
    official = two_pass_slopes(model, (inputs, labels), (held, truth), rate=1e-3)
    gradient, _ = validation_gradient(model, held, lambda z: F.cross_entropy(z, truth))
    outputs, slopes = outputs_and_slopes(model, inputs, gradient)
    loss = Classification()
    soft = loss.prepared(labels, outputs)
    scores = loss.scores(soft, outputs, loss.gains(outputs, slopes)).detach()
    torch.testing.assert_close(official, -1e-3 * scores, rtol=1e-9, atol=1e-15)


def test_a_meta_weight_net_learns_that_samples_of_large_loss_hurt() -> None:
    network = MetaWeightNet(seed=3)
    losses = torch.linspace(0, 3, 32)
    first = network.weights(losses, 1 - losses)
    assert (first > 0).all() and (first < 1).all()
    for _ in range(300):
        found = network.weights(losses, 1 - losses)
    assert float(found[0] / found[-1]) > 2
    twin = MetaWeightNet(seed=4)
    twin.load_state_dict(network.state_dict())
    assert torch.equal(twin.weights(losses, losses), network.weights(losses, losses))


@pytest.mark.parametrize(
    ("loss", "labels", "message"),
    [
        (Classification(), torch.tensor([0, 3]), r"row 1, 3, is no class; give numbers of 0 to 2"),
        (Classification(), torch.tensor([-1, 0]), "row 0, -1"),
        (Classification(), torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.2, 0.0]]), "row 1.*no distribution"),
        (Classification(), torch.tensor([[1.5, -0.5, 0.0], [1, 0, 0]]), "row 0.*no distribution"),
        (Classification(), torch.tensor([[float("nan"), 1, 0], [1, 0, 0]]), "row 0"),
        (Classification(), torch.tensor([0.2, 0.4]), r"are torch\.float32; give whole numbers, or \(2, 3\)"),
        (Classification(), torch.zeros(2, 2, dtype=torch.long), r"are \(2, 2\); give \(2, 3\)"),
        (Classification(), torch.zeros(3, dtype=torch.long), r"are \(3, 3\); give \(2, 3\)"),
        (MultiLabel(), torch.tensor([[0.0, 0, 2], [0, 0, 0]]), "outside"),
        (Regression(), torch.tensor([[0.0, 0, 0], [0, float("inf"), 0]]), "row 1.*not finite"),
    ],
)
def test_labels_that_are_none_are_named(loss: Loss, labels: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        loss.prepared(labels, torch.zeros(2, 3))
