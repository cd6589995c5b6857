"""Abilities against integration by brute force, and the choice of the next item."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq, minimize_scalar

from rayworks.core.errors import DataError
from rayworks.systems.difficulty.item_response.abilities import (
    estimate,
    expected_abilities,
    next_item,
    posterior_means,
    posterior_modes,
    scoring_grid,
    weighted_likelihood,
)
from rayworks.systems.difficulty.item_response.curves import ItemParameters, Model
from rayworks.systems.difficulty.item_response.marginal_likelihood import fit
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.responses.response_matrix import as_matrix
from rayworks.systems.difficulty.responses.response_store import from_matrix
from tests.simulated_responses import simulated

MODELS: list[Model] = ["1PL", "2PL", "3PL", "4PL"]


def log_likelihood(truth: ItemParameters, row: np.ndarray, at: float) -> float:
    p = truth.probability(np.array([at]))[:, 0]
    return float(np.log(np.where(row == 1, p, 1 - p)[row >= 0]).sum())


@pytest.mark.parametrize("model", MODELS)
def test_posterior_means_are_integrals(model: Model) -> None:
    sd = 1.5 if model == "1PL" else 1.0
    data = simulated(0, subjects=8, items=6, model=model, missing=0.2, population_sd=sd)
    found = expected_abilities(data.matrix, data.truth, scoring_grid(6))
    for row, mean, error in zip(data.scores, found.ability, found.error, strict=True):

        def density(x: float, power: int, row: np.ndarray = row) -> float:
            return float(x**power * np.exp(log_likelihood(data.truth, row, x) - 0.5 * (x / sd) ** 2))

        total, first, second = (quad(density, -12, 12, args=(power,))[0] for power in (0, 1, 2))
        assert mean == pytest.approx(first / total, abs=3e-4)
        assert error == pytest.approx(np.sqrt(second / total - (first / total) ** 2), abs=1e-3)


@pytest.mark.parametrize("model", ["1PL", "2PL"])
def test_posterior_modes_are_maxima(model: Model) -> None:
    sd = 1.5 if model == "1PL" else 1.0
    data = simulated(1, subjects=30, items=12, model=model, missing=0.2, population_sd=sd)
    found = posterior_modes(data.responses, data.truth)
    for row, mode in zip(data.scores, found.ability, strict=True):
        best = minimize_scalar(
            lambda x, row=row: -log_likelihood(data.truth, row, x) + 0.5 * (x / sd) ** 2,
            bounds=(-8, 8),
            method="bounded",
            options={"xatol": 1e-9},
        )
        assert mode == pytest.approx(best.x, abs=1e-6)


def test_warms_estimate_solves_his_equation() -> None:
    """Warm (1989): score + J / (2 I) = 0; for two parameters, I * half the log of I has that derivative."""
    data = simulated(2, subjects=30, items=12, model="2PL")
    found = weighted_likelihood(data.responses, data.truth)

    def objective(x: float, row: np.ndarray) -> float:
        return log_likelihood(data.truth, row, x) + 0.5 * float(np.log(data.truth.information(np.array([x])).sum()))

    for row, value in zip(data.scores, found.ability, strict=True):
        root = brentq(
            lambda x, row=row: (objective(x + 1e-5, row) - objective(x - 1e-5, row)) / 2e-5, -7.9, 7.9, xtol=1e-10
        )
        assert value == pytest.approx(root, abs=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_all_or_nothing_has_a_finite_estimate(model: Model) -> None:
    data = simulated(3, subjects=20, items=15, model=model)
    scores = data.scores.copy()
    scores[0], scores[1] = 1, 0
    for solve in (weighted_likelihood, posterior_modes):
        found = solve(from_matrix(scores), data.truth)
        assert np.isfinite(found.ability).all() and np.isfinite(found.error).all()
        assert found.ability.argmax() == 0
        assert found.ability[0] < 7.9
    assert weighted_likelihood(from_matrix(scores), data.truth).ability[1] < data.truth.difficulty.mean()


def test_warms_estimate_is_nearly_unbiased_and_the_mean_is_shrunk() -> None:
    truth = ItemParameters.from_difficulty("2PL", np.linspace(-2, 2, 25), 1.2)
    draw = np.random.default_rng(4)
    for ability in (-1.5, 0.0, 1.5):
        scores = (draw.random((3000, 25)) < truth.probability(np.full(3000, ability)).T).astype(np.int8)
        responses = from_matrix(scores)
        warm = weighted_likelihood(responses, truth)
        assert warm.ability.mean() == pytest.approx(ability, abs=0.03)
        assert warm.ability.std() == pytest.approx(float(np.median(warm.error)), rel=0.1)
        mean = estimate(responses, as_matrix(responses), truth, scoring_grid(25), "EAP").ability.mean()
        if ability:
            assert abs(mean) < abs(ability) - 0.1


def test_the_variance_of_people_is_that_of_means_and_errors() -> None:
    for model in ("1PL", "2PL"):
        data = simulated(5, subjects=6000, items=30, model=model, population_sd=1.4)
        found = fit(data.matrix, FitOptions(model=model))
        ability = posterior_means(data.matrix, found)
        prior = found.parameters.population_sd**2
        assert ability.ability.var() + np.mean(ability.error**2) == pytest.approx(prior, rel=0.01)
        assert ability.reliability == pytest.approx(np.corrcoef(ability.ability, data.ability)[0, 1] ** 2, abs=0.02)


def test_reliability_of_unshrunk_estimates_takes_their_error_out() -> None:
    data = simulated(6, subjects=4000, items=40, model="2PL")
    warm = weighted_likelihood(data.responses, data.truth)
    assert warm.reliability == pytest.approx(np.corrcoef(warm.ability, data.ability)[0, 1] ** 2, abs=0.03)


def test_unanswered_items_say_nothing() -> None:
    data = simulated(7, subjects=10, items=8, model="2PL")
    scores = data.scores.copy()
    scores[:, 3] = np.where(np.arange(10) > 0, -1, scores[:, 3])
    responses = from_matrix(scores)
    part = responses.take_items(np.delete(np.arange(8), 3)).take_subjects(np.arange(1, 10))
    for name in ("EAP", "MAP", "WLE"):
        whole, without = (
            estimate(one, as_matrix(one), parameters, scoring_grid(8), name)
            for one, parameters in ((responses, data.truth), (part, data.truth.take(np.delete(np.arange(8), 3))))
        )
        np.testing.assert_allclose(whole.ability[1:], without.ability, atol=1e-7)


def test_the_next_item_is_the_nearest_of_equals() -> None:
    items = ItemParameters.from_difficulty("2PL", np.array([-2.0, 0.4, 1.9]), 1.0)
    first = next_item(items, 0.5, 0.9, np.zeros(3, bool))
    assert first.item == 1
    assert first.information == pytest.approx(0.25, abs=1e-3)
    assert first.error_after == pytest.approx((1 / 0.9**2 + first.information) ** -0.5)
    assert next_item(items, 0.5, 0.9, np.array([False, True, False])).item == 2
    with pytest.raises(DataError, match="all items are answered"):
        next_item(items, 0.5, 0.9, np.ones(3, bool))
