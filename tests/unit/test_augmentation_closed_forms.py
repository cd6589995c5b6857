"""The closed forms solve what they say they solve; weights follow their rules; settings that collapse are refused."""

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from rayworks.systems.augmentation.engine.closed_forms import raw_weights, scaled_weights, soft_labels, soft_marks
from rayworks.systems.augmentation.engine.settings import EngineSettings

SETTINGS = EngineSettings()


def batch(rows: int = 5, classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Centred gains, labels, log probabilities."""
    random = torch.Generator().manual_seed(seed)
    chances = torch.rand(rows, classes, generator=random, dtype=torch.float64).softmax(1)
    slopes = torch.randn(rows, classes, generator=random, dtype=torch.float64)
    labels = F.one_hot(torch.randint(0, classes, (rows,), generator=random), classes).double()
    return (chances * slopes).sum(1, keepdim=True) - slopes, labels, chances.log()


def test_the_linear_programme_is_solved_at_a_vertex() -> None:
    gains, labels, chances = batch(3, 3)
    found = soft_labels(gains, labels, chances, replace(SETTINGS, mode="lp"))
    scores = (found * gains).sum(1)
    weights = raw_weights(scores, SETTINGS)
    best = max(
        sum(weight * float(gains[row, label]) for row, (weight, label) in enumerate(zip(box, vertex, strict=True)))
        for box in itertools.product((0, 1), repeat=3)
        for vertex in itertools.product(range(3), repeat=3)
    )
    assert float((weights * scores).sum()) == pytest.approx(best, abs=1e-12)
    assert weights.all(), "the largest gain of a row is never negative, so no sample is dropped"


@pytest.mark.parametrize("mode", ["penalised", "prox", "model-tilt"])
def test_regularised_labels_beat_ten_thousand_others(mode: str) -> None:
    gains, labels, chances = batch(1)
    settings = EngineSettings(mode=mode, beta=0.7, tau=0.4, smoothing=0.2)
    start = {"prox": 0.8 * labels + 0.2 / 4, "model-tilt": chances.exp()}.get(mode)

    def worth(other: torch.Tensor) -> torch.Tensor:
        entropy = torch.special.entr(other).sum(1)
        if start is None:
            return (other * (gains + 0.7 * labels)).sum(1) + 0.4 * entropy
        return (other * gains).sum(1) + 0.4 * (entropy + (other * start.log()).sum(1))

    found = soft_labels(gains, labels, chances, settings)
    others = torch.distributions.Dirichlet(torch.ones(4).double()).sample((10_000,))
    near = (found + 1e-3 * torch.randn(1000, 4).double()).clamp_min(1e-9)
    assert float(worth(found)) > float(worth(others).max())
    assert float(worth(found)) >= float(worth(near / near.sum(1, keepdim=True)).max()) - 1e-12


def test_limits_of_retention_and_temperature() -> None:
    gains, labels, chances = batch()
    kept = soft_labels(gains, labels, chances, replace(SETTINGS, beta=1e6))
    torch.testing.assert_close(kept, labels, atol=1e-6, rtol=0)
    cold = soft_labels(gains, labels, chances, replace(SETTINGS, beta=0.3, tau=1e-4))
    assert torch.equal(cold.argmax(1), (gains + 0.3 * labels).argmax(1))
    torch.testing.assert_close(cold.max(1).values, torch.ones(5).double())
    greedy = soft_labels(gains, labels, chances, replace(SETTINGS, mode="lp"))
    assert torch.equal(greedy.argmax(1), gains.argmax(1))
    tilted = soft_labels(gains, labels, chances, replace(SETTINGS, mode="model-tilt", tau=0.2))
    assert ((tilted * gains).sum(1) >= 0).all(), "a tilt of the model's own label never hurts"


def test_marks_are_simplices_of_two() -> None:
    """Labels that hold together: each mark is the two-class label of its own gain."""
    gains, labels, _ = batch()
    logits = torch.randn(5, 4).double()
    for settings in (EngineSettings(beta=0.7, tau=0.4), EngineSettings(mode="model-tilt"), EngineSettings(mode="prox")):
        found = soft_marks(gains, labels, logits, settings)
        pair = torch.stack([gains.flatten(), torch.zeros(20).double()], 1)
        upstream = torch.stack([labels.flatten(), 1 - labels.flatten()], 1)
        chances = F.logsigmoid(torch.stack([logits.flatten(), -logits.flatten()], 1))
        torch.testing.assert_close(found.flatten(), soft_labels(pair, upstream, chances, settings)[:, 0])
    greedy = soft_marks(gains, labels, logits, replace(SETTINGS, mode="lp"))
    assert torch.equal(greedy, (gains >= 0).double())


def test_weights_follow_their_rules() -> None:
    scores = torch.tensor([-2.0, 0.0, 1.0, 3.0]).double()
    assert raw_weights(scores, SETTINGS).tolist() == [0, 1, 1, 1]
    assert raw_weights(scores, replace(SETTINGS, rule="relu")).tolist() == [0, 0, 1, 3]
    soft = replace(SETTINGS, rule="soft", rule_temperature=0.5)
    torch.testing.assert_close(scaled_weights(raw_weights(scores, soft), soft)[0] / 4, (scores / 0.5).softmax(0))
    assert raw_weights(scores * 1e6, soft).isfinite().all()
    for rule in ("hard", "relu", "soft"):
        for floor in (0.0, 0.5):
            settings = EngineSettings(rule=rule, floor=floor)
            weights, vanished = scaled_weights(raw_weights(scores, settings), settings)
            assert float(weights.mean()) == pytest.approx(1) and not vanished
            assert bool(weights[0] > 0) == (floor > 0 or rule == "soft")


def test_trusted_rows_keep_their_weight_and_all_zero_weights_are_none() -> None:
    raw, trusted = torch.tensor([0.0, 0.0, 1.0, 0.0]), torch.tensor([True, False, False, False])
    for rule in ("hard", "relu"):
        weights, vanished = scaled_weights(raw, EngineSettings(rule=rule), trusted)
        assert weights[0] > 0 and weights[1] == 0 and not vanished
    nothing = torch.zeros(3)
    for settings in (SETTINGS, EngineSettings(rule="relu", floor=0.3)):
        weights, vanished = scaled_weights(nothing, settings)
        assert vanished and torch.equal(weights, torch.ones(3))
    assert not scaled_weights(nothing, SETTINGS, torch.tensor([True, True, True]))[1]
