"""Sections 1.3 to 1.6 of the specification, as identities in float64: whatever the batch, the model and the settings."""

import copy
import itertools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rayworks.learning.sample_gains import normalised, outputs_and_slopes, slopes_to_gains
from rayworks.learning.validation_gradients import validation_gradient
from rayworks.systems.augmentation.engine.closed_forms import raw_weights, scaled_weights, soft_labels, soft_marks
from rayworks.systems.augmentation.engine.losses import Classification, Contrastive, Loss, MultiLabel, Regression
from rayworks.systems.augmentation.engine.meta_weight_net import MetaWeightNet
from rayworks.systems.augmentation.engine.saflex import Saflex
from rayworks.systems.augmentation.engine.settings import EngineSettings

FEW = settings(max_examples=25)
SEEDS = st.integers(0, 2**31 - 1)
ROWS, CLASSES = st.integers(1, 5), st.integers(2, 5)
AT_ONCE: dict[str, Any] = {"warm_up": 0, "progress": 0.0, "gradient_average": 0.0}


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distributions(seed: int, rows: int, classes: int) -> Tensor:
    """Rows of the simplex, every third of them a vertex."""
    found = (2 * drawn(seed, rows, classes)).softmax(1)
    vertex = F.one_hot(found.argmax(1), classes).double()
    return torch.where((torch.arange(rows) % 3 == 0)[:, None], vertex, found)


class Pairs(nn.Module):
    """Scaled similarities of B images and B captions."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text, self.scale = nn.Linear(4, 3), nn.Linear(2, 3), nn.Parameter(torch.tensor(1.0))

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        return self.scale.exp() * F.normalize(self.image(images), dim=1) @ F.normalize(self.text(texts), dim=1).T


@dataclass(frozen=True)
class Case:
    """A model, a batch of it, and the gradient of a loss on other rows."""

    model: nn.Module
    inputs: Any
    labels: Tensor
    gradient: dict[str, Tensor]


def case(loss: Loss, rows: int, classes: int, seed: int, scale: float = 1.0) -> Case:
    torch.manual_seed(seed)
    model: nn.Module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, classes))
    inputs: Any = drawn(seed + 1, rows, 4)
    held: Any = drawn(seed + 2, rows + 2, 4)
    if isinstance(loss, Contrastive):
        model, classes = Pairs(), rows
        inputs, held = ((drawn(seed + turn, rows, 4), drawn(seed + turn + 2, rows, 2)) for turn in (1, 2))
    model = model.double()
    with torch.no_grad():
        for value in model.parameters():
            value *= scale
    count = rows if isinstance(loss, Contrastive) else rows + 2
    labels = labels_of(loss, rows, classes, seed + 5)
    truth = labels_of(loss, count, classes, seed + 6)
    gradient, _ = validation_gradient(model, held, lambda z: loss.per_sample(z, truth).mean())
    return Case(model, inputs, labels, gradient)


def labels_of(loss: Loss, rows: int, classes: int, seed: int) -> Tensor:
    if isinstance(loss, MultiLabel):
        return drawn(seed, rows, classes).sigmoid()
    return drawn(seed, rows, classes) if isinstance(loss, Regression) else distributions(seed, rows, classes)


@FEW
@given(ROWS, CLASSES, SEEDS, st.floats(0.2, 4))
def test_the_expected_score_is_zero_and_some_label_never_hurts(
    rows: int, classes: int, seed: int, scale: float
) -> None:
    """``sum_k p_k A_k = 0``, so the largest gain of a row is at least 0, and the linear programme drops no sample."""
    one = case(Classification(), rows, classes, seed, scale)
    outputs, slopes = outputs_and_slopes(one.model, one.inputs, one.gradient)
    gains = slopes_to_gains(outputs, slopes)
    unit = 1 + float(slopes.abs().max())
    assert float((outputs.detach().softmax(1) * gains).sum(1).abs().max()) < 1e-12 * unit
    assert float(gains.max(1).values.min()) > -1e-12 * unit


@FEW
@given(ROWS, CLASSES, SEEDS, st.floats(1e-3, 1e3))
def test_gains_are_linear_in_the_gradient_and_normalised_ones_know_no_unit(
    rows: int, classes: int, seed: int, factor: float
) -> None:
    """So a validation loss that is summed, not averaged, changes the unit alone."""
    one = case(Classification(), rows, classes, seed)
    other = {name: drawn(seed + place, *part.shape) for place, (name, part) in enumerate(one.gradient.items())}

    def gains(gradient: dict[str, Tensor]) -> Tensor:
        return slopes_to_gains(*outputs_and_slopes(one.model, one.inputs, gradient))

    mixed = gains({name: factor * part + other[name] for name, part in one.gradient.items()})
    torch.testing.assert_close(mixed, factor * gains(one.gradient) + gains(other), rtol=1e-9, atol=1e-9)
    scaled = {name: factor * part for name, part in one.gradient.items()}
    assume(float(gains(one.gradient).square().mean(1).min().sqrt()) > 1e-4)
    torch.testing.assert_close(
        normalised(gains(scaled), "rms"), normalised(gains(one.gradient), "rms"), rtol=1e-4, atol=0
    )
    torch.testing.assert_close(
        normalised(gains(scaled), "row"), normalised(gains(one.gradient), "row"), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("loss", [Classification(), MultiLabel(), Regression(), Contrastive()])
@FEW
@given(rows=st.integers(2, 5), classes=CLASSES, seed=SEEDS)
def test_a_step_on_any_labels_with_any_weights_lowers_the_loss_by_their_score(
    loss: Loss, rows: int, classes: int, seed: int
) -> None:
    """``<g, grad sum_i w_i loss_i(Y_i)> = sum_i w_i score_i``: the first order of the outer loss, for every loss."""
    one = case(loss, rows, classes, seed)
    outputs, slopes = outputs_and_slopes(one.model, one.inputs, one.gradient)
    weights = drawn(seed + 9, rows).exp()
    losses = loss.per_sample(outputs, one.labels)
    parts = torch.autograd.grad((weights * losses).sum(), list(one.model.parameters()))
    inner = sum((part * g).sum() for part, g in zip(parts, one.gradient.values(), strict=True))
    found = outputs.detach()
    scores = loss.scores(one.labels, found, loss.gains(found, slopes))
    assert float((weights * scores).sum()) == pytest.approx(float(inner), rel=1e-9, abs=1e-10)


@FEW
@given(st.integers(1, 3), st.integers(2, 3), SEEDS)
def test_no_vertex_of_the_linear_programme_is_better(rows: int, classes: int, seed: int) -> None:
    one = case(Classification(), rows, classes, seed)
    outputs, slopes = outputs_and_slopes(one.model, one.inputs, one.gradient)
    gains = slopes_to_gains(outputs, slopes)
    greedy = EngineSettings(mode="lp", allow_greedy=True)
    scores = (soft_labels(gains, one.labels, outputs.detach().log_softmax(1), greedy) * gains).sum(1)
    weights = raw_weights(scores, greedy)
    best = max(
        sum(float(weight * gains[row, label]) for row, (weight, label) in enumerate(zip(box, vertex, strict=True)))
        for box in itertools.product((0, 1), repeat=rows)
        for vertex in itertools.product(range(classes), repeat=rows)
    )
    assert float((weights * scores).sum()) == pytest.approx(best, abs=1e-12)


@FEW
@given(ROWS, CLASSES, SEEDS, st.floats(0, 10), st.floats(0.1, 5), st.floats(0.05, 1))
def test_soft_labels_are_where_no_direction_in_the_simplex_gains(
    rows: int, classes: int, seed: int, beta: float, tau: float, smoothing: float
) -> None:
    """The slope of each regularised objective is the same along all labels of a row; it is concave, so this is its top."""
    gains, upstream = drawn(seed, rows, classes), distributions(seed + 1, rows, classes)
    log_chances = drawn(seed + 2, rows, classes).log_softmax(1)
    starts = {
        "penalised": 0.0,
        "prox": ((1 - smoothing) * upstream + smoothing / classes).log(),
        "model-tilt": log_chances,
    }
    for mode, start in starts.items():
        chosen = EngineSettings(mode=mode, beta=beta, tau=tau, smoothing=smoothing)
        found = soft_labels(gains, upstream, log_chances, chosen)
        slope = gains + (beta * upstream if mode == "penalised" else 0) - tau * (found.log() - start)
        torch.testing.assert_close(slope, slope[:, :1].expand_as(slope), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.sum(1), torch.ones(rows).double())
    centred = gains - (log_chances.exp() * gains).sum(1, keepdim=True)
    tilted = soft_labels(centred, upstream, log_chances, EngineSettings(mode="model-tilt", tau=tau))
    assert float((tilted * centred).sum(1).min()) > -1e-12, "a tilt of the model's own label never hurts"


@FEW
@given(ROWS, CLASSES, SEEDS, st.floats(0, 3), st.floats(0.5, 5), st.floats(0.05, 1))
def test_soft_marks_are_where_no_direction_gains(
    rows: int, classes: int, seed: int, beta: float, tau: float, smoothing: float
) -> None:
    gains, marks = drawn(seed, rows, classes), drawn(seed + 1, rows, classes).sigmoid()
    logits = drawn(seed + 2, rows, classes)
    smoothed = torch.logit((1 - smoothing) * marks + smoothing / 2)
    starts = {"penalised": beta * (2 * marks - 1) / tau, "prox": smoothed, "model-tilt": logits}
    for mode, start in starts.items():
        found = soft_marks(gains, marks, logits, EngineSettings(mode=mode, beta=beta, tau=tau, smoothing=smoothing))
        torch.testing.assert_close(tau * (torch.logit(found) - start), gains, rtol=0, atol=1e-6)


@FEW
@given(ROWS, CLASSES, SEEDS, st.floats(0, 5), st.floats(0.1, 3), st.sampled_from(["hard", "relu", "soft"]))
def test_the_engine_is_its_closed_form_and_scores_know_no_beta(
    rows: int, classes: int, seed: int, beta: float, tau: float, rule: str
) -> None:
    one = case(Classification(), rows, classes, seed)
    held = drawn(seed + 7, 4, 4), distributions(seed + 8, 4, classes)
    chosen = EngineSettings(beta=beta, tau=tau, rule=rule, normalise="none", collapse=0.0, **AT_ONCE)
    found = Saflex(chosen, lambda _: held).weigh(one.model, one.inputs, one.labels)
    gradient, _ = validation_gradient(one.model, held[0], lambda z: F.cross_entropy(z, held[1]))
    gains = slopes_to_gains(*outputs_and_slopes(one.model, one.inputs, gradient, apart=True))
    torch.testing.assert_close(found.gains, gains)
    labels = ((gains + beta * one.labels) / tau).softmax(1)
    scores = (labels * gains).sum(1)
    assume(float(scores.abs().min()) > 1e-9)
    raw = {"hard": (scores >= 0).double(), "relu": scores.clamp_min(0), "soft": (scores / 0.3).exp()}[rule]
    gone = not raw.any()
    torch.testing.assert_close(found.labels, one.labels if gone else labels)
    torch.testing.assert_close(found.scores, scores)
    torch.testing.assert_close(found.weights, torch.ones_like(raw) if gone else raw / raw.mean(), rtol=1e-6, atol=1e-9)


@FEW
@given(
    st.lists(st.floats(-5, 5, allow_subnormal=False), min_size=1, max_size=8),
    st.lists(st.booleans(), min_size=8, max_size=8),
    st.floats(0, 0.9),
    st.sampled_from(["hard", "relu", "soft"]),
)
def test_weights_have_a_mean_of_one_and_order_the_scores(
    scores: list[float], held: list[bool], floor: float, rule: str
) -> None:
    chosen, values = EngineSettings(rule=rule, floor=floor), torch.tensor(scores, dtype=torch.float64)
    trusted = torch.tensor(held[: len(scores)])
    weights, vanished = scaled_weights(raw_weights(values, chosen), chosen, trusted)
    assert float(weights.mean()) == pytest.approx(1, abs=1e-9) and float(weights.min()) >= 0
    assert bool(vanished) == (rule != "soft" and not trusted.any() and raw_weights(values, chosen).sum() == 0)
    free = weights[~trusted][values[~trusted].argsort()]
    assert (free.diff() >= -1e-9).all()


@FEW
@given(st.integers(2, 6), SEEDS)
def test_a_weight_network_has_the_gradient_of_the_loss_after_a_step(rows: int, seed: int) -> None:
    """Against the whole of it: an unrolled step whose weights are the network's, and one backward pass through both."""
    one = case(Classification(), rows, 3, seed)
    held, truth, rate = drawn(seed + 7, 4, 4), torch.arange(4) % 3, 1e-6
    network = MetaWeightNet(seed)
    net = copy.deepcopy(network.net).double()
    own = dict(one.model.named_parameters())
    losses = Classification().per_sample(one.model(one.inputs), one.labels)
    raw = net(losses.detach()[:, None])[:, 0]
    parts = torch.autograd.grad((raw / raw.sum() * losses).sum(), list(own.values()), create_graph=True)
    moved = {name: value - rate * part for (name, value), part in zip(own.items(), parts, strict=True)}
    after = F.cross_entropy(torch.func.functional_call(one.model, moved, (held,)), truth)
    unrolled = torch.autograd.grad(after, list(net.parameters()))

    gradient, _ = validation_gradient(one.model, held, lambda z: F.cross_entropy(z, truth))
    outputs, slopes = outputs_and_slopes(one.model, one.inputs, gradient)
    loss = Classification()
    scores = loss.scores(one.labels, outputs.detach(), loss.gains(outputs.detach(), slopes))
    network.weights(losses, scores)
    for mine, theirs in zip(network.net.parameters(), unrolled, strict=True):
        assert mine.grad is not None
        # The engine's network is in float32.
        torch.testing.assert_close(mine.grad.double(), theirs / rate, rtol=1e-3, atol=1e-6)


@settings(max_examples=10)
@given(st.integers(2, 4), SEEDS)
def test_gains_of_pairs_are_the_explicit_ones_of_each_direction(pairs: int, seed: int) -> None:
    one = case(Contrastive(), pairs, pairs, seed)
    outputs, slopes = outputs_and_slopes(one.model, one.inputs, one.gradient)
    found = outputs.detach()
    directions = {
        1: slopes_to_gains(found, slopes),
        0: slopes_to_gains(found.T, slopes.T).T,
    }
    for dimension, gains in directions.items():
        chances = outputs.log_softmax(dimension)
        for row, column in itertools.product(range(pairs), repeat=2):
            parts = torch.autograd.grad(chances[row, column], list(one.model.parameters()), retain_graph=True)
            inner = sum((part * g).sum() for part, g in zip(parts, one.gradient.values(), strict=True))
            assert float(gains[row, column]) == pytest.approx(-float(inner), abs=1e-12)
    torch.testing.assert_close(Contrastive().gains(found, slopes), (directions[0] + directions[1]) / 2)
    upstream = torch.eye(pairs).double()
    labels = Contrastive().learned(directions[1], upstream, found, EngineSettings(beta=2.0, tau=0.5))
    torch.testing.assert_close(labels, ((directions[1] + 2 * upstream) / 0.5).softmax(1))


@FEW
@given(st.permutations(range(6)), SEEDS, st.sampled_from(["penalised", "prox", "model-tilt"]))
def test_the_order_of_a_batch_does_not_matter_and_runs_repeat(order: list[int], seed: int, mode: str) -> None:
    one = case(Classification(), 6, 3, seed)
    held = drawn(seed + 7, 4, 4), distributions(seed + 8, 4, 3)

    def weigh(rows: list[int]) -> Tensor:
        saflex = Saflex(EngineSettings(mode=mode, rule="soft", **AT_ONCE), lambda _: held)
        found = saflex.weigh(one.model, one.inputs[rows], one.labels[rows])
        return torch.cat([found.labels, found.weights[:, None]], 1)

    straight = weigh(list(range(6)))
    torch.testing.assert_close(weigh(order), straight[order], atol=1e-12, rtol=0)
    assert torch.equal(weigh(list(range(6))), straight)
