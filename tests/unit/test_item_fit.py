"""Fit statistics: exact where they can be enumerated, uniform under the model, and loud where it is broken."""

import itertools

import numpy as np
import pytest
from scipy.stats import kstest

from rayworks.systems.difficulty.item_response.abilities import weighted_likelihood
from rayworks.systems.difficulty.item_response.item_fit import (
    aberrant_share,
    benjamini_hochberg,
    local_dependence,
    residual_fit,
    score_distribution,
    score_fit,
    without_item,
)
from rayworks.systems.difficulty.item_response.marginal_likelihood import fit
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.responses.response_matrix import ByteMatrix
from rayworks.systems.difficulty.responses.response_store import from_matrix
from tests.simulated_responses import simulated


def test_the_score_distribution_is_the_enumerated_one() -> None:
    p = np.random.default_rng(0).uniform(0.05, 0.95, (5, 3))
    expected = np.zeros((6, 3))
    for pattern in itertools.product([0, 1], repeat=5):
        solved = np.array(pattern)[:, None]
        expected[sum(pattern)] += np.where(solved == 1, p, 1 - p).prod(0)
    np.testing.assert_allclose(score_distribution(p), expected, atol=1e-14)


@pytest.mark.parametrize("low", [0.0, 1e-6, 0.3, 0.5])
def test_leaving_an_item_out_is_recomputing_without_it(low: float) -> None:
    """Sixty items, some nearly certain: the division must not lose what adding up would keep."""
    p = np.random.default_rng(1).uniform(low, 1 - low, (60, 7))
    found = without_item(score_distribution(p), p)
    for item in range(60):
        expected = score_distribution(np.delete(p, item, axis=0))
        np.testing.assert_allclose(found[item], expected, atol=1e-10)


def test_score_fit_is_uniform_under_the_model() -> None:
    p_values = []
    for seed in range(20):
        data = simulated(seed, subjects=1500, items=20, model="2PL")
        found = fit(data.matrix, FitOptions(model="2PL"))
        result = score_fit(data.matrix, found)
        assert result.subjects == 1500
        p_values.extend(result.p_value)
    assert kstest(p_values, "uniform").statistic < 0.1
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.03)


def test_score_fit_finds_an_item_of_another_shape() -> None:
    data = simulated(30, subjects=3000, items=20, model="2PL")
    scores = data.scores.copy()
    # Solved in the middle of the ability range only: no logistic curve rises and falls.
    chance = np.where(np.abs(data.ability) < 0.7, 0.9, 0.3)
    scores[:, 11] = np.random.default_rng(0).random(3000) < chance
    found = fit(ByteMatrix(scores), FitOptions(model="2PL"))
    result = score_fit(ByteMatrix(scores), found)
    assert result.p_adjusted[11] < 1e-6
    assert (np.delete(result.p_adjusted, 11) > 0.01).mean() > 0.8


def test_score_fit_counts_complete_rows_only() -> None:
    data = simulated(31, subjects=400, items=10)
    scores = data.scores.copy()
    scores[100:, 0] = -1
    found = fit(data.matrix, FitOptions(model="1PL"))
    part = score_fit(ByteMatrix(scores), found)
    whole = score_fit(ByteMatrix(data.scores[:100]), found)
    assert part.subjects == 100
    np.testing.assert_allclose(part.statistic, whole.statistic)
    few = score_fit(ByteMatrix(scores[95:]), found)
    assert few.subjects == 5 and np.isnan(few.p_value).all()


def test_mean_squares_are_one_under_the_model_and_not_for_noise() -> None:
    data = simulated(2, subjects=2000, items=25)
    found = residual_fit(data.responses, data.truth, data.ability)
    assert found.infit == pytest.approx(np.ones(25), abs=0.1)
    assert found.outfit.mean() == pytest.approx(1, abs=0.05)
    assert found.person.mean() == pytest.approx(0, abs=0.07)
    assert found.person.std() == pytest.approx(1, abs=0.07)
    assert aberrant_share(found.person) == pytest.approx(0.05, abs=0.02)
    assert not found.flagged.any()
    scores = data.scores.copy()
    scores[:, 5] = np.random.default_rng(0).random(2000) < 0.5
    noisy = residual_fit(from_matrix(scores), data.truth, data.ability)
    assert noisy.flagged[5] and noisy.infit[5] > 1.3
    assert noisy.flagged.sum() == 1


def test_mean_squares_are_their_formula() -> None:
    data = simulated(3, subjects=40, items=6, model="3PL", missing=0.3)
    found = residual_fit(data.responses, data.truth, data.ability)
    p = data.truth.probability(data.ability).T
    seen, y = data.scores >= 0, data.scores
    square = np.where(seen, (y - p) ** 2, 0.0)
    variance = np.where(seen, p * (1 - p), 0.0)
    np.testing.assert_allclose(found.infit, square.sum(0) / variance.sum(0), rtol=1e-9)
    np.testing.assert_allclose(found.outfit, (square / (p * (1 - p))).sum(0) / seen.sum(0), rtol=1e-9)
    logit = np.log(p / (1 - p))
    expected = np.where(seen, (y - p) * logit, 0).sum(1) / np.sqrt((variance * logit**2).sum(1))
    np.testing.assert_allclose(found.person, expected, rtol=1e-9)


def test_a_person_who_fails_the_easy_and_solves_the_hard_is_aberrant() -> None:
    data = simulated(4, subjects=300, items=40)
    scores = data.scores.copy()
    scores[0] = data.truth.difficulty > np.median(data.truth.difficulty)
    ability = weighted_likelihood(from_matrix(scores), data.truth).ability
    person = residual_fit(from_matrix(scores), data.truth, ability).person
    assert person.argmin() == 0 and person[0] < -4


def test_dependence_finds_a_copied_item() -> None:
    data = simulated(5, subjects=1500, items=15)
    scores = data.scores.copy()
    copied = np.random.default_rng(0).random(1500) < 0.8
    scores[:, 9] = np.where(copied, scores[:, 4], scores[:, 9])
    responses = from_matrix(scores)
    found = fit(ByteMatrix(scores), FitOptions(model="1PL"))
    correlation = local_dependence(
        responses, found.parameters, weighted_likelihood(responses, found.parameters).ability
    )
    assert np.isnan(np.diag(correlation)).all()
    np.testing.assert_allclose(correlation, correlation.T)
    assert sorted(np.unravel_index(np.nanargmax(correlation), correlation.shape)) == [4, 9]
    others = np.delete(np.delete(correlation, [4, 9], 0), [4, 9], 1)
    assert correlation[4, 9] > 0.4 > 5 * np.nanmax(np.abs(others - np.nanmean(others))) / 2
    assert np.nanmean(others) == pytest.approx(-1 / 14, abs=0.05)


def test_dependence_is_the_correlation_of_residuals() -> None:
    data = simulated(6, subjects=50, items=4, missing=0.3)
    found = local_dependence(data.responses, data.truth, data.ability)
    residual = data.scores - data.truth.probability(data.ability).T
    for one, two in itertools.combinations(range(4), 2):
        both = (data.scores[:, one] >= 0) & (data.scores[:, two] >= 0)
        expected = np.corrcoef(residual[both, one], residual[both, two])[0, 1]
        assert found[one, two] == pytest.approx(expected)


def test_false_discovery_adjustment_of_a_known_example() -> None:
    """R: p.adjust(c(.01, .02, .03, .04, .5), "BH")."""
    p = np.array([0.04, np.nan, 0.01, 0.5, 0.03, 0.02])
    found = benjamini_hochberg(p)
    assert found[[0, 2, 3, 4, 5]] == pytest.approx([0.05, 0.05, 0.5, 0.05, 0.05])
    assert np.isnan(found[1])
    assert benjamini_hochberg(np.array([0.001, 0.8])) == pytest.approx([0.002, 0.8])
