"""A turned, mirrored or reordered battle goes on as the turned, mirrored or reordered one."""

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rayworks.core import seeds
from rayworks.systems.marl.environments.battle import BattleEnvironment, BattleOptions
from rayworks.systems.marl.environments.battle_combat import Orders, Units, fight
from rayworks.systems.marl.environments.battle_scripts import nearest_targets, scripted_actions
from rayworks.systems.marl.environments.scenes import Scene
from rayworks.systems.marl.networks.symmetry_groups import QUARTER_TURNS

SCENARIOS = ("terran_5_vs_5", "protoss_4_vs_6", "zerg_6_vs_5", "terran_7_vs_4")
COPIES = 8
drawn = st.fixed_dictionaries(
    {
        "scenario": st.sampled_from(SCENARIOS),
        "seed": st.integers(0, 2**16),
        "steps": st.integers(0, 25),
        "view": st.sampled_from((None, 120.0)),
    }
)


def played(
    scenario: str, seed: int, steps: int, view: float | None
) -> tuple[BattleEnvironment, Scene, NDArray[np.int64]]:
    """A battle under way, its scene, and allowed actions of which most are random."""
    battle = BattleEnvironment(scenario, COPIES, seed, BattleOptions(field_of_view=view))
    scene = battle.reset()["allies"]
    draw = seeds.stream(seed, "symmetry")
    for _ in range(steps):
        scene = battle.step({"allies": scripted_actions(scene, battle.spec.actions)}).scenes["allies"]
    chosen = np.where(scene.allowed, draw.random(scene.allowed.shape), -1).argmax(-1)
    script = scripted_actions(scene, battle.spec.actions)
    return battle, scene, np.where(draw.random(chosen.shape) < 0.5, chosen, script)


def next_units(battle: BattleEnvironment, units: Units, actions: NDArray[np.int64]) -> tuple[Units, Scene]:
    """Copies that go on only are compared, so the others keep what they reached."""
    twin = BattleEnvironment(battle.scenario.name, COPIES, 1, battle.options)
    twin.begin(units)
    step = twin.step({"allies": actions})
    going = np.nonzero(~step.ended)[0]
    rest = {name: array[..., going, :] for name, array in twin.units.arrays().items()}
    return Units(**rest), step.last["allies"]


def assert_same_units(one: Units, other: Units) -> None:
    for name, array in one.arrays().items():
        np.testing.assert_allclose(getattr(other, name), array, rtol=0, atol=1e-9, err_msg=name)


def assert_same_scenes(one: Scene, other: Scene) -> None:
    for name, array in one.arrays().items():
        np.testing.assert_allclose(getattr(other, name), array, rtol=0, atol=1e-6, err_msg=name)


@settings(max_examples=40, deadline=None)
@given(drawn, st.integers(1, 7))
def test_the_eight_symmetries_of_the_square(battle_of: dict[str, Any], which: int) -> None:
    battle, _, actions = played(**battle_of)
    matrix = QUARTER_TURNS[which]
    units = battle.units
    turned = replace(
        units,
        position=np.einsum("ij,jbn->ibn", matrix, units.position),
        look=np.einsum("ij,jbn->ibn", matrix, units.look),
    )
    new_action = battle.spec.actions.turned(matrix)
    after, last = next_units(battle, units, actions)
    after_turned, last_turned = next_units(battle, turned, new_action[actions])
    expected = replace(
        after,
        position=np.einsum("ij,jbn->ibn", matrix, after.position),
        look=np.einsum("ij,jbn->ibn", matrix, after.look),
    )
    assert_same_units(expected, after_turned)
    moved = np.empty_like(last.allowed)
    moved[..., new_action] = last.allowed
    assert_same_scenes(replace(last.turned(matrix), allowed=moved), last_turned)


@settings(max_examples=40, deadline=None)
@given(drawn, st.randoms(use_true_random=False))
def test_the_order_of_units_does_not_matter(battle_of: dict[str, Any], random: Random) -> None:
    battle, scene, actions = played(**battle_of)
    agents, enemies = battle.scenario.agents, battle.scenario.enemies
    draw = np.random.default_rng(random.randrange(2**32))
    allies_order, enemies_order = draw.permutation(agents), draw.permutation(enemies)
    order = np.concatenate([allies_order, agents + enemies_order])
    where = np.argsort(order)
    units = battle.units
    shuffled = Units(**{name: array[..., order] for name, array in units.arrays().items()})
    entity = np.take_along_axis(scene.targets, np.maximum(actions - 6, 0)[..., None], -1)[..., 0].astype(int)
    aimed = where[entity]
    slot = np.where(aimed < agents, aimed, aimed - agents)
    renamed = np.where(actions >= 6, 6 + slot, actions)[:, allies_order]
    after, last = next_units(battle, units, actions)
    after_shuffled, last_shuffled = next_units(battle, shuffled, renamed)
    assert_same_units(Units(**{name: array[..., order] for name, array in after.arrays().items()}), after_shuffled)
    reordered = last.reordered(order)
    for name in ("positions", "velocities", "features", "present", "visible"):
        np.testing.assert_allclose(getattr(last_shuffled, name), getattr(reordered, name), rtol=0, atol=1e-6)


@pytest.mark.parametrize("race", ["terran", "protoss", "zerg"])
def test_neither_side_is_preferred(race: str) -> None:
    """From a mirrored start two sides that follow the same rule stay mirror images, blow for blow."""
    battle = BattleEnvironment(f"{race}_5_vs_5", 64, 3, BattleOptions(starts="reflect"))
    battle.reset()
    units = battle.units
    swap = np.roll(np.arange(10), 5)
    mirror = np.array([-1.0, 1.0])[:, None, None]
    for _ in range(40):
        np.testing.assert_allclose(units.position[..., swap], units.position * mirror, atol=1e-9)
        np.testing.assert_allclose(units.health[:, swap], units.health, atol=1e-9)
        swapped = Units(**{name: array[..., swap] for name, array in units.arrays().items()})
        first, second = nearest_targets(swapped, 5), nearest_targets(units, 5)
        target = np.concatenate([np.where(first >= 0, swap[first], -1), second], 1)
        units = fight(units, Orders(np.zeros(units.position.shape), target), 5, 16.0)
    assert (units.health == 0).any()
