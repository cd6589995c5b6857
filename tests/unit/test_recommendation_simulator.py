"""The simulated population: the specification's numbers, exact dynamics, no effect where there is none."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from rayworks.systems.recommendation.logs.events import ACCEPTED, NATURAL
from rayworks.systems.recommendation.logs.recommender_environment import (
    RecommenderEnvironment,
    RecommenderVectorEnvironment,
)
from rayworks.systems.recommendation.logs.simulator import Simulator, SimulatorOptions, UserState, choose

SMALL = SimulatorOptions(users=40, items=12, observed=5, steps=6)


def test_acceptance_under_the_logging_policy_is_that_of_the_specification() -> None:
    values = [
        np.mean([simulator.value(simulator.mixed_policy(exploration), "value").mean() for exploration in (weight,)])
        for seed in (0, 1, 2)
        for simulator in (Simulator(SimulatorOptions(), seed),)
        for weight in (0.5, 0.0, 1.0)
    ]
    logged, greedy, uniform = np.array(values).reshape(3, 3).mean(0)
    assert logged == pytest.approx(0.7226, abs=0.02)
    assert greedy == pytest.approx(0.9555, abs=0.02)
    assert uniform == pytest.approx(0.4261, abs=0.04)


def test_a_decision_follows_the_formula() -> None:
    simulator = Simulator(SMALL, 3)
    user, shown, item = 7, 4, 9
    state = UserState(
        torch.full((40,), 0.25, dtype=torch.float64), torch.ones(40, dtype=torch.bool), torch.full((40,), shown)
    )
    taste, factors = simulator.tastes[user], simulator.factors
    expected = taste @ factors[item] + 1.2 * 0.25 + 0.8 * 6**0.5 * (factors[shown] @ factors[item]) - 0.3
    _, accepted, probability = simulator.react(
        state, torch.full((40,), item), torch.full((40,), 0.5, dtype=torch.float64)
    )
    assert float(probability[user]) == pytest.approx(1 / (1 + np.exp(-float(expected))), abs=1e-12)
    assert bool(accepted[user]) == (float(probability[user]) > 0.5)


def test_trust_moves_with_decisions() -> None:
    simulator = Simulator(SMALL, 0)
    item, never = torch.zeros(40, dtype=torch.int64), torch.ones(40, dtype=torch.float64)
    state, accepted, _ = simulator.react(simulator.start(), item, never)
    assert not accepted.any()
    torch.testing.assert_close(state.trust, torch.full((40,), -0.3, dtype=torch.float64))
    state, accepted, _ = simulator.react(state, item, torch.zeros(40, dtype=torch.float64))
    assert accepted.all()
    torch.testing.assert_close(state.trust, torch.full((40,), 0.7 * -0.3 + 0.3, dtype=torch.float64))


def test_a_recommender_without_effect_has_none() -> None:
    still = Simulator(replace(SMALL, trust_weight=0.0, link_weight=0.0), 1)
    chosen = still.run(lambda state: still.natural_choice(torch.full((40,), -1)), "self-chosen")
    assert float(still.replayed_effect(chosen.items).abs().max()) < 1e-12
    moved = Simulator(SMALL, 1)
    assert float(moved.replayed_effect(chosen.items)[:, 1:].abs().mean()) > 0.01


def test_the_log_holds_what_happened() -> None:
    simulator = Simulator(SMALL, 2)
    log, rollout = simulator.log()
    assert (log.kind.reshape(40, -1)[:, :5] == NATURAL).all()
    np.testing.assert_array_equal(log.item[log.recommended].reshape(40, 6), rollout.items.numpy())
    np.testing.assert_array_equal((log.kind == ACCEPTED)[log.recommended].reshape(40, 6), rollout.accepted.numpy())
    table = simulator.mixed_policy(SMALL.exploration)(simulator.start())
    np.testing.assert_allclose(log.propensity[log.recommended], table.gather(1, rollout.items).numpy().ravel())
    again, _ = Simulator(SMALL, 2).log()
    np.testing.assert_array_equal(again.item, log.item)


def test_choices_fall_where_the_chances_are() -> None:
    chances = torch.tensor([[0.2, 0.0, 0.8]], dtype=torch.float64).expand(5, 3)
    drawn = choose(chances, torch.tensor([0.0, 0.1999, 0.2, 0.5, 0.999999], dtype=torch.float64))
    assert drawn.tolist() == [0, 0, 2, 2, 2]


def test_environments_follow_the_gymnasium_api_and_agree() -> None:
    check_env(RecommenderEnvironment(SMALL), skip_render_check=True)
    everyone = RecommenderVectorEnvironment(SMALL)
    seen, _ = everyone.reset(seed=5)
    assert everyone.observation_space.contains(seen)
    total = np.zeros(SMALL.users)
    for step in range(SMALL.steps):
        seen, reward, ended, cut, _ = everyone.step(np.full(SMALL.users, step))
        assert ((reward == 1) | (reward == 0)).all()
        assert ended.all() == (step + 1 == SMALL.steps) and not cut.any()
        total += reward
    np.testing.assert_array_equal((seen["decisions"] == ACCEPTED).sum(1), total)
    alone = RecommenderEnvironment(SMALL)
    alone.reset(seed=0, options={"user": 3})
    _, _, _, _, told = alone.step(np.int64(0))
    fresh = RecommenderVectorEnvironment(SMALL)
    fresh.reset(seed=0)
    _, _, _, _, all_told = fresh.step(np.zeros(SMALL.users, int))
    assert told["probability"] == pytest.approx(float(all_told["probability"][3]), abs=1e-12)
