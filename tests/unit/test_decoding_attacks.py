"""Attacks on encodings: they find what is there to be found, and fail on noise."""

import numpy as np
import pytest

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.systems.federation.config import DataSection, MixupSection
from rayworks.systems.federation.data.examples import scaled
from rayworks.systems.federation.data.mixup_encodings import draw_mixtures, encode
from rayworks.systems.federation.data.sources import read
from rayworks.systems.federation.privacy.decoding_attacks import (
    decoded_pairs,
    linear_decoder_psnr,
    mean_image_psnr,
    pair_decoding_rate,
    reidentification_rate,
)


def attacked(section: MixupSection, candidates: int, count: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Encodings, all candidates, sources: of real digits."""
    held = read(DataSection(train_examples=candidates), 0)[0]
    label = int(held.labels[0])
    encodings, _ = encode(held, label, count, section, seeds.stream(0, "attack"))
    sources = draw_mixtures(held, label, count, section, seeds.stream(0, "attack")).sources
    return encodings.reshape(count, -1), scaled(held.inputs).reshape(len(held), -1), sources


def test_pairs_without_noise_are_always_decoded() -> None:
    encodings, candidates, sources = attacked(MixupSection(images=2, noise="none"), 60)
    assert pair_decoding_rate(encodings, candidates, sources) == 1.0
    found = decoded_pairs(encodings, candidates)
    assert (found[:, 0] < found[:, 1]).all()
    by_hand = []
    for encoding in encodings[:3]:
        residuals = {
            (i, j): float(np.linalg.lstsq(candidates[[i, j]].T, encoding, rcond=None)[1].sum())
            for i in range(60)
            for j in range(i + 1, 60)
        }
        by_hand.append(min(residuals, key=residuals.__getitem__))
    assert found[:3].tolist() == [list(pair) for pair in by_hand]


def test_noise_and_more_images_hide_the_sources() -> None:
    def rate(section: MixupSection) -> float:
        return reidentification_rate(*attacked(section, 200))

    clear, mixed = rate(MixupSection(images=2, scale=0.01)), rate(MixupSection(images=8, weights="uniform", scale=0.05))
    drowned = rate(MixupSection(images=4, weights="uniform", scale=20.0))
    assert clear > 0.95
    assert drowned < 0.2 < clear
    assert mixed < clear
    assert pair_decoding_rate(*attacked(MixupSection(images=2, weights="uniform", scale=5.0), 60)) < 0.2


def test_the_linear_decoder_beats_the_mean_image_by_what_the_encoding_shows() -> None:
    def gain(section: MixupSection) -> float:
        encodings, candidates, sources = attacked(section, 400, 1200)
        originals = candidates[sources[:, 0]]
        known, new = (encodings[:900], originals[:900]), (encodings[900:], originals[900:])
        return linear_decoder_psnr(known, new) - mean_image_psnr(known[1], new[1])

    clear, drowned = gain(MixupSection(dominant=0.7, scale=0.01)), gain(MixupSection(dominant=0.7, scale=20.0))
    assert clear > 5
    assert drowned < 1


def test_a_perfect_linear_code_is_read_exactly() -> None:
    draw = np.random.default_rng(0)
    originals, code = draw.random((300, 8)), draw.standard_normal((8, 8))
    encodings = originals @ code
    found = linear_decoder_psnr((encodings[:200], originals[:200]), (encodings[200:], originals[200:]), penalty=1e-9)
    assert found > 60
    assert mean_image_psnr(originals[:200], originals[200:]) == pytest.approx(-10 * np.log10(1 / 12), abs=0.5)


def test_what_can_not_be_attacked_is_refused() -> None:
    with pytest.raises(DataError, match="candidates"):
        decoded_pairs(np.zeros((1, 2)), np.zeros((501, 2)))
    with pytest.raises(DataError, match="not pairs"):
        pair_decoding_rate(np.zeros((1, 2)), np.zeros((5, 2)), np.zeros((1, 3), np.int64))
