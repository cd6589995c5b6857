"""P(D_t = 1 | do(S_1..t), L): the probability of a decision under an intervention on the recommendations.

Earlier decisions are unknown then and are summed over. Where a decision depends on the past only through the last
recommendation, its decision and L, that is a recursion over t (arXiv 2409.05872; "backtracking" is the same sum unrolled).
Otherwise all 2^(t-1) paths of decisions count: followed exactly while they are few, else sampled.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.systems.recommendation.logs.events import ACCEPTED, REJECTED
from rayworks.systems.recommendation.models.acceptance import AcceptanceModel, UserMemory
from rayworks.systems.recommendation.models.constraint import recursion_step


def do_recursion(first: np.ndarray, if_rejected: np.ndarray, if_accepted: np.ndarray) -> np.ndarray:
    """P(D_t = 1 | do(S_1..t), L) for t = 1..T, exact for first-order dependence.

    p_1 = ``first``; p_t = q1_t p_{t-1} + q0_t (1 - p_{t-1}).

    Args:
        first: (...), P(D_1 = 1 | S_1, L).
        if_rejected: (..., T - 1), q0: P(D_t = 1 | S_t, S_{t-1}, D_{t-1} = 0, L) for t = 2..T.
        if_accepted: (..., T - 1), q1: the same with D_{t-1} = 1.

    Returns:
        float64 (..., T).

    Raises:
        DataError: a value is not a probability.
    """
    for name, values in (("first", first), ("if_rejected", if_rejected), ("if_accepted", if_accepted)):
        if not ((np.asarray(values) >= 0) & (np.asarray(values) <= 1)).all():
            raise DataError(f"{name}: has values that are not probabilities between 0 and 1")
    found = [np.asarray(first, np.float64)]
    for step in range(np.shape(if_rejected)[-1]):
        before = found[-1]
        found.append(if_accepted[..., step] * before + if_rejected[..., step] * (1 - before))
    return np.stack(found, -1)


@dataclass(frozen=True)
class Intervention:
    """Outcome of setting the recommendations of B users to given items over T steps."""

    probability: Tensor
    """(B, T), P(D_t = 1 | do(S_1..t), L)."""
    exact: bool
    """Whether all paths of decisions were followed, or a sample of them."""


@torch.no_grad()
def intervene(
    model: AcceptanceModel, memory: UserMemory, items: Tensor, *, paths: int = 64, seed: int = 0
) -> Intervention:
    """Set the recommendations that follow ``memory`` and average over the decisions that the model expects.

    A first-order model needs two paths, whatever T is. Cost: ``B x paths`` extensions of the memory per step.

    Args:
        model: in evaluation mode.
        memory: memory of B users.
        items: int64 (B, T), codes 0..I-1.
        paths: the most paths per user; exact if 2^(T-1) are no more.
    """
    count, steps = items.shape
    if model.options.history == "first-order":
        return Intervention(_two_branches(model, memory, items), True)
    if 2 ** (steps - 1) <= paths:
        return Intervention(_all_paths(model, memory, items), True)
    memory = memory.take(torch.arange(count).repeat_interleave(paths))
    uniform = torch.from_numpy(seeds.stream(seed, "decision paths").random((steps, count, paths)))
    found = []
    for step in range(steps):
        shown = items[:, step].repeat_interleave(paths)
        chance = torch.sigmoid(model.score(memory.state, shown[:, None])[:, 0]).view(count, paths)
        found.append(chance.mean(1))
        kind = torch.where(uniform[step] < chance, ACCEPTED, REJECTED).flatten()
        memory = model.extend(memory, shown + 1, kind)
    return Intervention(torch.stack(found, 1), False)


def _all_paths(model: AcceptanceModel, memory: UserMemory, items: Tensor) -> Tensor:
    """Every path of decisions with its weight; paths double at each step."""
    count, steps = items.shape
    weight = torch.ones(count, 1, dtype=torch.float64)
    found = []
    for step in range(steps):
        paths = weight.shape[1]
        shown = items[:, step].repeat_interleave(paths)
        chance = torch.sigmoid(model.score(memory.state, shown[:, None])[:, 0].double()).view(count, paths)
        found.append((weight * chance).sum(1))
        if step + 1 == steps:
            break
        weight = torch.cat([weight * (1 - chance), weight * chance], 1)
        order = torch.arange(count * paths).view(count, paths).repeat(1, 2).flatten()
        kind = torch.tensor([REJECTED, ACCEPTED]).repeat_interleave(paths).repeat(count)
        memory = model.extend(memory.take(order), items[:, step].repeat_interleave(2 * paths) + 1, kind)
    return torch.stack(found, 1)


def _two_branches(model: AcceptanceModel, memory: UserMemory, items: Tensor) -> Tensor:
    """The recursion, for a model whose state depends on the last decision only."""
    count, steps = items.shape
    before = torch.sigmoid(model.score(memory.state, items[:, :1])[:, 0].double())
    found = [before]
    for step in range(1, steps):
        branches = []
        for kind in (REJECTED, ACCEPTED):
            after = model.extend(memory, items[:, step - 1] + 1, torch.full((count,), kind))
            branches.append((after, torch.sigmoid(model.score(after.state, items[:, step : step + 1])[:, 0].double())))
        (memory, if_rejected), (_, if_accepted) = branches
        before = recursion_step(before, if_rejected, if_accepted)
        found.append(before)
    return torch.stack(found, 1)
