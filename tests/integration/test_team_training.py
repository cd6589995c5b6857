"""Training on RLlib: our runner and learner on several processes, and RLlib's own with the same modules."""

import os
import pickle
import signal
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rayworks.core.errors import DataError
from rayworks.systems.marl.actors import Call, MarlActor, Unit
from rayworks.systems.marl.config import Config, EnvironmentSection, NetworkSection, SamplingSection, TrainingSection
from rayworks.systems.marl.environments.observation_schema import spread_schema
from rayworks.systems.marl.environments.parallel_environment import ParallelScenes
from rayworks.systems.marl.environments.registry import make_environment
from rayworks.systems.marl.environments.scenes import ActionLayout
from rayworks.systems.marl.rllib.algorithm import TeamPPO, algorithm_config
from rayworks.systems.marl.rllib.connectors import SceneFromVector
from rayworks.systems.marl.rllib.environment import plain_config
from rayworks.systems.marl.rllib.module import module_spec

NETWORK = NetworkSection(hidden=8, mlp_hidden=8)
TRAINING = TrainingSection(epochs=1, minibatch_size=60)
Weights = dict[str, dict[str, np.ndarray]]


@pytest.fixture(autouse=True)
def connected(cluster: dict[str, str]) -> Iterator[None]:
    """To the shared cluster. RLlib itself calls what it has deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def algorithm(name: str = "mpe/simple_spread", kind: Any = "e2gn2-last", **changes: Any) -> TeamPPO:
    """A small one of three groups."""
    sampling = SamplingSection(groups=3, num_envs=2, steps=10, runners=changes.pop("runners", 0))
    section = EnvironmentSection.model_validate({"name": name, **changes.pop("environment", {})})
    network = NETWORK.model_copy(update=changes.pop("network", {}))
    training = TRAINING.model_copy(update=changes)
    config = Config(environment=section, network=network, training=training, sampling=sampling)
    made: TeamPPO = algorithm_config(config, kind, seed=3).build_algo()
    return made


def weights(made: TeamPPO) -> Weights:
    found: Weights = made.learner_group.get_weights()
    return {module: {name: array.copy() for name, array in own.items()} for module, own in found.items()}


def assert_same(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    for module, arrays in first.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, second[module][name], err_msg=f"{module} {name}")


@pytest.fixture(scope="module")
def alone(cluster: dict[str, str]) -> Weights:
    """After four iterations without runners."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = algorithm()
        for _ in range(4):
            made.train()
        found = weights(made)
        made.stop()
    return found


def test_runners_change_nothing_and_neither_does_the_death_of_one(alone: Weights) -> None:
    made = algorithm(runners=2)
    made.train()
    [process] = made.env_runner_group.foreach_env_runner(
        lambda _: os.getpid(), local_env_runner=False, remote_worker_ids=[1]
    )
    made.train()
    os.kill(process, signal.SIGKILL)
    for _ in range(2):
        made.train()
    assert_same(alone, weights(made))
    made.stop()


def test_what_a_remote_runner_finds_wrong_with_a_policy_is_told_as_it_is() -> None:
    made = algorithm(runners=1)
    broken = {module: {name: array * np.nan for name, array in own.items()} for module, own in weights(made).items()}
    made.learner_group.set_weights(broken)
    with pytest.raises(DataError, match=r"policy of team agent: .*lower training\.learning_rate"):
        made.train()
    made.stop()


def test_an_algorithm_that_failed_is_not_gone_on_with() -> None:
    config = Config.model_validate(
        {
            "network": NETWORK.model_dump(),
            "training": TRAINING.model_dump(),
            "sampling": {"groups": 1, "num_envs": 2, "steps": 10},
        }
    )
    unit, actor = Unit("e2gn2", 0), MarlActor(config)
    first = actor.train(Call(unit, None, 0, 1))
    straight = actor.train(Call(unit, first.state, 1, 1))
    actor.close()
    actor.train(Call(unit, None, 0, 1))
    held = actor._held
    assert held is not None
    broken = {module: {name: array * np.nan for name, array in own.items()} for module, own in weights(held[2]).items()}
    held[2].learner_group.set_weights(broken)
    with pytest.raises(DataError, match="not finite"):
        actor.train(Call(unit, first.state, 1, 1))
    assert_same(straight.weights, actor.train(Call(unit, first.state, 1, 1)).weights)
    actor.close()


def test_a_game_is_put_back_only_if_it_stands_elsewhere() -> None:
    made = algorithm()
    made.train()
    runner = made.env_runner_group.local_env_runner
    games = {number: game for number, (game, _) in runner._games.items()}
    before = {number: game._scenes for number, game in games.items()}
    runner.sample(groups={})
    states, copied = made.groups, pickle.loads(pickle.dumps(made.groups))
    assert all(runner._game(number, copied[number])._scenes is before[number] for number in games)
    for number, game in games.items():
        runner._games[number] = game, {**(states[number] or {}), "generator": b"elsewhere"}
    assert all(runner._game(number, copied[number])._scenes is not before[number] for number in games)
    made.stop()


@pytest.mark.parametrize("minibatch_size", [1, 2])
def test_minibatches_smaller_than_a_scene_are_a_scene(minibatch_size: int) -> None:
    made = algorithm(minibatch_size=minibatch_size)
    made.train()
    assert all(np.isfinite(array).all() for own in weights(made).values() for array in own.values())
    made.stop()


def test_a_checkpoint_goes_on_as_if_nothing_had_been(alone: Weights, tmp_path: Path) -> None:
    made = algorithm()
    for _ in range(2):
        made.train()
    made.save_to_path(str(tmp_path / "checkpoint"))
    made.stop()
    again = algorithm()
    again.restore_from_path(str(tmp_path / "checkpoint"))
    for _ in range(2):
        again.train()
    assert_same(alone, weights(again))
    again.stop()


def test_a_runner_takes_the_bundle_that_its_trainer_left_free() -> None:
    group = placement_group([{"CPU": 1}] * 2)
    ray.get(group.ready())
    second = PlacementGroupSchedulingStrategy(
        group, placement_group_bundle_index=1, placement_group_capture_child_tasks=True
    )

    @ray.remote(num_cpus=1, scheduling_strategy=second)
    def trained() -> int:
        made = algorithm(runners=1)
        made.train()
        runners: int = made.env_runner_group.num_healthy_remote_workers()
        made.stop()
        return runners

    assert ray.get(trained.remote(), timeout=120) == 1
    remove_placement_group(group)


def test_two_trainers_with_runners_share_a_placement_group() -> None:
    group = placement_group([{"CPU": 1}] * 4)
    ray.get(group.ready())
    strategy = PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=True)

    @ray.remote(num_cpus=1, scheduling_strategy=strategy)
    def trained() -> Weights:
        made = algorithm(runners=1)
        made.train()
        found = weights(made)
        made.stop()
        return found

    first, second = ray.get([trained.remote(), trained.remote()], timeout=120)
    assert_same(first, second)
    remove_placement_group(group)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "mpe/simple_push", "network": {"graph": "agent", "critic": "central"}},
        {"name": "mpe/simple_tag", "environment": {"actions": "vectors"}, "augment": True},
        {"name": "battle/zerg_2_vs_3", "network": {"critic": "central", "graph": "agent"}},
        {"name": "battle/terran_2_vs_2", "kind": "mlp", "augment": True, "network": {"critic": "central"}},
        {"name": "mpe/simple_spread", "kind": "penguin", "network": {"messages": "sparse"}},
        {"name": "mpe2/simple_push", "kind": "gnn", "normalise_values": False},
    ],
    ids=lambda changes: changes["name"],
)
def test_everything_trains(changes: dict[str, Any]) -> None:
    made = algorithm(**changes)
    before = weights(made)
    for _ in range(3):
        made.train()
    after = weights(made)
    assert set(after) == set(make_environment(EnvironmentSection(name=changes["name"]), 1, 0).teams)
    for module, arrays in after.items():
        assert all(np.isfinite(array).all() for array in arrays.values())
        assert any(not np.array_equal(array, before[module][name]) for name, array in arrays.items())
    made.stop()


def test_teams_of_one_shape_may_share_a_policy() -> None:
    made = algorithm("mpe/simple_tag", environment={"agents": 1}, policies="shared")
    before = weights(made)
    made.train()
    after = weights(made)
    assert set(after) == {"shared"}
    assert any(not np.array_equal(array, before["shared"][name]) for name, array in after["shared"].items())
    made.stop()


def test_plain_rllib_trains_the_same_module_on_own_scenes() -> None:
    section = EnvironmentSection(name="battle/terran_2_vs_2", horizon=8)
    team = make_environment(section, 1, 0).teams["allies"].own()
    config = plain_config(
        lambda: ParallelScenes(lambda seed: make_environment(section, 1, seed)),
        {"allies": module_spec("e2gn2-last", team, NETWORK)},
        lambda agent: agent.rpartition("_")[0],
        TRAINING,
        steps=24,
    )
    assert_trains(config)


def test_plain_rllib_trains_on_the_vectors_of_stock_mpe2() -> None:
    from mpe2 import simple_spread_v3

    layout = ActionLayout()
    config = plain_config(
        lambda: simple_spread_v3.parallel_env(max_cycles=5),
        {"agent": module_spec("e2gn2-last", spread_schema().team("agent", layout), NETWORK)},
        lambda agent: "agent",
        TRAINING,
        steps=20,
        connectors=lambda *_, **__: SceneFromVector(schemas={"agent": spread_schema()}, actions=layout),
    )
    assert_trains(config)


def assert_trains(config: Any) -> None:
    made = config.build_algo()
    before = weights(made)
    result = made.train()
    assert result["env_runners"]["num_env_steps_sampled"] >= 20
    for module, arrays in weights(made).items():
        assert any(not np.array_equal(array, before[module][name]) for name, array in arrays.items())
    made.stop()
