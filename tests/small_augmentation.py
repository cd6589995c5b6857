"""A table for augmentation: three classes of points, and a column of words."""

from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor, nn

NETWORK = "tests.small_augmentation:network"


def save_rows(path: Path, count: int, seed: int = 0) -> str:
    """Write rows of four numbers and a word, with a label; the path."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    points = 2 * np.eye(4)[labels] + 0.7 * random.normal(size=(count, 4))
    table = pd.DataFrame(points, columns=["a", "b", "c", "d"])
    table["word"] = np.where(random.random(count) < 0.5, "left", "right")
    table["label"] = np.array(["one", "two", "three"])[labels]
    table.to_csv(path, index=False)
    return str(path)


def network(shape: tuple[int, ...], classes: int) -> nn.Module:
    """One layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), classes))


def wrong_network(shape: tuple[int, ...], classes: int) -> nn.Module:
    """One output too many."""
    return network(shape, classes + 1)


def dropping_network(shape: tuple[int, ...], classes: int) -> nn.Module:
    """One layer behind dropout."""
    return nn.Sequential(nn.Dropout(0.5), *network(shape, classes))


def tied_network(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Two layers of one weight, and one that is frozen."""
    size = int(np.prod(shape))
    first, second, frozen = nn.Linear(size, size), nn.Linear(size, size), nn.Linear(size, size)
    second.weight = first.weight
    frozen.requires_grad_(requires_grad=False)
    return nn.Sequential(nn.Flatten(), first, second, frozen, nn.Linear(size, classes))


def pair_network(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Fails on every input."""

    class Pair(nn.Module):
        def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
            return inputs, inputs

    return Pair()
