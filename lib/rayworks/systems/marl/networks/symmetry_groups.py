"""Symmetry groups of the plane, and those that a policy claims."""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rayworks.systems.marl.config import NetworkKind, NetworkSection
from rayworks.systems.marl.environments.scenes import TeamSpec

Group = Literal["rotations", "reflections", "quarter turns", "permutations", "translations"]
TURNING: tuple[Group, ...] = ("rotations", "reflections", "quarter turns")
SLOPED: tuple[NetworkKind, ...] = ("egnn", "e2gn2", "e2gn2-last", "gnn", "penguin")
"""Networks whose untrained vector can be regressed on positions."""
EQUIVARIANT: tuple[NetworkKind, ...] = ("egnn", "e2gn2", "e2gn2-last")


def orthogonal(angle: float, *, reflected: bool = False) -> NDArray[np.float64]:
    """A turn by ``angle`` radians, after a reflection across the x axis if asked, (2, 2)."""
    cosine, sine = math.cos(angle), math.sin(angle)
    mirror = -1.0 if reflected else 1.0
    return np.array([[cosine, -sine * mirror], [sine, cosine * mirror]])


QUARTER_TURNS = np.array(
    [np.round(orthogonal(k * math.pi / 2, reflected=mirrored)) for mirrored in (False, True) for k in range(4)]
)
"""The eight symmetries of a square, (8, 2, 2)."""


def claimed(kind: NetworkKind, team: TeamSpec, options: NetworkSection) -> tuple[Group, ...]:
    """The groups that a policy and its value respect by construction.

    Rotations about the centre of the map where the frame is absolute, about any point otherwise. Discrete moves leave only
    quarter turns. Translations need a frame that moves along: EGNN's own invariance of h alone is not a claim about a policy.
    PEnGUiN may break every symmetry but that of permutations; an MLP claims nothing.
    """
    groups: list[Group] = []
    symmetric = kind in EQUIVARIANT or options.symmetrise == "canonical"
    if symmetric and team.actions.vectors:
        groups += ["rotations", "reflections"]
    if (symmetric and not team.actions.vectors) or options.symmetrise == "average":
        groups.append("quarter turns")
    if kind != "mlp":
        groups.append("permutations")
    if options.frame != "absolute":
        groups.append("translations")
    return tuple(groups)
