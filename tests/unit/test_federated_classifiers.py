"""The classifiers: shapes, seeds, sizes they refuse."""

import pytest
import torch

from rayworks.core.errors import ConfigError
from rayworks.systems.federation.config import Config, ModelKind, ModelSection
from rayworks.systems.federation.training.classifiers import SMALLEST_SIDE, classifier_of, make

KINDS: tuple[ModelKind, ...] = ("perceptron", "convolutional", "lenet", "resnet18")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_takes_its_smallest_image_and_makes_logits_of_its_features(kind: ModelKind, channels: int) -> None:
    side = SMALLEST_SIDE[kind]
    model = make(ModelSection(kind=kind), (channels, side, side + 1), 7, 0).eval()
    inputs = torch.rand(3, channels, side, side + 1)
    assert model(inputs).shape == (3, 7)
    torch.testing.assert_close(model.logits(model.features(inputs)), model(inputs))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_smaller_image_and_plain_features_are_refused(kind: ModelKind) -> None:
    side = SMALLEST_SIDE[kind] - 1
    for shape in ((1, side, side), (12,)):
        with pytest.raises(ConfigError, match=r"model\.kind"):
            make(ModelSection(kind=kind), shape, 2, 0)


def test_lenet_has_the_published_sizes() -> None:
    """61,706 parameters for a 1x32x32 image and ten classes (LeCun et al. 1998 with full connections)."""
    model = make(ModelSection(kind="lenet"), (1, 32, 32), 10, 0)
    assert sum(value.numel() for value in model.parameters()) == 61_706


def test_resnet18_has_the_published_sizes() -> None:
    """11,173,962 parameters for CIFAR-10, GroupNorm having as many as BatchNorm; none of them is a buffer."""
    model = make(ModelSection(kind="resnet18"), (3, 32, 32), 10, 0)
    assert sum(value.numel() for value in model.parameters()) == 11_173_962
    assert not list(model.buffers())


def test_weights_follow_from_the_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = make(ModelSection(), (1, 8, 8), 10, 3).state_dict()
    assert torch.equal(torch.rand(1), expected)
    second, other = (make(ModelSection(), (1, 8, 8), 10, seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_moon_has_a_projection_and_vhl_more_outputs() -> None:
    inputs, base = torch.rand(2, 1, 8, 8), Config()
    assert classifier_of(base.of_method("moon"), (1, 8, 8), 10, 0).projection is not None
    assert classifier_of(base, (1, 8, 8), 10, 0).projection is None
    assert classifier_of(base.of_method("vhl"), (1, 8, 8), 10, 0)(inputs).shape == (2, 20)
