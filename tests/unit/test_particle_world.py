"""The vectorised particle world against mpe2 1.1.1, step by step over whole episodes."""

import importlib
from typing import Any

import numpy as np
import pytest

from rayworks.core.errors import ConfigError
from rayworks.systems.marl.config import EnvironmentSection
from rayworks.systems.marl.environments.mpe2_environment import Mpe2Environment
from rayworks.systems.marl.environments.particle_environment import ParticleEnvironment
from rayworks.systems.marl.environments.particle_scenarios import SCENARIOS, ParticleOptions
from rayworks.systems.marl.environments.registry import make_environment
from rayworks.systems.marl.networks.symmetry_groups import QUARTER_TURNS, orthogonal


def copied(name: str, reference: Any, vectors: bool) -> ParticleEnvironment:
    """Ours with two copies, the second where mpe2's is."""
    ours = ParticleEnvironment(name, 2, 0, ParticleOptions(vectors=vectors))
    ours.reset()
    world = reference.unwrapped.world
    for number, entity in enumerate([*world.agents, *world.landmarks]):
        ours.world.position[:, number, 1] = entity.state.p_pos
    if hasattr(world.agents[0], "goal_a"):
        ours.goal[:] = world.landmarks.index(world.agents[0].goal_a)
    ours.world.look()
    return ours


@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("seed", [0, 1])
def test_observations_and_rewards_are_mpe2s(name: str, vectors: bool, seed: int) -> None:
    reference = importlib.import_module(f"mpe2.{name}_v3").parallel_env(continuous_actions=vectors)
    seen, _ = reference.reset(seed=seed)
    ours = copied(name, reference, vectors)
    random = np.random.default_rng(seed)
    for step in range(25):
        for agent, vector in ours.flat_observations().items():
            np.testing.assert_allclose(vector[1].astype(np.float32), seen[agent], rtol=0, atol=1e-12)
        theirs, mine = {}, {}
        for team, spec in ours.teams.items():
            agents = [agent for agent in ours.agents if agent.startswith(f"{team}_")]
            assert len(agents) == spec.agents
            if vectors:
                force = random.uniform(-0.7, 0.7, (spec.agents, 2)).astype(np.float32)
                split = np.stack([0 * force[:, 0], -force[:, 0], force[:, 0], -force[:, 1], force[:, 1]], 1)
                theirs |= dict(zip(agents, np.maximum(split, 0), strict=True))
            else:
                force = random.integers(0, 5, spec.agents)
                theirs |= dict(zip(agents, force.tolist(), strict=True))
            mine[team] = np.stack([force, force])
        seen, rewards, _, truncated, _ = reference.step(theirs)
        reached = ours.step(mine)
        found = np.concatenate([reached.rewards[team][1] for team in ours.teams])
        expected = [rewards[f"{team}_{k}"] for team, spec in ours.teams.items() for k in range(spec.agents)]
        np.testing.assert_allclose(found, np.array(expected, np.float32), rtol=0, atol=1e-6)
        assert reached.truncated.all() == all(truncated.values()) == (step == 24)
        if step == 24:
            break


@pytest.mark.parametrize("matrix", [*QUARTER_TURNS[1:], orthogonal(1.1), orthogonal(2.7, reflected=True)])
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_turned_world_moves_turned(name: str, matrix: np.ndarray) -> None:
    straight, turned = (ParticleEnvironment(name, 16, 4, ParticleOptions(vectors=True)) for _ in range(2))
    straight.reset()
    turned.reset()
    # Prey's price of leaving the map knows the axes, so only the middle of the map is round.
    straight.world.position *= 0.3
    turned.world.position = np.einsum("xy,yeb->xeb", matrix, straight.world.position)
    for world in (straight.world, turned.world):
        world.look()
    random = np.random.default_rng(0)
    for _ in range(5):
        actions = {team: random.normal(size=(16, spec.agents, 2)) for team, spec in straight.teams.items()}
        one = straight.step(actions)
        two = turned.step({team: action @ matrix.T for team, action in actions.items()})
        for team in straight.teams:
            np.testing.assert_allclose(two.rewards[team], one.rewards[team], atol=1e-5)
        np.testing.assert_allclose(
            turned.world.position, np.einsum("xy,yeb->xeb", matrix, straight.world.position), atol=1e-9
        )


def test_starts_are_where_they_are_asked_for_and_come_again_with_the_seed() -> None:
    def positions(**options: Any) -> np.ndarray:
        world = ParticleEnvironment("simple_spread", 500, 3, ParticleOptions(**options))
        world.reset()
        return world.world.position

    assert (positions(side="left")[0] <= 0).all() and positions(side="left")[1].min() < -0.9
    assert (positions(side="top")[1] >= 0).all()
    assert 1.9 < np.abs(positions(map_scale=2.0)).max() <= 2
    assert np.array_equal(positions(), positions())


@pytest.mark.parametrize(
    "name", ["simple_spread", "simple_tag", "simple_push", "simple_adversary", "simple", "simple_line"]
)
def test_mpe2_itself_gives_the_same_kind_of_scenes(name: str) -> None:
    reference = Mpe2Environment(name, 2, 0, vectors=False, horizon=5)
    scenes = reference.reset()
    if name in SCENARIOS:
        ours = ParticleEnvironment(name, 2, 0, ParticleOptions())
        assert dict(reference.teams) == ours.teams
    for team, spec in reference.teams.items():
        spec.check(scenes[team])
    stay = {team: np.full((2, spec.agents), 2) for team, spec in reference.teams.items()}
    steps = [reference.step(stay) for _ in range(3)]
    state = reference.state()
    expected = [reference.step(stay) for _ in range(4)]
    assert expected[1].truncated.all() and not steps[2].ended.any()
    assert not np.array_equal(
        next(iter(expected[1].last.values())).positions, next(iter(expected[1].scenes.values())).positions
    )
    reference.restore(state)
    for before, again in zip(expected, [reference.step(stay) for _ in range(4)], strict=True):
        for team in reference.teams:
            assert np.array_equal(before.rewards[team], again.rewards[team])
            assert np.array_equal(before.scenes[team].positions, again.scenes[team].positions)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "mpe/simple_walk"}, "mpe/simple_walk is unknown"),
        ({"name": "mpe/simple_push", "agents": 4}, "fixed number"),
        ({"name": "mpe2/simple_crypto"}, "speaks or cannot move"),
        ({"name": "mpe2/nothing"}, "mpe2 has collect_treasure"),
        ({"name": "battle/elves_5_vs_5"}, "terran"),
    ],
)
def test_what_is_not_there_is_said(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_environment(EnvironmentSection.model_validate(settings), 1, 0)
