"""Adaptive tests as a loop: coverage, stopping, exposure, hostile scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.difficulty.item_response.abilities import expected_abilities
from rayworks.systems.difficulty.item_response.adaptive_loop import (
    AdaptiveResult,
    AdaptiveSession,
    Ask,
    Rules,
    exposure_of,
    run_test,
)
from rayworks.systems.difficulty.item_response.curves import ItemParameters, Model, equispaced
from rayworks.systems.difficulty.responses.response_matrix import as_matrix
from rayworks.systems.difficulty.responses.response_store import from_matrix


def bank(items: int = 200, seed: int = 0, *, population_sd: float = 1.0, guessing: float = 0.0) -> ItemParameters:
    draw = np.random.default_rng(seed)
    b, a = draw.normal(0, 1.5, items), np.exp(draw.normal(0.2, 0.3, items))
    model: Model = "3PL" if guessing else "2PL"
    return ItemParameters.from_difficulty(model, b, a, guessing, population_sd=population_sd)


def answering(parameters: ItemParameters, ability: float, seed: int) -> Ask:
    draw = np.random.default_rng(seed)

    def ask(items: Sequence[int]) -> list[float]:
        p = parameters.probability(np.array([ability]))[list(items), 0]
        return [float(value) for value in draw.random(len(items)) < p]

    return ask


def many(
    parameters: ItemParameters, rules: Rules, count: int, mean: float = 0.0
) -> tuple[np.ndarray, list[AdaptiveResult]]:
    truth = np.random.default_rng(1).normal(mean, parameters.population_sd, count)
    return truth, [
        run_test(AdaptiveSession(parameters, rules, seed, mean), answering(parameters, ability, seed))
        for seed, ability in enumerate(truth)
    ]


@pytest.mark.parametrize(
    ("parameters", "rules", "mean"),
    [
        (bank(), Rules(error=0.3), 0.0),
        (bank(), Rules(error=0, most=12, among=1), 0.0),
        (bank(population_sd=1.7), Rules(error=0.35, batch=4), 1.0),
        (bank(guessing=0.25), Rules(error=0.4, most=60), 0.0),
    ],
)
def test_the_interval_covers_the_true_ability_at_the_nominal_rate(
    parameters: ItemParameters, rules: Rules, mean: float
) -> None:
    """600 subjects of the population: the share has a standard error of .009."""
    truth, results = many(parameters, rules, 600, mean)
    inside = [low < ability < high for ability, (low, high) in zip(truth, (r.interval for r in results), strict=True)]
    assert 0.92 < np.mean(inside) < 0.98
    off = np.array([result.ability for result in results]) - truth
    assert np.sqrt(np.mean(off**2)) == pytest.approx(np.sqrt(np.mean([r.error**2 for r in results])), rel=0.1)


def test_it_stops_at_the_error_and_needs_fewer_items_than_drawn_ones() -> None:
    parameters = bank()
    _, adaptive = many(parameters, Rules(error=0.3, among=1), 100)
    _, drawn = many(parameters, Rules(error=0.3, among=200, most=200), 100)
    assert {result.stopped for result in adaptive} == {"error"}
    assert all(result.error <= 0.3 < result.asked[-2].error for result in adaptive)
    assert np.mean([len(r.asked) for r in adaptive]) < 0.7 * np.mean([len(r.asked) for r in drawn])


def test_exposure_control_spreads_the_first_item_evenly_and_lowers_the_overlap() -> None:
    """Drawing among ten bounds the share of the first item; a good item comes up again later, so the largest rate is .7."""
    parameters = bank()
    results = {among: many(parameters, Rules(error=0.3, among=among), 200)[1] for among in (1, 10)}
    found = {among: exposure_of(tests, 200) for among, tests in results.items()}
    first = np.bincount([result.asked[0].item for result in results[10]])
    assert (first > 0).sum() == 10
    assert first.max() < 200 * 0.1 + 4 * np.sqrt(200 * 0.1 * 0.9)
    assert found[1].rates.max() == 1.0
    assert found[10].rates.max() < 1.0
    assert (found[10].rates > 0).sum() > (found[1].rates > 0).sum()
    assert found[10].overlap < found[1].overlap
    assert found[1].length < found[10].length < found[1].length + 3


def test_overlap_is_that_of_all_pairs() -> None:
    _, results = many(bank(30), Rules(error=0, most=6, among=3), 12)
    sets = [{one.item for one in result.asked} for result in results]
    pairs = [len(one & two) / 6 for at, one in enumerate(sets) for two in sets[:at]]
    assert exposure_of(results, 30).overlap == pytest.approx(np.mean(pairs))


def test_the_ability_is_that_of_the_same_answers_given_at_once() -> None:
    parameters = bank(40, population_sd=1.4)
    result = run_test(AdaptiveSession(parameters, Rules(error=0, most=15)), answering(parameters, 0.7, 3))
    row = np.full((1, 40), np.nan)
    for one in result.asked:
        row[0, one.item] = one.score
    kept = np.flatnonzero(np.isfinite(row[0]))
    matrix = as_matrix(from_matrix(np.repeat(row[:, kept], 2, axis=0)))
    together = expected_abilities(matrix, parameters.take(np.isfinite(row[0])), equispaced(2001, 10.0))
    assert result.ability == pytest.approx(together.ability[0], abs=1e-6)
    assert result.error == pytest.approx(together.error[0], abs=1e-6)


def test_a_seed_repeats_a_test_and_an_item_is_asked_once() -> None:
    parameters = bank(20)
    one, two = (
        run_test(AdaptiveSession(parameters, Rules(error=0, most=99), 4), answering(parameters, 0, 4)) for _ in "ab"
    )
    assert one.asked == two.asked
    assert sorted(answer.item for answer in one.asked) == list(range(20))
    assert one.stopped == "items"
    assert one.expected_score == pytest.approx(np.mean([answer.score for answer in one.asked]))


def test_what_is_asked_stays_until_it_is_recorded() -> None:
    session = AdaptiveSession(bank(10), Rules(batch=3, most=4, error=0))
    first = session.next()
    assert session.next() == first
    assert len(set(first)) == 3
    with pytest.raises(DataError, match="scores: are 2 for 3 items"):
        session.record([1, 0])
    with pytest.raises(DataError, match="is nan; must lie in"):
        session.record([1, 0, float("nan")])
    assert not session.asked
    session.record([1, 0, 0.5])
    assert len(session.next()) == 1
    session.record([1])
    assert session.next() == []
    assert session.stopped == "most"


def test_extreme_subjects_and_banks() -> None:
    far = ItemParameters.from_difficulty("1PL", np.full(5, 9.0))
    for score in (0.0, 1.0):
        session = AdaptiveSession(far, Rules(error=0, most=5, batch=5))
        session.record([score for _ in session.next()])
        result = session.result()
        assert np.isfinite([result.ability, result.error]).all()
    assert result.ability > 2
    single = ItemParameters.from_difficulty("1PL", np.zeros(1))
    assert run_test(AdaptiveSession(single, Rules()), lambda items: [1.0]).stopped == "items"
    with pytest.raises(DataError, match="items: are none"):
        AdaptiveSession(single.take(np.zeros(1, dtype=bool)), Rules())
    with pytest.raises(DataError, match="items: number 0 has no finite parameters"):
        AdaptiveSession(ItemParameters.from_difficulty("1PL", np.array([np.nan])), Rules())


@pytest.mark.parametrize(
    "wrong", [{"error": -1.0}, {"error": float("nan")}, {"most": 0}, {"least": 9, "most": 3}, {"among": 0}]
)
def test_rules_that_cannot_hold_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))}: is"):
        Rules(**wrong)
