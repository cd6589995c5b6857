"""Clipping and noise where Flower's own fail, the adaptive bound, and epsilon against integration."""

import math

import numpy as np
import pytest

from rayworks.core.errors import ConfigError
from rayworks.systems.federation.privacy import update_clipping as clipping
from rayworks.systems.federation.privacy.gaussian_accountant import ORDERS, gaussian_epsilon, renyi_divergences


def test_a_zero_update_and_integer_buffers_pass_unharmed() -> None:
    before = {"a": np.ones(3, np.float32), "steps": np.array(5, np.int64)}
    result, norm = clipping.clipped(before, before, 0.0)
    assert norm == 0.0
    assert result["a"].tolist() == [1.0] * 3
    after = {"a": before["a"] + 4, "steps": np.array(6, np.int64)}
    result, norm = clipping.clipped(after, before, 1.0)
    assert norm == pytest.approx(4 * math.sqrt(3))
    assert result["steps"] == 6
    noisy = clipping.noised(result, 0.1, np.random.default_rng(0))
    assert noisy["steps"] == 6
    assert noisy["steps"].dtype == np.int64
    assert noisy["a"].dtype == np.float32


def test_noise_has_the_deviation_of_a_mean_and_follows_its_generator() -> None:
    deviation = clipping.noise_deviation(1.5, 2.0, 10)
    assert deviation == pytest.approx(0.3)
    zeros = {"a": np.zeros(20_000)}
    first, second = (clipping.noised(zeros, deviation, np.random.default_rng(4))["a"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert float(first.std()) == pytest.approx(0.3, rel=0.03)


def test_the_adaptive_bound_finds_the_quantile() -> None:
    norms, bound = np.linspace(1, 9, 101), 0.1
    for _ in range(300):
        bound = clipping.adapted_bound(bound, int((norms <= bound).sum()), 101, 0.5, 0.2, None)
    assert bound == pytest.approx(5.0, abs=0.3)
    assert clipping.adapted_bound(1.0, 10, 10, 0.5, 0.2, None) == pytest.approx(math.exp(-0.1))


def test_the_noise_of_the_count_is_paid_for() -> None:
    updates = clipping.adaptive_multiplier(1.0, 100)
    assert updates**-2 + (2 * 5) ** -2 == pytest.approx(1.0)
    assert clipping.adaptive_multiplier(0.0, 3) == 0.0
    with pytest.raises(ConfigError, match=r"privacy\.noise_multiplier"):
        clipping.adaptive_multiplier(1.0, 10)


@pytest.mark.parametrize(("multiplier", "rate"), [(1.0, 0.1), (2.0, 0.5), (0.8, 0.01)])
def test_divergences_are_those_of_the_mixture_by_integration(multiplier: float, rate: float) -> None:
    grid = np.linspace(-30 * multiplier, 30 * multiplier + 20, 400_001)
    density = np.exp(-(grid**2) / (2 * multiplier**2)) / (multiplier * math.sqrt(2 * math.pi))
    ratio = 1 - rate + rate * np.exp((2 * grid - 1) / (2 * multiplier**2))
    for order in (2, 3, 8):
        moment = float(np.sum(density * ratio**order) * (grid[1] - grid[0]))
        found = renyi_divergences(rate, multiplier)[order == ORDERS]
        assert found == pytest.approx(math.log(moment) / (order - 1), rel=1e-6)


def test_epsilon_grows_with_rounds_and_shrinks_with_noise_and_sampling() -> None:
    base = clipping.epsilon(1.0, 0.1, 10, 1e-5)
    assert clipping.epsilon(1.0, 0.1, 20, 1e-5) > base
    assert clipping.epsilon(2.0, 0.1, 10, 1e-5) < base
    assert clipping.epsilon(1.0, 1.0, 10, 1e-5) > 3 * base
    assert clipping.epsilon(0.0, 0.1, 10, 1e-5) == math.inf
    assert clipping.epsilon(1.0, 0.1, 0, 1e-5) == 0.0
    assert clipping.epsilon(1.0, 0.1, 10, 1e-5) == gaussian_epsilon(0.1, 1.0, 10, 1e-5)
    full = clipping.epsilon(4.0, 1.0, 1, 1e-5)
    orders = np.linspace(1.01, 200, 20_000)
    best = orders / 32 + np.log1p(-1 / orders) - (math.log(1e-5) + np.log(orders)) / (orders - 1)
    assert full == pytest.approx(float(best.min()), rel=1e-3)
