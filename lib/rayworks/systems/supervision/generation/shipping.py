"""Experts that do not fit into one process: each group of them ships its likeliest tokens and a bound of the rest.

The likeliest token of all groups together is exact wherever its lead exceeds what was not shipped; where it does not, all is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rayworks.lm.causal_model import CausalModel
from rayworks.systems.supervision.boosting.votes import Vote
from rayworks.systems.supervision.generation.decoding import add_vote

SHIPPED = 64


@dataclass(frozen=True)
class Shipped:
    """What a group says of some rows."""

    ids: np.ndarray
    """``[rows, shipped]``, the likeliest."""
    mass: np.ndarray
    """``[rows, shipped]``, the sum over its experts of weight times probability."""
    bound: np.ndarray
    """``[rows]``: most that any other id can have, which is the mass of all others, or the least that was shipped."""


def shipped(mass: np.ndarray, count: int = SHIPPED) -> Shipped:
    """The largest of ``mass`` ``[rows, ids]``, all at least 0."""
    count = min(count, mass.shape[1])
    ids = np.argpartition(mass, -count, axis=1)[:, -count:]
    found = np.take_along_axis(mass, ids, axis=1)
    rest = np.maximum(mass.sum(axis=1) - found.sum(axis=1), 0.0)
    left = found.min(axis=1) if count < mass.shape[1] else np.zeros(len(mass))
    return Shipped(ids, found, np.minimum(rest, left))


def settled(parts: Sequence[Shipped]) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest id of each row by all groups together, and whether it is certainly that, ``[rows]`` each."""
    best, certain = np.zeros((2, len(parts[0].ids)), int)
    for row in range(len(best)):
        ids, where = np.unique(np.concatenate([part.ids[row] for part in parts]), return_inverse=True)
        least = np.bincount(where, np.concatenate([part.mass[row] for part in parts]))
        bounds = [part.bound[row] for part in parts]
        # A group adds its bound to every id that it has not shipped.
        most = least + sum(bound * ~np.isin(ids, part.ids[row]) for part, bound in zip(parts, bounds, strict=True))
        place = int(least.argmax())
        others = max(float(np.delete(most, place).max(initial=0.0)), float(sum(bounds)))
        best[row], certain[row] = ids[place], least[place] > others * (1 + 1e-6)
    return best, certain.astype(bool)


class ExpertGroup:
    """Some of the experts, as adapters of one base, in an actor or here; all prompts are under way at once.

    Args:
        causal: has a slot for each expert and prompt.
        numbers: of the adapters.
        alphas: their weights.
        vote: ``linear`` or ``share``; log-linear votes are no sum over experts.
    """

    def __init__(self, causal: CausalModel, numbers: Sequence[int], alphas: Sequence[float], vote: Vote) -> None:
        self._causal, self._numbers, self._alphas, self._vote = causal, numbers, alphas, vote
        self._mass = np.zeros((0, 0))
        self._width, self._rows = 0, list[int]()

    def begin(self, prompts: Sequence[Sequence[int]]) -> Shipped:
        """Read prompts, and say what may follow each."""
        self._width = len(prompts)
        for slot in range(self._width * len(self._numbers)):
            self._causal.release(slot, self._numbers[slot // self._width])
        return self.step(list(range(self._width)), prompts)

    def step(self, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> Shipped:
        """Read on in some rows, ascending, and say what may follow."""
        slots = [self._width * place + row for place in range(len(self._numbers)) for row in rows]
        logits = self._causal.read(slots, [list(new) for new in tokens] * len(self._numbers))
        total: torch.Tensor | None = None
        for part, alpha in zip(logits.view(len(self._numbers), len(rows), -1), self._alphas, strict=True):
            total = add_vote(total, part, alpha, self._vote)
        assert total is not None
        self._mass, self._rows = total.cpu().numpy(), list(rows)
        return shipped(self._mass)

    def whole(self, rows: Sequence[int]) -> np.ndarray:
        """All that it last said of some rows, ``[rows, ids]``."""
        return self._mass[[self._rows.index(row) for row in rows]]


def write_spread(
    ask: Callable[..., list[Any]], prompts: Sequence[Sequence[int]], ends: frozenset[int], longest: int
) -> tuple[list[list[int]], int]:
    """Greedy answers of several groups of experts, all of which go on from the same prefix.

    Args:
        ask: calls a method of every :class:`ExpertGroup` and gives their answers, as
            :meth:`~rayworks.runtime.actors.ActorPool.broadcast` does.
        ends: ids that end an answer.

    Returns:
        Ids without the end, and how many tokens all had to be shipped for.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    alive, doubtful = list(range(len(prompts))), 0
    parts = ask("begin", prompts)
    for place in range(longest):
        ids, certain = settled(parts)
        if not certain.all():
            unsure = np.flatnonzero(~certain)
            ids[unsure] = sum(ask("whole", [alive[at] for at in unsure])).argmax(axis=1)
            doubtful += len(unsure)
        chosen = [(row, int(token)) for row, token in zip(alive, ids, strict=True) if int(token) not in ends]
        for row, token in chosen:
            answers[row].append(token)
        alive = [row for row, _ in chosen]
        if not alive or place == longest - 1:
            break
        parts = ask("step", alive, [[token] for _, token in chosen])
    return answers, doubtful
