"""Every integral over abilities is compared with one on a wider and finer grid."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import expit

from rayworks.systems.difficulty.item_response.abilities import expected_abilities, posterior_means
from rayworks.systems.difficulty.item_response.adaptive_tests import choose
from rayworks.systems.difficulty.item_response.curves import ItemParameters, equispaced, simulate
from rayworks.systems.difficulty.item_response.linking import link_by_items
from rayworks.systems.difficulty.item_response.marginal_likelihood import fit
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.item_response.remarks import remarks
from rayworks.systems.difficulty.labels.solve_rates import expected_rate
from rayworks.systems.difficulty.responses.response_matrix import ByteMatrix


def steep(seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    truth = ItemParameters.from_difficulty("2PL", draw.normal(0, 1.5, 60), np.full(60, 5.0))
    return simulate(truth, draw.normal(size=400), draw.random((400, 60)))


def test_the_grid_of_a_fit_grows_until_a_finer_one_moves_nothing() -> None:
    scores = ByteMatrix(steep(0))
    found = fit(scores, FitOptions(model="2PL"))
    assert found.grid_error < 3e-4
    assert len(found.quadrature.nodes) > 61
    exact = fit(scores, FitOptions(model="2PL", nodes=2001))
    free = ~(found.with_prior | exact.with_prior)
    assert free.sum() > 30
    assert found.parameters.difficulty[free] == pytest.approx(exact.parameters.difficulty[free], abs=5e-3)


def test_a_grid_that_was_asked_for_is_kept_and_named() -> None:
    found = fit(ByteMatrix(steep(0)), FitOptions(model="2PL", nodes=41))
    assert len(found.quadrature.nodes) == 41
    assert found.grid_error > 3e-4
    told = remarks(found, [f"q{n}" for n in range(60)])
    assert any("grid of abilities is too narrow or coarse" in one and "leave model.nodes at 0" in one for one in told)


def test_an_ability_beyond_the_grid_is_exact() -> None:
    """The case of the issue: 200 items, a = 1.5, b ~ N(3, 1.5), an ability of 6."""
    draw = np.random.default_rng(2)
    items = ItemParameters.from_difficulty("2PL", draw.normal(3, 1.5, 200), 1.5)
    scores = ByteMatrix(simulate(items, np.array([6.0, 0.0]), draw.random((2, 200))))
    found, fine = (
        expected_abilities(scores, items, equispaced(count, edge)) for count, edge in ((41, 4.5), (20001, 20.0))
    )
    assert found.ability == pytest.approx(fine.ability, abs=1e-4)
    assert found.error == pytest.approx(fine.error, rel=1e-3)


def test_a_posterior_between_two_nodes_is_exact() -> None:
    items = ItemParameters.from_difficulty("2PL", np.linspace(-2, 2, 900), 6.0)
    draw = np.random.default_rng(3)
    scores = ByteMatrix(simulate(items, np.linspace(-1, 1, 7), draw.random((7, 900))))
    found, fine = (expected_abilities(scores, items, equispaced(count)) for count in (41, 40001))
    assert found.ability == pytest.approx(fine.ability, abs=1e-5)
    assert found.error == pytest.approx(fine.error, rel=1e-3)
    one = ByteMatrix(scores.codes[:1])
    assert expected_abilities(one, items, equispaced(41)).error == pytest.approx(fine.error[:1], rel=1e-3)


@pytest.mark.parametrize("sd", [0.1, 1.0, 6.0, 40.0])
def test_solve_rates_are_the_integral(sd: float) -> None:
    for b, mean in ((0.3, 0.0), (-4.0, 1.0), (9.0, -2.0)):
        exact = quad(
            lambda x, b=b, m=mean: expit(m + sd * x - b) * np.exp(-x * x / 2) / np.sqrt(2 * np.pi), -9, 9, limit=500
        )
        assert expected_rate(np.array([b]), mean, sd)[0] == pytest.approx(exact[0], abs=1e-7)


def test_linking_and_adaptive_tests_do_not_depend_on_the_grid_given() -> None:
    draw = np.random.default_rng(4)
    target = ItemParameters.from_difficulty("2PL", draw.normal(0, 1, 12), np.exp(draw.normal(1.5, 0.3, 12)))
    source = ItemParameters.from_difficulty(
        "2PL", (target.difficulty - 0.4) / 1.3 + draw.normal(0, 0.1, 12), target.discrimination * 1.3
    )
    links = [link_by_items(source, target, grid=equispaced(count)) for count in (21, 801)]
    assert links[0].scale == pytest.approx(links[1].scale, abs=1e-3)
    assert links[0].shift == pytest.approx(links[1].shift, abs=1e-3)
    errors = [choose(target, equispaced(count), 4).expected_error for count in (11, 801)]
    assert errors[0] == pytest.approx(errors[1], abs=1e-4)


def test_subjects_of_a_fit_are_scored_beyond_its_grid() -> None:
    draw = np.random.default_rng(5)
    items = ItemParameters.from_difficulty("1PL", draw.normal(0, 1, 150))
    ability = np.append(draw.normal(size=80), [7.5, 7.5])
    found = fit(ByteMatrix(simulate(items, ability, draw.random((82, 150)))), FitOptions(model="1PL"))
    best = posterior_means(ByteMatrix(simulate(items, ability, draw.random((82, 150)))), found)
    assert np.isfinite(best.ability).all()
    assert best.error[-1] > best.error[0]
