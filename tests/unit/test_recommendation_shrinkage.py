"""Shrunk weights: DR and the model alone are their ends; poor overlap gains, and its interval knows the bias."""

import numpy as np
import pytest

from rayworks.systems.recommendation.values.off_policy import LoggedActions, Target, evaluate
from rayworks.systems.recommendation.values.shrinkage import shrunk, shrunk_doubly_robust


def test_the_ends_are_dr_and_the_model() -> None:
    weight = np.array([0.0, 0.5, 4.0])
    np.testing.assert_array_equal(shrunk(weight, np.inf), weight)
    np.testing.assert_array_equal(shrunk(weight, 0.0), 0)
    np.testing.assert_allclose(shrunk(weight, 4.0), [0, 2 / 4.25, 16 / 20])


def draw_log(
    seed: int, rows: int = 400, rare: float = 0.005, off: float = 0.02
) -> tuple[LoggedActions, np.ndarray, np.ndarray, float]:
    """Ten actions, of which the target likes one that the log seldom takes; a reward model that is off by so much."""
    draw = np.random.default_rng(seed)
    rates = np.linspace(0.1, 0.6, 10)
    logging = np.r_[np.full(9, (1 - rare) / 9), rare]
    target = np.r_[np.full(9, 0.3 / 9), 0.7]
    action = draw.choice(10, rows, p=logging)
    reward = (draw.random(rows) < rates[action]).astype(float)
    return (
        LoggedActions(reward, logging[action], action),
        target[:, None],
        (rates + off)[:, None],
        float(target @ rates),
    )


def test_shrunk_weights_have_the_smaller_error_where_overlap_is_poor_and_an_interval_that_knows_the_bias() -> None:
    errors: dict[str, list[float]] = {"dr": [], "dr_os": []}
    held: dict[str, list[bool]] = {"dr": [], "dr_os": []}
    for seed in range(300):
        log, policy, model, truth = draw_log(seed)
        found = evaluate(log, Target.from_tables(log, policy, model), shrink=True).estimates
        for name, gaps in errors.items():
            gaps.append(found[name].value - truth)
            held[name].append(found[name].holds(truth))
    assert np.mean(np.square(errors["dr_os"])) < 0.5 * np.mean(np.square(errors["dr"]))
    assert np.mean(held["dr_os"]) >= np.mean(held["dr"]) >= 0.89


@pytest.mark.parametrize(("rows", "rare"), [(400, 0.02), (2000, 0.01)])
def test_a_model_that_is_wrong_by_far_leaves_intervals_that_cover(rows: int, rare: float) -> None:
    held = []
    for seed in range(300):
        log, policy, model, truth = draw_log(seed, rows, rare, off=0.2)
        held.append(evaluate(log, Target.from_tables(log, policy, model), shrink=True).estimates["dr_os"].holds(truth))
    assert np.mean(held) >= 0.9


@pytest.mark.parametrize("one", [1e-300, 1e-170, 1e140])
def test_weights_of_any_size_are_taken(one: float) -> None:
    found, _ = shrunk_doubly_robust(np.array([0.0, 1.0]), np.array([one, 1.0]), np.full(2, 0.5), np.full(2, 0.5))
    assert np.isfinite(found.value)


def test_a_model_that_is_right_everywhere_leaves_nothing_to_weigh() -> None:
    reward = np.array([0.0, 1.0, 1.0])
    found, _ = shrunk_doubly_robust(reward, np.ones(3), reward, reward)
    assert found.value == pytest.approx(2 / 3)
    none, strength = shrunk_doubly_robust(reward, np.zeros(3), np.zeros(3), np.full(3, 0.5))
    assert none.value == 0.5 and strength == np.inf
    grouped, _ = shrunk_doubly_robust(np.tile(reward, 20), np.ones(60), np.zeros(60), np.zeros(60), np.arange(60) // 3)
    assert grouped.standard_error == pytest.approx(0, abs=1e-12)
