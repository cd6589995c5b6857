"""Standard errors against numeric curvature, against one another, and against what repeated data sets do."""

from dataclasses import replace

import numpy as np
import pytest

from rayworks.core.errors import ConfigError
from rayworks.systems.difficulty.item_response.curves import ItemParameters, Model
from rayworks.systems.difficulty.item_response.expectations import expectation, working_of
from rayworks.systems.difficulty.item_response.marginal_likelihood import Calibration, fit
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.item_response.standard_errors import (
    Method,
    intervals,
    marginal_scores,
    observed_information,
    standard_errors,
)
from rayworks.systems.difficulty.item_response.working import Working
from rayworks.systems.difficulty.responses.response_matrix import ByteMatrix, ResponseMatrix, SparseMatrix
from tests.simulated_responses import simulated

MODELS: list[Model] = ["1PL", "2PL", "3PL", "4PL"]


def fitted(
    model: Model, seed: int = 0, subjects: int = 150, items: int = 5, **options: object
) -> tuple[ResponseMatrix, Calibration, Working]:
    matrix = simulated(seed, subjects, items, model, missing=0.1).matrix
    found = fit(matrix, FitOptions(model=model, **options))
    fixed = bool(found.options.guessing)
    return matrix, found, replace(working_of(found.parameters), fixed_lower=fixed)


def log_posterior(matrix: ResponseMatrix, found: Calibration, working: Working, vector: np.ndarray) -> float:
    at = working.at(vector)
    assert at is not None
    value = expectation(matrix)(at, found.quadrature).log_likelihood
    return value + found.options.priors.log_density(at, found.with_prior)


@pytest.mark.parametrize("model", MODELS)
def test_information_is_the_negative_second_derivative(model: Model) -> None:
    """Of the likelihood; of the priors, the curvature is that of Gauss and Newton, which none is free of in a 3PL."""
    matrix, found, working = fitted(model)
    if model in ("3PL", "4PL"):
        flat = replace(found.options.priors, difficulty_sd=1e6, discrimination_sd=1e6, guessing=(1, 1), ceiling=(1, 1))
        found = replace(found, options=replace(found.options, priors=flat))
    vector, step = working.vector, 1e-3
    size = len(vector)
    numeric = np.zeros((size, size))
    unit = step * np.eye(size)
    for i in range(size):
        for j in range(size):
            numeric[i, j] = -sum(
                sign * log_posterior(matrix, found, working, vector + one * unit[i] + two * unit[j])
                for one, two, sign in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))
            ) / (4 * step**2)
    information = observed_information(matrix, found)
    np.testing.assert_allclose(information, numeric, atol=2e-3 * np.abs(numeric).max())


@pytest.mark.parametrize("model", MODELS)
def test_scores_are_the_first_derivatives(model: Model) -> None:
    matrix, found, working = fitted(model, seed=1)
    scores = np.concatenate([part for _, part in marginal_scores(matrix, found)])
    assert scores.shape == (150, len(working.vector))
    step = 1e-5

    def plain(vector: np.ndarray) -> float:
        at = working.at(vector)
        assert at is not None
        return expectation(matrix)(at, found.quadrature).log_likelihood

    numeric = [
        (plain(working.vector + one) - plain(working.vector - one)) / (2 * step)
        for one in step * np.eye(len(working.vector))
    ]
    np.testing.assert_allclose(scores.sum(0), numeric, atol=1e-3)


@pytest.mark.parametrize("estimate_population", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_the_low_rank_rasch_path_is_the_dense_one(estimate_population: bool, weighted: bool) -> None:
    data = simulated(2, subjects=120, items=9)
    scores = data.scores.copy()
    scores[:, 4] = 1
    frequency = np.random.default_rng(0).integers(0, 3, 120).astype(float) if weighted else None
    options = FitOptions(model="1PL", estimate_population=estimate_population)
    matrix = ByteMatrix(scores)
    found = fit(matrix, options, frequency)
    fast = standard_errors(matrix, found, "observed", frequency=frequency)
    inverse = np.linalg.inv(observed_information(matrix, found, frequency))
    dense = np.sqrt(np.diag(inverse))
    np.testing.assert_allclose(fast.difficulty, dense[-9:], rtol=1e-6)
    assert fast.population_sd == pytest.approx(dense[0] if estimate_population else 0.0, rel=1e-6)


def test_one_unseen_cell_moves_the_errors_little() -> None:
    """The incomplete table takes the dense path, the complete one the other: they must meet."""
    data = simulated(3, subjects=400, items=10)
    scores = data.scores.copy()
    scores[0, 0] = -1
    complete, nearly = (
        standard_errors(matrix, fit(matrix, FitOptions(model="1PL")), "observed")
        for matrix in (data.matrix, ByteMatrix(scores))
    )
    np.testing.assert_allclose(nearly.difficulty, complete.difficulty, rtol=5e-3)


@pytest.mark.parametrize("model", ["1PL", "2PL"])
def test_the_three_methods_agree_on_many_subjects(model: Model) -> None:
    data = simulated(4, subjects=8000, items=10, model=model, missing=0.1)
    found = fit(data.matrix, FitOptions(model=model))
    singles = np.array([f"s{n}" for n in range(8000)], dtype=object)
    observed = standard_errors(data.matrix, found, "observed")
    for method in ("cross-product", "sandwich"):
        other = standard_errors(data.matrix, found, method, singles)
        assert other.method == method
        np.testing.assert_allclose(other.difficulty, observed.difficulty, rtol=0.12)
        np.testing.assert_allclose(other.discrimination, observed.discrimination, rtol=0.12)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", ["observed", "cross-product", "sandwich"])
def test_errors_have_a_sign_and_a_place(model: Model, method: Method) -> None:
    data = simulated(5, subjects=600, items=8, model=model)
    found = fit(data.matrix, FitOptions(model=model))
    errors = standard_errors(data.matrix, found, method, np.arange(600).astype(str).astype(object))
    assert (errors.difficulty > 0).all()
    assert ((errors.discrimination > 0) == (model != "1PL")).all()
    assert ((errors.guessing > 0) == (model in ("3PL", "4PL"))).all()
    assert ((errors.ceiling > 0) == (model == "4PL")).all()
    assert (errors.population_sd > 0) == (model == "1PL")


def test_copies_of_subjects_are_no_evidence_to_the_sandwich() -> None:
    """Four copies of each subject: the naive error halves, the clustered one stays what it was."""
    data = simulated(6, subjects=1500, items=8, model="2PL", missing=0.1)
    options = FitOptions(model="2PL")
    copied = ByteMatrix(np.repeat(data.scores, 4, axis=0))
    family = np.repeat([f"f{n}" for n in range(1500)], 4).astype(object)
    single = standard_errors(data.matrix, fit(data.matrix, options), "observed").difficulty
    naive = standard_errors(copied, fit(copied, options), "observed").difficulty
    clustered = standard_errors(copied, fit(copied, options), "sandwich", family).difficulty
    np.testing.assert_allclose(naive, single / 2, rtol=1e-3)
    np.testing.assert_allclose(clustered, single, rtol=0.2)


@pytest.mark.parametrize("method", ["observed", "cross-product", "sandwich"])
def test_a_frequency_counts_in_every_method(method: Method) -> None:
    data = simulated(7, subjects=300, items=6, model="2PL", missing=0.1)
    frequency = np.random.default_rng(1).integers(0, 3, 300)
    options = FitOptions(model="2PL", tolerance=1e-8)
    repeated = ByteMatrix(np.repeat(data.scores, frequency, axis=0))
    family = np.arange(300).astype(str).astype(object)
    straight = standard_errors(repeated, fit(repeated, options), method, np.repeat(family, frequency))
    found = fit(data.matrix, options, frequency.astype(float))
    weighted = standard_errors(data.matrix, found, method, family, frequency.astype(float))
    np.testing.assert_allclose(weighted.difficulty, straight.difficulty, rtol=1e-3)


def test_weights_of_cells_count_as_so_many_answers() -> None:
    """The same answer twice under one ability is one cell of weight two."""
    data = simulated(8, subjects=200, items=6)
    subject, item = np.nonzero(data.scores >= 0)
    score = data.scores[subject, item].astype(float)
    double = SparseMatrix(subject, item, score, np.full(len(score), 2.0), data.scores.shape)
    twin = ByteMatrix(np.concatenate([data.scores, data.scores], axis=1))
    options = FitOptions(model="1PL", tolerance=1e-8, nodes=61)
    one, two = fit(double, options), fit(twin, options)
    np.testing.assert_allclose(one.parameters.difficulty, two.parameters.difficulty[:6], atol=1e-5)
    assert one.log_likelihood == pytest.approx(two.log_likelihood, abs=1e-6)


def test_what_a_method_can_not_do_is_said() -> None:
    matrix, found, _ = fitted("2PL", subjects=10, items=5, estimator="map")
    with pytest.raises(ConfigError, match=r"needs more subjects than parameters \(10 <= 10\); use observed"):
        standard_errors(matrix, found, "cross-product")
    with pytest.raises(ConfigError, match="needs the family of each subject"):
        standard_errors(matrix, found, "sandwich")
    with pytest.raises(ConfigError, match="all subjects are of one family"):
        standard_errors(matrix, found, "sandwich", np.full(10, "one", dtype=object))


def test_intervals_are_normal() -> None:
    low, high = intervals(np.array([1.0]), np.array([2.0]))
    assert (low[0], high[0]) == pytest.approx((1 - 3.919928, 1 + 3.919928), abs=1e-6)
    low, high = intervals(np.array([0.0]), np.array([1.0]), 0.5)
    assert high[0] == pytest.approx(0.6744898)


def coverage(model: Model, repetitions: int) -> dict[str, float]:
    """Share of 95 % intervals that hold the truth: 1,000 x 30 with 20 % missing, other items and people each time."""
    inside: dict[str, list[np.ndarray]] = {"difficulty": [], "discrimination": []}
    for seed in range(100, 100 + repetitions):
        data = simulated(seed, subjects=1000, items=30, model=model, missing=0.2)
        found = fit(data.matrix, FitOptions(model=model))
        errors = standard_errors(data.matrix, found)
        for name in inside:
            low, high = intervals(getattr(found.parameters, name), getattr(errors, name))
            true = getattr(data.truth, name)
            inside[name].append((low <= true) & (true <= high))
    return {name: float(np.mean(seen)) for name, seen in inside.items()}


def test_intervals_cover_roughly_as_often_as_they_say() -> None:
    """180 intervals, whose origin is common in each of six data sets: within three of their standard deviations."""
    assert coverage("1PL", 6)["difficulty"] == pytest.approx(0.95, abs=0.06)
    two = coverage("2PL", 6)
    assert two["difficulty"] == pytest.approx(0.95, abs=0.06)
    assert two["discrimination"] == pytest.approx(0.95, abs=0.05)


@pytest.mark.slow
def test_intervals_cover_as_often_as_they_say() -> None:
    """Targets of forty repetitions: 1PL .961; 2PL .960 and .961."""
    assert coverage("1PL", 40)["difficulty"] == pytest.approx(0.955, abs=0.02)
    two = coverage("2PL", 40)
    assert two["difficulty"] == pytest.approx(0.955, abs=0.02)
    assert two["discrimination"] == pytest.approx(0.955, abs=0.02)


def test_the_delta_method_knows_of_the_intercept() -> None:
    """Of a steep item far from where people are, the difficulty is less sure than that of one amid them."""
    truth = ItemParameters.from_difficulty("2PL", np.array([0.0, 2.5, -2.5, 0.5, -0.5]), 1.2)
    draw = np.random.default_rng(9)
    scores = (draw.random((4000, 5)) < truth.probability(draw.normal(size=4000)).T).astype(np.int8)
    errors = standard_errors(ByteMatrix(scores), fit(ByteMatrix(scores), FitOptions(model="2PL"))).difficulty
    assert errors[[1, 2]].min() > 2 * errors[[0, 3, 4]].max()
