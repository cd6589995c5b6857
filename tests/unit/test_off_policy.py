"""Estimators of a policy's value against Open Bandit Pipeline, their tables, their intervals and their warnings."""

from dataclasses import replace

import numpy as np
import pytest

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.recommendation.measures.estimates import Bootstrap, SumOfRatios, estimate_all
from rayworks.systems.recommendation.values.off_policy import LoggedActions, Target, diagnose, evaluate

OPEN_BANDIT_PIPELINE = {
    "ips": 0.1048337713810113,
    "snips": 0.14356246008174792,
    "dm": 0.46096638655462185,
    "dr": 0.23549721451092917,
    "sndr": 0.1522022489605944,
    "switch_dr": 0.4017775876186302,
}
CLIPPED = {"ips": 0.09412895881402221, "dr": 0.3631109209519635}
"""``estimate_policy_value`` of ``obp.ope`` (sb-obp 0.5.10, numpy 1.26.4) on :func:`worked_log`, the tables repeated for each
of the 60 rounds: InverseProbabilityWeighting, SelfNormalizedInverseProbabilityWeighting, DirectMethod, DoublyRobust,
SelfNormalizedDoublyRobust, SwitchDoublyRobust(lambda_=0.8); the clipped ones with lambda_=0.8."""


def worked_log() -> tuple[LoggedActions, np.ndarray, np.ndarray]:
    """60 rounds of 5 actions at 3 positions without any random number, a target policy and a reward model."""
    i, a, p = np.arange(60), np.arange(5)[:, None], np.arange(3)
    log = LoggedActions(
        reward=((i * i + 3 * i) % 11 < 3).astype(float),
        propensity=0.05 + 0.9 * (37 * i % 97) / 97,
        action=(7 * i + i // 5) % 5,
        position=i // 2 % 3,
    )
    raw = 1.0 + (3 * a + 2 * p) % 7
    return log, raw / raw.sum(axis=0), 0.05 + (5 * a + p) % 9 / 10


def drawn_log(rows: int, seed: int = 0) -> tuple[LoggedActions, np.ndarray, np.ndarray]:
    """Rows of a logging table, the table of the target and the true rates."""
    draw = np.random.default_rng(seed)
    logging, target = draw.dirichlet(np.full(4, 3.0), 2).T, draw.dirichlet(np.full(4, 3.0), 2).T
    rates = draw.uniform(0.1, 0.9, (4, 2))
    position = draw.integers(0, 2, rows)
    action = (draw.random(rows)[:, None] > logging.cumsum(axis=0).T[position]).sum(axis=1).clip(max=3)
    reward = (draw.random(rows) < rates[action, position]).astype(float)
    return LoggedActions(reward, logging[action, position], action, position), target, rates


def test_values_are_those_of_open_bandit_pipeline() -> None:
    log, policy, model = worked_log()
    target = Target.from_tables(log, policy, model)
    found = evaluate(log, target, switch=0.8).estimates
    assert {name: one.value for name, one in found.items()} == pytest.approx(OPEN_BANDIT_PIPELINE, abs=1e-12)
    clipped = evaluate(log, target, clip=0.8).estimates
    assert {name: clipped[name].value for name in CLIPPED} == pytest.approx(CLIPPED, abs=1e-12)


def test_tables_say_what_rows_say() -> None:
    log, policy, model = worked_log()
    assert log.position is not None
    by_hand = Target(
        policy[log.action, log.position],
        model[log.action, log.position],
        np.array([policy[:, p] @ model[:, p] for p in log.position]),
        unsupported=0.0,
    )
    found = Target.from_tables(log, policy, model, support=np.ones((5, 3), bool))
    for name in ("probability", "predicted", "expected", "unsupported"):
        np.testing.assert_allclose(getattr(found, name), getattr(by_hand, name), rtol=1e-15)
    flat = replace(log, position=None)
    alone = Target.from_tables(flat, policy[:, :1], model[:, :1])
    np.testing.assert_array_equal(alone.probability, policy[log.action, 0])
    assert set(np.asarray(alone.expected)) == {(policy[:, :1] * model[:, :1]).sum(axis=0)[0]}


def test_without_a_model_there_are_weights_only() -> None:
    log, policy, _ = worked_log()
    assert set(evaluate(log, Target.from_tables(log, policy), switch=1.0).estimates) == {"ips", "snips"}


def test_normal_intervals_are_those_of_the_textbook() -> None:
    log, policy, model = worked_log()
    target = Target.from_tables(log, policy, model)
    found = evaluate(log, target).estimates
    weighted = log.reward * target.probability / log.propensity
    error = weighted.std(ddof=1) / np.sqrt(60)
    assert found["ips"].standard_error == pytest.approx(error)
    assert (found["ips"].low, found["ips"].high) == pytest.approx(
        found["ips"].value + 1.959963985 * error * np.array([-1, 1])
    )
    weight = target.probability / log.propensity
    residual = weight * (log.reward - found["snips"].value) / weight.mean()
    assert found["snips"].standard_error == pytest.approx(residual.std(ddof=1) / np.sqrt(60))


@pytest.mark.parametrize("name", ["dm", "ips", "snips", "dr", "sndr"])
def test_intervals_hold_the_truth_as_often_as_they_say(name: str) -> None:
    held = 0
    for seed in range(200):
        log, policy, rates = drawn_log(400, seed)
        truth = float((policy * rates).sum() / 2)
        target = Target.from_tables(log, policy, rates if name == "dm" else np.full((4, 2), 0.5))
        held += evaluate(log, target).estimates[name].holds(truth)
    # Binomial(200, .95) is below 180 once in a thousand.
    assert held >= 180


def test_the_bootstrap_agrees_with_the_normal_interval() -> None:
    log, policy, _ = drawn_log(3000)
    target = Target.from_tables(log, policy, np.full((4, 2), 0.5))
    normal, resampled = evaluate(log, target).estimates, evaluate(log, target, bootstrap=Bootstrap(1000, 1)).estimates
    for name in ("ips", "snips", "dr", "sndr"):
        assert resampled[name].value == normal[name].value
        assert resampled[name].standard_error == pytest.approx(normal[name].standard_error, rel=0.1)
        assert resampled[name].low == pytest.approx(normal[name].low, abs=0.3 * normal[name].standard_error)
        assert resampled[name].high == pytest.approx(normal[name].high, abs=0.3 * normal[name].standard_error)


def test_the_bootstrap_draws_in_blocks_what_it_draws_at_once() -> None:
    counts = np.concatenate(list(Bootstrap(7, 3).counts(50)))
    assert (counts.sum(axis=1) == 50).all()
    in_blocks = list(Bootstrap(7, 3).counts(50, width=2_000_000))
    assert [len(block) for block in in_blocks] == [2, 2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(in_blocks), counts)


def test_rows_of_a_user_count_as_one_unit() -> None:
    log, policy, model = worked_log()
    twice = LoggedActions(*(np.tile(column, 2) for column in (log.reward, log.propensity, log.action, log.position)))
    owned = replace(twice, user=np.tile(np.arange(60) + 7, 2))
    alone = evaluate(log, Target.from_tables(log, policy, model)).estimates
    copied = evaluate(twice, Target.from_tables(twice, policy, model)).estimates
    grouped = evaluate(owned, Target.from_tables(owned, policy, model))
    for name, one in alone.items():
        assert grouped.estimates[name].value == pytest.approx(one.value)
        assert grouped.estimates[name].standard_error == pytest.approx(one.standard_error)
        if name != "dm":
            assert copied[name].standard_error < 0.75 * one.standard_error
    assert grouped.diagnostics.mean_weight.standard_error > 0


def test_groups_of_unequal_size_keep_the_value() -> None:
    form = SumOfRatios(np.arange(12.0).reshape(2, 6), np.array([[1.0, 2, 3, 4, 5, 6], [1, 1, 2, 2, 3, 3]]))
    group = np.array([0, 0, 0, 1, 2, 2])
    assert form.by(group).value == pytest.approx(form.value)
    mean = SumOfRatios(np.arange(6.0)[None])
    assert mean.by(group).value == pytest.approx(2.5)


def test_what_has_no_interval_says_so() -> None:
    one = SumOfRatios(np.array([[2.0]]), np.array([[4.0]])).estimate()
    assert one.value == 0.5 and np.isnan(one.low) and np.isnan(one.standard_error)
    empty = SumOfRatios(np.zeros((1, 3)), np.zeros((1, 3)))
    assert np.isnan(empty.value) and np.isnan(estimate_all({"empty": empty}, Bootstrap(5))["empty"].low)
    assert np.isnan(empty.estimate().standard_error)
    with pytest.raises(ConfigError, match="resamples is 1"):
        Bootstrap(1)


BAD_LOGS = [
    ({"propensity": [0.5, 0.0, 0.5]}, r"propensity 0 of row 1 is not above 0 and at most 1"),
    ({"propensity": [0.5, 0.5, 1.5]}, r"propensity 1.5 of row 2"),
    ({"propensity": [np.nan, 0.5, 0.5]}, r"propensity nan of row 0"),
    ({"propensity": [0.5, -0.5, np.inf]}, r"propensity -0.5 of row 1"),
    ({"propensity": [0.5, 0.5]}, r"propensity has 2 rows where 3 are due"),
    ({"reward": [0.0, np.inf, 1.0]}, r"reward inf of row 1 is not finite"),
    ({"reward": []}, r"reward has no rows"),
    ({"action": [0, 1, -1]}, r"action -1 of row 2 is negative"),
    ({"action": [0]}, r"action has 1 rows"),
    ({"position": [0, 0]}, r"position has 2 rows"),
    ({"position": [0, 0, -3]}, r"position -3 of row 2"),
    ({"user": [0, 0]}, r"user has 2 rows"),
]


@pytest.mark.parametrize(("columns", "message"), BAD_LOGS)
def test_bad_logs_name_the_field_and_the_row(columns: dict[str, list[float]], message: str) -> None:
    good = {"reward": np.ones(3), "propensity": np.full(3, 0.5), "action": np.zeros(3, int)}
    with pytest.raises(DataError, match=message):
        LoggedActions(**{**good, **{name: np.array(values) for name, values in columns.items()}})


def test_bad_targets_name_the_field_and_the_row() -> None:
    log, policy, model = worked_log()
    half = np.full(60, 0.5)
    for target, message in [
        (lambda: Target(np.array([0.5, 1.2])), r"target probability 1.2 of row 1 is not between 0 and 1"),
        (lambda: Target(np.array([-0.1])), r"target probability -0.1 of row 0"),
        (lambda: Target(np.array([np.nan])), r"target probability nan of row 0"),
        (lambda: Target(half, predicted=half), r"predicted and expected of a reward model come together"),
        (lambda: Target(half, half[:3], half), r"predicted has 3 rows where 60 are due"),
        (lambda: Target(half, half, np.where(np.arange(60) == 9, np.inf, 0)), r"expected inf of row 9 is not finite"),
        (lambda: Target.from_tables(log, policy * 2), r"policy: column 0 is not a distribution"),
        (lambda: Target.from_tables(log, policy[:, 0]), r"policy has 1 dimensions"),
        (lambda: Target.from_tables(log, policy, model[:4]), r"reward model's table has shape \(4, 3\)"),
        (lambda: Target.from_tables(log, np.full((4, 3), 0.25)), r"action 4 of row \d+ is outside the table's 4"),
        (lambda: Target.from_tables(log, np.full((5, 2), 0.2)), r"position 2 of row 4 is outside the table's 2"),
    ]:
        with pytest.raises(DataError, match=message):
            target()
    with pytest.raises(DataError, match="target probability has 2 rows where 60 are due"):
        evaluate(log, Target(np.array([0.5, 0.5])))
    with pytest.raises(DataError, match="0 at every logged action"):
        evaluate(log, Target(np.zeros(60)))


def test_diagnostics_of_a_good_log_are_silent() -> None:
    log, policy, _ = drawn_log(3000)
    found = evaluate(log, Target.from_tables(log, policy, support=np.ones((4, 2), bool))).diagnostics
    weight = policy[log.action, log.position] / log.propensity
    assert found.warnings == ()
    assert found.effective_sample_size == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
    assert found.effective_share == pytest.approx(found.effective_sample_size / 3000)
    assert found.largest_weight == weight.max()
    assert found.mean_weight.holds(1.0)
    assert found.unsupported == 0


def test_each_warning_has_its_cause() -> None:
    rare = np.ones(1000)
    rare[0] = 600.0
    poor, mean, alone = diagnose(rare).warnings[0], diagnose(np.full(50, 0.5)).warnings, diagnose(rare).warnings[-1]
    assert poor.startswith("overlap is poor: 1,000 rows are worth 7 (0.7%)")
    assert mean[0].startswith("the mean weight is 0.5 (0.5 to 0.5) where 1 is due")
    assert alone == "one of 1,000 rows carries 37.5% of the weight"
    clipped = diagnose(np.r_[np.full(90, 0.5), np.full(10, 5.5)], clip=2.0)
    assert clipped.clipped_share == 0.1 and clipped.largest_weight == 2
    assert clipped.warnings == ("10.0% of the rows are clipped at 2: estimates are biased towards the model, or 0",)
    log, policy, _ = worked_log()
    support = np.ones((5, 3), bool)
    support[2] = False
    found = evaluate(log, Target.from_tables(log, policy, support=support)).diagnostics
    assert found.unsupported == pytest.approx(policy[2].mean())
    assert any("of the target policy's choices are never taken in the log" in one for one in found.warnings)


def test_weights_of_any_size_have_a_sample_size() -> None:
    for scale in (1e-300, 1e-170, 1.0, 1e130):
        assert diagnose(scale * np.array([1.0, 1.0, 0.0])).effective_sample_size == pytest.approx(2)
    assert diagnose(np.zeros(3)).effective_sample_size == 0
