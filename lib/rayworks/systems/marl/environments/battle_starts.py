"""Start states of battles: SMACv2's distributions of teams and positions (arXiv 2212.07489, section 5), drawn for many copies
at once and restricted to one side where the generalisation tests of arXiv 2410.02581 ask for it.
"""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rayworks.systems.marl.environments.battle_units import Race, Scenario

Starts = Literal["surrounded_and_reflect", "surrounded", "reflect"]
Side = Literal["all", "left", "right", "top", "bottom"]

DIAGONALS = np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)], np.float64)
"""Corners from the centre of the map."""
SIDES: dict[Side, NDArray[np.float64]] = {
    "left": np.array((-1.0, 0.0)),
    "right": np.array((1.0, 0.0)),
    "top": np.array((0.0, 1.0)),
    "bottom": np.array((0.0, -1.0)),
}
NEAREST = 2.0
"""Least offset from the centre, along each axis, of a group that surrounds."""
BUFFER = 1.0
"""Least distance of reflected allies from the middle of the map."""
ROOM = 0.6
"""Units placed at one point are strewn over a disc of this radius times the square root of their number; StarCraft II finds
them free positions itself, and exactly coinciding units could not be told apart by distance."""


def draw_teams(draw: np.random.Generator, race: Race, scenario: Scenario, num_envs: int) -> NDArray[np.int8]:
    """Unit types of both teams, (copies, agents + enemies): enemies are the same list, cut or with more drawn.

    Drawn again until neither team consists of the type that cannot stand alone.
    """
    agents, enemies = scenario.agents, scenario.enemies
    more = max(enemies - agents, 0)
    teams = np.empty((num_envs, agents + enemies), np.int8)
    wanting = np.arange(num_envs)
    while len(wanting):
        own = draw.choice(race.units, (len(wanting), agents), p=race.weights)
        extra = draw.choice(race.units, (len(wanting), more), p=race.weights)
        others = np.concatenate([own, extra], 1)[:, :enemies]
        teams[wanting] = np.concatenate([own, others], 1)
        alone = [(team == race.never_alone).all(1) for team in (own, others, extra) if team.shape[1]]
        wanting = wanting[np.any(alone, axis=0)]
    return teams


def draw_positions(
    draw: np.random.Generator, scenario: Scenario, num_envs: int, *, starts: Starts, side: Side, map_size: float
) -> NDArray[np.float64]:
    """Where units start, (2, copies, agents + enemies), from the centre of a square map.

    Args:
        starts: ``surrounded`` puts the allies in the centre and the enemies in one to four groups on the diagonals;
            ``reflect`` strews the allies over one half and mirrors them; the mixture takes each half of the time.
        side: where enemies come from; ``all`` is SMACv2's: any diagonal, and the right half when reflected.
        map_size: side of the map in cells.
    """
    half = map_size / 2
    surrounded = _surrounded(draw, scenario, num_envs, side, half)
    reflected = _reflected(draw, scenario, num_envs, "right" if side == "all" else side, half)
    take = {"surrounded": np.ones(num_envs, bool), "reflect": np.zeros(num_envs, bool)}
    choice = take.get(starts, draw.random(num_envs) < 0.5)
    positions = np.where(choice[:, None, None], surrounded, reflected)
    return np.ascontiguousarray(np.clip(positions, -half, half).transpose(2, 0, 1))


def _surrounded(
    draw: np.random.Generator, scenario: Scenario, num_envs: int, side: Side, half: float
) -> NDArray[np.float64]:
    diagonals = DIAGONALS if side == "all" else DIAGONALS[DIAGONALS @ SIDES[side] > 0]
    number = len(diagonals)
    order = draw.random((num_envs, number)).argsort(1)
    groups = draw.integers(1, number + 1, num_envs)
    # Independent memberships are a multinomial split.
    member = (draw.random((num_envs, scenario.enemies)) * groups[:, None]).astype(np.int64)
    near = draw.random((num_envs, number))
    farthest = max(half - ROOM * math.sqrt(scenario.enemies), NEAREST)
    offset = near * NEAREST + (1 - near) * farthest
    row = np.arange(num_envs)[:, None]
    enemies = diagonals[order[row, member]] * offset[row, member][..., None]
    allies = _disc(draw, num_envs, scenario.agents)
    return np.concatenate([allies, enemies + _disc(draw, num_envs, scenario.enemies)], 1)


def _reflected(
    draw: np.random.Generator, scenario: Scenario, num_envs: int, side: Side, half: float
) -> NDArray[np.float64]:
    agents, enemies = scenario.agents, scenario.enemies
    shape = (num_envs, max(agents, enemies))
    # Along the axis between the teams, and across it.
    along, across = draw.uniform(BUFFER, half, shape), draw.uniform(-half, half, shape)
    along[:, agents:] = draw.uniform(0, half, along[:, agents:].shape)
    outward = SIDES[side]
    sideways = np.abs(outward[::-1])
    allies = along[:, :agents, None] * -outward + across[:, :agents, None] * sideways
    others = along[:, :enemies, None] * outward + across[:, :enemies, None] * sideways
    return np.concatenate([allies, others], 1)


def _disc(draw: np.random.Generator, num_envs: int, units: int) -> NDArray[np.float64]:
    angle = draw.uniform(0, 2 * np.pi, (num_envs, units))
    distance = ROOM * np.sqrt(units * draw.random((num_envs, units)))
    return np.stack([np.cos(angle), np.sin(angle)], -1) * distance[..., None]
