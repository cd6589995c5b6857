"""The symmetry certificate: the largest equivariance error of a policy and its values.

The error under a group is the largest difference, over scenes, elements of the group and agents that act, between what the
policy says of a changed scene and the changed answer to the scene itself; infinite if an answer is not finite.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayworks.core.seeds import stream
from rayworks.systems.marl.config import NetworkKind, NetworkSection
from rayworks.systems.marl.environments.scenes import Scene, TeamSpec
from rayworks.systems.marl.networks.acting import as_tensors
from rayworks.systems.marl.networks.symmetry_groups import QUARTER_TURNS, Group, claimed, orthogonal

TOLERANCE = 1e-5
"""Tolerance of a claim, in float32."""
ELEMENTS = 4
"""Number of elements drawn from an infinite group."""
Answer = Callable[[Mapping[str, Tensor]], tuple[Tensor, Tensor]]
"""Scene to (action inputs, values): (N, K) or (N, 4), and (N,)."""


@dataclass(frozen=True)
class Certificate:
    """Errors of one policy, by group."""

    kind: NetworkKind
    errors: Mapping[Group, float]
    claims: tuple[Group, ...]

    @property
    def holds(self) -> bool:
        """Whether every claim is true to the tolerance."""
        return all(self.errors[group] < TOLERANCE for group in self.claims)


@dataclass(frozen=True)
class _Change:
    """One element of a group: a scene, changed, and what its answer should be."""

    scene: Scene
    agents: NDArray[np.int64]
    """(A,): whose answer comes where."""
    matrix: NDArray[np.float64]
    """(2, 2): what happens to vectors."""


def certify(
    answer: Answer, kind: NetworkKind, team: TeamSpec, options: NetworkSection, scene: Scene, seed: int
) -> Certificate:
    """Errors under every group that the actions allow, those not claimed too, in the B rows of a scene."""
    groups: list[Group] = ["rotations", "reflections"] if team.actions.vectors else ["quarter turns"]
    if team.actions.vectors and options.symmetrise == "average":
        groups.append("quarter turns")
    groups += ["permutations", "translations"]
    errors = {group: _error(answer, team, scene, _elements(group, team, scene, seed)) for group in groups}
    return Certificate(kind, errors, claimed(kind, team, options))


def _elements(group: Group, team: TeamSpec, scene: Scene, seed: int) -> Iterator[_Change]:
    random = stream(seed, "symmetry", group)
    same, still = np.arange(team.agents), np.eye(2)
    if group == "quarter turns":
        for matrix in QUARTER_TURNS[1:]:
            yield _Change(_turned(scene, team, matrix), same, matrix)
        return
    for _ in range(ELEMENTS):
        if group == "permutations":
            order = _same_kinds_shuffled(team.kinds, random)
            yield _Change(scene.reordered(order), order[: team.agents], still)
        elif group == "translations":
            yield _Change(scene.moved(random.uniform(-1, 1, 2)), same, still)
        else:
            matrix = orthogonal(random.uniform(0, 2 * math.pi), reflected=group == "reflections")
            yield _Change(scene.turned(matrix), same, matrix)


def _turned(scene: Scene, team: TeamSpec, matrix: NDArray[np.float64]) -> Scene:
    """The scene with its masks, whose moves turn too."""
    turned = scene.turned(matrix)
    if team.actions.vectors:
        return turned
    allowed = np.empty_like(scene.allowed)
    allowed[..., team.actions.turned(matrix)] = scene.allowed
    return replace(turned, allowed=allowed)


def _same_kinds_shuffled(kinds: tuple[str, ...], random: np.random.Generator) -> NDArray[np.int64]:
    order = np.arange(len(kinds))
    for kind in dict.fromkeys(kinds):
        indices = np.array([index for index, name in enumerate(kinds) if name == kind])
        order[indices] = random.permutation(indices)
    return order


@torch.no_grad()
def _error(answer: Answer, team: TeamSpec, scene: Scene, changes: Iterator[_Change]) -> float:
    layout, rows = team.actions, scene.rows
    inputs, values = (_by_agent(part, rows, team.agents) for part in answer(as_tensors(scene)))
    worst = 0.0
    for change in changes:
        expected = inputs[:, change.agents].copy()
        if layout.vectors:
            expected[..., :2] = expected[..., :2] @ change.matrix.T
        else:
            turned = np.empty_like(expected)
            turned[..., layout.turned(change.matrix)] = expected
            expected = turned
        found, found_values = (_by_agent(part, rows, team.agents) for part in answer(as_tensors(change.scene)))
        acting = change.scene.present[:, : team.agents]
        open_to = acting[..., None] & (change.scene.allowed | layout.vectors)
        differences = np.where(open_to, np.abs(found - expected), 0.0)
        value_differences = np.where(acting, np.abs(found_values - values[:, change.agents]), 0.0)
        largest = max(float(differences.max()), float(value_differences.max()))
        # A maximum of Python's ignores NaN.
        worst = max(worst, largest) if np.isfinite(largest) else math.inf
    return worst


def _by_agent(answers: Tensor, rows: int, agents: int) -> NDArray[Any]:
    return answers.double().numpy().reshape(rows, agents, *answers.shape[1:])
