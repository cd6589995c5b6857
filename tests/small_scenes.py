"""Random scenes of small teams, with dead and unseen entities."""

import numpy as np
from torch import Tensor

from rayworks.systems.marl.environments.scenes import ActionLayout, Scene, TeamSpec
from rayworks.systems.marl.networks.acting import as_tensors

AGENTS, ENTITIES = 3, 6


def small_team(*, vectors: bool = False, complete: bool = True, agents: int = AGENTS, others: int = 3) -> TeamSpec:
    """Some agents, some others, two features."""
    layout = ActionLayout(vectors=vectors, targets=0 if vectors else 2)
    kinds = ("agent",) * agents + ("other",) * others
    return TeamSpec("team", agents, kinds, ("first", "second"), layout, complete=complete)


def random_scene(team: TeamSpec, rows: int, seed: int) -> Scene:
    """Most entities are there and seen; agents see themselves; the first action is always allowed, targets only if seen."""
    random = np.random.default_rng(seed)
    agents, entities, targets = team.agents, team.entities, team.actions.targets
    present = random.random((rows, entities)) < 0.85
    visible = (random.random((rows, agents, entities)) < 0.85) | np.eye(agents, entities, dtype=bool)
    visible &= present[:, None] & present[:, :agents, None]
    allowed = random.random((rows, agents, team.actions.choices)) < 0.8
    allowed[..., 0] = True
    slots = random.integers(agents, entities, (rows, agents, targets)).astype(np.int16)
    if targets:
        allowed[..., -targets:] &= np.take_along_axis(visible, slots.astype(int), 2)
    shown = present[..., None]
    return Scene(
        np.where(shown, random.uniform(-1, 1, (rows, entities, 2)), 0).astype(np.float32),
        np.where(shown, random.uniform(-1, 1, (rows, entities, 2)), 0).astype(np.float32),
        np.where(shown, random.normal(size=(rows, entities, 2)), 0).astype(np.float32),
        present,
        visible,
        allowed | team.actions.vectors,
        slots,
    )


def tensors(scene: Scene) -> dict[str, Tensor]:
    """As networks take them."""
    return as_tensors(scene)
