"""Settings that act or are refused, and tests of generalisation that can be played."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from rayworks.core.errors import ConfigError
from rayworks.systems.marl.config import Config, EnvironmentSection, NetworkSection
from rayworks.systems.marl.environments.particle_environment import ParticleEnvironment
from rayworks.systems.marl.environments.particle_scenarios import ParticleOptions
from rayworks.systems.marl.environments.registry import make_environment, require_same_game, team_specs
from rayworks.systems.marl.networks.acting import as_tensors
from rayworks.systems.marl.networks.policy_network import PolicyNetwork
from rayworks.systems.marl.system import MarlSystem


@pytest.mark.parametrize(
    ("settings", "tests"),
    [
        ({"name": "mpe/simple_spread", "agents": 63}, {"larger map": 1.5, "64 agents": 1.0}),
        ({"name": "mpe/simple_spread", "agents": 64, "map_scale": 8.0}, {}),
        ({"name": "mpe/simple_adversary"}, {"larger map": 1.5, "4 agents": 1.0}),
        ({"name": "battle/terran_3_vs_3", "map_scale": 7.0}, {"larger map": 8.0}),
        ({"name": "smacv2/terran_3_vs_3"}, {}),
        ({"name": "mpe2/simple_spread"}, {}),
    ],
)
def test_usual_tests_stay_within_the_bounds_of_the_settings(settings: dict[str, Any], tests: dict[str, float]) -> None:
    config = Config.model_validate({"environment": settings})
    assert {name: section.map_scale for name, section in config.tests().items()} == tests


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"experiment": {"networks": ["egnn", "gnn", "egnn"]}}, "experiment.networks: one is named twice"),
        ({"environment": {"name": "smacv2/terran_3_vs_3", "map_scale": 2.0}}, "environment.map_scale: smacv2"),
        ({"environment": {"name": "smacv2/terran_3_vs_3", "field_of_view": 90}}, "environment.field_of_view: smacv2"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Config.model_validate(settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"generalisation": {"tests": {"hunt": {"name": "mpe/simple_tag"}}}}, r"tests\.hunt: its teams are adversary"),
        ({"generalisation": {"tests": {"fight": {"name": "battle/zerg_2_vs_2"}}}}, r"tests\.fight: its teams"),
        ({"generalisation": {"tests": {"choices": {"actions": "vectors"}}}}, r"tests\.choices: .* kinds of actions"),
        (
            {"environment": {"name": "mpe/simple_tag"}, "training": {"policies": "shared"}},
            r"training\.policies: teams adversary, agent differ",
        ),
    ],
)
def test_what_can_not_be_trained_or_tested_is_found_before_training(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MarlSystem.check_inputs(Config.model_validate(settings))


def test_other_numbers_are_the_same_game() -> None:
    trained = team_specs(EnvironmentSection(name="battle/terran_3_vs_3"))
    more = team_specs(EnvironmentSection(name="battle/zerg_5_vs_4"))
    assert more["allies"].entities != trained["allies"].entities
    require_same_game("more", more, trained)
    with pytest.raises(ConfigError, match=r"generalisation\.tests\.spread: its teams"):
        require_same_game("spread", team_specs(EnvironmentSection()), trained)


@pytest.mark.parametrize(("velocity", "seen"), [("channel", True), ("speed", True), ("none", False)])
def test_an_mlp_sees_of_velocities_what_it_is_told_to(velocity: str, seen: bool) -> None:
    world = make_environment(EnvironmentSection(), 4, 0)
    scene = as_tensors(world.reset()["agent"])
    torch.manual_seed(0)
    policy = PolicyNetwork("mlp", world.teams["agent"], NetworkSection.model_validate({"velocity": velocity}))
    answers = [policy.action_dist_inputs({**scene, "velocities": scene["velocities"] + by}) for by in (0.0, 1.0)]
    assert torch.equal(*answers) != seen
    if velocity == "speed":
        turned = [policy.action_dist_inputs({**scene, "velocities": scene["velocities"] + by}) for by in (1.0, -1.0)]
        assert torch.equal(*turned), "of the same length"


def test_an_mlps_central_critic_sees_what_no_agent_does() -> None:
    world = make_environment(EnvironmentSection(name="battle/terran_3_vs_3", fully_observable=False), 2, 0)
    scene = as_tensors(world.reset()["allies"])
    unseen = {**scene, "visible": torch.eye(3, 6, dtype=torch.bool).expand(2, 3, 6)}
    moved = {**unseen, "positions": unseen["positions"] + torch.tensor([0, 0, 0, 0, 0, 1.0])[:, None]}
    for critic, changes in (("own", False), ("central", True)):
        policy = PolicyNetwork("mlp", world.teams["allies"], NetworkSection.model_validate({"critic": critic}))
        assert policy.values(unseen).shape == (6,)
        assert torch.equal(policy.values(moved), policy.values(unseen)) != changes


def test_a_larger_map_moves_tags_border_and_leaves_reaches_of_battles_alone() -> None:
    rewards = []
    for scale in (1.0, 2.0):
        world = ParticleEnvironment("simple_tag", 1, 0, ParticleOptions(map_scale=scale))
        world.reset()
        world.world.position[:] = np.arange(12).reshape(2, 6, 1) * 20
        world.world.position[:, 3] = 1.2
        world.world.speed[:] = 0
        world.world.look()
        nobody_moves = {team: np.zeros((1, spec.agents), int) for team, spec in world.teams.items()}
        rewards.append(float(world.step(nobody_moves).rewards["agent"][0, 0]))
    assert rewards[0] == pytest.approx(-2 * np.exp(0.4), rel=1e-6) and rewards[1] == 0
    # Only battles have units and begin.
    usual, large = (
        cast(Any, make_environment(EnvironmentSection(name="battle/terran_3_vs_3", map_scale=scale), 1, 0))
        for scale in (1.0, 2.0)
    )
    usual.reset()
    near, far = (world.begin(usual.units)["allies"] for world in (usual, large))
    np.testing.assert_array_equal(near.positions, far.positions)
