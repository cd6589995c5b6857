"""How fast the power of an image falls with spatial frequency: near -2 for natural scenes, 0 for white noise."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def radial_power(images: NDArray[Any]) -> NDArray[np.float64]:
    """(n, N // 2 + 1): power of (n, N, N) images at whole radial frequencies, under a Hann window, mean removed."""
    side = images.shape[-1]
    window = np.hanning(side)
    values = images.astype(np.float64)
    centred = (values - values.mean((1, 2), keepdims=True)) * window[:, None] * window
    power = np.abs(np.fft.fft2(centred)) ** 2
    frequencies = np.fft.fftfreq(side, 1 / side)
    radii = np.rint(np.hypot(frequencies[:, None], frequencies)).astype(int).ravel()
    rings = np.zeros((radii.max() + 1, side * side))
    rings[radii, np.arange(side * side)] = 1
    means = power.reshape(len(images), -1) @ (rings / rings.sum(1, keepdims=True)).T
    found: NDArray[np.float64] = means[:, : side // 2 + 1]
    return found


def spectral_slopes(images: NDArray[Any]) -> NDArray[np.float64]:
    """(n,): slope of log power over log frequency of (n, N, N) images, fitted from 2 to N/2 cycles per image."""
    power = radial_power(images)
    frequencies = np.log(np.arange(2, power.shape[1]))
    centred = frequencies - frequencies.mean()
    slopes: NDArray[np.float64] = np.log(power[:, 2:] + 1e-12) @ centred / (centred @ centred)
    return slopes
