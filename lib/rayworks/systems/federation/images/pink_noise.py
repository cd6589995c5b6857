"""Noise whose spectrum falls as a power of the frequency, as that of natural scenes does."""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ENVELOPE = 4
"""Side of the coarse Laplace map that makes noise strong in some places and weak in others."""


def pink_map(generator: np.random.Generator, side: int, exponent: float, *, envelope: bool) -> Tensor:
    """(side, side) float32 of standard deviation 1: amplitude ``1 / frequency ** exponent``, random phases, mean 0.

    Phases are antisymmetric, as those of real images are. ``envelope`` multiplies by a 4x4 Laplace map, resized smoothly
    (Baradad et al. 2021). Costs a real Fourier transform.
    """
    phases = torch.from_numpy(generator.random((side, side // 2 + 1), np.float32)) * (2 * np.pi)
    amplitudes = torch.exp(-exponent * _log_frequencies(side))
    amplitudes[0, 0] = 0.0
    noise: Tensor = torch.fft.irfft2(torch.polar(amplitudes, phases), s=(side, side))
    noise -= noise.mean()
    if envelope:
        coarse = torch.from_numpy(generator.laplace(0.0, 1.0, (ENVELOPE, ENVELOPE)).astype(np.float32))
        smooth = torch.from_numpy(lanczos_matrix(ENVELOPE, side))
        noise *= smooth @ coarse @ smooth.T
    return noise / noise.std()


@lru_cache(maxsize=16)
def lanczos_matrix(coarse: int, fine: int) -> NDArray[np.float32]:
    """(fine, coarse): weights of the Lanczos-3 interpolation between pixel centres; rows sum to 1."""
    centres = (np.arange(fine) + 0.5) * coarse / fine - 0.5
    distances = centres[:, None] - np.arange(coarse)
    weights = np.where(np.abs(distances) < 3, np.sinc(distances) * np.sinc(distances / 3), 0.0)
    rows: NDArray[np.float32] = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return rows


@lru_cache(maxsize=16)
def _log_frequencies(side: int) -> Tensor:
    rows, columns = np.fft.fftfreq(side, 1 / side), np.fft.rfftfreq(side, 1 / side)
    radii = np.hypot(rows[:, None], columns)
    radii[0, 0] = 1.0
    return torch.from_numpy(np.log(radii).astype(np.float32))
