"""The mechanism on rounds that can be worked out by hand, its audit, and the simulation that plays it."""

import numpy as np
import pytest

from rayworks.core.errors import DataError
from rayworks.systems.regulation.equilibrium import Auction
from rayworks.systems.regulation.mechanism import STATUSES, Rules, run_mechanism
from rayworks.systems.regulation.price_curve import PriceCurve, published_curve
from rayworks.systems.regulation.simulation import exact_curves, play_round, simulated_curves
from rayworks.systems.regulation.solving import solve
from rayworks.systems.regulation.stress import other_test_data, rings, sybils, uncertain_values
from rayworks.systems.regulation.value_distributions import (
    SampleValues,
    SymmetricBetaValues,
    UniformValues,
)


def statuses(scores: list[float], rules: Rules, pairing: list[float], ties: list[float]) -> list[str]:
    return [STATUSES[number] for number in run_mechanism(scores, rules, pairing, ties).status]


def test_pairs_by_the_order_of_their_numbers() -> None:
    scores, pairing = [0.9, 0.2, 0.6, 0.7, 0.8], [0.1, 0.0, 0.4, 0.3, 0.2]
    outcome = run_mechanism(scores, Rules(0.5), pairing, [0.5] * 5)
    assert [STATUSES[number] for number in outcome.status] == ["won", "rejected", "lost", "won", "lost"]
    assert outcome.group.tolist() == [0, -1, 1, 1, 0]
    assert list(outcome.audit())[4] == {
        "submission": 4,
        "score": 0.8,
        "threshold": 0.5,
        "cleared": True,
        "group": 0,
        "rivals": [0],
        "status": "lost",
        "premium": 0.0,
    }


@pytest.mark.parametrize(
    ("tie", "expected", "premiums"),
    [
        ("coin", ["lost", "won"], [0, 1]),
        ("split", ["shared", "shared"], [0.5, 0.5]),
        ("void", ["lost", "lost"], [0, 0]),
    ],
)
def test_ties(tie: str, expected: list[str], premiums: list[float]) -> None:
    outcome = run_mechanism([0.7, 0.7], Rules(0.5, tie=tie), [0.1, 0.2], [0.3, 0.4])
    assert [STATUSES[number] for number in outcome.status] == expected
    assert outcome.premium.tolist() == premiums


def test_three_level_models_share_two_premiums() -> None:
    outcome = run_mechanism([0.7, 0.7, 0.7], Rules(0.5, 3, 2, "split"), [0.1, 0.2, 0.3], [0.0] * 3)
    assert outcome.premium == pytest.approx([2 / 3] * 3)
    clear = run_mechanism([0.9, 0.7, 0.7], Rules(0.5, 3, 2, "split"), [0.1, 0.2, 0.3], [0.0] * 3)
    assert clear.premium == pytest.approx([1, 0.5, 0.5])


def test_whoever_is_left_over_wins_at_a_groups_rate_or_meets_the_first_again() -> None:
    scores, pairing = [0.6, 0.7, 0.8], [0.1, 0.2, 0.3]
    assert statuses(scores, Rules(0.5), pairing, [0, 0, 0.49]) == ["lost", "won", "bye won"]
    assert statuses(scores, Rules(0.5), pairing, [0, 0, 0.51]) == ["lost", "won", "bye lost"]
    redraw = Rules(0.5, bye="redraw")
    assert statuses(scores, redraw, pairing, [0.9] * 3) == ["lost", "won", "bye won"]
    assert statuses([0.9, 0.7, 0.8], redraw, pairing, [0.9] * 3) == ["won", "lost", "bye lost"]
    assert statuses([0.9], redraw, [0.1], [0.2]) == ["bye won"]


def test_bad_rounds_are_refused() -> None:
    with pytest.raises(DataError, match="submission 1: score nan is not a number"):
        run_mechanism([0.5, float("nan")], Rules(0.5), [0, 1], [0, 1])
    with pytest.raises(DataError, match="same length"):
        run_mechanism([0.5, 0.6], Rules(0.5), [0], [0, 1])
    with pytest.raises(DataError, match="two participants"):
        Rules(0.5, 1)
    with pytest.raises(DataError, match="prizes 2"):
        Rules(0.5, 2, 2)
    with pytest.raises(DataError, match="threshold nan"):
        Rules(float("nan"))


def test_a_round_agrees_with_the_quadrature() -> None:
    curve = published_curve()
    auction = Auction(SymmetricBetaValues(), 0.4)
    equilibrium = solve(auction)
    threshold = float(curve.compliance(0.4))
    played = play_round(equilibrium, curve, Rules(threshold), 200_000, seed=5)
    entering = equilibrium.entrants()
    z = entering.z
    assert played.participation_auction == pytest.approx(entering.participation, abs=0.004)
    assert played.mean_bid_auction == pytest.approx(entering.mean(equilibrium.bid(z)), abs=0.002)
    expected = entering.mean(curve.compliance(equilibrium.bid(z), saturate=True))
    assert played.compliance_auction == pytest.approx(expected, abs=0.002)
    assert played.compliance_gain == pytest.approx(expected / threshold - 1, abs=0.005)
    assert played.outcome.cleared.all()
    assert played.utility_auction > played.utility_reserve
    again = play_round(equilibrium, curve, Rules(threshold), 200_000, seed=5)
    assert again.premium_paid == played.premium_paid
    assert play_round(equilibrium, curve, Rules(threshold), 200_000, seed=6).premium_paid != played.premium_paid


def test_curves_by_quadrature_and_by_drawing_agree() -> None:
    auction, prices = Auction(UniformValues(), 0.5, group_size=3, premium_scale=1.5), [0.2, 0.5, 0.9]
    exact = exact_curves(auction, prices, "fixed_point", published_curve())
    drawn = simulated_curves(auction, prices, "fixed_point", 100_000, seed=1)
    np.testing.assert_allclose(drawn.participation, exact.participation, atol=0.005)
    np.testing.assert_allclose(drawn.participation_reserve, exact.participation_reserve, atol=0.005)
    np.testing.assert_allclose(drawn.mean_bid, exact.mean_bid, atol=0.005)
    assert np.all(exact.participation > exact.participation_reserve)
    assert np.all(exact.compliance > exact.compliance_reserve)
    low = exact_curves(auction, [0.05], "paper", published_curve())
    assert np.isnan(low.compliance[0])


@pytest.mark.parametrize(
    ("distribution", "price", "spend", "reserve_price", "reserve_spend"),
    [(UniformValues(), 0.40, 0.2318, 0.36, 0.1803), (SymmetricBetaValues(), 0.34, 0.2408, 0.31, 0.1867)],
)
def test_the_price_at_which_builders_spend_most(
    distribution: UniformValues, price: float, spend: float, reserve_price: float, reserve_spend: float
) -> None:
    found = exact_curves(
        Auction(distribution, 0.5), np.linspace(0.01, 0.99, 99).tolist(), "paper", PriceCurve.identity()
    )
    assert found.price[np.argmax(found.spend)] == pytest.approx(price)
    assert found.spend.max() == pytest.approx(spend, abs=5e-4)
    assert found.price[np.argmax(found.spend_reserve)] == pytest.approx(reserve_price)
    assert found.spend_reserve.max() == pytest.approx(reserve_spend, abs=5e-4)


def test_prices_that_nobody_can_pay_or_has_are_empty() -> None:
    low = Auction(SampleValues(np.linspace(0.1, 0.7, 50)), 0.3, cap=0.6)
    for found in (
        exact_curves(low, [0.3, 0.65, 0.8], "paper", PriceCurve.identity()),
        simulated_curves(low, [0.3, 0.65, 0.8], "paper", 1000, 0),
    ):
        assert found.participation[0] > 0
        assert found.participation[1:].tolist() == [0, 0]
        assert found.participation_reserve[1:].tolist() == [0, 0]
        assert np.isnan(found.mean_bid[1:]).all()


def test_rings_pay_only_when_nearly_all_are_in() -> None:
    """With everybody in, a member wins every second pair for the bare price."""
    equilibrium = solve(Auction(UniformValues(), 0.5))
    points, break_even = rings(equilibrium, (0.0, 1.0))
    entering = equilibrium.entrants()
    won = np.interp(entering.z, entering.z, entering.below)
    worth, rent = entering.mean(entering.z), entering.mean(entering.z * won - equilibrium.bid(entering.z) + 0.5)
    assert points[0].member_gain == pytest.approx(-rent)
    assert points[0].outsider_gain == pytest.approx(0, abs=1e-12)
    assert points[1].member_gain == pytest.approx(worth / 2 - rent)
    assert points[1].mean_bid == pytest.approx(0.5)
    assert break_even == pytest.approx(2 * rent / worth, abs=1e-3)


def test_rings_where_all_high_types_bid_the_cap() -> None:
    for mode in ("capped", "fixed_point"):
        points, _ = rings(solve(Auction(UniformValues(), 0.6, premium_scale=3), mode), (0.0, 0.5))
        assert points[0].outsider_gain == pytest.approx(0, abs=1e-12)
        assert points[1].outsider_gain > 0


def test_a_second_model_pays_below_a_price_of_a_third() -> None:
    """``rent(1/2) = 3/8 - p/8`` exceeds ``p`` exactly below 1/3 for uniform values."""
    for price in (0.2, 0.33, 0.34, 0.5):
        found = sybils(solve(Auction(UniformValues(), price)))
        assert found.rebuilt_gain == pytest.approx(max(0.0, 0.375 - price / 8 - price), abs=1e-3)
        assert (found.rebuilt_share > 0) == (price < 1 / 3)
        assert found.copied_gain == pytest.approx(0.5, abs=1e-3)


def test_unforeseen_readings_reject_and_misrank() -> None:
    curve, equilibrium = published_curve(), solve(Auction(UniformValues(), 0.5))
    rules = Rules(float(curve.compliance(0.5)))
    exact, noisy = other_test_data(equilibrium, curve, rules, (0.0, 0.05), 20_000, seed=0)
    assert (exact.rejected, exact.misranked) == (0, 0)
    assert noisy.rejected > 0.1
    assert 0.1 < noisy.misranked < 0.5
    assert noisy.utility < exact.utility
    assert noisy.participation == exact.participation


def test_values_that_are_guessed_cost_builders() -> None:
    curve, equilibrium = published_curve(), solve(Auction(UniformValues(), 0.5))
    rules = Rules(float(curve.compliance(0.5)))
    known, guessed = uncertain_values(equilibrium, curve, rules, (0.0, 0.5), 20_000, seed=0)
    assert guessed.at_a_loss > known.at_a_loss
    assert guessed.utility < known.utility
