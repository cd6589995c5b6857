"""Which model fits: the size and power of the tests, held-out cells, items that favour a group."""

import numpy as np
import pytest

from rayworks.systems.difficulty.item_response.curves import ItemParameters, simulate
from rayworks.systems.difficulty.item_response.marginal_likelihood import fit
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.item_response.model_fit import (
    area_under_curve,
    criteria,
    differential_functioning,
    held_out,
    likelihood_ratio,
)
from rayworks.systems.difficulty.responses.response_matrix import ByteMatrix
from rayworks.systems.difficulty.responses.response_store import from_matrix, from_table
from tests.simulated_responses import simulated

ONE, TWO = FitOptions(model="1PL"), FitOptions(model="2PL")


def test_the_ratio_test_has_its_size_and_power() -> None:
    under, against = [], []
    for seed in range(60):
        data = simulated(seed, subjects=600, items=8)
        under.append(likelihood_ratio(fit(data.matrix, ONE), fit(data.matrix, TWO)).p_value)
    for seed in range(10):
        data = simulated(seed, subjects=600, items=8, model="2PL")
        against.append(likelihood_ratio(fit(data.matrix, ONE), fit(data.matrix, TWO)).p_value)
    assert np.mean(np.array(under) < 0.1) == pytest.approx(0.1, abs=0.1)
    assert np.mean(under) == pytest.approx(0.5, abs=0.12)
    assert np.median(against) < 0.01


def test_criteria_choose_the_model_the_data_came_from() -> None:
    for model, best in (("1PL", 0), ("2PL", 1)):
        data = simulated(3, subjects=2000, items=15, model=model)
        found = [criteria(fit(data.matrix, options), 2000) for options in (ONE, TWO)]
        assert [one.parameters for one in found] == [16, 30]
        assert int(np.argmin([one.bic for one in found])) == best
        for one in found:
            assert one.aic == pytest.approx(2 * one.parameters - 2 * one.log_likelihood)
            assert one.bic == pytest.approx(one.parameters * np.log(2000) - 2 * one.log_likelihood)


def test_held_out_cells_are_foretold_nearly_as_by_the_truth() -> None:
    data = simulated(4, subjects=1000, items=40, missing=0.1)
    found = held_out(data.responses, ONE, seed=0)
    p = data.truth.probability(data.ability).T
    seen = data.scores >= 0
    best = -np.log(np.where(data.scores == 1, p, 1 - p))[seen].mean()
    assert best < found.log_loss < best + 0.04 < found.log_loss_item_means
    assert found.auc > 0.75
    assert found.cells == int(0.1 * seen.sum())
    assert held_out(data.responses, ONE, seed=0) == found
    assert held_out(data.responses, ONE, seed=1) != found


def test_held_out_never_takes_the_last_cell() -> None:
    rows = [(f"s{n}", "common", n % 2) for n in range(12)] + [("s0", "rare", 1), ("s1", "rare", 0)]
    frame = {"subject": [r[0] for r in rows], "item": [r[1] for r in rows], "score": [r[2] for r in rows]}
    import pandas as pd

    responses = from_table(pd.DataFrame(frame))
    found = held_out(responses, FitOptions(model="1PL", estimator="map"), seed=0, share=0.9)
    assert found.cells <= 2, "each of the twelve subjects keeps one answer"


def test_area_under_the_curve() -> None:
    assert area_under_curve(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])) == pytest.approx(0.75)
    assert area_under_curve(np.array([0, 1]), np.array([0.5, 0.5])) == 0.5
    assert np.isnan(area_under_curve(np.ones(3), np.ones(3)))


def test_an_item_that_favours_a_group_is_found_by_both_tests() -> None:
    draw = np.random.default_rng(5)
    b = draw.normal(0, 1, 12)
    truth = ItemParameters.from_difficulty("1PL", b)
    focal = np.arange(3000) % 2 == 0
    harder = ItemParameters.from_difficulty("1PL", b + 0.8 * (np.arange(12) == 7))
    ability, uniform = draw.normal(0, 1, 3000) - 0.5 * focal, draw.random((3000, 12))
    scores = np.where(focal[:, None], simulate(harder, ability, uniform), simulate(truth, ability, uniform))
    found = differential_functioning(from_matrix(scores), fit(ByteMatrix(scores), ONE), focal)
    assert found.likelihood_ratio_adjusted.argmin() == 7 and found.likelihood_ratio_adjusted[7] < 1e-6
    assert found.mantel_haenszel_p.argmin() == 7 and found.mantel_haenszel_p[7] < 1e-6
    assert found.shift[7] == pytest.approx(0.8, abs=0.25)
    assert found.log_odds[7] == pytest.approx(-0.8, abs=0.25)
    others = np.delete(np.arange(12), 7)
    assert np.abs(found.shift[others]).max() < 0.3
    assert (found.likelihood_ratio_p[others] < 0.01).sum() <= 1


def test_a_less_able_group_is_no_bias_of_the_items() -> None:
    """One population for both groups would find 86 % of these fair items biased, by .43 on average."""
    shifts, p_values = [], []
    for seed in range(4):
        draw = np.random.default_rng(seed)
        truth = ItemParameters.from_difficulty("1PL", draw.normal(0, 1, 8))
        focal = np.arange(1000) % 2 == 0
        scores = simulate(truth, draw.normal(0, 1, 1000) - 1.5 * focal, draw.random((1000, 8)))
        found = differential_functioning(from_matrix(scores), fit(ByteMatrix(scores), ONE), focal)
        shifts.extend(found.shift)
        p_values.extend(found.likelihood_ratio_p)
    assert np.mean(shifts) == pytest.approx(0, abs=0.08)
    assert np.mean(np.array(p_values) < 0.05) < 0.16


def test_mantel_and_haenszel_of_a_table_by_hand() -> None:
    """Two strata, by a second item that all of a stratum answer alike; the odds ratios by hand."""
    rows = []
    # stratum of total 1: focal 6 solved 4 failed (the other item makes up), others 3 solved 7 failed
    for group, solved, failed in (("f", 6, 4), ("o", 3, 7)):
        rows += [(group, 1, 0)] * solved + [(group, 0, 1)] * failed
    scores = np.array([[first, second] for _, first, second in rows])
    focal = np.array([group == "f" for group, _, _ in rows])
    found = differential_functioning(
        from_matrix(scores), fit(ByteMatrix(scores), FitOptions(model="1PL", estimator="map")), focal
    )
    assert found.log_odds[0] == pytest.approx(np.log(6 * 7 / (4 * 3)))
    expected, variance = 10 * 9 / 20, 10 * 10 * 9 * 11 / (20**2 * 19)
    from scipy.stats import chi2

    assert found.mantel_haenszel_p[0] == pytest.approx(chi2.sf((abs(6 - expected) - 0.5) ** 2 / variance, 1))


def test_what_is_fixed_is_no_free_parameter() -> None:
    scores = simulated(2, subjects=300, items=12, model="2PL").matrix
    whole = fit(scores, FitOptions(model="3PL"))
    fixed = fit(scores, FitOptions(model="3PL", guessing=(0.2,)))
    assert (whole.free_parameters, fixed.free_parameters) == (36, 24)
    assert criteria(fixed, 300).aic == pytest.approx(48 - 2 * fixed.log_likelihood)
    assert fit(scores, FitOptions(model="1PL")).free_parameters == 13
    assert fit(scores, FitOptions(model="1PL", estimate_population=False)).free_parameters == 12


def test_nothing_is_held_out_where_no_cell_can_be_spared() -> None:
    assert held_out(from_matrix(np.array([[1, 0], [0, 1]])), FitOptions(model="1PL", estimator="map"), 0) is None
