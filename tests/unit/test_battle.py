"""The battle as an environment: rules, masks, sight, reward, ends, state."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.marl.environments.battle import BattleEnvironment, BattleOptions
from rayworks.systems.marl.environments.battle_combat import Units
from rayworks.systems.marl.environments.battle_scene import HEALTH, READINESS
from rayworks.systems.marl.environments.battle_scripts import scripted_actions
from rayworks.systems.marl.environments.battle_units import NAMES
from rayworks.systems.marl.environments.environment import Environment, Step
from rayworks.systems.marl.environments.scenes import Scene

ALLIES = "allies"


def battle_of(
    scenario: str, *units: tuple[str, float, float], options: BattleOptions | None = None
) -> tuple[BattleEnvironment, Scene]:
    """One battle with given units, allies first, looking east."""
    battle = BattleEnvironment(scenario, 1, 0, options or BattleOptions())
    kind = np.array([[NAMES.index(name) for name, _, _ in units]], np.int8)
    position = np.array([[(x, y) for _, x, y in units]], float).transpose(2, 0, 1).copy()
    look = np.stack([np.ones(kind.shape), np.zeros(kind.shape)])
    return battle, battle.begin(Units.fresh(kind, position, look))[ALLIES]


def act(battle: BattleEnvironment, *actions: int) -> Step:
    return battle.step({ALLIES: np.array([actions])})


def allowed(scene: Scene, agent: int = 0) -> list[int]:
    return [int(action) for action in np.nonzero(scene.allowed[0, agent])[0]]


def test_masks_follow_range_type_and_walls() -> None:
    battle, scene = battle_of(
        "terran_3_vs_2",
        ("marine", 0, 0),
        ("medivac", 3, 0),
        ("marauder", 15.5, 15.5),
        ("medivac", 5, 0),
        ("marine", 5.1, 0),
    )
    assert battle.spec.actions.choices == 9
    assert allowed(scene, 0) == [1, 2, 3, 4, 5, 6]
    assert scene.targets[0].tolist() == [[3, 4, 0], [0, 1, 2], [3, 4, 0]]
    assert allowed(scene, 1) == [1, 2, 3, 4, 5, 6]
    assert allowed(scene, 2) == [1, 3, 5]


def test_weapons_that_do_not_reach_the_air_are_offered_nothing_that_flies() -> None:
    _, scene = battle_of("terran_1_vs_2", ("marauder", 0, 0), ("medivac", 3, 0), ("marine", 3, 1))
    assert allowed(scene)[-1] == 7


def test_more_enemies_than_allies_give_a_medivac_no_more_to_heal() -> None:
    far = (("marine", 15, 0), ("marine", 15, 2), ("marine", 15, 4))
    _, scene = battle_of("terran_2_vs_3", ("marine", 0, 0), ("medivac", 1, 0), *far)
    assert scene.targets[0, 1].tolist() == [0, 1, 0]
    assert allowed(scene, 1) == [1, 2, 3, 4, 5, 6]


def test_melee_is_offered_two_cells_and_walks_up() -> None:
    battle, scene = battle_of("zerg_1_vs_1", ("zergling", 0, 0), ("hydralisk", 2, 0))
    assert 6 in allowed(scene)
    step = act(battle, 6)
    assert battle.units.health[0, 1] < 90 and step.info["enemies_left"].tolist() == [1]


def test_damage_kills_and_victory_come_to_twenty() -> None:
    battle, _ = battle_of("terran_1_vs_1", ("marine", 0, 0), ("marine", 4, 0))
    battle.units.health[0, 0] = 1e6
    rewards = []
    for _ in range(20):
        step = act(battle, 6)
        rewards.append(float(step.rewards[ALLIES][0, 0]))
        if step.ended[0]:
            break
    assert rewards[0] == pytest.approx(6 / 255 * 20)
    # 45 points take eight shots, 13.664 ticks apart, the first in tick 1.
    assert len(rewards) == 13 and sum(rewards) == pytest.approx(20, abs=1e-4)
    assert step.terminated.all() and step.info["won"].all() and not step.truncated.any()
    assert step.scenes[ALLIES] is not step.last[ALLIES]
    assert step.last[ALLIES].present.tolist() == [[True, False]]


def test_rewards_without_scale_are_points() -> None:
    battle, _ = battle_of(
        "terran_1_vs_1", ("marine", 0, 0), ("marine", 4, 0), options=BattleOptions(reward_scale=False)
    )
    assert act(battle, 6).rewards[ALLIES].tolist() == [[6]]


def test_a_side_with_medivacs_only_has_lost_and_both_is_no_victory() -> None:
    battle, _ = battle_of("terran_2_vs_1", ("medivac", 9, 9), ("marine", 0, 0), ("marine", 4, 0))
    battle.units.health[0, 1] = 6
    step = act(battle, 1, 1)
    assert step.terminated.all() and not step.info["won"].any()
    assert step.info["allies_left"].tolist() == [1]
    assert step.alive[ALLIES].tolist() == [[True, False]]
    battle, _ = battle_of("terran_1_vs_1", ("marine", 0, 0), ("marine", 4, 0))
    battle.units.health[0, :] = 6
    step = act(battle, 6)
    assert step.terminated.all() and not step.info["won"].any()


def test_the_dead_do_nothing_and_get_nothing_more() -> None:
    battle, _ = battle_of("terran_2_vs_1", ("marine", 0, 0), ("marine", 0, 1), ("marine", 4, 0))
    battle.units.health[0, 0] = 6
    step = act(battle, 6, 6)
    scene = step.scenes[ALLIES]
    assert step.alive[ALLIES].tolist() == [[False, True]]
    assert (step.rewards[ALLIES] > 0).all()
    assert allowed(scene) == [0] and not scene.visible[0, 0].any() and not scene.features[0, 0].any()
    step = act(battle, 0, 6)
    assert step.rewards[ALLIES][0, 0] == 0 and step.rewards[ALLIES][0, 1] > 0


def test_what_is_not_allowed_is_to_stand_still_and_what_does_not_exist_is_an_error() -> None:
    battle, _ = battle_of("terran_1_vs_1", ("marine", 0, 0), ("marine", 9, 0))
    act(battle, 6)
    assert battle.units.position[:, 0, 0].tolist() == [0, 0]
    for wrong in (np.array([[7]]), np.array([[-1]]), np.array([1]), np.array([[0.5]])):
        with pytest.raises(DataError, match="actions:"):
            battle.step({ALLIES: wrong})


def test_sight_is_a_circle_or_all_or_a_cone() -> None:
    units = (("marine", 0, 0), ("marine", 0, 9.5), ("marine", 8.5, 0), ("marine", 0, 8.5))
    _, scene = battle_of("terran_2_vs_2", *units)
    assert scene.visible[0].tolist() == [[True, False, True, True], [False, True, False, True]]
    _, scene = battle_of("terran_2_vs_2", *units, options=BattleOptions(fully_observable=True))
    assert scene.visible.all()
    battle, scene = battle_of("terran_2_vs_2", *units, options=BattleOptions(field_of_view=90))
    assert scene.visible[0, 0].tolist() == [True, False, True, False]
    assert scene.velocities[0].tolist() == [[1, 0], [1, 0], [0, 0], [0, 0]]
    scene = act(battle, 2, 1).scenes[ALLIES]
    assert scene.velocities[0, 0].tolist() == [0, 1]
    assert scene.visible[0, 0].tolist() == [True, True, False, True]


def test_features_are_shares_and_hide_the_enemys_cooldown() -> None:
    battle, scene = battle_of("terran_2_vs_1", ("medivac", 0, 0), ("marine", 0, 2), ("marine", 4, 0))
    assert scene.features[0, 0, READINESS] == 0.25
    assert (scene.positions[0, 2] == [0.25, 0]).all()
    scene = act(battle, 1, 6).scenes[ALLIES]
    assert scene.features[0, 2, HEALTH] == pytest.approx(39 / 45)
    assert scene.features[0, 1, READINESS] == pytest.approx((13.664 - 8) / 13.664)
    assert scene.features[0, 2, READINESS] == 0


def test_an_episode_is_cut_at_its_horizon() -> None:
    battle, _ = battle_of("terran_1_vs_1", ("marine", 0, 0), ("marine", 4, 0), options=BattleOptions(horizon=2))
    assert not act(battle, 1).ended.any()
    step = act(battle, 1)
    assert step.truncated.all() and not step.terminated.any()
    assert step.last[ALLIES].features[0, 0, HEALTH] < 1
    assert step.scenes[ALLIES].features[0, 0, HEALTH] == 1


def play(battle: BattleEnvironment, scene: Scene, steps: int) -> list[Step]:
    done = []
    for _ in range(steps):
        done.append(battle.step({ALLIES: scripted_actions(scene, battle.spec.actions)}))
        scene = done[-1].scenes[ALLIES]
        battle.spec.check(scene)
        battle.spec.check(done[-1].last[ALLIES])
    return done


@pytest.mark.parametrize("scenario", ["terran_5_vs_5", "protoss_3_vs_6", "zerg_6_vs_4"])
def test_a_state_goes_on_with_the_same_numbers(scenario: str) -> None:
    battle = BattleEnvironment(scenario, 16, 7, BattleOptions())
    contract: Environment = battle
    scene = contract.reset()[ALLIES]
    first = play(battle, scene, 12)[-1].scenes[ALLIES]
    kept = battle.state()
    straight = play(battle, first, 40)
    assert sum(step.ended.sum() for step in straight) > 0
    other = BattleEnvironment(scenario, 16, 99, BattleOptions())
    again = play(other, other.restore(kept)[ALLIES], 40)
    for one, two in zip(straight, again, strict=True):
        np.testing.assert_array_equal(one.rewards[ALLIES], two.rewards[ALLIES])
        for name, array in one.scenes[ALLIES].arrays().items():
            np.testing.assert_array_equal(array, two.scenes[ALLIES].arrays()[name])
    assert other.state() == battle.state()


def test_a_state_of_another_battle_is_refused() -> None:
    battle = BattleEnvironment("terran_5_vs_5", 4, 0, BattleOptions())
    with pytest.raises(DataError, match="call reset first"):
        battle.state()
    battle.reset()
    state = battle.state()
    with pytest.raises(DataError, match="another scenario"):
        BattleEnvironment("terran_5_vs_6", 4, 0, BattleOptions()).restore(state)
    with pytest.raises(DataError, match="another options"):
        BattleEnvironment("terran_5_vs_5", 4, 0, BattleOptions(horizon=9)).restore(state)
    for damaged in (b"", state[:50], b"nothing of the kind"):
        with pytest.raises(DataError, match="cannot be read"):
            battle.restore(damaged)
    with pytest.raises(DataError, match="units: shape"):
        battle.begin(replace(battle.units, kind=battle.units.kind[:2]))


def test_the_script_neither_always_wins_nor_always_loses() -> None:
    battle = BattleEnvironment("protoss_5_vs_5", 128, 0, BattleOptions())
    steps = play(battle, battle.reset()[ALLIES], 100)
    ended = sum(step.ended.sum() for step in steps)
    won = sum((step.info["won"] & step.ended).sum() for step in steps)
    assert ended >= 100 and 0.2 < won / ended < 0.8


@pytest.mark.parametrize(
    ("options", "message"),
    [({"map_size": 4}, "map_size"), ({"horizon": 0}, "horizon"), ({"field_of_view": 0}, "field_of_view")],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(BattleOptions(), **options)
    with pytest.raises(ConfigError, match="num_envs"):
        BattleEnvironment("terran_5_vs_5", 0, 0, BattleOptions())
