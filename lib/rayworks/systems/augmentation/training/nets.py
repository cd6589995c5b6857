"""Small networks for images, tables and embedded texts, or the user's own."""

from collections.abc import Sequence

import torch
from torch import nn

from rayworks.core import seeds
from rayworks.core.errors import ConfigError
from rayworks.core.registry import of_the_user

SMALLEST = 16
"""Side of images below which a perceptron takes them."""
OWN = "own"


def network(shape: Sequence[int], classes: int, width: int, seed: int, name: str = OWN) -> nn.Module:
    """A network whose first weights are a function of the seed.

    Args:
        shape: of one input: ``(C, H, W)``, where three convolutions make the features, or ``(columns,)``, where two hidden
            layers do; images with a side below 16 are taken as columns.
        width: channels of the first convolution, or units of a hidden layer over 8.
        name: ``own``, or ``module:function`` of the user's, which takes shape and classes and returns a module.

    Raises:
        ConfigError: the user's function cannot be imported, or returns no module.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.derive_small(seed, "network"))
        if name != OWN:
            return _users(name, tuple(shape), classes)
        if len(shape) == 3 and min(shape[1:]) >= SMALLEST:
            return _convolutional(shape[0], classes, width)
        size, hidden = int(torch.Size(shape).numel()), 8 * width
        layers = [nn.Flatten(), nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(hidden, classes))


def _users(name: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    function = of_the_user("training.network", name, f"is unknown; give {OWN} or module:function")
    try:
        made = function(shape, classes)
    except Exception as error:
        raise ConfigError(f"training.network: {name!r} failed on {shape}, {classes} ({error})") from error
    if not isinstance(made, nn.Module):
        raise ConfigError(f"training.network: {name!r} returned a {type(made).__name__}; return a torch.nn.Module")
    return made


def _convolutional(channels: int, classes: int, width: int) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((channels, width), (width, 2 * width)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            # From torch's own start this net stands still for some hundred steps, and an engine that begins there kills it.
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return nn.Sequential(*layers, nn.Linear(16 * width, classes))
