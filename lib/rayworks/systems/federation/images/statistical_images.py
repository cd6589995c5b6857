"""Images that have a few statistics of natural scenes and are random otherwise (Baradad et al. 2021).

``spectrum`` has a power-law spectrum with another slope in each direction; ``pyramid`` has heavy-tailed histograms in each
band of a steerable pyramid (Portilla and Simoncelli 2000). Both take their colours from a few random ones.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

ORIENTATIONS = 4
PASSES = 10
"""Times that all bands of the pyramid are given their histograms."""
LARGEST = 200.0
"""Bound of a band's values, in grey levels of 256."""
Floats = NDArray[np.float64]


def spectrum_image(design: np.random.Generator, draw: np.random.Generator, side: int) -> NDArray[np.float32]:
    """One image (3, side, side) in [0, 1]: amplitude ``1 / (|fx/N|^sx + |fy/N|^sy)``, phases of uniform noise.

    ``design`` draws slopes and colours, ``draw`` the phases. Restoring means and spreads of the channels changes no phase, so
    one pass gives what the reference's ten give before clipping.
    """
    slope, tilt = design.uniform(0.5, 3.5), design.standard_normal() * 3 / 60
    frequencies = np.abs(np.fft.fftfreq(side))
    amplitude = 1 / (1e-16 + frequencies[:, None] ** (slope - tilt) + frequencies ** (slope + tilt))
    phases = np.fft.fft2(draw.random((3, side, side)))
    transformed = amplitude * phases / np.maximum(np.abs(phases), 1e-12)
    transformed[:, 0, 0] = 0
    return _in_random_colours(np.fft.ifft2(transformed).real, design)


def pyramid_image(design: np.random.Generator, draw: np.random.Generator, side: int) -> NDArray[np.float32]:
    """One image (3, side, side) in [0, 1] whose bands have histograms ``exp(-|x / 4^R|^r)``, ``r`` in [0.4, 0.8].

    ``R`` is the image's side over the band's. The low-pass residual stays as it came. ``design`` draws the exponents and
    colours, ``draw`` the white noise at the start. Costs 10 pyramids; the side must be a power of two from 8 on.
    """
    masks = _masks(side)
    exponents = 0.4 + 0.4 * design.random((3, len(masks)))
    channels = draw.normal(0, 32, (3, side, side))
    for _ in range(PASSES):
        transformed = np.fft.fft2(channels)
        rebuilt = transformed * _low_pass(side)
        for index, mask in enumerate(masks):
            band = _cut(transformed * mask, side >> _scale(index))
            values = np.fft.ifft2(band).real * (len(band[0]) / side) ** 2
            targets = np.stack([_quantiles(1 << _scale(index), r, values[0].size) for r in exponents[:, index]])
            matched = _ranked(values, targets) * (side / len(band[0])) ** 2
            rebuilt += _pad(np.fft.fft2(matched), side) * mask.conj()
        channels = np.fft.ifft2(rebuilt).real
    return _in_random_colours(channels, design)


def _scale(index: int) -> int:
    """Times that a band is halved; the first is the high-pass residual, then ORIENTATIONS of each scale."""
    return max(index - 1, 0) // ORIENTATIONS


def _quantiles(ratio: int, exponent: float, count: int) -> Floats:
    """``count`` increasing values spread as ``exp(-|x / 4^ratio|^exponent)`` on [-200, 200] in steps of one half."""
    values = np.arange(-LARGEST, LARGEST + 0.25, 0.5)
    weights = np.exp(-(np.abs(values / 4.0**ratio) ** exponent))
    steps = (np.cumsum(weights) - 0.5 * weights) / weights.sum()
    found: Floats = np.interp((np.arange(count) + 0.5) / count, steps, values)
    return found


def _ranked(values: Floats, targets: Floats) -> Floats:
    """(3, R, R) with the order of ``values`` and the sorted values of ``targets`` (3, R * R)."""
    flat = values.reshape(3, -1)
    found = np.empty_like(flat)
    np.put_along_axis(found, np.argsort(flat, axis=1, kind="stable"), targets, 1)
    return found.reshape(values.shape)


@lru_cache(maxsize=8)
def _polar(side: int) -> tuple[Floats, Floats]:
    """log2 of the frequency over the highest, and the angle."""
    frequencies = np.fft.fftfreq(side) * 2
    radius = np.hypot(frequencies[:, None], frequencies)
    radius[0, 0] = 1 / side
    return np.log2(radius), np.arctan2(frequencies[:, None], frequencies)


def _below(side: int, octave: float) -> Floats:
    """Low-pass amplitude that falls from 1 to 0 over the octave below ``2^octave`` of the highest frequency."""
    ramp = np.clip(_polar(side)[0] - octave + 1, 0, 1)
    return np.cos(np.pi / 2 * ramp)


@lru_cache(maxsize=8)
def _low_pass(side: int) -> Floats:
    """Squared amplitude of the low-pass residual."""
    return _below(side, -_scales(side)) ** 2


def _scales(side: int) -> int:
    """3 at 128 and 4 at 256; at least one."""
    return max(int(math.log2(side)) - 4, 1)


@lru_cache(maxsize=8)
def _masks(side: int) -> list[NDArray[np.complex128]]:
    """Amplitudes of all bands in the frequency plane; their squares and the low-pass residual's add up to one."""
    angle = _polar(side)[1]
    factor = 2.0 ** (ORIENTATIONS - 1) * math.factorial(ORIENTATIONS - 1)
    factor /= math.sqrt(ORIENTATIONS * math.factorial(2 * (ORIENTATIONS - 1)))
    high = np.sqrt(np.maximum(1 - _below(side, 0.0) ** 2, 0)).astype(complex)
    masks = [high]
    for scale in range(_scales(side)):
        ring = np.sqrt(np.maximum(_below(side, -scale) ** 2 - _below(side, -scale - 1) ** 2, 0))
        for turn in range(ORIENTATIONS):
            lobe = factor * np.cos(angle - np.pi * turn / ORIENTATIONS) ** (ORIENTATIONS - 1)
            masks.append(1j * ring * lobe)
    return masks


def _cut(transformed: NDArray[np.complex128], side: int) -> NDArray[np.complex128]:
    """The low frequencies of (3, R, R) as (3, side, side): the band at its own size."""
    rows = np.fft.fftfreq(side, 1 / side).astype(int)
    return transformed[:, rows[:, None], rows]


def _pad(transformed: NDArray[np.complex128], side: int) -> NDArray[np.complex128]:
    """The reverse of :func:`_cut`, with zeros at high frequencies."""
    size = transformed.shape[-1]
    rows = np.fft.fftfreq(size, 1 / size).astype(int)
    full = np.zeros((len(transformed), side, side), complex)
    full[:, rows[:, None], rows] = transformed
    return full


def _in_random_colours(components: Floats, generator: np.random.Generator) -> NDArray[np.float32]:
    """Three standardised components (3, R, R) along the principal axes of a patchwork of a few random colours, clipped."""
    side = components.shape[-1]
    palette = generator.random((3 + int(generator.uniform(0, 20)), 3))
    shares = generator.dirichlet(np.ones(len(palette)))
    blur = math.ceil(generator.uniform(0, 10))
    patches = palette[generator.choice(len(palette), (side, side), p=shares)]
    for axis in (0, 1):
        patches = np.mean([np.roll(patches, shift, axis) for shift in range(max(blur, 1))], axis=0)
    colours = patches.reshape(-1, 3)
    variances, axes = np.linalg.eigh(np.cov(colours.T))
    flat = components.reshape(3, -1)
    standard = (flat - flat.mean(1, keepdims=True)) / np.maximum(flat.std(1, keepdims=True), 1e-12)
    mixed: Floats = axes @ (np.sqrt(np.maximum(variances, 0))[:, None] * standard) + colours.mean(0)[:, None]
    return np.clip(mixed, 0, 1).reshape(components.shape).astype(np.float32)
