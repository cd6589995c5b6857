"""Who fights and where episodes begin."""

import numpy as np
import pytest

from rayworks.core import seeds
from rayworks.core.errors import ConfigError
from rayworks.systems.marl.environments.battle_starts import BUFFER, SIDES, Side, Starts, draw_positions, draw_teams
from rayworks.systems.marl.environments.battle_units import BANELING, MEDIVAC, RACES, Scenario, parse_scenario

COPIES = 4000


def positions(scenario: str, starts: Starts, side: Side = "all", map_size: float = 32.0) -> np.ndarray:
    """(copies, units, 2)."""
    draw = seeds.stream(0, "starts")
    found = draw_positions(draw, parse_scenario(scenario), COPIES, starts=starts, side=side, map_size=map_size)
    return found.transpose(1, 2, 0)


@pytest.mark.parametrize("name", ["terran_5_vs_5", "protoss_10_vs_11", "zerg_20_vs_23"])
def test_smacv2s_names_are_read(name: str) -> None:
    assert parse_scenario(name).name == name


@pytest.mark.parametrize("name", ["10gen_terran", "terran_5v5", "human_5_vs_5", "terran_5_vs_5 ", ""])
def test_other_names_are_refused_with_the_form(name: str) -> None:
    with pytest.raises(ConfigError, match=r"RACE_N_vs_M .*terran, protoss, zerg"):
        parse_scenario(name)


@pytest.mark.parametrize("name", ["zerg_0_vs_5", "zerg_5_vs_51"])
def test_teams_of_none_or_too_many_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="1 to 50"):
        parse_scenario(name)


def test_teams_are_drawn_by_weight_and_are_the_same_for_both_sides() -> None:
    teams = draw_teams(seeds.stream(0, "teams"), RACES["protoss"], Scenario("protoss", 5, 7), COPIES)
    np.testing.assert_array_equal(teams[:, :5], teams[:, 5:10])
    shares = np.bincount(teams[:, [0, 1, 2, 3, 4, 10, 11]].ravel(), minlength=6)[3:] / (COPIES * 7)
    np.testing.assert_allclose(shares, [0.45, 0.45, 0.1], atol=0.01)


@pytest.mark.parametrize(
    ("race", "agents", "enemies", "kind"),
    [("terran", 2, 2, MEDIVAC), ("zerg", 1, 2, BANELING), ("terran", 3, 1, MEDIVAC)],
)
def test_no_team_is_only_of_the_type_that_can_not_stand_alone(race: str, agents: int, enemies: int, kind: int) -> None:
    teams = draw_teams(seeds.stream(1, "teams"), RACES[race], Scenario(race, agents, enemies), COPIES)
    assert not (teams[:, :agents] == kind).all(1).any()
    assert not (teams[:, agents:] == kind).all(1).any()


def test_reflected_enemies_are_the_allies_mirrored_and_more_of_them_stay_on_their_half() -> None:
    found = positions("terran_5_vs_7", "reflect")
    np.testing.assert_array_equal(found[:, 5:10], found[:, :5] * [-1, 1])
    assert found[:, :5, 0].max() <= -BUFFER and found[:, 10:, 0].min() >= 0
    # Uniform over the half: means of 8.5 and 0 within five standard errors.
    assert abs(found[:, :5, 0].mean() + 8.5) < 0.16 and abs(found[:, :5, 1].mean()) < 0.33


def test_the_surrounded_stand_in_the_centre_and_groups_on_diagonals() -> None:
    found = positions("terran_5_vs_5", "surrounded")
    disc = 0.6 * np.sqrt(5)
    assert np.linalg.norm(found[:, :5], axis=-1).max() <= disc
    enemies = found[:, 5:]
    assert np.abs(np.abs(enemies[..., 0]) - np.abs(enemies[..., 1])).max() <= 2 * disc
    corner = (enemies[..., 0] > 0) * 2 + (enemies[..., 1] > 0)
    groups = np.array([len(np.unique(row)) for row in corner])
    # Of one to four groups some may be empty: P(one group with units) = mean over g of g^(1 - 5).
    assert abs((groups == 1).mean() - np.mean([g**-4.0 for g in (1, 2, 3, 4)])) < 0.04
    assert np.bincount(corner.ravel()) / corner.size == pytest.approx([0.25] * 4, abs=0.03)


@pytest.mark.parametrize("side", list(SIDES))
@pytest.mark.parametrize("starts", ["surrounded", "reflect", "surrounded_and_reflect"])
def test_enemies_come_from_the_side_asked_for(side: Side, starts: Starts) -> None:
    enemies = positions("zerg_4_vs_6", starts, side)[:, 4:]
    assert (enemies.mean(1) @ SIDES[side] > 0).all()
    assert enemies.mean((0, 1)) @ SIDES[side] > 3


def test_half_of_the_mixture_is_reflected_and_larger_maps_spread_wider() -> None:
    found = positions("terran_5_vs_5", "surrounded_and_reflect")
    reflected = (found[:, 5:] == found[:, :5] * [-1, 1]).all((1, 2))
    assert abs(reflected.mean() - 0.5) < 0.04
    wide = positions("terran_5_vs_5", "surrounded_and_reflect", map_size=64.0)
    assert np.abs(wide).max() <= 32 and np.abs(wide).max() > 30


def test_no_two_units_begin_at_the_same_point() -> None:
    found = positions("terran_5_vs_5", "surrounded_and_reflect")
    gap = np.linalg.norm(found[:, :, None] - found[:, None], axis=-1) + np.eye(10)
    assert gap.min() > 0
