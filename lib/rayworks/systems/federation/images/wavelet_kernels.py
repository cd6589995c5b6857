"""The 3x3 kernels of untrained StyleGANs whose features look like wavelets (Baradad et al. 2021, StyleGAN-Oriented)."""

import numpy as np
from numpy.typing import NDArray

CANVAS = 11
"""Side of the picture of an edge or line from which the central 3x3 pixels are taken after turning."""


def oriented_bank() -> NDArray[np.float32]:
    """(40, 3, 3): 8 step edges and 8 lines 22.5 degrees apart, of zero mean, 4 points, and the negatives of all 20."""
    angles = np.deg2rad(22.5 * np.arange(8))
    half = np.concatenate([_turned(_edge(), angles), _turned(_line(), angles), _points()])
    return np.concatenate([half, -half], dtype=np.float32)


def quantised_bank() -> NDArray[np.float32]:
    """(40, 3, 3): signs of 16 step edges and 16 lines over the whole circle, 4 points and their negatives.

    Half a turn makes an edge its negative and leaves a line as it is, so that lines come twice.
    """
    angles = np.deg2rad(22.5 * np.arange(16))
    turned = np.concatenate([_turned(_edge(), angles), _turned(_line(), angles)])
    signs = np.where(np.abs(turned) < 1e-6, 0.0, np.sign(turned))
    return np.concatenate([signs, _points(), -_points()], dtype=np.float32)


def _edge() -> NDArray[np.float64]:
    """+1 left of the centre column, -1 right of it."""
    return np.tile(-np.sign(np.arange(CANVAS) - CANVAS // 2).astype(float), (CANVAS, 1))


def _line() -> NDArray[np.float64]:
    """A centre column of -1 on +1."""
    canvas = np.ones((CANVAS, CANVAS))
    canvas[:, CANVAS // 2] = -1
    return canvas


def _points() -> NDArray[np.float64]:
    """(4, 3, 3): a point, a point on its negative, a plus, a plus on its negative corners."""
    point, plus = np.zeros((3, 3)), np.zeros((3, 3))
    point[1, 1] = 1
    plus[1] = plus[:, 1] = 1
    return np.stack([point, 2 * point - 1, plus, 2 * plus - 1])


def _turned(canvas: NDArray[np.float64], angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """(angles, 3, 3): the central pixels of the canvas turned about its centre, bilinear, their mean removed."""
    rows, columns = np.meshgrid((-1.0, 0.0, 1.0), (-1.0, 0.0, 1.0), indexing="ij")
    cosine, sine = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
    y, x = (CANVAS // 2 + part for part in (cosine * rows - sine * columns, sine * rows + cosine * columns))
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    down, right = y - top, x - left
    found = (1 - down) * ((1 - right) * canvas[top, left] + right * canvas[top, left + 1])
    found += down * ((1 - right) * canvas[top + 1, left] + right * canvas[top + 1, left + 1])
    centred: NDArray[np.float64] = found - found.mean((1, 2), keepdims=True)
    return centred
