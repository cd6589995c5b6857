"""Gymnasium spaces of scenes and actions."""

from typing import Any

import gymnasium
import numpy as np

from rayworks.systems.marl.environments.scenes import TeamSpec


def observation_space(team: TeamSpec) -> gymnasium.spaces.Dict:
    """Space of one scene of the team."""
    box, binary, shapes = gymnasium.spaces.Box, gymnasium.spaces.MultiBinary, team.shapes
    reals = {name: box(-np.inf, np.inf, shapes[name], np.float32) for name in ("positions", "velocities", "features")}
    flags = {name: binary(shapes[name]) for name in ("present", "visible", "allowed")}
    targets = box(0, np.iinfo(np.int16).max, shapes["targets"], np.int16)
    return gymnasium.spaces.Dict({**reals, **flags, "targets": targets})


def action_space(team: TeamSpec) -> gymnasium.Space[Any]:
    """Actions of one agent. Vectors are unbounded: RLlib clips bounded ones by coordinate, which is not equivariant."""
    if team.actions.vectors:
        return gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    return gymnasium.spaces.Discrete(team.actions.choices)
