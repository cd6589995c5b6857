"""Gymnasium spaces of scenes and actions."""

from typing import Any

import gymnasium
import numpy as np

from rayworks.systems.marl.environments.scenes import TeamSpec


def observation_space(team: TeamSpec) -> gymnasium.spaces.Dict:
    """Space of one scene of the team."""
    box, binary = gymnasium.spaces.Box, gymnasium.spaces.MultiBinary
    entities, agents, actions = team.entities, team.agents, team.actions
    spaces: dict[str, Any] = {
        "positions": box(-np.inf, np.inf, (entities, 2), np.float32),
        "velocities": box(-np.inf, np.inf, (entities, 2), np.float32),
        "features": box(-np.inf, np.inf, (entities, len(team.features)), np.float32),
        "present": binary((entities,)),
        "visible": binary((agents, entities)),
        "allowed": binary((agents, actions.choices)),
        "targets": box(0, np.iinfo(np.int16).max, (agents, actions.targets), np.int16),
    }
    return gymnasium.spaces.Dict(spaces)


def action_space(team: TeamSpec) -> gymnasium.Space[Any]:
    """Actions of one agent. Vectors are unbounded: RLlib clips bounded ones by coordinate, which is not equivariant."""
    if team.actions.vectors:
        return gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    return gymnasium.spaces.Discrete(team.actions.choices)
