"""Advantages against the sum that defines them, and games that go on elsewhere."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayworks.core.errors import DataError
from rayworks.systems.marl.config import EnvironmentSection, NetworkSection
from rayworks.systems.marl.environments.environment import Actions, Step, check_rewards
from rayworks.systems.marl.environments.registry import make_environment
from rayworks.systems.marl.environments.rollouts import Rollout, TeamRollout, advantages, next_values
from rayworks.systems.marl.environments.scenes import Scene
from rayworks.systems.marl.findings.evaluation import RandomPolicy, first_episodes
from rayworks.systems.marl.networks.acting import Game, draw, log_probabilities
from rayworks.systems.marl.networks.policy_network import LOWEST, PolicyNetwork
from tests.small_scenes import random_scene, small_team

DISCOUNT, TRACE = 0.9, 0.8


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(0, 10**6))
def test_advantages_are_decayed_sums_of_errors_within_a_life(steps: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    team = small_team()
    shape = (steps, 2, team.agents)
    terminated, truncated = random.random((2, steps, 2)) < 0.2
    truncated &= ~terminated
    alive = random.random(shape) < 0.85
    values = random.normal(size=(steps + 1, 2, team.agents)).astype(np.float32)
    cut_values = random.normal(size=(int(truncated.sum()), team.agents)).astype(np.float32)
    rewards = random.normal(size=shape).astype(np.float32)
    scene = random_scene(team, 1, 0)
    nothing = np.zeros(shape, np.float32)
    own = TeamRollout(scene, nothing, nothing, nothing, rewards, alive, alive, scene)
    rollout = Rollout({"team": own}, terminated, truncated, {})
    following, goes_on = next_values(torch.from_numpy(values), torch.from_numpy(cut_values), own, rollout)
    found = advantages(
        torch.from_numpy(rewards),
        torch.from_numpy(values[:-1]),
        following,
        goes_on,
        gamma=DISCOUNT,
        gae_lambda=TRACE,
    )
    for copy in range(2):
        for agent in range(team.agents):
            for start in range(steps):
                total, weight = 0.0, 1.0
                for at in range(start, steps):
                    number = int(truncated.reshape(-1)[: at * 2 + copy].sum())
                    after = cut_values[number, agent] if truncated[at, copy] else values[at + 1, copy, agent]
                    if terminated[at, copy] or not alive[at, copy, agent]:
                        after = 0.0
                    total += weight * (rewards[at, copy, agent] + DISCOUNT * after - values[at, copy, agent])
                    weight *= DISCOUNT * TRACE
                    if terminated[at, copy] or truncated[at, copy] or not alive[at, copy, agent]:
                        break
                assert found[start, copy, agent] == pytest.approx(total, abs=1e-4)


def test_forbidden_actions_are_never_drawn_and_frequencies_are_the_probabilities() -> None:
    logits = torch.tensor([[0.0, 1.0, LOWEST, -1.0]]).repeat(40_000, 1)
    chosen, log_probs = draw(logits, vectors=False, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(chosen, minlength=4) / len(chosen)
    expected = torch.softmax(logits[0], 0)
    assert share[2] == 0
    assert torch.allclose(share, expected, atol=0.01)
    assert torch.allclose(log_probs, expected.log()[chosen])
    assert draw(logits, vectors=False, generator=None)[0].unique().tolist() == [1]


def test_densities_of_vectors_are_those_of_a_round_gaussian() -> None:
    inputs = torch.tensor([[0.3, -0.2, -0.5, -0.5]]).repeat(5, 1)
    action, log_density = draw(inputs, vectors=True, generator=torch.Generator().manual_seed(0))
    normal = torch.distributions.Normal(inputs[:, :2], inputs[:, 2:].exp())
    assert torch.allclose(log_density, normal.log_prob(action).sum(-1))
    assert torch.equal(log_probabilities(inputs, action, vectors=True), log_density)


@pytest.mark.parametrize(
    "section",
    [
        EnvironmentSection(name="mpe/simple_tag", actions="vectors"),
        EnvironmentSection(name="mpe/simple_spread"),
        EnvironmentSection(name="battle/zerg_3_vs_4"),
    ],
)
def test_a_game_goes_on_in_another_process_with_the_same_numbers(section: EnvironmentSection) -> None:
    def game() -> Game:
        return Game(make_environment(section, 3, 5), 5)

    first, second = game(), game()
    teams = first.environment.teams
    torch.manual_seed(0)
    policies = {team: PolicyNetwork("e2gn2", spec, NetworkSection()) for team, spec in teams.items()}
    first.play(policies, 17)
    state = first.state()
    expected = first.play(policies, 30)
    second.restore(state)
    found = second.play(policies, 30)
    for team, one in expected.teams.items():
        assert np.array_equal(one.actions, found.teams[team].actions)
        assert np.array_equal(one.rewards, found.teams[team].rewards)
        assert np.array_equal(one.scenes.positions, found.teams[team].scenes.positions)
    assert all(np.array_equal(values, found.episodes[name]) for name, values in expected.episodes.items())


def test_returns_are_sums_over_whole_episodes() -> None:
    section = EnvironmentSection(name="mpe/simple_spread", horizon=7)
    game = Game(make_environment(section, 4, 0), 0)
    policies = {team: PolicyNetwork("mlp", spec, NetworkSection()) for team, spec in game.environment.teams.items()}
    rollout = game.play(policies, 14)
    rewards = rollout.teams["agent"].rewards.sum(-1)
    expected = np.concatenate([rewards[:7].sum(0), rewards[7:].sum(0)])
    assert rollout.episodes["return agent"] == pytest.approx(expected, rel=1e-5)
    assert rollout.episodes["length"].tolist() == [7.0] * 8
    assert rollout.truncated.sum() == 8 and rollout.teams["agent"].cut.rows == 8


class Reinforced:
    """A team of three, of which only the first begins; all copies end with every step."""

    num_envs, horizon, resumable = 2, 1, True
    teams: ClassVar = {"team": small_team()}

    def reset(self) -> dict[str, Scene]:
        scene = random_scene(self.teams["team"], 2, 0)
        return {"team": replace(scene, present=np.array([[True, False, False, True, True, True]] * 2))}

    def step(self, actions: Actions) -> Step:
        flags, everyone = np.zeros(2, bool), {"team": np.ones((2, 3), bool)}
        return Step(self.reset(), self.reset(), {"team": np.zeros((2, 3), np.float32)}, everyone, ~flags, flags, {})

    def state(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> dict[str, Scene]:
        return self.reset()

    def close(self) -> None:
        pass


def test_absent_agents_do_not_act_in_a_new_episode() -> None:
    game = Game(Reinforced(), 0)
    rollout = game.play({"team": RandomPolicy(small_team())}, 3)
    assert rollout.teams["team"].acting[:, 0].tolist() == [[True, False, False]] * 3


def test_evaluations_take_the_first_episodes_of_each_copy() -> None:
    section = EnvironmentSection(name="battle/zerg_3_vs_4", horizon=30)
    battle = make_environment(section, 4, 1)
    policies = {team: RandomPolicy(spec) for team, spec in battle.teams.items()}
    played = Game(battle, 2).play(policies, 300).episodes
    first = [
        [value for at, value in zip(played["copy"], played["length"], strict=True) if at == n][:2] for n in range(4)
    ]
    found = first_episodes(Game(make_environment(section, 4, 1), 2), policies, 2)
    assert sorted(found["length"]) == sorted(np.concatenate(first)) and len(found["length"]) == 8


def test_rewards_that_are_no_numbers_are_refused_by_team_and_copy() -> None:
    rewards = np.zeros((3, 2), np.float32)
    rewards[1, 0] = np.nan
    with pytest.raises(DataError, match=r"rewards of team agent: not finite in copy 1"):
        check_rewards({"agent": rewards})


def test_a_step_knows_what_ended() -> None:
    flags = np.array([True, False]), np.array([False, False])
    assert Step({}, {}, {}, {}, *flags, {}).ended.tolist() == [True, False]
