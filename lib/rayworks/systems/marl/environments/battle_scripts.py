"""Scripted policies: the enemy of the embedded battle, and a baseline for learned policies."""

import numpy as np
from numpy.typing import NDArray

from rayworks.systems.marl.environments import battle_units as kinds
from rayworks.systems.marl.environments.battle_combat import Units, distances
from rayworks.systems.marl.environments.battle_scene import ENEMY, HEALTH, SHIELD, TYPES
from rayworks.systems.marl.environments.battle_units import MEDIVAC
from rayworks.systems.marl.environments.scenes import ActionLayout, Scene

_FAR = 1e3
"""More than any distance, cells."""
_EQUAL = 1e-6
"""Cells below which two distances are the same; units in contact with a third are equally far from it, but for rounding."""


def nearest_targets(units: Units, agents: int) -> NDArray[np.int64]:
    """Targets of the second side's units, (B, N - agents); -1 if none.

    Fighters take the nearest ally in sight that their weapon reaches, else the nearest anywhere, as troops under the order to
    attack do; medivacs the nearest hurt comrade on the ground, else the nearest.
    """
    kind, alive = units.kind, units.alive
    distance = distances(units.position)[:, agents:]
    healer = (kind[:, agents:] == MEDIVAC)[..., None]
    side = np.arange(kind.shape[1]) < agents
    strikes = side & (kinds.DAMAGE[kind[:, agents:, None], kind[:, None]] > 0)
    heals = ~side & ~kinds.FLIES[kind][:, None]
    wanted = np.where(healer, heals, strikes) & alive[:, None]
    whole = (units.health >= kinds.HEALTH[kind])[:, None]
    unseen = distance >= kinds.SIGHT[kind[:, agents:]][..., None]
    # Of equally near ones the one nearer the centre of the map, which neither the order of units nor a symmetry changes.
    centred = np.sqrt(units.position[0] ** 2 + units.position[1] ** 2)[:, None]
    rounded = np.rint(distance / _EQUAL) * _EQUAL + centred * (_EQUAL / _FAR)
    score = rounded + np.where(wanted, 0.0, 2 * _FAR) + _FAR * np.where(healer, whole, unseen)
    best = score.argmin(-1)
    found = np.take_along_axis(wanted, best[..., None], -1)[..., 0]
    return np.where(found & alive[:, agents:], best, -1)


def scripted_actions(scene: Scene, layout: ActionLayout, *, focus: bool = False) -> NDArray[np.int64]:
    """Actions (B, A) of allies that take the nearest target on offer, else walk at the nearest unit they are for.

    The script knows where everyone is, seen or not. With ``focus`` they take the weakest target on offer, by health and
    shield together.
    """
    agents, first = scene.agents, layout.still + len(layout.directions)
    offset = scene.positions[:, None] - scene.positions[:, :agents, None]
    distance = np.hypot(offset[..., 0], offset[..., 1])
    strength = (scene.features[..., HEALTH] + scene.features[..., SHIELD])[:, None]
    preference = np.broadcast_to(strength, distance.shape) + distance * 1e-3 if focus else distance
    offered = scene.allowed[..., first:]
    worth = np.where(offered, np.take_along_axis(preference, scene.targets.astype(np.int64), -1), _FAR)
    healer = scene.features[:, :agents, TYPES][..., MEDIVAC, None] > 0
    enemy = scene.features[:, None, :, ENEMY] > 0
    ground = scene.features[:, None, :, TYPES][..., MEDIVAC] == 0
    goal = np.where(healer, ~enemy & ground, enemy) & scene.present[:, None]
    towards = np.where(goal, distance, _FAR).argmin(-1)[..., None, None]
    heading = np.take_along_axis(offset, towards, 2)[..., 0, :]
    gain = np.where(scene.allowed[..., layout.still : first], heading @ np.array(layout.directions).T, -_FAR)
    move = np.where(goal.any(-1) & (gain.max(-1) > -_FAR), layout.still + gain.argmax(-1), layout.still - 1)
    action = np.where(offered.any(-1), first + worth.argmin(-1), move)
    return np.where(scene.present[:, :agents], action, 0)
