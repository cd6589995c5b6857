"""A tiny federation: 8x8 images of four labels that a perceptron can tell apart."""

from pathlib import Path
from typing import Any

import numpy as np

from rayworks.systems.federation.config import Config


def write_images(path: Path, examples: int = 240, labels: int = 4) -> Path:
    """An .npz of noisy images, each label with a bright quarter of its own."""
    draw = np.random.default_rng(0)
    codes = np.arange(examples) % labels
    images = draw.integers(0, 120, (examples, 8, 8))
    for label in range(labels):
        row, column = divmod(label, 2)
        images[codes == label, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 100
    np.savez(path, inputs=images.astype(np.uint8), labels=codes)
    return path


def small_config(path: Path, **sections: dict[str, Any]) -> Config:
    """One method on those images: four clients of one label, three rounds, cheap noise."""
    base: dict[str, dict[str, Any]] = {
        "data": {"source": str(path), "clients": 4},
        "model": {"hidden": 8},
        "local": {"epochs": 1, "batch_size": 8},
        "strategy": {"rounds": 3},
        "noise": {"generator": "gaussian"},
    }
    for name, values in sections.items():
        base.setdefault(name, {}).update(values)
    return Config.model_validate(base)
