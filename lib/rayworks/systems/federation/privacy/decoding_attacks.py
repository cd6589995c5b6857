"""Attacks that decode shared encodings: what the noise protects in practice, beside the formal guarantee.

Encodings are (m, F), an attacker's candidates (n, F), both float and flat; the sources of an encoding are (m, k) indices of
candidates. The attacker knows the candidates, which is the strongest case.
"""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayworks.core.errors import DataError

Floats = NDArray[np.float64]
BLOCK = 256
"""Encodings that are looked at together."""
MOST_CANDIDATES = 500


def reidentification_rate(encodings: NDArray[Any], candidates: NDArray[Any], sources: NDArray[np.int64]) -> float:
    """Share of encodings whose nearest candidate, by Euclidean distance, is one of their sources.

    By chance it would be about k / n.
    """
    products = encodings.astype(np.float64) @ candidates.T.astype(np.float64)
    nearest = ((candidates.astype(np.float64) ** 2).sum(1) - 2 * products).argmin(1)
    return float((sources == nearest[:, None]).any(1).mean())


def decoded_pairs(encodings: NDArray[Any], candidates: NDArray[Any]) -> NDArray[np.int64]:
    """(m, 2): the pair of candidates whose best combination, by least squares, is nearest to each encoding.

    All n (n - 1) / 2 pairs are solved in closed form from inner products; costs m n^2.

    Raises:
        DataError: more than 500 candidates, or fewer than two.
    """
    if not 2 <= len(candidates) <= MOST_CANDIDATES:
        raise DataError(f"candidates: give 2 to {MOST_CANDIDATES}, not {len(candidates)}; all pairs of them are tried")
    known, seen = candidates.astype(np.float64), encodings.astype(np.float64)
    gram = known @ known.T
    first, second = np.triu_indices(len(known), 1)
    a, b, c = gram[first, first], gram[second, second], gram[first, second]
    determinants = a * b - c**2
    usable = determinants > 1e-9 * a * b
    inverse = np.divide(1.0, determinants, out=np.zeros_like(determinants), where=usable)
    found = np.empty((len(seen), 2), np.int64)
    for start, end in pairwise([*range(0, len(seen), BLOCK), len(seen)]):
        products = seen[start:end] @ known.T
        p, q = products[:, first], products[:, second]
        explained = (b * p**2 - 2 * c * p * q + a * q**2) * inverse
        best = explained.argmax(1)
        found[start:end, 0], found[start:end, 1] = first[best], second[best]
    return found


def pair_decoding_rate(encodings: NDArray[Any], candidates: NDArray[Any], sources: NDArray[np.int64]) -> float:
    """Share of encodings of two examples, sources (m, 2), whose pair :func:`decoded_pairs` finds.

    Raises:
        DataError: as there, or encodings of another number of examples.
    """
    if sources.shape != (len(encodings), 2):
        raise DataError(f"sources: {sources.shape} are not pairs; the attack is for mixups of two examples")
    return float((decoded_pairs(encodings, candidates) == np.sort(sources, axis=1)).all(1).mean())


def linear_decoder_psnr(
    known: tuple[NDArray[Any], NDArray[Any]], attacked: tuple[NDArray[Any], NDArray[Any]], penalty: float = 1e-3
) -> float:
    """Peak signal-to-noise ratio in decibels of a linear decoder, with values in [0, 1]; the best one, given enough to fit.

    ``known`` are encodings and their first sources, both (m, F), from which the attacker fits an affine map by ridge
    regression (penalty per example); ``attacked`` are others to which it is applied. Compare with :func:`mean_image_psnr`.
    Memory is three times F squared, whatever m.
    """
    encodings, originals = known
    centre, middle = (part.mean(0, dtype=np.float64) for part in known)
    features = encodings.shape[1]
    normal = penalty * len(encodings) * np.eye(features)
    cross = np.zeros((features, originals.shape[1]))
    for start in range(0, len(encodings), BLOCK):
        spread = encodings[start : start + BLOCK] - centre
        normal += spread.T @ spread
        cross += spread.T @ (originals[start : start + BLOCK] - middle)
    decoder = np.linalg.solve(normal, cross)
    decoded = np.clip((attacked[0].astype(np.float64) - centre) @ decoder + middle, 0, 1)
    return _psnr(decoded - attacked[1])


def mean_image_psnr(known: NDArray[Any], attacked: NDArray[Any]) -> float:
    """The same of guessing the mean of the known originals: what an attacker has without any encoding."""
    return _psnr(known.astype(np.float64).mean(0) - attacked)


def _psnr(errors: Floats) -> float:
    return float(-10 * np.log10(max(float(np.mean(errors**2)), 1e-12)))
