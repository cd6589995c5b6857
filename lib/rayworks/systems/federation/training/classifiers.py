"""The classifiers that a federation trains: a perceptron, a two-convolution network, LeNet, ResNet-18 with GroupNorm.

None has batch statistics: those of pseudo-images would leak into what real images are normalised by. Inputs in [0, 1] are
normalised by fixed constants inside, so that real and pseudo-images cannot be treated differently.
"""

import torch
from torch import Tensor, nn

from rayworks.core.errors import ConfigError
from rayworks.core.seeds import derive_small
from rayworks.systems.federation.config import Config, ModelSection

CENTRE, SPREAD = 0.5, 0.5
PROJECTION = 64
"""Width of MOON's projection head."""
GROUPS = 32
"""Groups of GroupNorm in ResNet-18."""
SMALLEST_SIDE = {"perceptron": 1, "convolutional": 4, "lenet": 16, "resnet18": 8}


class Classifier(nn.Module):
    """A trunk that makes features, and a linear head."""

    def __init__(self, trunk: nn.Module, width: int, classes: int, projection: bool = False) -> None:
        super().__init__()
        self.trunk = trunk
        self.projection: nn.Module | None = None
        if projection:
            self.projection = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, PROJECTION))
        self.head = nn.Linear(PROJECTION if projection else width, classes)

    def features(self, inputs: Tensor) -> Tensor:
        """What the head sees: ``(batch, width)``, behind the projection if there is one."""
        features: Tensor = self.trunk((inputs - CENTRE) / SPREAD)
        return features if self.projection is None else self.projection(features)

    def logits(self, features: Tensor) -> Tensor:
        """``(batch, classes)`` of features."""
        logits: Tensor = self.head(features)
        return logits

    def forward(self, inputs: Tensor) -> Tensor:
        """``(batch, classes)`` of inputs ``(batch, channels, height, width)`` or ``(batch, features)`` in [0, 1]."""
        return self.logits(self.features(inputs))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with GroupNorm and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = nn.GroupNorm(GROUPS, outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.GroupNorm(GROUPS, outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.GroupNorm(GROUPS, outputs)
            )

    def forward(self, inputs: Tensor) -> Tensor:
        """``(batch, outputs, height / stride, width / stride)``."""
        inner = torch.relu(self.first_norm(self.first(inputs)))
        return torch.relu(self.second_norm(self.second(inner)) + self.shortcut(inputs))


def make(
    model: ModelSection, shape: tuple[int, ...], classes: int, seed: int, *, projection: bool = False
) -> Classifier:
    """A classifier whose weights are a function of the seed.

    Args:
        shape: shape of one input, ``(channels, height, width)`` or ``(features,)``.
        projection: put MOON's two-layer projection head before the linear one.

    Raises:
        ConfigError: the kind cannot take inputs of this shape.
    """
    if model.kind != "perceptron" and len(shape) != 3:
        raise ConfigError(
            f"model.kind: {model.kind} needs images, the data has {shape[0]} plain features; use perceptron"
        )
    if min(shape[1:], default=1) < (least := SMALLEST_SIDE[model.kind]):
        raise ConfigError(
            f"model.kind: {model.kind} needs images of at least {least} pixels a side, the data has {shape[1]} by "
            f"{shape[2]}; use convolutional or perceptron"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_small(seed, "classifier"))
        trunk, width = _trunk(model, shape)
        return Classifier(trunk, width, classes, projection)


def classifier_of(config: Config, shape: tuple[int, ...], classes: int, seed: int) -> Classifier:
    """The classifier that a method trains: MOON's has a projection head, VHL's an extra output for each noise class.

    Raises:
        ConfigError: as of :func:`make`.
    """
    outputs = 2 * classes if config.local.objective == "vhl" else classes
    return make(config.model, shape, outputs, seed, projection=config.strategy.name == "moon")


def _trunk(model: ModelSection, shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    if model.kind == "perceptron":
        size = int(torch.Size(shape).numel())
        return nn.Sequential(nn.Flatten(), nn.Linear(size, model.hidden), nn.ReLU()), model.hidden
    channels, height, width = shape
    if model.kind == "convolutional":
        flat = 64 * (height // 4) * (width // 4)
        layers = [*_convolution(channels, 32, 2), *_convolution(32, 64, 2), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(flat, model.hidden), nn.ReLU()), model.hidden
    if model.kind == "lenet":
        flat = 16 * (((height - 4) // 2 - 4) // 2) * (((width - 4) // 2 - 4) // 2)
        layers = [*_convolution(channels, 6, 0), *_convolution(6, 16, 0), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(flat, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()), 84
    return _resnet18(channels), 512


def _convolution(inputs: int, outputs: int, padding: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2)]


def _resnet18(channels: int) -> nn.Module:
    """ResNet-18 for small images: a 3x3 stem without pooling, two blocks at each of 64, 128, 256 and 512 channels."""
    layers: list[nn.Module] = [nn.Conv2d(channels, 64, 3, 1, 1, bias=False), nn.GroupNorm(GROUPS, 64), nn.ReLU()]
    before = 64
    for stage, outputs in enumerate((64, 128, 256, 512)):
        layers += [ResidualBlock(before, outputs, 1 if stage == 0 else 2), ResidualBlock(outputs, outputs, 1)]
        before = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
