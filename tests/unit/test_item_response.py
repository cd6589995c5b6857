"""Calibrations against known truths, published fits, and an optimiser that knows nothing of EM."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.special import expit

from rayworks.core.errors import DataError
from rayworks.systems.difficulty.item_response.curves import (
    ItemParameters,
    Model,
    equispaced,
    fitting_grid,
    gauss_hermite,
)
from rayworks.systems.difficulty.item_response.expectations import expectation, working_of
from rayworks.systems.difficulty.item_response.marginal_likelihood import fit
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.item_response.model_fit import criteria, likelihood_ratio
from rayworks.systems.difficulty.item_response.standard_errors import standard_errors
from rayworks.systems.difficulty.responses import evidence
from rayworks.systems.difficulty.responses.response_matrix import ByteMatrix, ResponseMatrix, as_matrix
from rayworks.systems.difficulty.responses.response_store import from_table
from tests.simulated_responses import rmse, simulated

SEEDS = range(8)


def embedded(name: str) -> ResponseMatrix:
    return as_matrix(from_table(evidence.read_responses(name).responses, name))


def recovery(model: Model) -> dict[str, np.ndarray]:
    """Per data set of 500 x 50: errors of the items with difficulties in +-2, and how large errors say they are."""
    rows = []
    for seed in SEEDS:
        data = simulated(seed, model=model, standardised=True)
        found = fit(data.matrix, FitOptions(model=model))
        assert found.converged
        errors = standard_errors(data.matrix, found).difficulty
        ordinary = np.abs(data.truth.difficulty) < 2
        b, truth, a = found.parameters.difficulty, data.truth.difficulty, found.parameters.discrimination
        rows.append(
            {
                "rmse": rmse(b[ordinary], truth[ordinary]),
                "correlation": np.corrcoef(b, truth)[0, 1],
                "slope": np.polyfit(truth[ordinary], b[ordinary], 1)[0],
                "stated": float(np.sqrt(np.mean(((b - truth) / errors) ** 2))),
                "discrimination": np.corrcoef(a, data.truth.discrimination)[0, 1] if model != "1PL" else 1.0,
                "guessing": found.parameters.guessing.mean(),
                "population": found.parameters.population_sd,
            }
        )
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def test_one_parameter_recovers_difficulties() -> None:
    """Target of one data set: rmse .104, correlation .9966, slope 1.004."""
    found = recovery("1PL")
    assert np.median(found["rmse"]) < 0.112
    assert np.median(found["correlation"]) > 0.994 and found["correlation"].max() > 0.9966
    assert found["slope"].mean() == pytest.approx(1, abs=0.03)
    assert found["stated"].mean() == pytest.approx(1, abs=0.15), "errors are as large as the standard errors say"
    assert found["population"].mean() == pytest.approx(1, abs=0.05)


def test_two_parameters_recover_difficulties_and_discriminations() -> None:
    """Target of one data set: rmse .149, correlation .993, slope 1.001; discriminations correlate .89."""
    found = recovery("2PL")
    assert np.median(found["rmse"]) < 0.175 and found["rmse"].min() < 0.149
    assert np.median(found["correlation"]) > 0.98
    assert found["slope"].mean() == pytest.approx(1, abs=0.03)
    assert found["stated"].mean() == pytest.approx(1, abs=0.15)
    assert np.median(found["discrimination"]) > 0.86


def test_three_parameters_recover_difficulties_by_their_priors() -> None:
    """Target of one data set: rmse .20, correlation .985, mean guessing .21."""
    found = recovery("3PL")
    assert np.median(found["rmse"]) < 0.21
    assert np.median(found["correlation"]) > 0.975
    assert found["guessing"].mean() == pytest.approx(0.21, abs=0.02)
    assert found["stated"].mean() < 1.1


def test_four_parameters_recover_the_curves() -> None:
    data = simulated(0, subjects=3000, items=30, model="4PL")
    found = fit(data.matrix, FitOptions(model="4PL"))
    grid = np.linspace(-1.5, 1.5, 31)
    assert rmse(found.parameters.probability(grid), data.truth.probability(grid)) < 0.025
    assert (found.parameters.guessing < found.parameters.ceiling).all()
    assert (found.parameters.ceiling < 1).all()


def test_a_hundred_thousand_cells_and_more() -> None:
    """5,000 x 1,319, the size of GSM8K with a leaderboard: rmse .043."""
    data = simulated(0, subjects=5000, items=1319)
    found = fit(data.matrix, FitOptions(model="1PL"))
    errors = standard_errors(data.matrix, found)
    b, truth = found.parameters.difficulty, data.truth.difficulty
    assert rmse(b, truth) < 0.05
    shift = np.mean(b - truth)
    inside = np.abs(b - shift - truth) <= 1.96 * errors.difficulty
    assert inside.mean() == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("model", ["1PL", "2PL"])
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_the_grid_is_fine_enough_for_flat_and_steep_items(model: str, spread: float) -> None:
    data = simulated(3, subjects=300, items=80, population_sd=spread)
    chosen = fit(data.matrix, FitOptions(model=model))
    fine = fit(data.matrix, FitOptions(model=model, nodes=601))
    assert chosen.log_likelihood == pytest.approx(fine.log_likelihood, abs=0.02)
    error = standard_errors(data.matrix, fine).difficulty
    assert (np.abs(chosen.parameters.difficulty - fine.parameters.difficulty) < 0.05 * error).all()


def test_rasch_of_lsat6_is_that_of_ltm() -> None:
    """R package ltm, ``rasch(LSAT)``: difficulties with abilities N(0, 1), their common discrimination and its error."""
    matrix = embedded("lsat6")
    found = fit(matrix, FitOptions(model="1PL", tolerance=1e-7))
    assert found.log_likelihood == pytest.approx(-2466.938, abs=2e-3)
    sd = found.parameters.population_sd
    assert sd == pytest.approx(0.7551, abs=5e-4)
    assert found.parameters.difficulty / sd == pytest.approx([-3.6153, -1.3224, -0.3176, -1.7301, -2.7802], abs=2e-3)
    assert standard_errors(matrix, found).population_sd == pytest.approx(0.0694, abs=3e-4)
    told = criteria(found, 1000)
    assert (told.aic, told.bic) == pytest.approx((4945.875, 4975.322), abs=5e-3)


def test_two_parameters_of_lsat6_are_those_of_ltm() -> None:
    found = fit(embedded("lsat6"), FitOptions(model="2PL", tolerance=1e-7))
    assert found.log_likelihood == pytest.approx(-2466.653, abs=2e-3)
    assert found.parameters.difficulty == pytest.approx([-3.3597, -1.3696, -0.2799, -1.8659, -3.1236], abs=5e-3)
    assert found.parameters.discrimination == pytest.approx([0.8254, 0.7229, 0.8905, 0.6886, 0.6575], abs=2e-3)


def test_two_parameters_of_lsat7_are_those_of_mirt() -> None:
    found = fit(embedded("lsat7"), FitOptions(model="2PL", tolerance=1e-7))
    assert found.log_likelihood == pytest.approx(-2658.805, abs=2e-3)
    assert found.parameters.discrimination == pytest.approx([0.988, 1.081, 1.706, 0.765, 0.736], abs=3e-3)
    assert found.parameters.intercept == pytest.approx([1.856, 0.808, 1.804, 0.486, 1.855], abs=3e-3)


def test_the_ratio_test_of_lsat6_keeps_the_rasch_model() -> None:
    matrix = embedded("lsat6")
    small, large = (fit(matrix, FitOptions(model=model)) for model in ("1PL", "2PL"))
    found = likelihood_ratio(small, large)
    assert (found.statistic, found.degrees) == (pytest.approx(2 * (2466.938 - 2466.653), abs=4e-3), 4)
    assert found.p_value == pytest.approx(0.9665, abs=1e-3)
    with pytest.raises(ValueError, match="smaller model first"):
        likelihood_ratio(large, small)


@pytest.mark.parametrize("model", ["1PL", "2PL", "3PL", "4PL"])
def test_the_marginal_likelihood_is_the_integral(model: str) -> None:
    data = simulated(1, subjects=7, items=4, model=model, missing=0.2, population_sd=1.4)
    data = replace(data, truth=replace(data.truth, population_sd=1.4 if model == "1PL" else 1.0))
    truth, total = data.truth, 0.0
    for row in data.scores:

        def joint(x: float, row: np.ndarray = row) -> float:
            p = truth.probability(np.array([x * truth.population_sd]))[:, 0]
            seen = row >= 0
            chance = np.where(row == 1, p, 1 - p)[seen].prod()
            return float(chance * np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi))

        total += np.log(quad(joint, -9, 9, epsabs=1e-12)[0])
    for quadrature in (equispaced(81, 6.0), gauss_hermite(61)):
        found = expectation(data.matrix)(working_of(truth), quadrature).log_likelihood
        assert found == pytest.approx(total, abs=2e-6)


def test_the_maximum_is_that_of_a_plain_optimiser() -> None:
    data = simulated(5, subjects=200, items=4, model="2PL")
    grid = equispaced(41)

    def loss(point: np.ndarray) -> float:
        p = expit(point[:4, None] * grid.nodes + point[4:, None])
        cells = np.where(data.scores[:, :, None] == 1, p, 1 - p)
        return -float(np.log(cells.prod(1) @ grid.weights).sum())

    found = fit(data.matrix, FitOptions(model="2PL", tolerance=1e-8, nodes=41))
    best = minimize(loss, np.r_[np.ones(4), np.zeros(4)], method="BFGS", options={"gtol": 1e-6})
    assert found.log_likelihood == pytest.approx(-best.fun, abs=1e-6)
    assert found.parameters.discrimination == pytest.approx(best.x[:4], abs=1e-3)
    assert found.parameters.intercept == pytest.approx(best.x[4:], abs=1e-3)


def test_items_that_all_or_nobody_solves_stay_with_wide_errors() -> None:
    data = simulated(2, subjects=200, items=12)
    scores = data.scores.copy()
    scores[:, 3], scores[:, 7] = 1, 0
    models: tuple[Model, ...] = ("1PL", "2PL")
    for model in models:
        found = fit(ByteMatrix(scores), FitOptions(model=model))
        errors = standard_errors(ByteMatrix(scores), found).difficulty
        assert np.flatnonzero(found.unbounded).tolist() == [3, 7]
        assert found.parameters.difficulty.argmin() == 3
        assert found.parameters.difficulty.argmax() == 7
        assert np.isfinite(found.parameters.difficulty).all()
        assert errors[[3, 7]].min() > 3 * np.median(errors)


def test_the_hard_end_keeps_the_order_of_solve_rates() -> None:
    scores = np.zeros((60, 10), dtype=np.int8)
    for item, solved in enumerate((0, 0, 1, 2, 5, 12, 25, 40, 55, 59)):
        scores[60 - solved :, item] = 1
    found = fit(ByteMatrix(scores), FitOptions(model="1PL")).parameters.difficulty
    assert found[0] == pytest.approx(found[1])
    assert np.all(np.diff(found[1:]) < 0)


def test_a_wrong_key_is_a_suspect() -> None:
    data = simulated(4, subjects=800, items=20, model="2PL")
    scores = data.scores.copy()
    scores[:, 6] = 1 - scores[:, 6]
    found = fit(ByteMatrix(scores), FitOptions(model="2PL"))
    assert np.flatnonzero(found.suspects).tolist() == [6]
    assert (found.parameters.discrimination > 0).all()
    assert not fit(data.matrix, FitOptions(model="2PL")).suspects.any()


def test_separated_items_are_held_by_a_prior() -> None:
    """Two copies of one item, and nothing else, have no finite discrimination."""
    draw = np.random.default_rng(0)
    one = draw.integers(0, 2, 100).astype(np.int8)
    found = fit(ByteMatrix(np.stack([one, one], axis=1)), FitOptions(model="2PL"))
    assert found.with_prior.all()
    assert (found.parameters.discrimination < 8).all()
    assert np.isfinite(found.log_likelihood)


def test_guessing_can_be_fixed_at_the_chance_rate() -> None:
    data = simulated(6, subjects=2000, items=25, model="3PL", guessing=0.5)
    found = fit(data.matrix, FitOptions(model="3PL", guessing=(0.5,)))
    assert (found.parameters.guessing == 0.5).all()
    assert np.corrcoef(found.parameters.difficulty, data.truth.difficulty)[0, 1] > 0.97
    errors = standard_errors(data.matrix, found)
    assert (errors.guessing == 0).all() and (errors.difficulty > 0).all()
    blind = fit(data.matrix, FitOptions(model="1PL")).parameters.difficulty
    assert blind.std() < 0.75 * found.parameters.difficulty.std(), "a 1PL that ignores guessing is compressed"


def test_an_item_without_responses_is_refused() -> None:
    scores = np.ones((5, 3), np.int8)
    scores[:, 1] = -1
    with pytest.raises(DataError, match=r"nobody saw item number 1 \(1 in all\)"):
        fit(ByteMatrix(scores), FitOptions())


def test_grids() -> None:
    for grid in (equispaced(61), gauss_hermite(41)):
        assert grid.weights.sum() == pytest.approx(1)
        assert grid.weights @ grid.nodes == pytest.approx(0, abs=1e-12)
        assert grid.weights @ grid.nodes**2 == pytest.approx(1, abs=1e-3)
    assert gauss_hermite(41).weights @ gauss_hermite(41).nodes ** 4 == pytest.approx(3)
    assert len(fitting_grid(5).nodes) == 41 < len(fitting_grid(1319).nodes)


def test_taking_items_keeps_their_curves() -> None:
    data = simulated(0, items=6, model="4PL")
    taken = data.truth.take(np.array([4, 1]))
    ability = np.linspace(-2, 2, 5)
    assert (taken.probability(ability) == data.truth.probability(ability)[[4, 1]]).all()
    same = ItemParameters.from_difficulty(
        "4PL", taken.difficulty, taken.discrimination, taken.guessing, taken.ceiling
    ).probability(ability)
    np.testing.assert_allclose(same, taken.probability(ability), rtol=1e-12)
