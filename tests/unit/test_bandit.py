"""Bandit logs: tables of policies, cross-fitted rates, one policy's value from another's log."""

import numpy as np
import pytest

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.recommendation.measures.estimates import Bootstrap
from rayworks.systems.recommendation.values.bandit import (
    BanditLog,
    cross_check,
    cross_fitted_rates,
    empirical_policy,
    evaluate,
    on_policy_value,
    prior_strength,
    smoothed_rates,
    uniform_policy,
)

ITEMS, POSITIONS = 6, 3
RATES = np.linspace(0.1, 0.6, ITEMS)[:, None] * np.array([1.0, 0.8, 0.6])


def favouring(strength: float) -> np.ndarray:
    """A policy that shows the items of higher rates more."""
    raw = np.exp(strength * RATES)
    return np.asarray(raw / raw.sum(axis=0))


def logged(policy: np.ndarray, rows: int, seed: int) -> BanditLog:
    """Impressions that ``policy`` made."""
    draw = np.random.default_rng(seed)
    position = draw.integers(0, POSITIONS, rows)
    item = (draw.random(rows)[:, None] > policy.cumsum(axis=0).T[position]).sum(axis=1).clip(max=ITEMS - 1)
    click = (draw.random(rows) < RATES[item, position]).astype(int)
    return BanditLog(item, position, click, policy[item, position], ITEMS, POSITIONS)


def test_each_policy_is_read_from_the_others_log() -> None:
    uniform, favoured = uniform_policy(ITEMS, POSITIONS), favouring(5.0)
    random_log, own = logged(uniform, 30_000, 0), logged(favoured, 30_000, 1)
    for log, other, policy in ((random_log, own, empirical_policy(own)), (own, random_log, uniform)):
        checked = cross_check(log, other, policy, seed=0)
        assert set(checked.relative_errors) == {"ips", "snips", "dm", "dr", "sndr", "dr_os"}
        assert max(checked.relative_errors.values()) < 0.05
        assert checked.truth.holds(checked.evaluation.estimates["dr"].value)
        assert checked.evaluation.diagnostics.warnings == ()


def test_true_values_lie_in_the_intervals() -> None:
    log, policy = logged(uniform_policy(ITEMS, POSITIONS), 20_000, 3), favouring(8.0)
    truth = float((policy * RATES).sum(axis=0).mean())
    found = evaluate(log, policy, seed=0, switch=2.0, clip=50.0, bootstrap=Bootstrap(200, 0)).estimates
    for name in ("ips", "snips", "dr", "sndr"):
        assert found[name].holds(truth), name
    assert found["dr"].standard_error < found["ips"].standard_error
    assert found["switch_dr"].standard_error < found["dr"].standard_error


def test_rates_of_a_row_come_from_the_other_folds() -> None:
    log = logged(favouring(2.0), 500, 4)
    rates = cross_fitted_rates(log, seed=7, folds=4, strength=2.0)
    assert np.bincount(rates.fold).tolist() == [125] * 4
    for fold in range(4):
        rest = rates.fold != fold
        overall = log.click[rest].mean()
        for item in range(ITEMS):
            for position in range(POSITIONS):
                cell = rest & (log.item == item) & (log.position == position)
                expected = (log.click[cell].sum() + 2 * overall) / (cell.sum() + 2)
                assert rates.tables[fold, item, position] == pytest.approx(expected)
    policy = favouring(1.0)
    target = rates.target(log, policy)
    assert target.predicted is not None and target.expected is not None
    for row in (0, 17, 499):
        table, position = rates.tables[rates.fold[row]], log.position[row]
        assert target.probability[row] == policy[log.item[row], position]
        assert target.predicted[row] == table[log.item[row], position]
        assert target.expected[row] == pytest.approx(policy[:, position] @ table[:, position])


def test_folds_come_from_the_seed_alone() -> None:
    log = logged(favouring(2.0), 101, 5)
    one, same, other = (cross_fitted_rates(log, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.fold, same.fold)
    assert (one.fold != other.fold).any()
    assert np.ptp(np.bincount(one.fold)) == 1


def test_a_click_does_not_reach_its_own_prediction() -> None:
    log = logged(favouring(2.0), 300, 6)
    flipped = log.click.copy()
    flipped[42] = 1 - flipped[42]
    other = BanditLog(log.item, log.position, flipped, log.propensity, ITEMS, POSITIONS)
    policy = uniform_policy(ITEMS, POSITIONS)
    before, after = (cross_fitted_rates(one, 0).target(one, policy) for one in (log, other))
    assert before.predicted is not None and after.predicted is not None
    assert before.predicted[42] == after.predicted[42]
    assert (before.predicted != after.predicted).any()


def test_empirical_bayes_finds_the_prior_that_made_the_cells() -> None:
    draw = np.random.default_rng(0)
    shown = draw.integers(50, 400, 4000)
    clicks = draw.binomial(shown, draw.beta(0.3 * 40, 0.7 * 40, 4000))
    assert prior_strength(clicks, shown) == pytest.approx(40, rel=0.08)
    alike = draw.binomial(shown, 0.3)
    strength = prior_strength(alike, shown)
    assert strength > 2000
    rates = smoothed_rates(alike, shown)
    assert np.abs(rates - 0.3).max() < 0.02


def test_cells_that_were_never_shown_get_the_overall_rate() -> None:
    clicks, shown = np.array([3.0, 0.0, 5.0]), np.array([10, 0, 10])
    np.testing.assert_allclose(smoothed_rates(clicks, shown, 0.0), [0.3, 0.4, 0.5])
    np.testing.assert_allclose(smoothed_rates(clicks, shown, 5.0), [5 / 15, 0.4, 7 / 15])
    np.testing.assert_allclose(smoothed_rates(clicks, shown, np.inf), 0.4)
    assert prior_strength(np.array([0.0]), np.array([4])) == np.inf
    assert prior_strength(np.array([9.0, 0.0]), np.array([9, 9])) == 0


def test_policy_tables() -> None:
    log = logged(favouring(2.0), 400, 8)
    found = empirical_policy(log)
    np.testing.assert_allclose(found.sum(axis=0), 1)
    assert found[2, 1] == np.sum((log.item == 2) & (log.position == 1)) / np.sum(log.position == 1)
    np.testing.assert_allclose(empirical_policy(log, 1e12), 1 / ITEMS)
    np.testing.assert_allclose(uniform_policy(4, 2), 0.25)
    value = on_policy_value(log)
    assert value.value == log.click.mean()
    assert value.standard_error == pytest.approx(log.click.std(ddof=1) / 20)


def test_items_that_the_log_never_shows_are_counted_and_told() -> None:
    policy = np.zeros((ITEMS, POSITIONS))
    policy[:3] = 1 / 3
    found = evaluate(logged(policy, 3000, 9), uniform_policy(ITEMS, POSITIONS), seed=0).diagnostics
    assert found.unsupported == pytest.approx(0.5)
    assert found.mean_weight.value == pytest.approx(0.5)
    assert len(found.warnings) == 2


def test_bad_logs_and_policies_are_refused() -> None:
    ones, codes = np.ones(2), np.array([0, 1])
    for arguments, message in [
        ((np.array([0, 6]), codes, ones, ones, 6, 2), "item 6 of row 1 is outside the 6 items"),
        ((codes, np.array([0, 2]), ones, ones, 6, 2), "position 2 of row 1 is outside the 2 positions"),
        ((-codes, codes, ones, ones, 6, 2), "action -1 of row 1 is negative"),
        ((codes, codes, np.array([0, 3]), ones, 6, 2), "click of row 1 is neither 0 nor 1"),
        ((codes, codes, ones, np.array([1.0, 0.0]), 6, 2), "propensity 0 of row 1"),
        ((codes, codes, ones, ones[:1], 6, 2), "propensity has 1 rows where 2 are due"),
        ((codes, codes, ones, ones, 6, 2, np.zeros((3, 1))), "context has 3 rows where 2 are due"),
    ]:
        with pytest.raises(DataError, match=message):
            BanditLog(*arguments)
    log = logged(favouring(1.0), 50, 0)
    with pytest.raises(DataError, match=r"policy has shape \(3, 6\)"):
        evaluate(log, favouring(1.0).T, seed=0)
    with pytest.raises(DataError, match="column 0 is not a distribution"):
        evaluate(log, 2 * favouring(1.0), seed=0)
    with pytest.raises(ConfigError, match="folds is 1"):
        evaluate(log, favouring(1.0), seed=0, folds=1)
    first = BanditLog(codes, np.zeros(2, int), ones, ones, 6, 2)
    with pytest.raises(DataError, match="position 1 has no impressions"):
        empirical_policy(first)
    silent = BanditLog(codes, codes, np.zeros(2), ones, 6, 2)
    with pytest.raises(DataError, match="click is 0 in the whole"):
        cross_check(first, silent, uniform_policy(6, 2), seed=0)
