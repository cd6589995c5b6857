"""A client's steps against plain torch, and the terms of the objectives against their formulas."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rayworks.core.errors import DataError
from rayworks.systems.federation.config import LocalSection, ModelSection
from rayworks.systems.federation.rounds.clients import fade_factor
from rayworks.systems.federation.training import local_objectives as objectives
from rayworks.systems.federation.training.classifiers import Classifier, make
from rayworks.systems.federation.training.local_training import (
    Correction,
    Weighted,
    batches,
    control_variate,
    gradient_normaliser,
    load_weights,
    step_count,
    train,
    weights_of,
)

SECTION = LocalSection(batch_size=8, momentum=0.9, weight_decay=1e-3)


def blobs(count: int = 50) -> Weighted:
    draw = np.random.default_rng(0)
    return Weighted.real(draw.random((count, 1, 8, 8), np.float32), draw.integers(0, 4, count), 4)


def classifier() -> Classifier:
    return make(ModelSection(hidden=16), (1, 8, 8), 4, 0)


def after(correction: Correction | None = None, steps: int = 12, section: LocalSection = SECTION) -> dict:
    model = classifier()
    options = () if correction is None else (correction,)
    draw = np.random.default_rng(1)
    return train(model, blobs(), section, steps, 0.05, objectives.CrossEntropy(), draw, *options).weights


def same(first: dict, second: dict) -> bool:
    return all(np.array_equal(first[name], second[name]) for name in first)


def test_steps_are_those_of_plain_stochastic_gradient_descent() -> None:
    model, examples = classifier(), blobs()
    optimiser = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)
    for rows in batches(50, 8, 12, np.random.default_rng(1)):
        optimiser.zero_grad()
        loss = F.cross_entropy(model(examples.inputs[rows]), examples.labels[rows].argmax(1))
        loss.backward()
        optimiser.step()
    for name, value in after().items():
        np.testing.assert_allclose(value, weights_of(model)[name], atol=1e-6)


def test_fedprox_without_mu_is_fedavg_to_the_bit_and_with_it_stays_nearer() -> None:
    start, plain = weights_of(classifier()), after()
    assert same(plain, after(Correction(proximal=0.0)))
    near = after(Correction(proximal=1.0))
    distance = [sum(float(np.square(found[name] - start[name]).sum()) for name in start) for found in (plain, near)]
    assert distance[1] < 0.8 * distance[0]


def test_scaffold_without_variates_is_fedavg_and_its_offset_shifts_every_step() -> None:
    zeros = {name: torch.zeros_like(value) for name, value in classifier().named_parameters()}
    assert same(after(), after(Correction(offset=zeros)))
    section = LocalSection(batch_size=8, momentum=0.0)
    ones = {name: torch.ones_like(value) for name, value in zeros.items()}
    plain, shifted = after(None, 1, section), after(Correction(offset=ones), 1, section)
    for name in plain:
        np.testing.assert_allclose(plain[name] - shifted[name], 0.05, atol=1e-6)


def test_a_variate_becomes_the_mean_gradient_of_the_steps() -> None:
    """One full-batch step: c_i+ = c_i - c + (g - c_i + c) = g, whatever the variates were."""
    model, examples, section = classifier(), blobs(), LocalSection(batch_size=50, momentum=0.0)
    loss = F.cross_entropy(model(examples.inputs), examples.labels.argmax(1))
    gradient = torch.autograd.grad(loss, list(model.parameters()))
    draw = np.random.default_rng(3)
    before = weights_of(model)
    own, server = ({name: draw.normal(size=value.shape) for name, value in before.items()} for _ in range(2))
    offset = {name: torch.from_numpy(server[name] - own[name]).float() for name in before}
    result = train(model, examples, section, 1, 0.1, objectives.CrossEntropy(), draw, Correction(offset))
    found = control_variate(own, server, before, result.weights, 0.1 * result.normaliser)
    for (name, _), expected in zip(model.named_parameters(), gradient, strict=True):
        np.testing.assert_allclose(found[name], expected.numpy(), atol=1e-4)
    unchanged = control_variate(own, server, before, before, 0.0)
    np.testing.assert_allclose(unchanged["head.bias"], own["head.bias"].astype(np.float32))


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_the_normaliser_counts_unit_gradients(steps: int, momentum: float) -> None:
    moved = velocity = 0.0
    for _ in range(steps):
        velocity = momentum * velocity + 1.0
        moved += velocity
    assert gradient_normaliser(steps, momentum) == pytest.approx(moved)


def test_batches_are_whole_passes() -> None:
    found = list(batches(10, 4, 6, np.random.default_rng(0)))
    assert [len(rows) for rows in found] == [4, 4, 2, 4, 4, 2]
    assert sorted(np.concatenate(found[:3])) == sorted(np.concatenate(found[3:])) == list(range(10))


def test_the_number_of_steps_does_not_grow_with_pseudo_images_unless_asked() -> None:
    assert step_count(LocalSection(epochs=3, batch_size=32), 100, 900) == 12
    assert step_count(LocalSection(epochs=3, batch_size=32, match_steps=False), 100, 900) == 96
    assert step_count(LocalSection(steps=5), 100, 900) == 5
    assert step_count(LocalSection(steps=5), 0, 900) == 0


def test_joined_weights_have_mean_one_and_weightless_examples_vanish() -> None:
    real, pseudo = blobs(10), blobs(30)
    weights = torch.full((30,), 0.25)
    weights[:20] = 0.0
    joined = real.joined(Weighted(pseudo.inputs, pseudo.labels, weights))
    assert len(joined) == 20
    assert float(joined.weights.mean()) == pytest.approx(1.0)
    assert float(joined.weights[-1] / joined.weights[0]) == pytest.approx(0.25)
    assert real.joined(Weighted(pseudo.inputs, pseudo.labels, torch.zeros(30))) is real


def test_pseudo_images_fade_over_the_last_rounds() -> None:
    factors = [fade_factor(number, 10, 0.3) for number in range(1, 11)]
    np.testing.assert_allclose(factors, [1.0] * 8 + [2 / 3, 1 / 3])
    assert fade_factor(10, 10, 0.0) == fade_factor(1, 1, 0.3) == 1.0


def test_soft_cross_entropy_is_cross_entropy_for_hard_labels_and_linear_in_labels() -> None:
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    hard, ones = F.one_hot(labels, 4).float(), torch.ones(6)
    torch.testing.assert_close(objectives.soft_cross_entropy(logits, hard, ones), F.cross_entropy(logits, labels))
    other = hard.roll(1, 1)
    mixed = objectives.soft_cross_entropy(logits, 0.3 * hard + 0.7 * other, ones)
    parts = [objectives.soft_cross_entropy(logits, part, ones) for part in (hard, other)]
    torch.testing.assert_close(mixed, 0.3 * parts[0] + 0.7 * parts[1])


def test_corrections_of_logits() -> None:
    logits, counts = torch.tensor([[2.0, 2.0, 2.0]]), torch.tensor([16.0, 1.0, 0.0])
    assert objectives.restricted_softmax(counts > 0, 0.5)(logits).tolist() == [[2.0, 2.0, 1.0]]
    fedlc = objectives.calibrated_logits(counts, 1.0)(logits)[0]
    assert fedlc[:2].tolist() == [1.5, 1.0]
    assert fedlc[2] < -90
    balanced = objectives.balanced_softmax(counts)(logits).softmax(1)[0]
    torch.testing.assert_close(balanced, torch.tensor([16 / 17, 1 / 17, 0.0]), atol=1e-6, rtol=0)


def test_model_contrast_is_moons_formula() -> None:
    features, shared, previous = (torch.randn(5, 8) for _ in range(3))
    near, far = (torch.exp(F.cosine_similarity(features, other) / 0.5) for other in (shared, previous))
    expected = -(near / (near + far)).log().mean()
    torch.testing.assert_close(objectives.model_contrast(features, shared, previous, 0.5), expected)
    equal = objectives.model_contrast(features, shared, shared, 0.5)
    assert float(equal) == pytest.approx(math.log(2))


def test_alignment_is_least_where_features_meet_their_own_noise() -> None:
    noise, labels = torch.eye(3), torch.arange(3)
    met, crossed = (objectives.feature_alignment(noise, own, noise, labels) for own in (labels, labels.roll(1)))
    assert float(met) == pytest.approx(math.log(1 + 2 * math.exp(-10)), abs=1e-6)
    assert float(crossed) == pytest.approx(10 + math.log(1 + 2 * math.exp(-10)), abs=1e-4)
    assert float(objectives.feature_alignment(noise, labels + 9, noise, labels)) == 0.0


def test_fedmix_is_the_first_order_of_mixing_with_the_means() -> None:
    """Its distance to the true mixup loss shrinks like the square of the share."""
    torch.manual_seed(0)
    model, examples = classifier().double(), blobs(8)
    batch = objectives.Batch(examples.inputs.double(), examples.labels.double(), torch.ones(8).double())
    means, labels = torch.rand(8, 1, 8, 8).double(), torch.rand(8, 4).double().softmax(1)
    errors = []
    for share in (0.02, 0.01):
        objective = objectives.MixedMeans(means, labels, share, objectives.CrossEntropy())
        logits = model((1 - share) * batch.inputs + share * means)
        target = (1 - share) * batch.labels + share * labels
        exact = objectives.soft_cross_entropy(logits, target, batch.weights)
        errors.append(abs(float((objective(model, batch, 0) - exact).detach())))
    assert errors[1] < 0.35 * errors[0]


def test_vhl_without_alignment_is_two_cross_entropies() -> None:
    model = make(ModelSection(hidden=16), (1, 8, 8), 8, 0)
    examples, images, labels = blobs(6), torch.rand(9, 1, 8, 8), torch.arange(9) % 4
    batch = objectives.Batch(examples.inputs, examples.labels, torch.ones(6))
    found = objectives.VirtualHomogeneity(images, labels, 0.5, 0.0, objectives.CrossEntropy())(model, batch, 1)
    chosen = [6, 7, 8, 0, 1, 2]
    expected = F.cross_entropy(model(batch.inputs), batch.labels.argmax(1))
    expected = expected + 0.5 * F.cross_entropy(model(images[chosen]), labels[chosen] + 4)
    torch.testing.assert_close(found, expected)


def test_a_loss_that_is_infinite_and_weights_of_another_model_are_refused() -> None:
    with pytest.raises(DataError, match=r"local\.learning_rate"):
        train(classifier(), blobs(), SECTION, 50, 1e30, objectives.CrossEntropy(), np.random.default_rng(0))
    weights = weights_of(classifier())
    with pytest.raises(DataError, match=r"head\.bias"):
        load_weights(classifier(), {**weights, "head.bias": np.zeros(5, np.float32)})
    with pytest.raises(DataError, match="extra"):
        load_weights(classifier(), {**weights, "extra": np.zeros(1)})
