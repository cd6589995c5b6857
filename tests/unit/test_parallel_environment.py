"""PettingZoo's own conformance tests, and what they do not test."""

import warnings

import numpy as np
import pytest
from pettingzoo.test import parallel_api_test, parallel_seed_test

from rayworks.systems.marl.config import EnvironmentSection
from rayworks.systems.marl.environments.parallel_environment import ParallelScenes
from rayworks.systems.marl.environments.particle_scenarios import SCENARIOS
from rayworks.systems.marl.environments.registry import make_environment

NAMES = [*(f"mpe/{name}" for name in SCENARIOS), "battle/terran_3_vs_3", "battle/zerg_3_vs_5"]


def parallel(name: str, **options: object) -> ParallelScenes:
    section = EnvironmentSection.model_validate({"name": name, **options})
    return ParallelScenes(lambda seed: make_environment(section, 1, seed))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_parallel_environment(name: str) -> None:
    with warnings.catch_warnings():
        # It samples without the mask that the observation carries, and warns of spaces without bounds.
        warnings.simplefilter("ignore")
        parallel_api_test(parallel(name), num_cycles=120)
        parallel_seed_test(lambda: parallel(name), num_cycles=30)


def test_vectors_too() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parallel_api_test(parallel("mpe/simple_spread", actions="vectors"), num_cycles=60)


def test_the_dead_leave_and_the_others_go_on() -> None:
    world = parallel("battle/terran_3_vs_8", starts="surrounded")
    views, _ = world.reset(seed=0)
    left_before_the_end = 0
    while world.agents:
        acting = list(world.agents)
        actions = {agent: int(np.flatnonzero(views[agent]["allowed"][0])[-1]) for agent in acting}
        views, rewards, terminated, truncated, _ = world.step(actions)
        assert list(views) == acting == list(rewards)
        gone = [agent for agent in acting if terminated[agent] or truncated[agent]]
        assert world.agents == [agent for agent in acting if agent not in gone] or not world.agents
        left_before_the_end += len(gone) if world.agents else 0
    assert left_before_the_end > 0


def test_an_agent_sees_itself_first() -> None:
    world = parallel("mpe/simple_tag")
    views, _ = world.reset(seed=3)
    assert world.agents == ["adversary_0", "adversary_1", "adversary_2", "agent_0"]
    for agent in world.agents:
        assert world.observation_space(agent).contains(views[agent])
        assert views[agent]["features"][0, -1] == 1
    assert np.array_equal(views["adversary_1"]["positions"][0], views["agent_0"]["positions"][2])
