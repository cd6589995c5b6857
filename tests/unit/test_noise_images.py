"""Noise images: kernels, spectra, rank-one layers against dense ones, and what an image depends on."""

from typing import Any, get_args

import numpy as np
import pytest
import torch

from rayworks.core import seeds
from rayworks.core.errors import ConfigError
from rayworks.systems.federation.config import Generator, NoiseSection
from rayworks.systems.federation.images.dead_leaves import dead_leaves
from rayworks.systems.federation.images.noise_images import LUMA, noise_images
from rayworks.systems.federation.images.pink_noise import lanczos_matrix, pink_map
from rayworks.systems.federation.images.statistical_images import pyramid_image, spectrum_image
from rayworks.systems.federation.images.untrained_stylegan import channels, enlarged, network, render
from rayworks.systems.federation.images.wavelet_kernels import oriented_bank, quantised_bank
from tests.power_spectrum import radial_power, spectral_slopes

GENERATORS = get_args(Generator)


def test_the_oriented_bank_has_forty_kernels() -> None:
    bank = oriented_bank()
    assert bank.shape == (40, 3, 3)
    assert len(np.unique(bank.round(4).reshape(40, 9), axis=0)) == 40
    assert (np.abs(bank.sum((1, 2))) < 1e-5).sum() == 32
    np.testing.assert_array_equal(bank[20:], -bank[:20])
    np.testing.assert_allclose(bank[0], np.tile([1, 0, -1], (3, 1)), atol=1e-7)
    np.testing.assert_allclose(bank[4], bank[0].T, atol=1e-6)
    diagonal = np.array([[1, np.sqrt(0.5), 0], [np.sqrt(0.5), 0, -np.sqrt(0.5)], [0, -np.sqrt(0.5), -1]])
    np.testing.assert_allclose(bank[2], diagonal, atol=1e-6)
    np.testing.assert_allclose(bank[8], np.tile([2 / 3, -4 / 3, 2 / 3], (3, 1)), atol=1e-6)
    assert bank[16].sum() == 1 and bank[17].sum() == -7 and bank[18].sum() == 5 and bank[19].sum() == 1


def test_the_quantised_bank_is_signs_over_the_whole_circle() -> None:
    bank = quantised_bank()
    assert bank.shape == (40, 3, 3)
    assert set(np.unique(bank)) == {-1.0, 0.0, 1.0}
    np.testing.assert_array_equal(bank[8:16], -bank[:8])
    np.testing.assert_array_equal(bank[24:32], bank[16:24])


def test_pink_maps_have_the_slope_of_their_exponent() -> None:
    maps = torch.stack([pink_map(seeds.stream(0, i), 64, 1.0, envelope=False) for i in range(30)]).numpy()
    np.testing.assert_allclose(maps.std((1, 2), ddof=1), 1, atol=1e-5)
    np.testing.assert_allclose(maps.mean((1, 2)), 0, atol=1e-5)
    power = (np.abs(np.fft.fft2(maps)) ** 2).mean(0)
    assert power[0, 4] / power[0, 16] == pytest.approx(16, rel=0.35)
    rough = pink_map(seeds.stream(0, 0), 64, 1.0, envelope=True)
    assert float(rough.std()) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(lanczos_matrix(4, 64).sum(1), 1, atol=1e-6)


def test_slopes_of_known_spectra() -> None:
    draw = np.random.default_rng(0)
    white = draw.standard_normal((60, 32, 32))
    assert abs(spectral_slopes(white).mean()) < 0.25
    pink = np.stack([pink_map(seeds.stream(1, i), 64, 1.0, envelope=False).numpy() for i in range(40)])
    assert spectral_slopes(pink).mean() == pytest.approx(-2, abs=0.4)
    assert radial_power(white).shape == (60, 17)


@pytest.mark.parametrize("kind", ["oriented", "random", "sparse"])
@pytest.mark.parametrize("clustered", [False, True])
def test_rank_one_layers_equal_dense_ones(kind: Any, clustered: bool) -> None:
    of = network(kind, 16, 3, "net")
    for index in range(2):
        fast, dense = (
            render(kind, of, seeds.stream(index, "d"), seeds.stream(index, "v"), clustered=clustered, dense=dense)
            for dense in (False, True)
        )
        assert float((fast - dense).norm() / dense.norm()) < 1e-5
        assert fast.shape == (3, 16, 16) and float(dense.std()) > 0.02


def test_enlarging_is_the_filter_1_3_3_1() -> None:
    point = torch.zeros(1, 5, 5)
    point[0, 2, 2] = 1
    taps = torch.tensor([1.0, 3, 3, 1]) / 4
    grown = enlarged(point)[0]
    torch.testing.assert_close(grown[3:7, 3:7], taps[:, None] * taps)
    assert float(grown.sum()) == 4
    torch.testing.assert_close(enlarged(torch.ones(1, 2, 2))[0][0], torch.tensor([0.5625, 0.75, 0.75, 0.5625]))
    assert [channels(side) for side in (4, 64, 128, 256)] == [512, 512, 256, 128]


@pytest.mark.parametrize("generator", GENERATORS)
def test_an_image_depends_on_its_number_alone(generator: Any) -> None:
    section = NoiseSection(generator=generator, images_per_network=2)
    three = noise_images(section, 3, (3, 8, 8), 5, "client", 1)
    assert (three.dtype, three.shape) == (np.uint8, (3, 3, 8, 8))
    assert np.array_equal(three[:1], noise_images(section, 1, (3, 8, 8), 5, "client", 1))
    assert not np.array_equal(three[0], three[1])
    assert not np.array_equal(three[0], noise_images(section, 1, (3, 8, 8), 5, "client", 2)[0])
    assert three.std() > 5


@pytest.mark.parametrize("generator", ["oriented", "sparse", "original", "spectrum", "gaussian"])
def test_images_of_a_label_are_a_cluster_that_all_clients_share(generator: Any) -> None:
    section = NoiseSection(generator=generator)

    def made(client: int, label: int) -> np.ndarray:
        return noise_images(section, 6, (1, 8, 8), 0, "client", client, label=label) / 255.0

    here, there, other = made(1, 0), made(2, 0), made(1, 1)
    assert not np.array_equal(here, there)
    within = np.square(here.mean(0) - there.mean(0)).mean()
    between = np.square(here.mean(0) - other.mean(0)).mean()
    assert between > 2 * within


@pytest.mark.parametrize("generator", ["oriented", "random", "sparse"])
def test_network_images_look_natural_in_spectrum_and_colour(generator: Any) -> None:
    images = noise_images(NoiseSection(generator=generator), 60, (3, 32, 32), 0, "check") / 255.0
    slopes = spectral_slopes(np.tensordot(images, LUMA, (1, 0)))
    assert -5.5 < np.median(slopes) < -1.5
    white = noise_images(NoiseSection(generator="gaussian"), 20, (1, 32, 32), 0, "check")[:, 0]
    assert np.median(slopes) < spectral_slopes(white).mean() - 1
    np.testing.assert_allclose(images.mean((0, 2, 3)), (0.483, 0.455, 0.401), atol=0.08)
    assert images.std((2, 3)).mean() == pytest.approx(0.2, abs=0.04)


def test_grey_images_are_the_luma_of_colour_ones_made_bigger_and_resized() -> None:
    section = NoiseSection(generator="dead-leaves", resolution=32)
    colour = noise_images(section, 2, (3, 32, 32), 0, "x").astype(float)
    grey = noise_images(section, 2, (1, 8, 16), 0, "x").astype(float)
    luma = np.tensordot(colour, LUMA, (1, 0)).reshape(2, 8, 4, 16, 2).mean((2, 4))
    assert np.abs(grey[:, 0] - luma).max() <= 1.01


def test_dead_leaves_are_flat_and_cover_everything() -> None:
    picture = dead_leaves(seeds.stream(0, "d"), seeds.stream(0, "v"), 32)
    tints = np.unique(picture.reshape(3, -1), axis=1)
    assert 10 < tints.shape[1] < 500
    assert (picture.sum(0) > 0).all()


def test_spectrum_images_have_the_drawn_slopes() -> None:
    slopes = []
    for index in range(40):
        drawn = seeds.stream(index, "d").uniform(0.5, 3.5)
        picture = spectrum_image(seeds.stream(index, "d"), seeds.stream(index, "v"), 64)
        slopes.append((drawn, spectral_slopes(picture.mean(0)[None])[0]))
    assert np.corrcoef(np.array(slopes).T)[0, 1] < -0.8


def test_pyramid_images_have_heavy_tails() -> None:
    pictures = np.stack([pyramid_image(seeds.stream(i, "d"), seeds.stream(i, "v"), 32).mean(0) for i in range(12)])
    steps = np.diff(pictures, axis=2)
    spread = steps - steps.mean((1, 2), keepdims=True)
    kurtosis = (spread**4).mean((1, 2)) / (spread**2).mean((1, 2)) ** 2
    assert np.median(kurtosis) > 3.5


def test_flat_features_are_uniform_or_near_their_label() -> None:
    rows = noise_images(NoiseSection(), 200, (40,), 0, "x")
    assert (rows.dtype, rows.shape) == (np.float32, (200, 40))
    assert rows.mean() == pytest.approx(0.5, abs=0.02) and rows.var() == pytest.approx(1 / 12, abs=0.005)
    assert np.array_equal(rows[:3], noise_images(NoiseSection(), 3, (40,), 0, "x"))
    near = noise_images(NoiseSection(), 200, (40,), 0, "x", label=1)
    assert near.min() >= 0 and near.max() <= 1
    assert near.var(0).mean() == pytest.approx(1 / 48, abs=0.002)
    with pytest.raises(ConfigError, match="shape"):
        noise_images(NoiseSection(), 1, (2, 8, 8), 0, "x")
