"""Averages of attempts are binomial counts: n of them tell as much as n responses."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from rayworks.core.errors import DataError
from rayworks.systems.difficulty.calibration import calibrate
from rayworks.systems.difficulty.config import Config, DataSection
from rayworks.systems.difficulty.item_response.abilities import weighted_likelihood
from rayworks.systems.difficulty.item_response.item_fit import residual_fit
from rayworks.systems.difficulty.item_response.marginal_likelihood import fit
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.item_response.standard_errors import standard_errors
from rayworks.systems.difficulty.responses.response_matrix import as_matrix
from rayworks.systems.difficulty.responses.response_store import Responses, from_matrix, from_table
from rayworks.systems.difficulty.responses.sources import read_responses

ATTEMPTS = 8


def averages(seed: int, subjects: int = 80, items: int = 15) -> tuple[np.ndarray, np.ndarray]:
    """Shares solved of eight attempts (J, I), and the true difficulties."""
    draw = np.random.default_rng(seed)
    ability, difficulty = draw.normal(size=subjects), draw.normal(0, 1.2, items)
    ability = (ability - ability.mean()) / ability.std()
    return draw.binomial(ATTEMPTS, expit(ability[:, None] - difficulty)) / ATTEMPTS, difficulty


def calibrated(responses: Responses) -> tuple[np.ndarray, np.ndarray]:
    matrix = as_matrix(responses)
    found = fit(matrix, FitOptions(model="1PL"))
    return found.parameters.difficulty, standard_errors(matrix, found).difficulty


def test_errors_of_averages_are_those_of_their_attempts() -> None:
    """With weight 1 they were 3.1 times too large."""
    off, stated = [], []
    for seed in range(20):
        shares, truth = averages(seed)
        found, error = calibrated(from_matrix(shares, attempts=ATTEMPTS))
        # The mean is that of the abilities drawn, which are standardised; errors state it too.
        off.append(found - truth - (found - truth).mean())
        stated.append(error)
    plain = calibrated(from_matrix(averages(0)[0]))[1]
    assert np.median(within([plain]) / within(stated[:1])) == pytest.approx(np.sqrt(ATTEMPTS), rel=0.1)
    z = np.sqrt(np.mean((np.array(off) / within(stated)) ** 2))
    assert z == pytest.approx(1, abs=0.1)


def within(stated: list[np.ndarray]) -> np.ndarray:
    """Without the error that all items share, that of the mean ability of 80 subjects."""
    return np.asarray(np.sqrt(np.maximum(np.square(stated) - 1 / 80, 1e-6)))


def test_duplicates_attempts_and_a_column_are_one_thing() -> None:
    shares, _ = averages(3, subjects=20, items=6)
    solved = np.round(shares * ATTEMPTS).astype(int)
    subject, item = (index.ravel() for index in np.indices(shares.shape))
    names = {"subject": [f"m{n}" for n in subject], "item": [f"q{n}" for n in item]}
    each = pd.DataFrame({**names, "score": shares.ravel()})
    rows = [
        {"subject": one.subject, "item": one.item, "score": float(n < count)}
        for one, count in zip(each.itertuples(), solved.ravel(), strict=True)
        for n in range(ATTEMPTS)
    ]
    tables = {
        "setting": from_table(each, attempts=ATTEMPTS),
        "column": from_table(each.assign(attempts=ATTEMPTS)),
        "weight": from_table(each.assign(weight=ATTEMPTS)),
        "duplicates": from_table(pd.DataFrame(rows), duplicates="mean"),
    }
    expected = calibrated(tables.pop("setting"))
    for name, table in tables.items():
        for one, two in zip(calibrated(table), expected, strict=True):
            assert one == pytest.approx(two, abs=1e-9), name


def test_mean_squares_of_averages_are_about_one() -> None:
    shares, _ = averages(5, subjects=400)
    responses = from_matrix(shares, attempts=ATTEMPTS)
    found = fit(as_matrix(responses), FitOptions(model="1PL")).parameters
    fitting = residual_fit(responses, found, weighted_likelihood(responses, found).ability)
    assert fitting.infit == pytest.approx(np.ones(15), abs=0.25)
    assert fitting.outfit == pytest.approx(np.ones(15), abs=0.25)


def test_averages_that_count_once_are_named(tmp_path: Path) -> None:
    shares, _ = averages(6, subjects=30, items=8)
    responses = from_matrix(shares)
    assert responses.looks_averaged == ATTEMPTS
    assert from_matrix(shares, attempts=ATTEMPTS).looks_averaged == 0
    assert from_matrix(np.round(shares)).looks_averaged == 0
    assert from_matrix(np.random.default_rng(0).random((20, 5))).looks_averaged == 0
    responses.table().drop(columns=["weight", "family"]).to_csv(tmp_path / "shares.csv", index=False)
    source = str(tmp_path / "shares.csv")
    counted = DataSection(attempts=ATTEMPTS)
    told = [calibrate("shares", read_responses(source, data), Config())["remarks"] for data in (DataSection(), counted)]
    assert any("averages of 8 attempts" in remark for remark in told[0])
    assert not any("averages" in remark for remark in told[1])


def test_a_number_of_attempts_that_is_none_is_refused() -> None:
    table = pd.DataFrame({"subject": ["a", "b"], "item": ["q", "q"], "score": [1, 0], "attempts": [4, 0]})
    with pytest.raises(DataError, match=r"row 2 \(b, q\) has attempts 0; must be a number above 0"):
        from_table(table)
