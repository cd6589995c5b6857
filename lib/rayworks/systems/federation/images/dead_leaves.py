"""Dead leaves: opaque shapes of random size, position and colour, dropped until they cover everything."""

import numpy as np
from numpy.typing import NDArray

LEAVES, BLOCK = 5000, 250
"""The most that are dropped, and how many are drawn at a time."""
SMALLEST, BINS = 0.03, 200
"""Radius over the image's side, and number of radii up to 1."""
Floats = NDArray[np.float32]


def dead_leaves(design: np.random.Generator, draw: np.random.Generator, side: int) -> Floats:
    """One image (3, side, side) in [0, 1]; radii have density ``r^-3 - 1``, colours are uniform.

    Circles, squares, turned squares, rectangles, triangles and quadrilaterals, inscribed in a circle of their radius.
    Leaves are looked at from below, so that the first one at a pixel stays: what is seen has the law of dropping for
    ever, and dropping stops when nothing is bare. ``design`` draws radii and colours, ``draw`` shapes and positions.
    """
    radii = np.linspace(SMALLEST, 1, BINS)
    density = radii**-3.0 - 1
    pixels = np.stack(np.meshgrid(*[(np.arange(side) + 0.5) / side] * 2), -1).reshape(-1, 2)
    colours = np.zeros((side * side, 3))
    bare = np.ones(side * side, bool)
    for _ in range(LEAVES // BLOCK):
        radius = design.choice(radii, BLOCK, p=density / density.sum())
        tints = design.random((BLOCK, 3))
        open_ = np.flatnonzero(bare)
        covered = _covered(pixels[open_], radius, draw)
        hit = covered.any(0)
        colours[open_[hit]] = tints[covered[:, hit].argmax(0)]
        bare[open_[hit]] = False
        if not bare.any():
            break
    return colours.T.reshape(3, side, side).astype(np.float32)


def _covered(pixels: NDArray[np.float64], radius: NDArray[np.float64], draw: np.random.Generator) -> NDArray[np.bool_]:
    """(leaves, pixels): which leaf covers which pixel. All but circles have four corners, triangles one of them twice."""
    leaves = len(radius)
    offsets = pixels[None] - draw.random((leaves, 1, 2))
    angles, kinds = _corners(draw, leaves), draw.integers(6, size=leaves)
    chosen = np.take_along_axis(angles, np.maximum(kinds - 1, 0)[:, None, None], 1)[:, 0]
    corners = radius[:, None, None] * np.stack([np.cos(chosen), np.sin(chosen)], -1)
    inside = np.ones((leaves, len(pixels)), bool)
    for start, end in zip(corners.transpose(1, 0, 2), np.roll(corners, -1, 1).transpose(1, 0, 2), strict=True):
        along = (end - start)[:, None]
        across = along[..., 0] * (offsets - start[:, None])[..., 1] - along[..., 1] * (offsets - start[:, None])[..., 0]
        inside &= across >= 0
    circles = (offsets**2).sum(-1) <= radius[:, None] ** 2
    return np.where(kinds[:, None] == 0, circles, inside)


def _corners(draw: np.random.Generator, leaves: int) -> NDArray[np.float64]:
    """(leaves, 5, 4): counter-clockwise angles of the corners of every polygon, on the circle."""
    quarter = np.pi / 2 * np.arange(4)
    square = np.tile(quarter + np.pi / 4, (leaves, 1))
    turned = quarter + draw.uniform(0, 2 * np.pi, (leaves, 1))
    opening = draw.uniform(0.1, np.pi / 2 - 0.1, (leaves, 1))
    rectangle = np.concatenate([opening, np.pi - opening, np.pi + opening, 2 * np.pi - opening], 1)
    quadrilateral = np.sort(draw.uniform(0, 2 * np.pi, (leaves, 4)), 1)
    triangle = np.sort(draw.uniform(0, 2 * np.pi, (leaves, 3)), 1)
    return np.stack([square, turned, rectangle, np.concatenate([triangle, triangle[:, -1:]], 1), quadrilateral], 1)
