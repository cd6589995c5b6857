"""Difficulty from solve rates alone, and what ties its populations together."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.special import expit

from rayworks.core.errors import DataError
from rayworks.systems.difficulty.labels.solve_rates import expected_rate, fit_solve_rates
from tests.simulated_responses import rmse

POPULATIONS = {"AMC 10": (0.0, 1.0, 60_000), "AMC 12": (0.2, 1.0, 40_000), "AIME": (1.5, 0.7, 5_000)}
KNOWN = {"AMC 10": (0.0, 1.0), "AIME": (1.5, 0.7)}


def contests(seed: int) -> tuple[pd.DataFrame, dict[str, float]]:
    """53 items: 25 on each AMC, 12 of them on both, and 15 on the AIME."""
    draw = np.random.default_rng(seed)
    difficulty = {f"i{n:02d}": float(b) for n, b in enumerate(draw.normal(0.3, 1.2, 53))}
    names = list(difficulty)
    tests = {"AMC 10": names[:25], "AMC 12": names[13:38], "AIME": names[38:]}
    rows = []
    for population, items in tests.items():
        mean, sd, solvers = POPULATIONS[population]
        p = expected_rate(np.array([difficulty[item] for item in items]), mean, sd)
        rows += [
            (item, population, solved / solvers, solvers)
            for item, solved in zip(items, draw.binomial(solvers, p), strict=True)
        ]
    return pd.DataFrame(rows, columns=["item", "population", "solve_rate", "solvers"]), difficulty


def test_rates_alone_recover_difficulties_and_the_unknown_population() -> None:
    """Target of one data set: rmse .026; AMC 12 found at mean .206 (.2), deviation 1.011 (1)."""
    errors, means, deviations, inside = [], [], [], []
    for seed in range(12):
        rates, difficulty = contests(seed)
        found = fit_solve_rates(rates, KNOWN)
        truth = np.array([difficulty[item] for item in found.items])
        errors.append(rmse(found.difficulty, truth))
        inside.extend(np.abs(found.difficulty - truth) <= 1.96 * found.error)
        mean, sd = found.populations["AMC 12"]
        means.append(mean)
        deviations.append(sd)
        assert found.populations["AIME"] == pytest.approx(KNOWN["AIME"])
    assert np.median(errors) < 0.03
    assert np.mean(means) == pytest.approx(0.2, abs=0.01)
    assert np.mean(deviations) == pytest.approx(1.0, abs=0.015)
    assert np.abs(np.array(means) - 0.2).max() < 0.03
    assert np.mean(inside) == pytest.approx(0.95, abs=0.04)


def test_the_expected_rate_is_the_integral() -> None:
    for b, mean, sd in ((0.0, 0.0, 1.0), (2.5, 0.3, 0.6), (-3.0, 1.0, 2.0)):
        exact = quad(
            lambda x, b=b, mean=mean, sd=sd: expit(mean + sd * x - b) * np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi),
            -12,
            12,
            epsabs=1e-12,
        )[0]
        assert expected_rate(np.array([b]), mean, sd)[0] == pytest.approx(exact, abs=1e-7)


def test_one_population_is_inverted_exactly() -> None:
    b = np.array([-1.5, 0.0, 0.4, 2.0])
    rates = pd.DataFrame(
        {"item": list("abcd"), "population": "p", "solve_rate": expected_rate(b), "solvers": 10_000_000}
    )
    found = fit_solve_rates(rates)
    assert found.difficulty == pytest.approx(b, abs=1e-5)
    assert found.evidence.tolist() == [10_000_000] * 4
    assert found.populations == {"p": (0.0, 1.0)}


def test_items_that_all_or_nobody_solved_stay() -> None:
    rates = pd.DataFrame(
        {"item": ["a", "b", "c"], "population": "p", "solve_rate": [0.0, 0.5, 1.0], "solvers": [200, 200, 200]}
    )
    found = fit_solve_rates(rates)
    assert found.difficulty[0] > 4 and found.difficulty[2] < -4
    assert found.error[[0, 2]].min() > 3 * found.error[1]


def test_one_shared_item_fixes_the_mean_only() -> None:
    b = np.array([-1.0, 0.0, 1.0, 0.5])
    first, second = expected_rate(b[:3]), expected_rate(b[2:], 0.7, 1.0)
    rates = pd.DataFrame(
        {
            "item": ["a", "b", "c", "c", "d"],
            "population": ["p", "p", "p", "q", "q"],
            "solve_rate": [*first, *second],
            "solvers": 10**7,
        }
    )
    found = fit_solve_rates(rates)
    assert found.populations["q"] == pytest.approx((0.7, 1.0), abs=1e-3)
    assert found.difficulty[3] == pytest.approx(0.5, abs=1e-3)


def test_errors_are_those_of_repeated_counts() -> None:
    found = [fit_solve_rates(contests_of_the_same_items(seed), KNOWN) for seed in range(60)]
    spread = np.std([one.difficulty for one in found], axis=0, ddof=1)
    stated = np.mean([one.error for one in found], axis=0)
    assert np.median(spread / stated) == pytest.approx(1, abs=0.1)


def contests_of_the_same_items(seed: int) -> pd.DataFrame:
    rates, difficulty = contests(0)
    draw = np.random.default_rng(1000 + seed)
    solved = []
    for row in rates.itertuples():
        mean, sd, solvers = POPULATIONS[str(row.population)]
        p = expected_rate(np.array([difficulty[str(row.item)]]), mean, sd)[0]
        solved.append(draw.binomial(solvers, p) / solvers)
    return rates.assign(solve_rate=solved)


GOOD: dict[str, list[Any]] = {
    "item": ["a", "b"],
    "population": ["p", "p"],
    "solve_rate": [0.2, 0.4],
    "solvers": [10, 10],
}


@pytest.mark.parametrize(
    ("changed", "known", "message"),
    [
        ({"solve_rate": [0.2, 40]}, None, "row 2 has solve_rate 40.0; must be in"),
        ({"solve_rate": [0.2, None]}, None, "row 2 has solve_rate nan"),
        ({"solvers": [10, 0]}, None, "row 2 has solvers 0; must be in"),
        ({"item": ["a", "a"]}, None, "row 2 repeats item a in one population"),
        ({"population": ["p", "q"]}, None, "population q shares no item with a known one"),
        ({"item": ["a", None]}, None, "row 2 has no item"),
        ({"population": [None, "p"]}, None, "row 1 has no population"),
        ({}, {"p": (0.0, 1.0), "r": (0.0, 1.0)}, "known population r has no rate; there are p"),
        ({}, {"p": (0.0, 0.0)}, "known population p has standard deviation 0.0"),
        ({"item": [], "population": [], "solve_rate": [], "solvers": []}, None, "hold no row"),
    ],
)
def test_bad_rates_are_refused_by_name(
    changed: dict[str, list[Any]], known: dict[str, tuple[float, float]] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        fit_solve_rates(pd.DataFrame({**GOOD, **changed}), known)
    with pytest.raises(DataError, match="have no column solvers"):
        fit_solve_rates(pd.DataFrame(GOOD).drop(columns="solvers"))


def test_shared_items_of_one_difficulty_leave_the_spread_at_that_of_the_reference() -> None:
    rows = [
        (item, population, rate, 500)
        for population, rates in (("g", (0.54, 0.54, 0.3)), ("h", (0.55, 0.55, 0.28)))
        for item, rate in zip(("a", "b", population), rates, strict=True)
    ]
    found = fit_solve_rates(pd.DataFrame(rows, columns=["item", "population", "solve_rate", "solvers"]))
    assert found.populations["h"][1] == pytest.approx(1.0, abs=0.05)
    assert found.error.max() < 0.5
