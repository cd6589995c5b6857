"""What units do to each other, against counts by hand."""

import numpy as np
import pytest

from rayworks.systems.marl.environments import battle_units
from rayworks.systems.marl.environments.battle_combat import Orders, Units, fight
from rayworks.systems.marl.environments.battle_scripts import nearest_targets
from rayworks.systems.marl.environments.battle_units import BANELING, DAMAGE, MEDIVAC, NAMES

HALF = 16.0


def field(*units: tuple[str, float, float]) -> Units:
    """One battle of unhurt units, each a type and a place from the centre."""
    kind = np.array([[NAMES.index(name) for name, _, _ in units]], np.int8)
    position = np.array([[(x, y) for _, x, y in units]], float).transpose(2, 0, 1).copy()
    return Units.fresh(kind, position, np.stack([np.ones(kind.shape), np.zeros(kind.shape)]))


def orders(targets: list[int], move: tuple[float, float] = (0.0, 0.0)) -> Orders:
    """Targets of all units; the first of them moves."""
    moves = np.zeros((2, 1, len(targets)))
    moves[:, 0, 0] = move
    return Orders(moves, np.array([targets]))


@pytest.mark.parametrize(
    ("attacker", "target", "damage"),
    [
        ("marine", "marine", 6),
        ("marine", "marauder", 5),
        ("marauder", "marauder", 19),
        ("marauder", "medivac", 0),
        ("marine", "medivac", 5),
        ("medivac", "marine", 0),
        ("stalker", "colossus", 17),
        ("stalker", "zealot", 12),
        ("zealot", "zealot", 14),
        ("colossus", "zealot", 28),
        ("colossus", "stalker", 18),
        ("baneling", "zergling", 35),
        ("baneling", "baneling", 16),
        ("zergling", "hydralisk", 5),
    ],
)
def test_damage_is_hits_times_base_and_bonus_less_armour(attacker: str, target: str, damage: float) -> None:
    assert DAMAGE[NAMES.index(attacker), NAMES.index(target)] == damage


def test_marines_strike_at_once_and_again_after_the_cooldown() -> None:
    units = field(("marine", 0, 0), ("marine", 3, 0))
    for health in (39.0, 33.0, 33.0, 27.0):  # in ticks 1, 15, 29
        units = fight(units, orders([1, 0]), 1, HALF)
        assert units.health.tolist() == [[health, health]]
    assert units.position[0].tolist() == [[0, 3]]


def test_both_of_a_pair_may_fall_in_the_same_tick() -> None:
    units = field(("marine", 0, 0), ("marine", 3, 0))
    units.health[:] = 6
    assert fight(units, orders([1, 0]), 1, HALF).health.tolist() == [[0, 0]]


def test_a_step_north_is_eight_ticks_of_walking_and_turns_the_look() -> None:
    units = fight(field(("marine", 0, 0), ("marine", 9, 9)), orders([-1, -1], (0.0, 1.0)), 1, HALF)
    assert units.position[:, 0, 0].tolist() == [0, 8 * 3.15 / 22.4]
    assert units.look[:, 0, 0].tolist() == [0, 1] and units.look[:, 0, 1].tolist() == [1, 0]


def test_walls_hold() -> None:
    units = fight(field(("zergling", 15.9, 0), ("marine", 0, 0)), orders([-1, -1], (1.0, 0.0)), 1, HALF)
    assert units.position[0, 0, 0] == HALF


def test_who_is_out_of_reach_walks_up_and_strikes() -> None:
    units = fight(field(("zealot", 0, 0), ("zealot", 4, 0)), orders([1, -1]), 1, HALF)
    assert units.position[0, 0, 0] == pytest.approx(8 * 3.15 / 22.4)
    for _ in range(3):
        units = fight(units, orders([1, -1]), 1, HALF)
    # From edge to edge a zealot reaches 0.1.
    assert units.position[0, 0, 0] == pytest.approx(4 - 1.1)
    assert units.shield[0, 1] == 50 - 14 and units.health[0, 1] == 100


def test_overlapping_units_part_evenly_and_fliers_pass_over() -> None:
    units = fight(field(("marine", -0.1, 0), ("marine", 0.1, 0)), orders([-1, -1]), 1, HALF)
    assert units.position[0].ravel() == pytest.approx([-0.375, 0.375])
    units = fight(field(("marine", -0.1, 0), ("medivac", 0.1, 0)), orders([-1, -1]), 1, HALF)
    assert units.position[0].tolist() == [[-0.1, 0.1]]


def test_shields_go_first_and_come_back_after_a_while() -> None:
    units = field(("stalker", 0, 0), ("zealot", 5, 0))
    units.shield[0, 1] = 10
    units = fight(units, orders([1, -1]), 1, HALF)
    assert units.shield[0, 1] == 0 and units.health[0, 1] == 100 - 2
    for _ in range(19):
        units = fight(units, orders([-1, -1]), 1, HALF)
    assert units.shield[0, 1] == 0
    for _ in range(2):
        units = fight(units, orders([-1, -1]), 1, HALF)
    # 7 ticks were left of the first step, 160 pass before recovery begins.
    assert units.shield[0, 1] == pytest.approx((7 + 21 * 8 - 160) * 2.8 / 22.4)
    assert units.health[0, 1] == 98
    still = fight(field(("zealot", 0, 0), ("zealot", 9, 0)), orders([-1, -1]), 1, HALF, shields_recover=False)
    assert still.shield.tolist() == [[50, 50]]


def test_medivacs_heal_for_energy_and_only_the_hurt() -> None:
    units = field(("medivac", 0, 0), ("marine", 3, 0), ("marine", 9, 9))
    units.health[0, 1] = 20
    units = fight(units, orders([1, -1, -1]), 2, HALF)
    assert units.health[0, 1] == pytest.approx(20 + 8 * 12.6 / 22.4)
    assert units.energy[0, 0] == pytest.approx(50 - 1.5 + 8 * 0.7875 / 22.4)
    units.health[0, 1] = 44.5
    units = fight(units, orders([1, -1, -1]), 2, HALF)
    assert units.health[0, 1] == 45
    assert units.energy[0, 1] == 0


def test_a_baneling_takes_all_near_enemies_with_it_but_no_friends() -> None:
    units = field(
        ("baneling", 0, 0), ("zergling", 0, 1), ("zergling", 0.7, 0), ("zergling", -2.5, 0), ("hydralisk", 0, -4)
    )
    after = fight(units, orders([2, -1, -1, -1, -1]), 2, HALF)
    assert after.health.tolist() == [[0, 35, 0, 0, 90]]
    assert after.kind[0, 0] == BANELING


def test_a_colossus_burns_across_its_line_of_fire() -> None:
    units = field(("colossus", 0, 0), ("zealot", 5, 0), ("zealot", 5, 1.5), ("zealot", 6.5, 0), ("zealot", 5, -3))
    after = fight(units, orders([1, -1, -1, -1, -1]), 1, HALF)
    assert (50 - after.shield[0, 1:]).tolist() == [28, 28, 0, 0]


def test_enemies_go_for_the_nearest_they_see_and_medivacs_for_the_hurt() -> None:
    units = field(
        ("marine", 0, 0), ("medivac", 6, 0), ("marauder", 7, 0), ("medivac", 8, 0), ("marine", 8, 3), ("marine", 9, 9)
    )
    units.health[0, 5] = 10
    # The marauder cannot strike the medivac next to it; medivac 3 heals 5, who is hurt, and not 4, who is nearer.
    assert nearest_targets(units, 2).tolist() == [[0, 5, 1, 1]]
    units.health[0, :2] = 0
    assert nearest_targets(units, 2).tolist() == [[-1, 5, -1, -1]]
    assert MEDIVAC == 2


@pytest.mark.parametrize("mirror", [1, -1])
@pytest.mark.parametrize("slots", [(0, 1), (1, 0)])
def test_of_equally_near_targets_the_one_nearer_the_centre_is_taken(mirror: int, slots: tuple[int, int]) -> None:
    allies = [("zealot", 2.0 * mirror, 0.0), ("zealot", 4.0 * mirror, 0.0)]
    units = field(*(allies[slot] for slot in slots), ("zealot", 3.0 * mirror, 0.0))
    units.position[0, 0, 2] += 1e-12  # The other is nearer, by rounding.
    assert slots[nearest_targets(units, 2)[0, 0]] == 0


def test_names_are_those_of_smacv2() -> None:
    assert battle_units.names_of(np.array([0, 3, 8])) == ["marine", "stalker", "baneling"]
