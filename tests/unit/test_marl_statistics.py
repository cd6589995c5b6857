import numpy as np
import pytest

from rayworks.systems.marl.findings.statistics import area, interquartile_mean, interval, smoothed, steps_to


def test_the_interquartile_mean_leaves_a_quarter_out_at_each_end() -> None:
    assert interquartile_mean(np.array([100.0, 1, 2, -50])) == pytest.approx(1.5)
    # Of five, the middle two and a half: three, of which the outer two count three quarters.
    assert interquartile_mean(np.array([0.0, 1, 2, 3, 100])) == pytest.approx((0.75 * 1 + 2 + 0.75 * 3) / 2.5)
    assert interquartile_mean(np.array([[3.0], [5.0]])).tolist() == [3, 5]


def test_intervals_hold_the_mean_and_come_again_with_the_seed() -> None:
    values = [1.0, 2, 3, 4, 5]
    middle, low, high = interval(values, 500, 0, "x")
    assert low < middle == 3 < high
    assert interval(values, 500, 0, "x") == (middle, low, high)
    assert interval([2.5], 10, 0, "x") == (2.5, 2.5, 2.5)


def test_smoothing_looks_back_only() -> None:
    assert smoothed(np.array([1.0, 3, 5, 7]), 2).tolist() == [1, 2, 4, 6]


def test_steps_to_a_threshold_are_interpolated() -> None:
    steps, returns = np.array([10.0, 20, 30]), np.array([0.0, 1, 3])
    assert steps_to(2.0, steps, returns) == 25
    assert steps_to(-1.0, steps, returns) == 10
    assert steps_to(4.0, steps, returns) is None


def test_area_is_the_mean_over_steps() -> None:
    assert area(np.array([0.0, 10, 20]), np.array([0.0, 2, 2])) == pytest.approx(1.5)
    assert area(np.array([5.0]), np.array([3.0])) == 3
