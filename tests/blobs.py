"""Gaussian blobs with some labels wrong, and rows held out whose labels are right."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

CLASSES, WIDTH = 5, 20


@dataclass(frozen=True)
class Blobs:
    """Rows to train on, trusted ones, and rows to test on."""

    inputs: Tensor
    labels: Tensor
    wrong: Tensor
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def blobs(rows: int = 1000, wrong: float = 0.3, seed: int = 0, trusted: int = 100, tilt: float = 0.0) -> Blobs:
    """Five classes in twenty dimensions.

    Args:
        wrong: share of training rows that get another label.
        tilt: share of validation rows that are of the first class beyond their own share.
    """
    random = torch.Generator().manual_seed(seed)
    centres = 1.5 * torch.randn(CLASSES, WIDTH, generator=random)
    count = rows + trusted + 500
    labels = torch.randint(0, CLASSES, (count,), generator=random)
    tilted = torch.arange(count).sub(rows).clamp(-1, trusted) % (trusted + 1) < tilt * trusted
    labels = torch.where(tilted & (torch.arange(count) >= rows), 0, labels)
    inputs = centres[labels] + 2 * torch.randn(count, WIDTH, generator=random)
    bad = torch.rand(rows, generator=random) < wrong
    shift = torch.randint(1, CLASSES, (rows,), generator=random)
    given = torch.where(bad, (labels[:rows] + shift) % CLASSES, labels[:rows])
    held, test = slice(rows, rows + trusted), slice(rows + trusted, None)
    return Blobs(inputs[:rows], given, bad, (inputs[held], labels[held]), (inputs[test], labels[test]))


def perceptron(data: Blobs, seed: int = 0) -> nn.Module:
    """One hidden layer whose weights are a function of the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(data.inputs.shape[1], 64), nn.ReLU(), nn.Linear(64, CLASSES))


@torch.no_grad()
def accuracy(model: nn.Module, data: Blobs) -> float:
    """Share of test rows that are put into their class."""
    model.eval()
    found: Tensor = model(data.test[0])
    return float((found.argmax(1) == data.test[1]).float().mean())
