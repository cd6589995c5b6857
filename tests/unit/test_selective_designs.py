"""Groups of models that each saw items near their level, linked by ten: their populations, and conditional likelihood."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.difficulty import board
from rayworks.systems.difficulty.calibration import grouped
from rayworks.systems.difficulty.config import Config
from rayworks.systems.difficulty.item_response.conditional import _backward, _forward, conditional_covariance
from rayworks.systems.difficulty.item_response.curves import ItemParameters, Model, simulate
from rayworks.systems.difficulty.item_response.expectations import expectation
from rayworks.systems.difficulty.item_response.marginal_likelihood import Calibration, fit
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.item_response.populations import by_attribute, by_design
from rayworks.systems.difficulty.item_response.sharded_fit import Shard, ShardedFit
from rayworks.systems.difficulty.item_response.standard_errors import observed_information, standard_errors
from rayworks.systems.difficulty.responses.response_matrix import ByteMatrix, as_matrix
from rayworks.systems.difficulty.responses.response_store import Groups, Responses, from_matrix
from rayworks.systems.difficulty.responses.sources import ResponseSet
from tests.selective_boards import Selective, selective


def slope(found: Calibration, data: Selective) -> float:
    kept = ~found.extremes.mask
    return float(np.polyfit(data.difficulty[kept], found.parameters.difficulty[kept], 1)[0])


@pytest.mark.parametrize("seed", range(3))
def test_difficulties_of_a_selective_design_keep_their_distances(seed: int) -> None:
    data = selective(np.random.default_rng(seed))
    one = fit(as_matrix(data.responses), FitOptions(model="1PL"))
    assert slope(one, data) < 0.85
    several = fit(as_matrix(data.grouped), FitOptions(model="1PL"))
    assert several.converged
    assert slope(several, data) == pytest.approx(1, abs=0.1)
    conditional = fit(as_matrix(data.responses), FitOptions(model="1PL", estimator="conditional"))
    assert slope(conditional, data) == pytest.approx(1, abs=0.1)
    means = np.array([mean for mean, _ in several.populations])
    assert means == pytest.approx(data.means - data.means[0], abs=0.6)


@pytest.mark.parametrize("model", ["1PL", "2PL"])
def test_populations_of_groups_are_a_maximum(model: Model) -> None:
    """No step of a single parameter raises the likelihood, and the information is its curvature."""
    data = selective(np.random.default_rng(4), groups=2, size=80, own=4, links=4, sd=1.0)
    matrix = as_matrix(data.grouped)
    found = fit(matrix, FitOptions(model=model, tolerance=1e-9, max_iterations=5000))
    assert not found.with_prior.any()
    assert not found.extremes.mask.any()
    working, expect = found.working, expectation(matrix)

    def likelihood(vector: np.ndarray) -> float:
        at = working.at(vector)
        assert at is not None
        return expect(at, found.quadrature).log_likelihood

    best, step = working.vector, 1e-3
    moves = step * np.eye(len(best))
    sides = np.array([[likelihood(best + move), likelihood(best - move)] for move in moves])
    assert (sides < likelihood(best)).all()
    information = observed_information(matrix, found)
    curvature = (2 * likelihood(best) - sides.sum(1)) / step**2
    assert np.diag(information) == pytest.approx(curvature, rel=1e-3)
    last = len(best) - 1
    mixed = [
        (likelihood(best + moves[k] + moves[last]) - likelihood(best + moves[k] - moves[last])) / step / 2
        - (likelihood(best - moves[k] + moves[last]) - likelihood(best - moves[k] - moves[last])) / step / 2
        for k in range(last)
    ]
    assert information[last, :last] == pytest.approx(-np.array(mixed) / (2 * step), abs=0.02)


def test_the_cross_product_knows_the_populations() -> None:
    data = selective(np.random.default_rng(6), groups=2, size=800, own=5, links=5)
    matrix = as_matrix(data.grouped)
    found = fit(matrix, FitOptions(model="1PL"))
    exact, crossed = (standard_errors(matrix, found, method) for method in ("observed", "cross-product"))
    assert crossed.difficulty == pytest.approx(exact.difficulty, rel=0.15)


def test_symmetric_functions_and_their_moments_are_those_of_all_patterns() -> None:
    b = np.array([-2.0, -0.5, 0.0, 0.3, 3.0])
    count = np.array([1.0, 3.0, 0.0, 5.0, 2.0, 4.0])
    log_gamma, chance = _forward(-b[None])
    expected, covariance = _backward(count[None], chance)
    patterns = np.array(list(product([0, 1], repeat=5)))
    mean, spread = np.zeros(5), np.zeros((5, 5))
    for total in range(6):
        of_total = patterns[patterns.sum(1) == total]
        weight = np.exp(-of_total @ b)
        assert log_gamma[0, total] == pytest.approx(np.log(weight.sum()))
        weight /= weight.sum()
        mean += count[total] * weight @ of_total
        spread += count[total] * ((of_total * weight[:, None]).T @ of_total - np.outer(*[weight @ of_total] * 2))
    assert expected[0] == pytest.approx(mean, abs=1e-12)
    assert covariance[0] == pytest.approx(spread, abs=1e-12)


def test_a_thousand_items_do_not_overflow() -> None:
    b = np.linspace(-8, 8, 1000)
    log_gamma, chance = _forward(-b[None])
    count = np.zeros((1, 1001))
    count[0, [3, 500, 990]] = 1
    expected, covariance = _backward(count, chance)
    assert np.isfinite(log_gamma).all()
    assert expected.sum() == pytest.approx(1493)
    assert np.abs(covariance.sum(1)).max() < 1e-9


def test_conditional_estimates_are_those_of_the_likelihood_ratio_of_two_items() -> None:
    """Of two items only the subjects who solved one of them tell: their log odds are the distance."""
    scores = np.repeat([[1, 0], [0, 1], [1, 1], [0, 0]], [30, 12, 20, 9], axis=0)
    found = fit(ByteMatrix(scores), FitOptions(model="1PL", estimator="conditional"))
    easy, hard = found.parameters.difficulty
    assert hard - easy == pytest.approx(np.log(30 / 12), abs=1e-8)
    covariance, _ = conditional_covariance(ByteMatrix(scores), found)
    apart = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert apart == pytest.approx(1 / 30 + 1 / 12, rel=1e-6)
    assert standard_errors(ByteMatrix(scores), found).method == "conditional"


def test_conditional_fits_agree_with_marginal_ones_where_both_hold() -> None:
    draw = np.random.default_rng(3)
    truth = ItemParameters.from_difficulty("1PL", draw.normal(0, 1, 20))
    scores = simulate(truth, draw.normal(size=1500), draw.random((1500, 20))).astype(float)
    scores[draw.random(scores.shape) < 0.05] = np.nan
    matrix = as_matrix(from_matrix(scores))
    fits = [fit(matrix, FitOptions(model="1PL", estimator=estimator)) for estimator in ("conditional", "mml")]
    b, errors = zip(*((one.parameters.difficulty, standard_errors(matrix, one)) for one in fits), strict=True)
    assert b[0] == pytest.approx(b[1], abs=0.02)
    assert errors[0].difficulty == pytest.approx(errors[1].difficulty, rel=0.03)
    assert errors[0].population_sd == pytest.approx(errors[1].population_sd, rel=0.05)
    twice = fit(matrix, FitOptions(model="1PL", estimator="conditional"), np.full(1500, 2.0))
    assert twice.parameters.difficulty == pytest.approx(b[0], abs=1e-6)


def test_conditional_likelihood_refuses_what_it_cannot() -> None:
    options = FitOptions(model="1PL", estimator="conditional")
    with pytest.raises(ConfigError, match="for the 1PL, not for 2PL"):
        fit(ByteMatrix(np.eye(4, dtype=int)), replace(options, model="2PL"))
    with pytest.raises(DataError, match="each 0 or 1"):
        fit(as_matrix(from_matrix(np.array([[0.5, 1, 0], [0, 1, 0.5], [1, 0, 1]]))), options)
    with pytest.raises(DataError, match="no finite estimate"):
        fit(ByteMatrix(np.tril(np.ones((6, 6), int))[:, 1:]), options)
    with pytest.raises(DataError, match="nobody saw item number 0"):
        fit(ByteMatrix(np.array([[-1, 1, 0], [-1, 0, 1]])), options)
    matrix = as_matrix(selective(np.random.default_rng(0)).responses)
    found = fit(matrix, options)
    with pytest.raises(ConfigError, match="conditional fit has its own errors"):
        standard_errors(matrix, found, "sandwich", np.arange(matrix.shape[0]))


def test_items_that_all_solved_do_not_touch_a_conditional_fit() -> None:
    data = selective(np.random.default_rng(1))
    scores = data.scores.copy()
    kept = fit(as_matrix(data.responses), FitOptions(model="1PL", estimator="conditional"))
    more = from_matrix(np.column_stack([scores, np.ones(len(scores))]))
    again = fit(as_matrix(more), FitOptions(model="1PL", estimator="conditional"))
    assert again.parameters.difficulty[:-1] == pytest.approx(kept.parameters.difficulty, abs=1e-6)
    assert again.extremes.mask[-1]
    assert np.isfinite(standard_errors(as_matrix(more), again).difficulty).all()


def test_groups_are_found_where_the_design_has_them_and_only_there() -> None:
    draw = np.random.default_rng(7)
    data = selective(draw, groups=3, size=12)
    found = by_design(data.responses)
    assert found is not None
    assert found.names[0] == "group 2"
    assert sorted(found.names) == ["group 1", "group 2", "group 3"]
    assert all(len(np.unique(found.member[data.member == group])) == 1 for group in range(3))
    complete = draw.integers(0, 2, (40, 12)).astype(float)
    random = np.where(draw.random(complete.shape) < 0.3, np.nan, complete)
    sparse = np.where(draw.random((60, 80)) < 0.9, np.nan, 1.0)
    sparse[:, 0] = np.arange(60) % 2
    stairs = np.array([[1.0 if start <= item < start + 8 else np.nan for item in range(27)] for start in range(20)])
    for table in (complete, random, sparse, stairs):
        assert by_design(from_matrix(table, allow_disconnected=True)) is None


def test_groups_by_attribute_are_checked() -> None:
    responses = selective(np.random.default_rng(2), groups=2, size=10).responses
    named = np.repeat(["old", "new"], 10)
    assert sorted(by_attribute(responses, named, "model.groups year").names) == ["new", "old"]
    with pytest.raises(ConfigError, match=r"model\.groups year: all subjects are of a"):
        by_attribute(responses, np.repeat("a", 20), "model.groups year")
    with pytest.raises(ConfigError, match="has no value"):
        by_attribute(responses, np.array([*named[:-1], None], dtype=object), "model.groups year")
    with pytest.raises(ConfigError, match="has one subject"):
        by_attribute(responses, np.array([*named[:-1], "x"]), "model.groups year")
    apart = np.full((8, 6), np.nan)
    apart[:4, :3], apart[4:, 3:] = np.eye(4, 3), np.eye(4, 3)
    loose = from_matrix(apart, allow_disconnected=True)
    with pytest.raises(ConfigError, match="shares no item with the other groups"):
        by_attribute(loose, np.repeat(["a", "b"], 4), "model.groups year")


@pytest.mark.parametrize("model", ["3PL", "4PL"])
def test_groups_of_models_with_asymptotes_are_refused(model: Model) -> None:
    data = selective(np.random.default_rng(2), groups=2, size=10)
    with pytest.raises(ConfigError, match=r"model\.groups: populations of groups are for 1PL and 2PL"):
        fit(as_matrix(data.grouped), FitOptions(model=model))


def test_shards_give_the_fit_of_one_memory() -> None:
    data = selective(np.random.default_rng(5), groups=2, size=30)
    table = data.grouped.table()
    halves = [np.arange(0, 60, 2), np.arange(1, 60, 2)]
    parts = []
    for number, kept in enumerate(halves):
        shard = Shard(
            table[table["subject"].isin(data.grouped.subjects[kept])], data.grouped.items, "x", number, "error"
        )
        names = {name: place for place, name in enumerate(data.grouped.subjects)}
        place = [names[name] for name in shard.responses.subjects]
        assert data.grouped.groups is not None
        groups = replace(data.grouped.groups, member=data.grouped.groups.member[place])
        shard.matrix = as_matrix(replace(shard.responses, groups=groups))
        parts.append(shard)
    sharded = ShardedFit(lambda method, *arguments: [getattr(part, method)(*arguments) for part in parts])
    options = FitOptions(model="1PL")
    whole = fit(as_matrix(data.grouped), options)
    assert sharded.fit(options).parameters.difficulty == pytest.approx(whole.parameters.difficulty, abs=1e-6)


def test_a_board_repairs_what_its_design_did() -> None:
    data = selective(np.random.default_rng(8))
    found = board.fit(as_table(data.responses))
    assert slope(found.calibration, data) == pytest.approx(1, abs=0.1)
    assert any("selective design" in note and "in groups" in note for note in found.notes)
    assert any("group 1 (60) mean -" in note for note in found.notes)
    alone = board.fit(as_table(data.responses), groups=None)
    assert any("groups by-design" in note and "estimator conditional" in note for note in alone.notes)
    assert slope(alone.calibration, data) < 0.9
    conditional = board.fit(as_table(data.responses), estimator="conditional", groups=None)
    assert slope(conditional.calibration, data) == pytest.approx(1, abs=0.1)
    table = as_table(data.responses).merge(
        pd.DataFrame({"subject": data.responses.subjects, "year": data.member.astype(str)})
    )
    by_column = board.fit(table, groups="year")
    assert by_column.items["difficulty"].to_numpy() == pytest.approx(found.items["difficulty"].to_numpy(), abs=1e-4)
    with pytest.raises(DataError, match="has no column month for groups"):
        board.fit(table, groups="month")
    table.loc[0, "year"] = "9"
    with pytest.raises(ConfigError, match="has two values of year"):
        board.fit(table, groups="year")


def test_a_board_of_random_booklets_is_one_population() -> None:
    for seed in range(8):
        data = selective(np.random.default_rng(seed), size=30, own=8, reach=0.0)
        assert by_design(data.responses) is not None
        assert not len(board.fit(as_table(data.responses)).calibration.mean)


def test_the_setting_of_a_run() -> None:
    data = selective(np.random.default_rng(8), groups=2, size=20)
    known = pd.DataFrame({"subject": data.responses.subjects, "year": data.member})
    found = ResponseSet(data.responses, {}, known, "x")
    assert grouped(found, Config()) is found
    for setting in ("year", "by-design"):
        changed = grouped(found, Config.model_validate({"model": {"groups": setting}})).responses.groups
        assert changed is not None
        assert len(changed.names) == 2
    with pytest.raises(ConfigError, match=r"model\.groups: subjects have no attribute month; known: year"):
        grouped(found, Config.model_validate({"model": {"groups": "month"}}))
    flat = replace(found, responses=from_matrix(np.eye(6)))
    assert (
        "no few, clear and linked groups"
        in grouped(flat, Config.model_validate({"model": {"groups": "by-design"}})).told[0]
    )
    for wrong in ({"groups": "x", "name": "3PL"}, {"estimator": "conditional", "name": "2PL"}):
        with pytest.raises(ValueError, match="1PL"):
            Config.model_validate({"model": wrong})


def as_table(responses: Responses) -> pd.DataFrame:
    return responses.table()[["subject", "item", "score"]]


def test_groups_follow_the_subjects() -> None:
    responses = replace(from_matrix(np.eye(4)), groups=Groups(("a", "b"), np.array([0, 1, 0, 1])))
    part = responses.take_subjects(np.array([3, 0]))
    assert part.groups is not None
    assert part.groups.member.tolist() == [1, 0]
    assert as_matrix(part).group is part.groups.member
