"""Roll out a recommender with the acceptance model as the users."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rayworks.core import seeds
from rayworks.systems.recommendation.logs.events import ACCEPTED, REJECTED
from rayworks.systems.recommendation.logs.simulator import choose
from rayworks.systems.recommendation.models.acceptance import AcceptanceModel, UserMemory

Policy = Callable[[Tensor], Tensor]
"""From the chance (B, I) that each item would be accepted now, to the chance (B, I) of recommending it."""


def table_policy(table: Tensor) -> Policy:
    """Fixed probabilities (B, I)."""
    return lambda acceptance: table


def uniform_policy(acceptance: Tensor) -> Tensor:
    """All items with equal probability."""
    return torch.full_like(acceptance, 1.0 / acceptance.shape[1])


def greedy_policy(acceptance: Tensor) -> Tensor:
    """The item most likely to be accepted."""
    return torch.zeros_like(acceptance).scatter(1, acceptance.argmax(1, keepdim=True), 1.0)


def mixture(exploration: float, policy: Policy) -> Policy:
    """``exploration`` x uniform + the rest x ``policy``."""
    return lambda acceptance: exploration / acceptance.shape[1] + (1 - exploration) * policy(acceptance)


@dataclass(frozen=True)
class ImaginedRollout:
    """B users over T steps, each (B, T)."""

    items: Tensor
    """int64, recommended."""
    accepted: Tensor
    """Bool, imagined."""
    probability: Tensor
    """The model's chance of acceptance of that item, given the imagined past."""
    expected: Tensor
    """The same averaged over the policy's choice, so with less noise: the estimate of the policy's value."""

    def value(self) -> np.ndarray:
        """Mean acceptance (T,) at each step."""
        return np.asarray(self.expected.double().mean(0))


@torch.no_grad()
def roll_out(model: AcceptanceModel, memory: UserMemory, policy: Policy, steps: int, seed: int) -> ImaginedRollout:
    """Let ``policy`` recommend and the model decide, ``steps`` times. Cost: one extension of the memory per step.

    Args:
        model: in evaluation mode.
        memory: memory of B users.
        steps: T.
        seed: seed of choices and decisions; the stream does not depend on the policy, so that policies meet equal chances.
    """
    count = len(memory.state)
    uniform = torch.from_numpy(seeds.stream(seed, "imagined").random((steps, 2, count)))
    columns = []
    for choice, decision in uniform:
        acceptance = torch.sigmoid(model.score(memory.state))
        chances = policy(acceptance)
        item = choose(chances.double(), choice)
        probability = acceptance.gather(1, item[:, None])[:, 0]
        accepted = decision < probability
        columns.append((item, accepted, probability, (chances * acceptance).sum(1)))
        memory = model.extend(memory, item + 1, torch.where(accepted, ACCEPTED, REJECTED))
    items, taken, probability, expected = (torch.stack(column, 1) for column in zip(*columns, strict=True))
    return ImaginedRollout(items, taken, probability, expected)
