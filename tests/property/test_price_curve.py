"""Identities of price curves, whatever was measured."""

from random import Random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rayworks.core.errors import DataError
from rayworks.systems.regulation.price_curve import Fit, PriceCurve
from rayworks.systems.regulation.price_points import PricePoints, points_from_gaps

kinds: st.SearchStrategy[Fit] = st.sampled_from(["quadratic", "isotonic"])


@st.composite
def measured(draw: st.DrawFn) -> PricePoints:
    """Rising, noisy or falling points, some of equal safety, with at least three different ones."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    safety = random.integers(0, draw(st.sampled_from([5, 100])) + 1, draw(st.integers(3, 12))) / 100
    safety = safety / safety.max() if safety.any() else safety
    assume(len(np.unique(safety)) >= 3)
    trend, noise = draw(st.sampled_from([-1, 1, 1])) * safety, random.uniform(0, draw(st.floats(0, 2)), len(safety))
    cost = trend + noise - (trend + noise).min()
    return PricePoints(safety, cost / max(cost.max(), 1))


@given(measured(), kinds)
@settings(deadline=None)
def test_compliance_undoes_cost(points: PricePoints, kind: Fit) -> None:
    curve = PriceCurve.fit(points, kind)
    assume(curve.increasing_range is not None)
    assert curve.increasing_range is not None and curve.cost_range is not None
    spent = np.linspace(*curve.cost_range, 33)
    safety = curve.compliance(spent)
    np.testing.assert_allclose(curve.cost(safety), spent, atol=1e-12)
    # At a vertex the inverse can keep half of the digits only.
    np.testing.assert_allclose(curve.compliance(curve.cost(safety)), safety, atol=1e-6)


@given(measured(), kinds)
@settings(deadline=None)
def test_more_safety_costs_more(points: PricePoints, kind: Fit) -> None:
    curve = PriceCurve.fit(points, kind)
    assume(curve.increasing_range is not None)
    assert curve.increasing_range is not None
    cost = curve.cost(np.linspace(*curve.increasing_range, 33))
    assert (np.diff(cost) > -1e-15).all()
    assert cost[-1] > cost[0]
    assert ((cost >= 0) & (cost <= 1)).all()


@given(measured(), kinds, st.floats(1e-6, 1))
@settings(deadline=None)
def test_outside_its_range_a_curve_refuses(points: PricePoints, kind: Fit, beyond: float) -> None:
    curve = PriceCurve.fit(points, kind)
    if curve.increasing_range is None or curve.cost_range is None:
        with pytest.raises(DataError, match="rises nowhere"):
            curve.cost(0.5)
        return
    for ask, (low, high) in ((curve.cost, curve.increasing_range), (curve.compliance, curve.cost_range)):
        for value in (low - beyond, high + beyond):
            with pytest.raises(DataError, match="is outside"):
                ask(value)
        with pytest.raises(DataError, match="is outside"):
            ask(low - beyond, saturate=True)
        assert ask(high + beyond, saturate=True) == ask(high)


@given(measured())
@settings(deadline=None)
def test_blocks_are_those_of_the_min_max_formula(points: PricePoints) -> None:
    """The isotonic fit at point i is max over j <= i of min over k >= i of the mean of points j..k."""
    distinct = np.unique(points.safety)
    groups = [points.cost[points.safety == safety] for safety in distinct]
    count = len(groups)
    value = [
        max(min(np.concatenate(groups[j : k + 1]).mean() for k in range(i, count)) for j in range(i + 1))
        for i in range(count)
    ]
    knots = np.array(PriceCurve.fit(points, "isotonic").knots)
    assert (np.diff(knots, axis=0) > 0).all()
    for at in value:
        assert np.abs(knots[:, 1] - at).min() < 1e-12
    np.testing.assert_allclose(knots[[0, -1], 1], [value[0], value[-1]], atol=1e-12)


@given(measured(), kinds, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_points_does_not_matter(points: PricePoints, kind: Fit, random: Random) -> None:
    order = random.sample(range(len(points.cost)), len(points.cost))
    one, two = PriceCurve.fit(points, kind), PriceCurve.fit(PricePoints(points.safety[order], points.cost[order]), kind)
    grid = np.linspace(0, 1, 11)
    np.testing.assert_allclose(two.fitted(grid), one.fitted(grid), atol=1e-8)


@given(st.integers(0, 10**6), st.floats(0.01, 100))
@settings(deadline=None, max_examples=30)
def test_the_unit_of_the_gap_does_not_matter(seed: int, factor: float) -> None:
    random = np.random.default_rng(seed)
    share, gap = random.choice([0.1, 0.2, 0.5], 12), random.uniform(1, 20, 12)
    one, two = (points_from_gaps(share, scale * gap, resamples=20) for scale in (1, factor))
    np.testing.assert_allclose(two.safety, one.safety)
    assert one.resampled is not None and two.resampled is not None
    np.testing.assert_allclose(two.resampled, one.resampled)
    assert one.safety.max() == 1
