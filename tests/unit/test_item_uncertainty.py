"""Errors of abilities and predicted scores count that the items are estimates, from 15 models here."""

from dataclasses import replace

import numpy as np
import pytest

from rayworks.systems.difficulty.item_response.abilities import posterior_means
from rayworks.systems.difficulty.item_response.adaptive_tests import choose, predict_score
from rayworks.systems.difficulty.item_response.curves import ItemParameters, Model, simulate
from rayworks.systems.difficulty.item_response.item_uncertainty import predicted_scores, with_item_uncertainty
from rayworks.systems.difficulty.item_response.marginal_likelihood import fit
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.item_response.standard_errors import parameter_covariance
from rayworks.systems.difficulty.responses.response_matrix import ByteMatrix
from rayworks.systems.difficulty.responses.response_store import from_matrix


@pytest.mark.parametrize("model", ["1PL", "2PL"])
def test_the_error_is_the_slope_of_the_score_by_each_parameter(model: Model) -> None:
    """A covariance of one parameter alone adds the square of the score's derivative by it."""
    draw = np.random.default_rng(0)
    items = ItemParameters.from_difficulty(
        model, draw.normal(0, 1, 5), 1.0 if model == "1PL" else 1.5, population_sd=1.4 if model == "1PL" else 1.0
    )
    matrix = ByteMatrix(np.array([[1, 0, -1, -1, -1], [-1, 1, 1, 0, -1], [0, 0, 0, -1, 1]]))
    base, error = predicted_scores(matrix, items)
    moved = {
        "slope": replace(items, discrimination=items.discrimination + 1e-5 * np.eye(5)[1]),
        "intercept": replace(items, intercept=items.intercept + 1e-5 * np.eye(5)[2]),
    }
    if model == "1PL":
        moved["slope"] = replace(items, population_sd=items.population_sd + 1e-5)
    places = {"slope": 0 if model == "1PL" else 1, "intercept": (1 if model == "1PL" else 5) + 2}
    size = 6 if model == "1PL" else 10
    for kind, changed in moved.items():
        by = (predicted_scores(matrix, changed)[0] - base) / 1e-5
        alone = np.zeros((size, size))
        alone[places[kind], places[kind]] = 1.0
        added = predicted_scores(matrix, items, alone)[1] ** 2 - error**2
        assert added == pytest.approx(by**2, rel=1e-3, abs=1e-9)
        assert added.max() > 1e-6


def test_items_that_are_known_add_nothing_and_a_whole_board_has_no_error() -> None:
    draw = np.random.default_rng(1)
    items = ItemParameters.from_difficulty("1PL", draw.normal(0, 1, 6))
    scores = simulate(items, draw.normal(size=4), draw.random((4, 6)))
    found, error = predicted_scores(ByteMatrix(scores), items, np.eye(7))
    assert found == pytest.approx(scores.mean(1))
    assert error == pytest.approx(0, abs=1e-12)
    some = np.where(draw.random(scores.shape) < 0.5, -1, scores)
    same = [predicted_scores(ByteMatrix(some), items, covariance)[1] for covariance in (None, np.zeros((7, 7)))]
    assert same[0] == pytest.approx(same[1])


def board(seed: int, model: Model) -> tuple[ItemParameters, ByteMatrix, np.ndarray]:
    draw = np.random.default_rng([3, seed])
    slope = np.exp(draw.normal(0, 0.3, 300)) if model == "2PL" else 1.0
    truth = ItemParameters.from_difficulty(model, draw.normal(0, 1.2, 300), slope)
    return (
        truth,
        ByteMatrix(simulate(truth, draw.normal(size=15), draw.random((15, 300)))),
        simulate(truth, draw.normal(size=40), draw.random((40, 300))),
    )


def coverage(model: Model, *, chosen: bool, known: bool, repeats: int) -> float:
    """Of 95 % intervals of new subjects' scores on 300 items from 30, the items calibrated on 15 models."""
    shares = []
    for seed in range(repeats):
        _, matrix, new = board(seed, model)
        found = fit(matrix, FitOptions(model=model, estimator="map"))
        random = np.random.default_rng(seed).permutation(300)[:30]
        asked = choose(found.parameters, found.quadrature, 30).items if chosen else random
        covariance = None if known else parameter_covariance(matrix, found)
        told, error = predict_score(from_matrix(new), found.parameters, found.quadrature, asked, covariance)
        shares.append((np.abs(told - new.mean(1)) <= 1.959964 * error).mean())
    return float(np.mean(shares))


@pytest.mark.slow
@pytest.mark.parametrize(("model", "chosen"), [("1PL", True), ("1PL", False), ("2PL", False)])
def test_intervals_of_scores_hold_the_truth(model: Model, chosen: bool) -> None:
    found = coverage(model, chosen=chosen, known=False, repeats=40)
    print(f"| {model}, 30 of 300 items, 15 models, {'chosen' if chosen else 'random'} | {found:.3f} |")
    assert 0.92 <= found <= 0.98


def test_unknown_items_widen_the_intervals_of_scores_and_abilities() -> None:
    assert coverage("2PL", chosen=False, known=False, repeats=2) >= coverage("2PL", chosen=False, known=True, repeats=2)
    _, matrix, _ = board(0, "1PL")
    for estimator in ("mml", "map"):
        found = fit(matrix, FitOptions(model="1PL", estimator=estimator))
        plain = posterior_means(matrix, found)
        wide = with_item_uncertainty(plain, matrix, found)
        assert (wide.error > plain.error).all()
        assert wide.ability is plain.ability
