"""Two calibrations on one scale."""

from dataclasses import replace

import numpy as np
import pytest

from rayworks.core.errors import DataError
from rayworks.systems.difficulty.item_response.abilities import posterior_means
from rayworks.systems.difficulty.item_response.curves import ItemParameters, Model, simulate
from rayworks.systems.difficulty.item_response.linking import Method, link_by_items, link_by_solvers
from rayworks.systems.difficulty.item_response.marginal_likelihood import fit
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.responses.response_matrix import ByteMatrix
from tests.simulated_responses import simulated

METHODS: list[Method] = ["mean-sigma", "stocking-lord"]


def rescaled(target: ItemParameters, scale: float, shift: float) -> ItemParameters:
    """The same items in units where theta_target = scale * theta + shift."""
    return ItemParameters.from_difficulty(
        target.model,
        (target.difficulty - shift) / scale,
        target.discrimination * scale,
        target.guessing,
        target.ceiling,
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", ["2PL", "3PL", "4PL"])
def test_a_known_transformation_is_found_exactly(method: Method, model: Model) -> None:
    target = simulated(0, items=20, model=model).truth
    found = link_by_items(rescaled(target, 1.3, -0.6), target, method)
    assert (found.scale, found.shift) == pytest.approx((1.3, -0.6), abs=1e-5)
    assert found.drift == pytest.approx(np.zeros(20), abs=1e-4)
    back = found.parameters(rescaled(target, 1.3, -0.6))
    grid = np.linspace(-3, 3, 9)
    np.testing.assert_allclose(back.probability(grid), target.probability(grid), atol=1e-5)
    np.testing.assert_allclose(found.difficulty(rescaled(target, 1.3, -0.6).difficulty), target.difficulty, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_rasch_scales_differ_by_their_origin_only(method: Method) -> None:
    target = simulated(1, items=15).truth
    source = replace(target, intercept=target.intercept + 0.45)
    found = link_by_items(source, target, method)
    assert (found.scale, found.shift) == (1.0, pytest.approx(0.45, abs=1e-6))
    assert found.parameters(source).model == "1PL"


@pytest.mark.parametrize("method", METHODS)
def test_a_drifted_anchor_stands_out(method: Method) -> None:
    target = simulated(2, items=20, model="2PL").truth
    source = rescaled(target, 0.8, 0.3)
    moved = ItemParameters.from_difficulty("2PL", source.difficulty + 1.5 * (np.arange(20) == 7), source.discrimination)
    drift = link_by_items(moved, target, method).drift
    assert np.abs(drift).argmax() == 7
    assert abs(drift[7]) > 3 * np.delete(np.abs(drift), 7).max()


def test_two_calibrations_of_different_people_meet_on_the_anchors() -> None:
    truth = simulated(3, items=30, model="2PL").truth
    draw = np.random.default_rng(0)
    found = []
    for mean, sd in ((0.0, 1.0), (0.8, 1.3)):
        scores = simulate(truth, draw.normal(mean, sd, 4000), draw.random((4000, 30)))
        found.append(fit(ByteMatrix(scores), FitOptions(model="2PL")).parameters)
    for method in METHODS:
        link = link_by_items(found[1], found[0], method)
        assert (link.scale, link.shift) == pytest.approx((1.3, 0.8), abs=0.12)


def test_shared_solvers_link_sets_without_a_common_item() -> None:
    draw = np.random.default_rng(4)
    ability = draw.normal(0, 1, 3000)
    first = ItemParameters.from_difficulty("2PL", draw.normal(0, 1, 30), 1.0)
    second = ItemParameters.from_difficulty("2PL", draw.normal(0, 1, 30), 2.0)
    sides = []
    for truth in (first, second):
        matrix = ByteMatrix(simulate(truth, ability, draw.random((3000, 30))))
        sides.append(posterior_means(matrix, fit(matrix, FitOptions(model="1PL"))))
    link = link_by_solvers(sides[1], sides[0])
    assert link.scale == pytest.approx(0.5, abs=0.03), "logits of the second set are half the first's"
    assert link.shift == pytest.approx(0, abs=0.06)
    assert link.drift.shape == (3000,) and link.method == "shared-solvers"


def test_what_can_not_be_linked_is_refused() -> None:
    truth = simulated(5, items=6, model="2PL").truth
    with pytest.raises(DataError, match="not 6 and 5"):
        link_by_items(truth, truth.take(np.arange(5)))
    with pytest.raises(DataError, match="all anchors have one difficulty"):
        link_by_items(truth, ItemParameters.from_difficulty("2PL", np.zeros(6)))
    side = posterior_means(simulated(0, subjects=2).matrix, fit(simulated(0).matrix, FitOptions(model="1PL")))
    with pytest.raises(DataError, match="three or more shared solvers, not 2 and 2"):
        link_by_solvers(side, side)
    same = replace(side, ability=np.zeros(5), error=np.ones(5), estimator="WLE")
    with pytest.raises(DataError, match="differ by no more than their errors"):
        link_by_solvers(same, same)
