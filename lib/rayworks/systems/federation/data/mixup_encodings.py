"""Mixup encodings of a client's examples for the shared pool: DP-InstaHide and its variant (specification 2.2).

``x = clip(lam_1 x_1 + ... + lam_k x_k + noise, 0, 1)``, the first example having the label that is filled and the others any
label, all different (Borgnia et al. 2021; arXiv 2409.13235). Noise comes before the clip, which is post-processing.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayworks.core.errors import DataError
from rayworks.systems.federation.config import MixupSection
from rayworks.systems.federation.data.examples import Examples, scaled

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Mixtures:
    """Sources and weights of mixups, which encodings hide."""

    sources: NDArray[np.int64]
    """(count, k): indices of the client's examples, different within a row."""
    weights: NDArray[np.float64]
    """(count, k): sum to 1; the first is that of the filled label."""


def encode(
    examples: Examples, label: int, count: int, section: MixupSection, generator: np.random.Generator
) -> tuple[Floats, Floats]:
    """``count`` encodings of a label: inputs (count, ...) float32 in [0, 1] and soft labels (count, K).

    Labels are ``hard`` (the filled label), ``true`` (the mixture's), ``hide`` (the filled label with its weight, the rest
    spread evenly over all others, which says nothing of the partners) or ``hide-random`` (the rest by a flat Dirichlet law;
    how the paper redraws those shares is unverified).
    Labels are not covered by the noise. A client with fewer than k examples mixes all it has, by the same rules.

    Raises:
        DataError: the client has no example of that label.
    """
    return _encoded(examples, label, section, draw_mixtures(examples, label, count, section, generator), generator)


def encode_stand_ins(
    examples: Examples, images: NDArray[Any], label: int, section: MixupSection, generator: np.random.Generator
) -> tuple[Floats, Floats]:
    """The same for a label that the client lacks, with ``images`` (count, ...) in place of the first examples.

    Partners, weights, noise, clip and labels are those of a client that has the label, so that an encoding does not say
    whether it has. A client without any example has no partners to mix in.
    """
    count, held = len(images), len(examples)
    mixed = min(section.images, max(held, 1))
    partners = count + distinct(generator, held, mixed - 1, count)
    sources = np.concatenate([np.arange(count)[:, None], partners], 1)
    mixtures = Mixtures(sources, _weights(section, mixed, count, generator))
    inputs, labels = np.concatenate([images, examples.inputs]), np.concatenate([np.full(count, label), examples.labels])
    return _encoded(Examples(inputs, labels, examples.classes), label, section, mixtures, generator)


def _encoded(
    examples: Examples, label: int, section: MixupSection, mixtures: Mixtures, generator: np.random.Generator
) -> tuple[Floats, Floats]:
    blends = blended(examples.inputs, mixtures)
    if section.noise == "laplace":
        blends += generator.laplace(0.0, section.scale, blends.shape).astype(np.float32)
    elif section.noise == "gaussian":
        blends += np.float32(section.scale) * generator.standard_normal(blends.shape, np.float32)
    return np.clip(blends, 0, 1, out=blends), _soft_labels(examples, label, section, mixtures, generator)


def draw_mixtures(
    examples: Examples, label: int, count: int, section: MixupSection, generator: np.random.Generator
) -> Mixtures:
    """The first draws of :func:`encode`: the same generator gives the sources of the same encodings.

    Raises:
        DataError: the client has no example of that label.
    """
    owned = np.flatnonzero(examples.labels == label)
    if not len(owned):
        raise DataError(f"label {label}: this client has no example of it; order its mixups from another client")
    mixed = min(section.images, len(examples))
    first = owned[generator.integers(len(owned), size=count)]
    partners = distinct(generator, len(examples) - 1, mixed - 1, count)
    partners += partners >= first[:, None]
    return Mixtures(np.concatenate([first[:, None], partners], 1), _weights(section, mixed, count, generator))


def distinct(generator: np.random.Generator, population: int, size: int, count: int) -> NDArray[np.int64]:
    """(count, size): rows of different numbers below ``population``, every set equally likely.

    Floyd's algorithm, all rows at a time: ``size`` steps, no memory beyond the result. The order within a row is not random.
    """
    rows = np.empty((count, size), np.int64)
    for column in range(size):
        last = population - size + column
        drawn = generator.integers(last + 1, size=count)
        taken = (rows[:, :column] == drawn[:, None]).any(1)
        rows[:, column] = np.where(taken, last, drawn)
    return rows


def blended(inputs: NDArray[Any], mixtures: Mixtures) -> Floats:
    """(count, ...): weighted sums of examples scaled to [0, 1]; memory is that of the result."""
    shape = (len(mixtures.sources), *inputs.shape[1:])
    total = np.zeros(shape, np.float32)
    for sources, weights in zip(mixtures.sources.T, mixtures.weights.T.astype(np.float32), strict=True):
        total += scaled(inputs[sources]) * weights.reshape(-1, *[1] * (len(shape) - 1))
    return total


def _weights(section: MixupSection, mixed: int, count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    if section.weights == "dirichlet":
        return np.sort(generator.dirichlet(np.ones(mixed), count), axis=1)[:, ::-1]
    weights = np.full((count, mixed), 1.0 / mixed)
    if section.weights == "dominant" and mixed > 1:
        weights[:, 0], weights[:, 1:] = section.dominant, (1 - section.dominant) / (mixed - 1)
    return weights


def _soft_labels(
    examples: Examples, label: int, section: MixupSection, mixtures: Mixtures, generator: np.random.Generator
) -> Floats:
    count, classes = len(mixtures.sources), len(examples.classes)
    soft = np.zeros((count, classes))
    if section.labels == "true":
        np.add.at(soft, (np.arange(count)[:, None], examples.labels[mixtures.sources]), mixtures.weights)
    elif section.labels in ("hide", "hide-random") and classes > 1:
        kept = mixtures.weights[:, 0]
        even = np.full((count, classes - 1), 1 / (classes - 1))
        spread = even if section.labels == "hide" else generator.dirichlet(np.ones(classes - 1), count)
        soft[:, np.arange(classes) != label] = (1 - kept)[:, None] * spread
        soft[:, label] = kept
    else:
        soft[:, label] = 1.0
    return soft.astype(np.float32)
