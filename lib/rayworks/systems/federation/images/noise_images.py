"""Artificially labelled noise: images of every generator, at the shape of the data, from a seed alone."""

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from rayworks.core import seeds
from rayworks.core.errors import ConfigError
from rayworks.core.seeds import Key
from rayworks.systems.federation.config import NoiseSection
from rayworks.systems.federation.images.dead_leaves import dead_leaves
from rayworks.systems.federation.images.statistical_images import pyramid_image, spectrum_image
from rayworks.systems.federation.images.untrained_stylegan import Kind, Network, network, render

LUMA = np.array((0.299, 0.587, 0.114), np.float32)
"""Weights of red, green and blue in the grey of a colour image (BT.601)."""
LEAST_SIDE = 8
Maker = Callable[[int, np.random.Generator, np.random.Generator], NDArray[np.float32]]
_KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}


def noise_images(
    section: NoiseSection, count: int, shape: tuple[int, ...], seed: int, *path: Key, label: int | None = None
) -> NDArray[Any]:
    """``count`` images uint8 (count, C, H, W) or, for a shape (F,), feature vectors float32 (count, F) in [0, 1].

    Image i depends on the seed, the path and i, not on ``count``. With a ``label``, generators share what they draw of their
    design (kernels, slopes, palettes, mean latents) among all images of the label: a cluster that the seed and label alone
    fix, so that it is the same for all clients. Images are made square at ``resolution`` (rounded up to a power of two), and
    resized by area; one channel is the luma of three. They are not compressed, unlike the published sets.

    Raises:
        ConfigError: the shape is neither an image of 1 or 3 channels nor a vector.
    """
    if len(shape) == 1:
        return _features(count, shape[0], seed, path, label)
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ConfigError(f"noise: images of shape {shape} cannot be made; give 1 or 3 channels, or flat features")
    wanted = section.resolution or max(shape[1:])
    side = max(LEAST_SIDE, 1 << (wanted - 1).bit_length())
    make = _maker(section, side, seed, path, label)
    images = np.empty((count, *shape), np.uint8)
    for index in range(count):
        draw = seeds.stream(seed, *path, "image", index)
        design = _design(seed, path, index, label)
        images[index] = _fitted(make(index, design, draw), shape)
    return images


def _design(seed: int, path: tuple[Key, ...], index: int, label: int | None) -> np.random.Generator:
    if label is None:
        return seeds.stream(seed, *path, "design", index)
    return seeds.stream(seed, "noise cluster", label, "design")


def _maker(section: NoiseSection, side: int, seed: int, path: tuple[Key, ...], label: int | None) -> Maker:
    kind = _KINDS.get(section.generator)
    if kind is None:
        plain = _PLAIN[section.generator]
        return lambda index, design, draw: plain(design, draw, side)
    networks: dict[int, Network] = {}

    def styled(index: int, design: np.random.Generator, draw: np.random.Generator) -> NDArray[np.float32]:
        number = index // section.images_per_network if label is None else 0
        if number not in networks:
            networks.clear()
            home = (*path, number) if label is None else ("noise cluster", label)
            networks[number] = network(kind, side, seed, *home)
        return render(kind, networks[number], design, draw, clustered=label is not None).numpy()

    return styled


def _white(design: np.random.Generator, draw: np.random.Generator, side: int) -> NDArray[np.float32]:
    """Normal noise of mean 1/2 and deviation 1/4, the same fill without any structure; a cluster has its own mean image."""
    share = np.float32(np.sqrt(0.5))
    noise = share * (
        design.standard_normal((3, side, side), np.float32) + draw.standard_normal((3, side, side), np.float32)
    )
    return np.clip(0.5 + 0.25 * noise, 0, 1)


_PLAIN: dict[str, Callable[[np.random.Generator, np.random.Generator, int], NDArray[np.float32]]] = {
    "spectrum": spectrum_image,
    "pyramid": pyramid_image,
    "dead-leaves": dead_leaves,
    "gaussian": _white,
}


def _fitted(picture: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """(3, R, R) in [0, 1] as bytes of the data's shape."""
    grey = picture if shape[0] == 3 else np.tensordot(LUMA, picture, 1)[None]
    if grey.shape != shape:
        grey = functional.adaptive_avg_pool2d(
            torch.from_numpy(np.ascontiguousarray(grey)), (shape[1], shape[2])
        ).numpy()
    return np.rint(grey * 255).astype(np.uint8)


def _features(count: int, features: int, seed: int, path: tuple[Key, ...], label: int | None) -> NDArray[np.float32]:
    """Uniform features; those of a cluster lie within a quarter of its centre."""
    rows = np.empty((count, features), np.float32)
    centre = None if label is None else _design(seed, path, 0, label).uniform(0.25, 0.75, features).astype(np.float32)
    for index in range(count):
        row = seeds.stream(seed, *path, "image", index).random(features, np.float32)
        rows[index] = row if centre is None else centre + (row - np.float32(0.5)) / 2
    return rows
