"""Accuracy against difficulty: intervals of known value, the point of even odds, trends."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import kstest, norm

from rayworks.core.proportions import wilson
from rayworks.systems.difficulty.answering.profiles import (
    above_chance,
    accuracy_curve,
    fit_logistic,
    profile,
    tier_accuracies,
    trend_test,
)


def answers(
    seed: int, count: int = 400, half: float = 0.5, slope: float = 1.5, guessing: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    difficulty = draw.normal(0, 1.5, count)
    p = guessing + (1 - guessing) * expit(-slope * (difficulty - half))
    return difficulty, (draw.random(count) < p).astype(float)


def test_wilsons_intervals_are_the_published_ones() -> None:
    """Newcombe (1998), table I: 81/263, 15/148, 0/20, 1/29."""
    low, high = wilson(np.array([81, 15, 0, 1]), np.array([263, 148, 20, 29]))
    assert low == pytest.approx([0.2553, 0.0624, 0.0000, 0.0061], abs=5e-5)
    assert high == pytest.approx([0.3662, 0.1605, 0.1611, 0.1718], abs=5e-5)
    low, high = wilson(np.array([0.0]), np.array([0.0]))
    assert (low[0], high[0]) == pytest.approx((0, 1), abs=1e-6)


def test_the_curve_is_the_mean_of_equal_parts() -> None:
    difficulty, correct = answers(0, count=103)
    found = accuracy_curve(difficulty, correct, bins=4)
    assert found.count.tolist() == [26, 26, 26, 25]
    order = np.argsort(difficulty)
    assert found.accuracy[0] == correct[order[:26]].mean()
    assert found.difficulty[-1] == pytest.approx(difficulty[order[-25:]].mean())
    assert ((found.low < found.accuracy) & (found.accuracy < found.high)).all()
    assert len(accuracy_curve(difficulty[:3], correct[:3], bins=10).count) == 3


@pytest.mark.parametrize("guessing", [0.0, 0.25])
def test_the_half_point_is_recovered_with_an_honest_interval(guessing: float) -> None:
    inside, estimates, slopes = [], [], []
    for seed in range(40):
        difficulty, correct = answers(seed, guessing=guessing)
        found = profile(difficulty, correct, seed=seed, guessing=guessing, resamples=100)
        inside.append(found.half_point_low <= 0.5 <= found.half_point_high)
        estimates.append(found.half_point)
        slopes.append(found.slope)
        assert found.trend_p < 1e-3
    assert np.mean(estimates) == pytest.approx(0.5, abs=0.06)
    assert np.mean(slopes) == pytest.approx(-1.5, abs=0.15)
    assert np.mean(inside) >= 0.85


def test_the_logistic_fit_is_the_penalised_maximum() -> None:
    difficulty, correct = answers(3, count=60, guessing=0.25)
    centre, scale = difficulty.mean(), difficulty.std()

    def loss(point: np.ndarray) -> float:
        p = 0.25 + 0.75 * expit(point[0] * (difficulty - centre) / scale + point[1])
        return -float((correct * np.log(p) + (1 - correct) * np.log(1 - p)).sum()) + float(point @ point) / 200

    best = minimize(loss, np.zeros(2)).x
    slope, intercept = fit_logistic(difficulty[None], correct[None], 0.25)
    assert slope[0] == pytest.approx(best[0] / scale, abs=1e-4)
    assert intercept[0] == pytest.approx(best[1] - best[0] * centre / scale, abs=1e-4)


def test_bands_and_steps() -> None:
    difficulty, correct = answers(1)
    found = profile(difficulty, correct, seed=0)
    assert (np.diff(found.isotonic) <= 1e-12).all()
    assert found.isotonic @ found.curve.count == pytest.approx(correct.sum())
    assert (np.diff(found.fitted) < 0).all()
    assert ((found.band[0] <= found.fitted) & (found.fitted <= found.band[1])).mean() > 0.95
    same = profile(difficulty, correct, seed=0)
    assert (same.half_point_low, same.half_point_high) == (found.half_point_low, found.half_point_high)


def test_a_model_that_does_better_on_hard_items_has_no_half_point() -> None:
    difficulty, correct = answers(2, slope=-2.0)
    found = profile(difficulty, correct, seed=0, resamples=20)
    assert np.isnan([found.half_point, found.half_point_low, found.half_point_high]).all()
    assert found.slope > 0 and found.trend_p > 0.999


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_or_nothing_stays_finite(value: float) -> None:
    difficulty, _ = answers(0, count=50)
    found = profile(difficulty, np.full(50, value), seed=0, resamples=20)
    assert np.isfinite(found.fitted).all() and np.isfinite(found.slope)
    assert found.trend_p == 1.0


def test_the_trend_test_is_cochran_and_armitages() -> None:
    """Three doses, by the textbook formula; and its p-value is uniform where nothing falls."""
    score = np.repeat([0.0, 1.0, 2.0], [10, 20, 10])
    correct = np.concatenate([np.repeat([1, 0], [8, 2]), np.repeat([1, 0], [10, 10]), np.repeat([1, 0], [3, 7])])
    n, solved, weight = np.array([10, 20, 10]), np.array([8, 10, 3]), np.array([0, 1, 2])
    p = 21 / 40
    statistic = weight @ (solved - n * p)
    variance = p * (1 - p) * (weight**2 @ n - (weight @ n) ** 2 / 40)
    assert trend_test(score, correct.astype(float)) == pytest.approx(norm.cdf(statistic / np.sqrt(variance)))
    draw = np.random.default_rng(0)
    p_values = [trend_test(draw.normal(size=80), (draw.random(80) < 0.4).astype(float)) for _ in range(400)]
    assert kstest(p_values, "uniform").pvalue > 0.001


def test_chance_is_taken_out() -> None:
    assert above_chance(np.array([0.25, 1.0, 0.625]), 0.25) == pytest.approx([0, 1, 0.5])
    assert above_chance(np.array([0.4]), 0.5)[0] < 0


def test_tiers_without_answers_are_not_a_number() -> None:
    accuracy, count = tier_accuracies(np.array([0, 0, 2]), np.array([1.0, 0.0, 1.0]), 4)
    assert count.tolist() == [2, 0, 1, 0]
    assert accuracy[[0, 2]].tolist() == [0.5, 1.0]
    assert np.isnan(accuracy[[1, 3]]).all()
