"""Adaptive tests: the choice of items and the error of the predicted score."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from rayworks.core.errors import ConfigError
from rayworks.systems.difficulty.item_response.adaptive_tests import choose, measure, predict_score
from rayworks.systems.difficulty.item_response.curves import ItemParameters, equispaced, simulate
from rayworks.systems.difficulty.item_response.marginal_likelihood import fit
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.responses.response_matrix import ByteMatrix
from rayworks.systems.difficulty.responses.response_store import from_matrix
from tests.simulated_responses import simulated

GRID = equispaced(81)


def test_the_first_item_is_the_best_by_enumeration() -> None:
    truth = simulated(0, items=7, model="2PL").truth
    found = choose(truth, GRID, 2)
    p, slope, information = truth.probability(GRID.nodes), truth.slope(GRID.nodes), truth.information(GRID.nodes)

    def error(asked: tuple[int, ...]) -> float:
        rest = [item for item in range(7) if item not in asked]
        shared = slope[rest].sum(0) ** 2 / (1 + information[list(asked)].sum(0))
        luck = (p[rest] * (1 - p[rest])).sum(0)
        return float(np.sqrt((shared + luck) @ GRID.weights)) / 7

    singles = {item: error((item,)) for item in range(7)}
    assert found.items[0] == min(singles, key=lambda item: singles[item])
    pairs = {pair: error(pair) for pair in itertools.combinations(range(7), 2) if found.items[0] in pair}
    assert set(found.items) == set(min(pairs, key=lambda pair: pairs[pair]))
    assert found.expected_error == pytest.approx(min(pairs.values()))


def test_more_items_are_better_and_all_items_are_exact() -> None:
    truth = simulated(1, items=12, model="2PL").truth
    errors = [choose(truth, GRID, size).expected_error for size in range(1, 13)]
    assert (np.diff(errors) < 0).all()
    assert errors[-1] == 0
    assert sorted(choose(truth, GRID, 12).items) == list(range(12))
    assert choose(truth, GRID, 5).items.tolist() == choose(truth, GRID, 9).items[:5].tolist()


def test_chosen_items_beat_random_ones_by_what_the_model_says() -> None:
    draw = np.random.default_rng(2)
    truth = ItemParameters.from_difficulty("2PL", draw.normal(0, 1.2, 120), np.exp(draw.normal(0, 0.5, 120)))
    old, new = (simulate(truth, draw.normal(size=n), draw.random((n, 120))) for n in (1500, 600))
    found = fit(ByteMatrix(old), FitOptions(model="2PL"))
    orders = np.array([draw.permutation(120) for _ in range(10)])
    responses = from_matrix(new)
    for size in (10, 30):
        result = measure(found.parameters, found.quadrature, responses, size, orders)
        assert result.chosen < result.random < result.plain
        predicted, _ = predict_score(
            responses, found.parameters, found.quadrature, choose(found.parameters, found.quadrature, size).items
        )
        real = float(np.sqrt(np.mean((predicted - responses.subject_means()) ** 2)))
        assert result.expected == pytest.approx(real, rel=0.15)
        assert result.coverage == pytest.approx(0.95, abs=0.03)


def test_asking_everything_gives_the_score_itself() -> None:
    data = simulated(3, subjects=20, items=9, model="3PL")
    predicted, error = predict_score(data.responses, data.truth, GRID, np.arange(9))
    np.testing.assert_allclose(predicted, data.scores.mean(1))
    np.testing.assert_allclose(error, 0, atol=1e-12)


@pytest.mark.parametrize("size", [0, 10])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=rf"adaptive test size {size}: must be from 1 to the number of items, 9"):
        choose(simulated(4, items=9).truth, GRID, size)


def test_a_weight_that_all_share_changes_nothing() -> None:
    draw = np.random.default_rng(0)
    truth = ItemParameters.from_difficulty("1PL", draw.normal(0, 1, 20))
    new = from_matrix(simulate(truth, draw.normal(size=100), draw.random((100, 20))))
    heavy = replace(new, weight=np.full(len(new.score), 3.0))
    orders = np.array([draw.permutation(20)])
    light_error, heavy_error = (measure(truth, equispaced(41), one, 8, orders) for one in (new, heavy))
    assert heavy_error.plain == pytest.approx(light_error.plain)
    predicted, _ = predict_score(heavy, truth, equispaced(41), np.arange(5))
    assert predicted.max() <= 1
