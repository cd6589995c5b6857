"""What ends, what is flagged and what is known: grids, bands of fit, keys, options."""

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.special import log_expit

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.difficulty import board
from rayworks.systems.difficulty.item_response.abilities import (
    expected_abilities,
    posterior_means,
    scoring_grid,
    weighted_likelihood,
)
from rayworks.systems.difficulty.item_response.curves import ItemParameters, fitting_grid, simulate
from rayworks.systems.difficulty.item_response.item_fit import benjamini_hochberg, flipped_key, residual_fit
from rayworks.systems.difficulty.item_response.marginal_likelihood import fit
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.item_response.priors import Priors, guessing_prior
from rayworks.systems.difficulty.item_response.remarks import remarks_on_design
from rayworks.systems.difficulty.item_response.standard_errors import standard_errors
from rayworks.systems.difficulty.responses.response_matrix import ByteMatrix, as_matrix
from rayworks.systems.difficulty.responses.response_store import from_matrix, from_table


@pytest.mark.parametrize("ability", [6.0, -6.0, 12.0, 0.3])
def test_no_grid_cuts_an_ability_off(ability: float) -> None:
    """200 items, a = 1.5, b ~ N(3, 1.5), true ability 6: was 4.486 +- .022; exact 5.873 +- .228."""
    draw = np.random.default_rng(0)
    truth = ItemParameters.from_difficulty("2PL", draw.normal(np.sign(ability) * 3, 1.5, 200), 1.5)
    scores = simulate(truth, np.array([ability, 0.0]), draw.random((2, 200)))

    def density(x: float) -> float:
        z = truth.discrimination * x + truth.intercept
        return float(np.where(scores[0] == 1, log_expit(z), log_expit(-z)).sum() - 0.5 * x**2)

    nodes = np.linspace(-20, 20, 8001)
    log = np.array([density(x) for x in nodes])
    peak = nodes[log.argmax()]
    moments = [
        quad(lambda x, k=k: x**k * np.exp(density(x) - log.max()), peak - 4, peak + 4, limit=200)[0] for k in range(3)
    ]
    mean = moments[1] / moments[0]
    deviation = np.sqrt(moments[2] / moments[0] - mean**2)
    for grid in (scoring_grid(200), fitting_grid(200)):
        found = expected_abilities(ByteMatrix(scores), truth, grid)
        assert found.ability[0] == pytest.approx(mean, abs=2e-3)
        assert found.error[0] == pytest.approx(deviation, rel=2e-2)


@pytest.mark.parametrize("subjects", [20, 40, 200])
def test_good_items_are_seldom_flagged(subjects: int) -> None:
    """Infit .7 to 1.3 flagged 30 % of good items with 20 models, 21 % with 40."""
    flagged = []
    for seed in range(12):
        draw = np.random.default_rng(seed)
        truth = ItemParameters.from_difficulty("1PL", draw.normal(0, 1, 40))
        responses = from_matrix(simulate(truth, draw.normal(size=subjects), draw.random((subjects, 40))))
        found = fit(as_matrix(responses), FitOptions(model="1PL")).parameters
        flagged.append(residual_fit(responses, found, weighted_likelihood(responses, found).ability).flagged.mean())
    assert np.mean(flagged) < 0.05


def test_an_item_of_pure_chance_is_flagged_and_a_flipped_key_has_its_p() -> None:
    draw = np.random.default_rng(1)
    truth = ItemParameters.from_difficulty("1PL", draw.normal(0, 1, 30), population_sd=1.5)
    scores = simulate(truth, draw.normal(0, 1.5, 150), draw.random((150, 30)))
    scores[:, 4] = draw.random(150) < 0.5
    scores[:, 9] = 1 - scores[:, 9]
    responses = from_matrix(scores)
    found = fit(as_matrix(responses), FitOptions(model="1PL")).parameters
    fitting = residual_fit(responses, found, weighted_likelihood(responses, found).ability)
    assert fitting.flagged[[4, 9]].all()
    p_value = benjamini_hochberg(flipped_key(responses))
    assert np.flatnonzero(p_value < 0.05).tolist() == [9]


def test_a_p_for_a_key_needs_scores_that_vary() -> None:
    assert np.isnan(flipped_key(from_matrix(np.array([[1, 0], [1, 1], [1, 0]])))).all()


def test_uniform_p_of_good_keys() -> None:
    """Among unrelated items one in twenty is below .05."""
    scores = (np.random.default_rng(3).random((60, 200)) < 0.5).astype(int)
    assert np.mean(flipped_key(from_matrix(scores)) < 0.05) == pytest.approx(0.05, abs=0.04)


def test_two_options_are_known_to_be_two() -> None:
    """A 3PL of two options took c = .245, with coverage .32."""
    plain, known = list[float](), list[float]()
    for seed in range(4):
        draw = np.random.default_rng(seed)
        truth = ItemParameters.from_difficulty("3PL", draw.normal(0, 1, 40), 1.2, 0.5)
        matrix = ByteMatrix(simulate(truth, draw.normal(size=400), draw.random((400, 40))))
        for priors, covered in ((Priors(), plain), (Priors(guessing=guessing_prior(2)), known)):
            found = fit(matrix, FitOptions(model="3PL", priors=priors))
            error = standard_errors(matrix, found).difficulty
            covered.append(float(np.mean(np.abs(found.parameters.difficulty - truth.difficulty) < 1.96 * error)))
        assert found.parameters.guessing.mean() == pytest.approx(0.5, abs=0.03)
    assert np.mean(plain) < 0.8
    assert np.mean(known) > 0.9


def test_options_may_differ_from_item_to_item() -> None:
    draw = np.random.default_rng(9)
    chance = np.repeat([0.5, 0.2], 15)
    truth = ItemParameters.from_difficulty("3PL", draw.normal(0, 1, 30), 1.2, chance)
    matrix = ByteMatrix(simulate(truth, draw.normal(size=500), draw.random((500, 30))))
    found = fit(matrix, FitOptions(model="3PL", priors=Priors(guessing=guessing_prior(1 / chance))))
    assert found.converged
    assert found.parameters.guessing[:15].mean() == pytest.approx(0.5, abs=0.05)
    assert found.parameters.guessing[15:].mean() == pytest.approx(0.2, abs=0.05)
    assert posterior_means(matrix, found).reliability > 0.5
    with pytest.raises(ConfigError, match="at least 2"):
        guessing_prior(1)


def test_a_column_says_the_options_of_each_item() -> None:
    draw = np.random.default_rng(9)
    chance = np.repeat([0.5, 0.2], 15)
    truth = ItemParameters.from_difficulty("3PL", draw.normal(0, 1, 30), 1.2, chance)
    table = from_matrix(simulate(truth, draw.normal(size=500), draw.random((500, 30)))).table()
    position = table["item"].str[1:].astype(int)
    table["n_options"] = np.where(position < 15, 2, 5)
    found = board.fit(table, "3PL")
    guessing = found.calibration.parameters.guessing
    assert guessing[:15].mean() == pytest.approx(0.5, abs=0.05)
    assert guessing[15:].mean() == pytest.approx(0.2, abs=0.05)
    assert "options to choose from by 'n_options'" in found.notes
    part = found.responses.take_items(np.array([20, 3]))
    assert part.options is not None
    assert part.options.tolist() == [5, 2]
    written = board.fit(table.assign(n_options="a|b|c"), "3PL")
    assert written.responses.options is None
    some = table.assign(n_options=np.where(position < 15, 2.0, np.nan))
    assert board.fit(some, "3PL").calibration.parameters.guessing[:15].mean() == pytest.approx(0.5, abs=0.05)


def test_options_that_are_none_are_refused() -> None:
    table = pd.DataFrame(
        {"subject": list("aabb"), "item": list("xyxy"), "score": [1, 0, 0, 1], "options": [4, 2, 4, 2]}
    )
    assert from_table(table).options is not None
    with pytest.raises(DataError, match="item y has options 1"):
        from_table(table.assign(options=[4, 1, 4, 1]))
    with pytest.raises(DataError, match="item x has two numbers of options"):
        from_table(table.assign(options=[4, 2, 5, 2]))


@pytest.mark.parametrize("seed", range(3))
def test_a_selective_design_is_named(seed: int) -> None:
    """Groups of models that each saw items near their level, linked by ten, got narrow difficulties without a warning."""
    draw = np.random.default_rng(seed)
    levels = np.repeat([-3.0, -1.0, 1.0, 3.0], 25)
    ability, b = draw.normal(levels, 0.7), np.concatenate([draw.normal(0, 1, 10), draw.normal(levels, 0.7)])
    random = simulate(ItemParameters.from_difficulty("1PL", b), draw.normal(size=100), draw.random((100, 110))).astype(
        float
    )
    scores = simulate(ItemParameters.from_difficulty("1PL", b), ability, draw.random((100, 110))).astype(float)
    apart = np.concatenate([np.zeros((100, 10), bool), levels[:, None] != levels], axis=1)
    scores[apart] = random[draw.permuted(apart, axis=1)] = np.nan
    for table, named in ((scores, True), (random, False)):
        responses = from_matrix(table)
        matrix = as_matrix(responses)
        found = fit(matrix, FitOptions(model="1PL"))
        told = remarks_on_design(found, responses, posterior_means(matrix, found).ability)
        assert bool(told) is named
        assert not named or "the abler subjects saw the harder items" in told[0]


@pytest.mark.parametrize("accelerate", [True, False])
@pytest.mark.parametrize(
    "scores",
    [
        # Turning the scale round must leave items that a prior holds, and those left out, as they are.
        [[1, 1, 1, 0, 1, 1], [-1, -1, -1, 0, -1, -1], [1, 0, -1, -1, -1, 0], [-1, -1, -1, 1, -1, 0]],
        # Two Newton steps in one go lose likelihood here.
        [[0, 1, 1, 1], [0, 0, 0, 1], [1, 1, 0, 1], [0, 1, 1, 1], [0, 1, 0, 1], [0, 1, 1, 1]],
        [[1, 0, 0, 0, 0], [0, 0, 1, 0, 1], [1, 1, 1, 0, 1], [1, 0, 1, 0, 1]],
    ],
)
def test_tiny_tables_never_lose_likelihood(scores: list[list[int]], accelerate: bool) -> None:
    options = FitOptions(model="2PL", accelerate=accelerate, max_iterations=200)
    found = fit(ByteMatrix(np.array(scores, np.int8)), options)
    trace = np.array(found.trace)
    assert np.isfinite(trace).all()
    assert (np.diff(trace) >= -1e-8 * np.abs(trace[1:])).all()
    assert (found.parameters.discrimination[found.with_prior] > 0).all()
