"""Identities of the item response models and of their estimates."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rayworks.systems.difficulty.item_response.abilities import posterior_means
from rayworks.systems.difficulty.item_response.curves import MODELS, ItemParameters, Model
from rayworks.systems.difficulty.item_response.expectations import expectation, rasch_expectation, working_of
from rayworks.systems.difficulty.item_response.marginal_likelihood import fit
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.responses.response_matrix import ByteMatrix, SparseMatrix
from tests.simulated_responses import simulated

models = st.sampled_from(MODELS)
TIGHT = 1e-8


@st.composite
def tables(draw: st.DrawFn, missing: bool = True, least: int = 3) -> np.ndarray:
    """Any scores at all, every item seen at least once."""
    shape = draw(st.integers(least, 30)), draw(st.integers(2, 8))
    code = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = (code.random(shape) < code.beta(1, 1, shape[1])).astype(np.int8)
    if missing and draw(st.booleans()):
        scores[code.random(shape) < draw(st.floats(0, 0.7))] = -1
        scores[0] = np.abs(scores[0])
    return scores


@given(tables(), models, st.booleans(), st.sampled_from(["mml", "map"]))
@settings(deadline=None, max_examples=120)
def test_the_objective_never_falls(scores: np.ndarray, model: Model, accelerate: bool, estimator: str) -> None:
    options = FitOptions(model=model, accelerate=accelerate, estimator=estimator, max_iterations=200)
    trace = np.array(fit(ByteMatrix(scores), options).trace)
    assert np.isfinite(trace).all()
    assert (np.diff(trace) >= -1e-8 * np.abs(trace[1:])).all()


@given(st.integers(0, 10**6), models, st.data())
@settings(deadline=None, max_examples=25)
def test_neither_order_of_subjects_nor_of_items_matters(seed: int, model: Model, data: st.DataObject) -> None:
    scores = simulated(seed, subjects=60, items=6, model=model, missing=0.1).scores
    rows = np.array(data.draw(st.permutations(range(60))))
    columns = np.array(data.draw(st.permutations(range(6))))
    options = FitOptions(model=model, estimator="map", tolerance=1e-7)
    straight = fit(ByteMatrix(scores), options).parameters
    shuffled = fit(ByteMatrix(scores[rows][:, columns]), options).parameters
    for name in ("difficulty", "discrimination", "guessing", "ceiling"):
        np.testing.assert_allclose(getattr(shuffled, name), getattr(straight, name)[columns], atol=2e-4)


@given(st.integers(0, 10**6), st.sampled_from(["1PL", "2PL"]), st.floats(0, 0.3))
@settings(deadline=None, max_examples=25)
def test_swapping_right_and_wrong_flips_the_scale(seed: int, model: Model, missing: float) -> None:
    scores = simulated(seed, subjects=80, items=6, model=model, missing=missing).scores
    flipped = np.where(scores < 0, scores, 1 - scores).astype(np.int8)
    options = FitOptions(model=model, estimator="map", tolerance=1e-8)
    one, two = fit(ByteMatrix(scores), options), fit(ByteMatrix(flipped), options)
    np.testing.assert_allclose(two.parameters.difficulty, -one.parameters.difficulty, atol=1e-4)
    np.testing.assert_allclose(two.parameters.discrimination, one.parameters.discrimination, atol=1e-4)
    first, second = posterior_means(ByteMatrix(scores), one), posterior_means(ByteMatrix(flipped), two)
    np.testing.assert_allclose(second.ability, -first.ability, atol=1e-4)


@given(st.integers(0, 10**6), models)
@example(194, "2PL")
@settings(deadline=None, max_examples=25)
def test_a_copied_item_gets_the_same_parameters(seed: int, model: Model) -> None:
    scores = simulated(seed, subjects=80, items=5, model=model).scores
    copied = np.concatenate([scores, scores[:, 2:3]], axis=1)
    found = fit(ByteMatrix(copied), FitOptions(model=model, estimator="map")).parameters
    for name in ("difficulty", "discrimination", "guessing", "ceiling"):
        assert abs(getattr(found, name)[2] - getattr(found, name)[5]) < 1e-9


@given(tables(missing=False, least=4))
@settings(deadline=None)
def test_one_parameter_difficulty_falls_strictly_with_the_solve_rate(scores: np.ndarray) -> None:
    found = fit(ByteMatrix(scores), FitOptions(model="1PL", estimator="map", tolerance=TIGHT)).parameters.difficulty
    rate = scores.mean(0)
    for one in range(len(rate)):
        for two in range(len(rate)):
            if rate[one] < rate[two]:
                assert found[one] > found[two]
            if rate[one] == rate[two]:
                assert abs(found[one] - found[two]) < 1e-6


@given(tables(missing=False))
@settings(deadline=None, max_examples=50)
def test_with_one_parameter_the_score_is_all_there_is(scores: np.ndarray) -> None:
    matrix = ByteMatrix(scores)
    found = fit(matrix, FitOptions(model="1PL"))
    ability = posterior_means(matrix, found).ability
    total = scores.sum(1)
    for score in np.unique(total):
        assert np.ptp(ability[total == score]) < 1e-9
    order = np.argsort(total)
    assert (np.diff(ability[order]) >= -1e-9).all()


@given(tables(missing=False))
@settings(deadline=None, max_examples=50)
def test_grouping_by_score_is_the_same_expectation(scores: np.ndarray) -> None:
    matrix = ByteMatrix(scores)
    options = FitOptions(model="1PL")
    found = fit(matrix, options)
    working = working_of(found.parameters)
    fast, slow = (make(matrix)(working, found.quadrature) for make in (rasch_expectation, expectation))
    np.testing.assert_allclose(fast.log_likelihood, slow.log_likelihood, rtol=1e-10)
    np.testing.assert_allclose(fast.mass, slow.mass, atol=1e-9)
    np.testing.assert_allclose(fast.first_moment.sum(), slow.first_moment.sum(), atol=1e-8)


@given(models, st.floats(-3, 3), st.floats(0.3, 3), st.floats(0, 0.3), st.floats(0.7, 1), st.floats(-4, 4))
def test_information_is_the_expected_curvature(
    model: Model, b: float, a: float, c: float, d: float, ability: float
) -> None:
    one = ItemParameters.from_difficulty(model, np.array([b]), a, c, d)
    step = 1e-4

    def log_chance(at: float, solved: bool) -> float:
        p = float(one.probability(np.array([at]))[0, 0])
        return float(np.log(p if solved else 1 - p))

    expected = 0.0
    for solved in (True, False):
        curvature = (
            log_chance(ability + step, solved) - 2 * log_chance(ability, solved) + log_chance(ability - step, solved)
        ) / step**2
        expected -= np.exp(log_chance(ability, solved)) * curvature
    found = float(one.information(np.array([ability]))[0, 0])
    assert abs(found - expected) < 1e-5 + 1e-4 * found
    slope = (np.exp(log_chance(ability + step, True)) - np.exp(log_chance(ability - step, True))) / (2 * step)
    assert abs(float(one.slope(np.array([ability]))[0, 0]) - slope) < 1e-6


@given(tables(), st.integers(1, 4), models)
@settings(deadline=None, max_examples=30)
def test_a_frequency_is_so_many_subjects(scores: np.ndarray, copies: int, model: Model) -> None:
    generator = np.random.default_rng(scores.size + copies)
    frequency = generator.integers(0, copies + 1, len(scores))
    frequency[0] = 1
    repeated = np.repeat(scores, frequency, axis=0)
    options = FitOptions(model=model, estimator="map", tolerance=1e-7)
    weighted = fit(ByteMatrix(scores), options, frequency.astype(float))
    straight = fit(ByteMatrix(repeated), options)
    np.testing.assert_allclose(weighted.log_likelihood, straight.log_likelihood, atol=1e-6)
    np.testing.assert_allclose(weighted.parameters.difficulty, straight.parameters.difficulty, atol=1e-3)


@given(tables(), models)
@settings(deadline=None, max_examples=40)
def test_bytes_and_coordinates_are_the_same_operator(scores: np.ndarray, model: Model) -> None:
    subject, item = np.nonzero(scores >= 0)
    score = scores[subject, item].astype(float)
    sparse = SparseMatrix(subject, item, score, np.ones(len(score)), scores.shape)
    dense = ByteMatrix(scores)
    assert dense.is_complete == sparse.is_complete
    draw = np.random.default_rng(0)
    by_item, by_subject = draw.normal(size=(scores.shape[1], 3)), draw.normal(size=(scores.shape[0], 3))
    y, m = (scores == 1).astype(float), (scores >= 0).astype(float)
    for matrix in (dense, sparse):
        np.testing.assert_allclose(matrix.subject_scores(by_item), y @ by_item, atol=1e-12)
        np.testing.assert_allclose(matrix.item_scores(by_subject), y.T @ by_subject, atol=1e-12)
        rows, columns = matrix.subject_counts(by_item), matrix.item_counts(by_subject)
        np.testing.assert_allclose(np.broadcast_to(rows, (len(y), 3)), m @ by_item, atol=1e-12)
        np.testing.assert_allclose(np.broadcast_to(columns, (y.shape[1], 3)), m.T @ by_subject, atol=1e-12)
        assert all((one == two).all() for one, two in zip(matrix.dense(), (y, m), strict=True))
    options = FitOptions(model=model, estimator="map")
    one, two = fit(dense, options), fit(sparse, options)
    np.testing.assert_allclose(one.parameters.difficulty, two.parameters.difficulty, atol=1e-7)
