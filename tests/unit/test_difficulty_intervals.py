"""Intervals of the difficulties of a 2PL: Fieller's, without an end where the responses do not bound them."""

import numpy as np
import pandas as pd
import pytest

from rayworks.systems.difficulty import board
from rayworks.systems.difficulty.item_response.curves import ItemParameters, simulate
from rayworks.systems.difficulty.item_response.intervals import difficulty_intervals, fieller, remarks_on_intervals
from rayworks.systems.difficulty.item_response.marginal_likelihood import fit
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.item_response.standard_errors import standard_errors
from rayworks.systems.difficulty.responses.response_matrix import ByteMatrix


def test_fiellers_ends_are_where_the_line_is_two_errors_off() -> None:
    a, e, var_a, var_e, cov = np.array([1.0]), np.array([2.0]), np.array([0.04]), np.array([0.09]), np.array([0.02])
    for b in (ends := fieller(a, e, var_a, var_e, cov, 2.0)):
        assert (e + a * b) ** 2 == pytest.approx(4 * (var_e + 2 * b * cov + b**2 * var_a))
    assert ends[0][0] < -2 < ends[1][0]


def test_fiellers_set_has_no_end_where_the_slope_may_be_zero() -> None:
    a, var_a, cov = np.full(3, 0.5), np.full(3, 0.25), np.zeros(3)
    low, high = fieller(a, np.array([3.0, -3.0, 0.1]), var_a, np.full(3, 0.1), cov, 1.96)
    assert low.tolist()[::2] == [-np.inf, -np.inf]
    assert high.tolist()[1:] == [np.inf, np.inf]
    assert high[0] < 0 < low[1]
    assert high[0] > -6
    exact = fieller(np.ones(1), np.ones(1), np.zeros(1), np.zeros(1), np.zeros(1), 1.96)
    assert [end[0] for end in exact] == [-1, -1]


def few(seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    b = draw.normal(-2.5, 1.2, 60)
    truth = ItemParameters.from_difficulty("2PL", b, np.exp(draw.normal(0, 0.3, 60)))
    return simulate(truth, draw.normal(size=30), draw.random((30, 60))), b


def test_a_2pl_of_few_subjects_says_that_it_has_no_bounds() -> None:
    scores, _ = few(0)
    matrix = ByteMatrix(scores)
    found = fit(matrix, FitOptions(model="2PL"))
    low, high = difficulty_intervals(found, standard_errors(matrix, found))
    assert np.isinf(low).any()
    assert (low <= found.parameters.difficulty).all()
    assert (high >= found.parameters.difficulty).all()
    assert "have no end" in remarks_on_intervals(low, high)[0]
    priors = fit(matrix, FitOptions(model="2PL", estimator="map"))
    assert not remarks_on_intervals(*difficulty_intervals(priors, standard_errors(matrix, priors)))
    one = fit(matrix, FitOptions(model="1PL"))
    assert np.isfinite(difficulty_intervals(one, standard_errors(matrix, one))).all()


def test_a_board_takes_priors_where_a_2pl_has_no_bounds() -> None:
    scores, b = few(1)
    table = pd.DataFrame(scores, columns=[f"q{n}" for n in range(60)])
    table.insert(0, "model", [f"m{n}" for n in range(30)])
    found = board.fit(table, "2PL")
    assert found.calibration.options.estimator == "map"
    assert any("priors hold all items" in note for note in found.notes)
    assert np.isfinite(found.items[["low", "high"]].to_numpy()).all()
    inside = (found.items["low"] <= b) & (b <= found.items["high"])
    assert inside.mean() > 0.85
    without = board.fit(table, "2PL", estimator="mml")
    assert any("have no end" in note and "estimator map" in note and "model 1PL" in note for note in without.notes)
    assert (without.items["note"] == "no bounded interval").any()
    assert board.fit(table).calibration.options.estimator == "mml"
