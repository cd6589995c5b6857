"""Pictures that a small model tells apart: bars at three heights, with a little noise."""

from pathlib import Path

import numpy as np

from rayworks.systems.federation.examples import Examples

CLASSES = ("high", "low", "middle")
ROWS = (1, 6, 3)


def make_pictures(count: int = 120, seed: int = 0) -> Examples:
    """Grey pictures of 8 by 8 pixels, as many of each class."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    images = random.integers(0, 60, (count, 1, 8, 8))
    for row, label in zip(ROWS, range(len(CLASSES)), strict=True):
        images[labels == label, :, row : row + 2] += 150
    return Examples(images.astype(np.uint8), labels, CLASSES)


def write_pictures(file: Path) -> None:
    """The same as a file that ``data.source`` can name."""
    pictures = make_pictures()
    np.savez(file, inputs=pictures.inputs, labels=np.array(CLASSES)[pictures.labels])
