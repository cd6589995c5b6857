"""Small networks for images, tables and embedded texts."""

from collections.abc import Sequence

import torch
from torch import nn

from rayworks.core import seeds

SMALLEST = 16
"""Side of images below which a perceptron takes them."""


def network(shape: Sequence[int], classes: int, width: int, seed: int) -> nn.Module:
    """A network whose first weights are a function of the seed.

    Args:
        shape: of one input: ``(C, H, W)``, where three convolutions make the features, or ``(columns,)``, where two hidden
            layers do; images with a side below 16 are taken as columns.
        width: channels of the first convolution, or units of a hidden layer over 8.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.derive_small(seed, "network"))
        if len(shape) == 3 and min(shape[1:]) >= SMALLEST:
            return _convolutional(shape[0], classes, width)
        size, hidden = int(torch.Size(shape).numel()), 8 * width
        layers = [nn.Flatten(), nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(hidden, classes))


def _convolutional(channels: int, classes: int, width: int) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((channels, width), (width, 2 * width)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16 * width, classes))
