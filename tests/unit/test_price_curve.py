"""The price curve against the published fit, by hand, and what it refuses."""

import json
from typing import get_args

import numpy as np
import pytest
from scipy.stats import spearmanr

from rayworks.core.errors import DataError
from rayworks.systems.regulation.figures import price_of_safety
from rayworks.systems.regulation.price_curve import Fit, PriceCurve, published_curve
from rayworks.systems.regulation.price_points import (
    PUBLISHED_GAPS,
    PUBLISHED_SAFETY,
    PUBLISHED_SHARES,
    PricePoints,
    gap_trend,
    points_from_gaps,
    published_points,
)


def points(safety: list[float], cost: list[float]) -> PricePoints:
    return PricePoints(np.array(safety), np.array(cost))


def test_the_published_quadratic() -> None:
    curve = published_curve()
    assert curve.coefficients == pytest.approx((-1.57383, 3.60704, -1.07954), abs=1e-3)
    assert curve.r_squared == pytest.approx(0.982, abs=5e-4)
    assert curve.increasing_range == (0.416, 1.0)


def test_the_published_examples() -> None:
    curve = published_curve()
    assert float(curve.compliance(0.5)) == pytest.approx(0.590, abs=1e-3)
    assert float(curve.compliance(0.562)) == pytest.approx(0.626, abs=1e-3)


def test_the_published_gaps_are_the_published_safety() -> None:
    measured = points_from_gaps(np.array(PUBLISHED_SHARES), np.array(PUBLISHED_GAPS))
    np.testing.assert_allclose(measured.safety, PUBLISHED_SAFETY, atol=1e-3)
    np.testing.assert_allclose(measured.cost, published_points().cost)
    assert measured.resampled is None


@pytest.mark.parametrize("kind", ["quadratic", "isotonic"])
def test_nothing_is_said_outside_the_measured_range(kind: Fit) -> None:
    curve = published_curve(kind)
    assert curve.cost_range is not None
    low, high = curve.cost_range
    for safety in (0.0, 0.4159, 1.0001, float("nan")):
        with pytest.raises(DataError, match=rf"safety {safety:.6g} is outside \[0.416, 1\]"):
            curve.cost([0.5, safety])
    for cost in (0.0, low - 1e-9, high + 1e-9, float("nan")):
        with pytest.raises(DataError, match=r"cost .* is outside \["):
            curve.compliance(cost)


def test_a_caller_may_saturate_at_the_top_only() -> None:
    curve = published_curve()
    assert curve.compliance([0.97, 1.0], saturate=True).tolist() == [1.0, 1.0]
    assert float(curve.cost(2.0, saturate=True)) == float(curve.cost(1.0))
    with pytest.raises(DataError, match=r"cost 0.1 is outside"):
        curve.compliance(0.1, saturate=True)


def test_a_vertex_inside_the_range_ends_it() -> None:
    safety = np.linspace(0.2, 1, 9)
    curve = PriceCurve.fit(PricePoints(safety, 0.9 - 2 * (safety - 0.8) ** 2))
    assert curve.increasing_range == pytest.approx((0.2, 0.8))
    assert "rises within [0, 1] only for safety in [0.200, 0.800] of the measured [0.200, 1.000]" in curve.warning
    assert float(curve.compliance(0.9 - 2 * 0.3**2)) == pytest.approx(0.5)
    with pytest.raises(DataError, match=r"safety 0.9 is outside \[0.2, 0.8\]"):
        curve.cost(0.9)


def test_a_convex_quadratic_is_priced_right_of_its_vertex() -> None:
    safety = np.linspace(0, 1, 9)
    curve = PriceCurve.fit(PricePoints(safety, 0.1 + 2 * (safety - 0.4) ** 2))
    assert curve.increasing_range == pytest.approx((0.4, 1.0))
    assert float(curve.compliance(0.1 + 2 * 0.3**2)) == pytest.approx(0.7)


def test_costs_beyond_the_unit_interval_are_cut_off() -> None:
    curve = PriceCurve.fit(points([0.0, 0.1, 0.9, 1.0], [0.0, 0.0, 1.0, 1.0]))
    assert curve.coefficients is not None
    assert np.polyval(curve.coefficients, 0) < 0
    assert np.polyval(curve.coefficients, 1) > 1
    assert curve.cost_range == pytest.approx((0, 1), abs=1e-12)
    assert "rises within [0, 1] only" in curve.warning


@pytest.mark.parametrize("kind", ["quadratic", "isotonic"])
def test_a_price_that_falls_is_no_price(kind: Fit) -> None:
    falling = points([0.3, 0.5, 0.7, 1.0], [1.0, 0.7, 0.5, 0.2])
    curve = PriceCurve.fit(falling, kind)
    assert curve.increasing_range is None
    assert curve.cost_range is None
    assert "rises nowhere" in curve.warning
    for ask in (curve.cost, curve.compliance):
        with pytest.raises(DataError, match="rises nowhere"):
            ask(0.5)


@pytest.mark.parametrize("kind", ["quadratic", "isotonic"])
def test_equal_costs_are_no_price(kind: Fit) -> None:
    curve = PriceCurve.fit(points([0.3, 0.5, 0.5, 0.5, 1.0], [0.1] * 5), kind)
    assert curve.increasing_range is None
    assert curve.r_squared == 0


def test_violators_are_pooled_by_hand() -> None:
    """The two middle points violate: their block lies at the means (0.5, 0.5), and the curve runs straight to it."""
    curve = PriceCurve.fit(points([0.2, 0.4, 0.6, 1.0], [0.1, 0.7, 0.3, 1.0]), "isotonic")
    assert curve.knots == ((0.2, 0.1), (0.5, 0.5), (1.0, 1.0))
    assert float(curve.cost(0.35)) == pytest.approx(0.3)
    assert float(curve.compliance(0.75)) == pytest.approx(0.75)
    assert curve.warning == ""


def test_equal_safeties_are_one_point() -> None:
    curve = PriceCurve.fit(points([0.2, 0.5, 0.5, 1.0], [0.0, 0.2, 0.6, 1.0]), "isotonic")
    assert curve.knots == ((0.2, 0.0), (0.5, 0.4), (1.0, 1.0))


def test_pooled_ends_leave_the_range() -> None:
    curve = PriceCurve.fit(points([0.2, 0.4, 0.8, 1.0], [0.3, 0.1, 0.5, 0.9]), "isotonic")
    assert curve.increasing_range == pytest.approx((0.3, 1.0))
    assert "only for safety in [0.300, 1.000]" in curve.warning


def test_a_gap_of_zero_has_an_answer() -> None:
    with pytest.raises(DataError, match=r"mean gap at share 0.5 is 0"):
        points_from_gaps(np.array([0.1, 0.3, 0.5]), np.array([4.0, 2.0, 0.0]))


def test_resamples_with_a_mean_gap_of_zero_are_left_out() -> None:
    share, gap = np.repeat([0.1, 0.3, 0.5], 2), np.array([4.0, 5.0, 2.0, 3.0, 0.0, 1.0])
    found = points_from_gaps(share, gap, resamples=400)
    assert found.resampled is not None
    assert 250 < len(found.resampled) < 350
    assert np.isfinite(found.resampled).all()


def test_seeds_are_resampled_within_their_share() -> None:
    """Every resample takes as many seeds as the share has, from that share alone, whatever the order of the runs."""
    share, gap = np.array([0.5, 0.1, 0.3, 0.1, 0.5, 0.1]), np.array([1.0, 9.0, 4.0, 7.0, 2.0, 8.0])
    found = points_from_gaps(share, gap, resamples=2000, seed=3)
    assert found.resampled is not None
    np.testing.assert_allclose(found.safety, [1.5 / 8, 1.5 / 4, 1])
    np.testing.assert_allclose(found.cost, [0.2, 0.6, 1.0])
    best = 4 * found.resampled[:, 1]
    assert set(best.round(9)) == {1.0, 1.5, 2.0}
    assert set((3 * best / found.resampled[:, 0]).round(6)) == {21.0, 22.0, 23.0, 24.0, 25.0, 26.0, 27.0}
    again = points_from_gaps(share, gap, resamples=2000, seed=3).resampled
    np.testing.assert_array_equal(found.resampled, again)


@pytest.mark.parametrize(("share", "gap"), [(0.0, 1.0), (0.6, 1.0), (0.2, -1.0), (0.2, float("nan"))])
def test_measurements_out_of_range_are_refused(share: float, gap: float) -> None:
    with pytest.raises(DataError, match=r"price points: (share|gap) .* is outside"):
        points_from_gaps(np.array([0.1, share]), np.array([1.0, gap]))


def test_the_published_gaps_fall() -> None:
    trend = gap_trend(np.array(PUBLISHED_SHARES), np.array(PUBLISHED_GAPS))
    assert (trend.correlation, trend.low, trend.high) == pytest.approx((-1, -1, -1))
    assert trend.falls


def test_the_trend_is_spearmans() -> None:
    share, gap = np.repeat([0.5, 0.1, 0.3], 4), np.random.default_rng(0).normal(10, 1, 12)
    trend = gap_trend(share, gap)
    assert trend.correlation == pytest.approx(spearmanr(share, gap).statistic)
    assert trend.low < trend.correlation < trend.high
    assert not trend.falls
    assert gap_trend(share, np.ones(12)).correlation == 0
    with pytest.raises(DataError, match=r"share 0.5 alone has no trend"):
        gap_trend(share[:4], gap[:4])


def test_points_that_make_no_curve_are_refused() -> None:
    with pytest.raises(DataError, match="at least three shares"):
        PriceCurve.fit(points([0.2, 0.2, 1.0], [0.1, 0.2, 1.0]))
    with pytest.raises(DataError, match=r"\(1.2, 1\) is outside \[0, 1\]"):
        PriceCurve.fit(points([0.2, 0.5, 1.2], [0.1, 0.2, 1.0]))
    with pytest.raises(DataError, match="one cost each"):
        PriceCurve.fit(points([0.2, 0.5, 1.0], [0.1, 0.2]))


def test_the_band_shows_the_spread_over_seeds() -> None:
    """A quadratic through ten means has R^2 .98; the seeds behind them leave it far less sure, and say so."""
    curve = published_curve(resamples=2000)
    assert curve.band is not None
    safety, low, high = (np.array(values) for values in (curve.band.safety, curve.band.low, curve.band.high))
    middle = curve.cost(safety)
    assert ((low <= middle) & (middle <= high)).all()
    assert (high - low).mean() > 4 * np.sqrt(
        np.mean((np.array(curve.points)[:, 1] - curve.cost(PUBLISHED_SAFETY)) ** 2)
    )
    assert 0 < curve.band.rising < 0.95
    assert "curves of resampled seeds" in curve.warning


def test_seeds_that_agree_leave_no_band() -> None:
    share = np.repeat(PUBLISHED_SHARES, 5)
    curve = PriceCurve.fit(points_from_gaps(share, np.repeat(PUBLISHED_GAPS, 5), resamples=50))
    assert curve.band is not None
    np.testing.assert_allclose(curve.band.low, curve.band.high, atol=1e-9)
    assert curve.band.rising == 1
    assert curve.warning == ""


@pytest.mark.parametrize("curve", [published_curve(), published_curve("isotonic"), PriceCurve.identity()])
def test_a_curve_survives_json(curve: PriceCurve) -> None:
    assert PriceCurve.from_dict(json.loads(json.dumps(curve.to_dict()))) == curve


def test_other_json_is_no_curve() -> None:
    saved = published_curve().to_dict()
    for values in ({}, {**saved, "slope": 1}, {**saved, "band": {"level": 0.5}}, {**saved, "coefficients": None}):
        with pytest.raises(DataError, match="fit it again"):
            PriceCurve.from_dict(values)


@pytest.mark.parametrize("seeds_each", [1, 3])
def test_the_price_is_drawn_whether_it_rises_or_not(seeds_each: int) -> None:
    share = np.repeat(PUBLISHED_SHARES, seeds_each)
    for gaps in (PUBLISHED_GAPS, PUBLISHED_GAPS[::-1]):
        gap = np.repeat(gaps, seeds_each)
        curves = [PriceCurve.fit(points_from_gaps(share, gap, resamples=20), kind) for kind in get_args(Fit)]
        assert price_of_safety(share, gap, curves, published_curve(resamples=20)).startswith(b"\x89PNG")
    assert price_of_safety(share[:1], share[:1], [], published_curve(resamples=20)).startswith(b"\x89PNG")
