"""The privacy of mixups: published numbers, and exact losses by enumerating every draw in one dimension."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayworks.core.errors import DataError
from rayworks.systems.federation.config import MixupSection
from rayworks.systems.federation.privacy.gaussian_accountant import (
    gaussian_epsilon,
    gaussian_multiplier_for,
    renyi_divergences,
)
from rayworks.systems.federation.privacy.mixing_accountant import (
    SEED_SCOPE,
    Role,
    guarantee,
    loss,
    loss_with_replacement,
    loss_without_replacement,
    reverse_loss_without_replacement,
    roles,
    scale_for,
    statement,
    total_with_replacement,
)

OUTPUTS = np.linspace(-4, 5, 3601)
CIFAR, MNIST = 3072, 784


def exact_loss(draws: list[tuple[tuple[int, float], ...]], points: int, changed: int, scale: float) -> float:
    """Largest log ratio over outputs, and over all corners of the data, when one point moves from 0 to 1.

    ``draws`` are equally likely lists of (point, weight).
    """

    def densities(values: tuple[float, ...]) -> np.ndarray:
        means = np.array([sum(weight * values[point] for point, weight in draw) for draw in draws])
        return np.exp(-np.abs(OUTPUTS - means[:, None]) / scale).mean(0)

    worst = 0.0
    for others in itertools.product((0.0, 1.0), repeat=points - 1):
        before, after = (densities((*others[:changed], value, *others[changed:])) for value in (0.0, 1.0))
        worst = max(worst, float(np.abs(np.log(before / after)).max()))
    return worst


@pytest.mark.parametrize(
    ("points", "mixed", "scale"), [(4, 2, 0.1), (5, 3, 0.2), (5, 2, 0.3), (4, 4, 0.1), (6, 1, 0.5)]
)
def test_the_bound_is_attained_without_replacement(points: int, mixed: int, scale: float) -> None:
    draws = [tuple((point, 1 / mixed) for point in chosen) for chosen in itertools.combinations(range(points), mixed)]
    bound = loss_without_replacement(points, mixed, 1 / (mixed * scale))
    assert exact_loss(draws, points, 0, scale) == pytest.approx(bound, abs=1e-9)


@pytest.mark.parametrize(("points", "mixed", "scale"), [(4, 2, 0.1), (3, 3, 0.2)])
def test_drawing_with_replacement_loses_more(points: int, mixed: int, scale: float) -> None:
    draws = [tuple((point, 1 / mixed) for point in chosen) for chosen in itertools.product(range(points), repeat=mixed)]
    ratio = 1 / (mixed * scale)
    exact = exact_loss(draws, points, 0, scale)
    assert exact == pytest.approx(loss_with_replacement(points, mixed, ratio), abs=1e-9)
    assert exact > loss_without_replacement(points, mixed, ratio)


def labelled_draws(points: int, owned: int, weights: tuple[float, ...]) -> list[tuple[tuple[int, float], ...]]:
    return [
        tuple(zip((first, *partners), weights, strict=True))
        for first in range(owned)
        for partners in itertools.permutations([point for point in range(points) if point != first], len(weights) - 1)
    ]


@pytest.mark.parametrize(
    ("points", "owned", "section", "scale"),
    [
        (4, 2, MixupSection(images=2, dominant=0.7), 0.1),
        (5, 3, MixupSection(images=2, dominant=0.6), 0.2),
        (4, 2, MixupSection(images=3, dominant=0.7), 0.2),
        (5, 4, MixupSection(images=2, weights="uniform"), 0.4),
    ],
)
def test_roles_add_up_exactly(points: int, owned: int, section: MixupSection, scale: float) -> None:
    count = section.images
    head = 1 / count if section.weights == "uniform" else section.dominant
    draws = labelled_draws(points, owned, (head, *[(1 - head) / (count - 1)] * (count - 1)))
    for changed, filled in ((0, True), (points - 1, False)):
        found = roles(points, owned, section, filled)
        exact = exact_loss(draws, points, changed, scale)
        assert exact == pytest.approx(loss(found, 1.0, scale), abs=1e-9)
        if filled:
            assert exact > max(loss([role], 1.0, scale) for role in found) + 1e-3


def test_dirichlet_weights_are_bounded_without_gain_from_mixing() -> None:
    for images in (2, 4, 8):
        found = roles(50, 5, MixupSection(images=images, weights="dirichlet"), True)
        assert found[0] == Role(0.2, 1.0)
        assert loss(found, 1.0, 0.01) > 1 / 0.01 - math.log(5) - 1e-9


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 50), st.data(), st.floats(1e-6, 500))
def test_the_forward_loss_is_never_below_the_reverse(points: int, data: Any, ratio: float) -> None:
    mixed = data.draw(st.integers(1, points))
    forward = loss_without_replacement(points, mixed, ratio)
    assert forward >= reverse_loss_without_replacement(points, mixed, ratio) - 1e-12
    assert forward <= ratio + 1e-12
    assert loss_with_replacement(points, mixed, ratio) >= forward - 1e-9


@pytest.mark.parametrize(
    ("scale", "mixed", "expected"), [(0.03, 4, 25593), (0.03, 1, 102391), (1.0, 4, 760.9), (100.0, 4, 1.005)]
)
def test_numbers_of_a_single_image(scale: float, mixed: int, expected: float) -> None:
    assert loss_without_replacement(5000, mixed, CIFAR / (mixed * scale)) == pytest.approx(expected, rel=5e-4)


@pytest.mark.parametrize(("mixed", "expected"), [(1, 11483), (2, 2283), (4, 111.5), (8, 17.73)])
def test_numbers_of_clipped_features(mixed: int, expected: float) -> None:
    assert 1000 * loss_without_replacement(5000, mixed, 2 / (mixed * 0.1)) == pytest.approx(expected, rel=5e-4)


@pytest.mark.parametrize(
    ("features", "expected"), [(CIFAR, (339.1, 183.6, 100.1, 55.01)), (MNIST, (86.55, 46.86, 25.55, 14.04))]
)
def test_noise_needed_for_epsilon_one(features: int, expected: tuple[float, ...]) -> None:
    for mixed, scale in zip((1, 2, 4, 8), expected, strict=True):
        found = scale_for(1.0, 5000, mixed, features)
        assert found == pytest.approx(scale, rel=5e-4)
        assert loss_without_replacement(5000, mixed, features / (mixed * found)) == pytest.approx(1.0)
    with pytest.raises(DataError, match="epsilon 0"):
        scale_for(0.0, 5000, 4, features)


def test_losses_of_all_encodings_add_up_for_the_worst_example() -> None:
    counts, released = np.array([8, 2, 0]), np.array([3, 5, 0])
    section = MixupSection(images=2, dominant=0.6, scale=2.0)
    found = guarantee(counts, released, section, 4)

    def cost(of: int, filled: bool) -> float:
        return loss(roles(10, int(counts[of]), section, filled), 4, 2.0)

    first, second = 3 * cost(0, True) + 5 * cost(1, False), 3 * cost(0, False) + 5 * cost(1, True)
    assert found.total == pytest.approx(max(first, second))
    assert found.per_encoding == pytest.approx(cost(1, True))
    assert (found.encodings, found.delta) == (8, 0.0)
    assert guarantee(counts, 0 * released, section, 4).total == 0
    standing = guarantee(counts, np.array([0, 0, 1]), section, 4)
    assert standing.total == pytest.approx(loss([Role(1 / 10, 0.4)], 4, 2.0)), "one partner of ten beside a stand-in"
    assert guarantee(np.zeros(3, np.int64), np.array([0, 0, 1]), section, 4).total == 0
    assert guarantee(counts, released, section, 4, distance=0.0).total == 0
    assert guarantee(counts, released, section, 4, distance=2.0).total < found.total


@pytest.mark.parametrize(("points", "owned", "mixed", "scale"), [(4, 2, 2, 0.1), (3, 1, 3, 0.2), (4, 0, 3, 0.2)])
def test_stand_ins_and_partners_with_replacement_against_enumeration(
    points: int, owned: int, mixed: int, scale: float
) -> None:
    counts, released = np.array([owned, points - owned]), np.array([1, 0])
    section = MixupSection(images=mixed, weights="uniform", scale=scale)
    if owned == 0:
        partners = itertools.combinations(range(points), mixed - 1)
        draws = [tuple((point, 1 / mixed) for point in chosen) for chosen in partners]
        found, changed = guarantee(counts, released, section, 1).total, 0
    else:
        draws = [
            tuple((point, 1 / mixed) for point in (first, *partners))
            for first in range(owned)
            for partners in itertools.product(range(points), repeat=mixed - 1)
        ]
        found, changed = total_with_replacement(counts, released, section, 1), 0
        assert found > guarantee(counts, released, section, 1).total
    assert exact_loss(draws, points, changed, scale) == pytest.approx(found, abs=1e-9)


def test_gaussian_releases_have_the_known_epsilon() -> None:
    # One Gaussian release at multiplier 1: Renyi divergences a / 2; the best integer order is found by hand.
    delta = 1e-5
    by_hand = min(a / 2 + math.log1p(-1 / a) - (math.log(delta) + math.log(a)) / (a - 1) for a in range(2, 200))
    assert gaussian_epsilon(1.0, 1.0, 1, delta) == pytest.approx(by_hand)
    # Sampling at every order: the closed form of order 2, log(1 + q^2 (e^(1/z^2) - 1)).
    assert renyi_divergences(0.1, 0.8)[0] == pytest.approx(math.log1p(0.01 * math.expm1(1 / 0.64)))
    # DP-SGD on MNIST: sampling 256 / 60000, multiplier 1.1, 60 epochs.
    assert gaussian_epsilon(256 / 60000, 1.1, 60 * 60000 // 256, delta) == pytest.approx(2.60, abs=0.01)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.5, 20), st.floats(0.001, 1.0), st.integers(1, 500))
def test_the_multiplier_for_an_epsilon_is_just_enough(epsilon: float, chance: float, releases: int) -> None:
    found = gaussian_multiplier_for(epsilon, chance, releases, 1e-5)
    assert gaussian_epsilon(chance, found, releases, 1e-5) <= epsilon
    assert gaussian_epsilon(chance, found * 0.999, releases, 1e-5) > epsilon


def test_statements_are_honest() -> None:
    counts, released = np.array([100, 0, 30]), np.array([50, 0, 5])
    useful = statement(guarantee(counts, released, MixupSection(), 64))
    assert "vacuous" in useful and "not the model" in useful and "not their labels" in useful
    heavy = statement(guarantee(counts, released, MixupSection(noise="gaussian", scale=100.0), 64))
    assert "vacuous" not in heavy and "Poisson" in heavy and "not the model" in heavy
    assert "promise nothing" in statement(guarantee(counts, released, MixupSection(noise="none"), 64))
    assert "No encodings" in statement(guarantee(counts, 0 * released, MixupSection(), 64))
    for said in (useful, heavy):
        assert said.endswith(SEED_SCOPE) and said.count(". ") == 1 and said.count("common seed") == 1
