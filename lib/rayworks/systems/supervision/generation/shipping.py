"""Experts that do not fit into one process: each group of them ships its likeliest tokens and a bound of the rest.

The likeliest token of all groups together is exact wherever its lead exceeds what was not shipped; where it does not, all is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch

from rayworks.lm.causal_model import CausalModel
from rayworks.lm.prefix_tree import agreeing
from rayworks.lm.scoring import EncodedResponse, length_batches
from rayworks.systems.supervision.boosting.votes import FLOOR
from rayworks.systems.supervision.generation.decoding import PADDED_TOKENS, add_vote, answer_logits
from rayworks.systems.supervision.generation.tokens import Team, Written
from rayworks.systems.supervision.weak.adapters import AdapterBase

SHIPPED = 64
Prefixes = Mapping[int, tuple[int, ...]]
"""Rows under way by number, each with all its tokens so far: a group that is new knows enough to go on."""
Question = Literal["say", "whole", "chances"]


class Others(Protocol):
    """Asks other groups, each about its team, and gives what waits for their answers."""

    def __call__(self, question: Question, teams: Sequence[Team], asked: Any) -> Callable[[], list[Any]]:
        """``question`` is a method of :class:`ExpertGroup`."""


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


def settled(parts: Sequence[Shipped]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The likeliest id of each row by all groups together, its mass, and whether both are certain, ``[rows]`` each."""
    width = max(int(part.ids.max()) for part in parts) + 1
    rows = np.arange(len(parts[0].ids))
    keys = [(rows[:, None] * width + part.ids).ravel() for part in parts]
    seen, where = np.unique(np.concatenate(keys), return_inverse=True)
    row, least = seen // width, np.bincount(where, np.concatenate([part.mass.ravel() for part in parts]))
    # A group adds at most its bound to every id that it has not shipped.
    hidden = sum(part.bound[row] * ~np.isin(seen, own) for part, own in zip(parts, keys, strict=True))
    starts = np.searchsorted(row, rows)
    leading = np.flatnonzero(least == np.maximum.reduceat(least, starts)[row])
    best = leading[np.unique(row[leading], return_index=True)[1]]
    most = least + hidden
    most[best] = 0.0
    rivals = np.maximum(np.maximum.reduceat(most, starts), sum(part.bound for part in parts))
    return seen[best] % width, least[best], (hidden[best] == 0) & (least[best] > rivals * (1 + 1e-6))


class ExpertGroup:
    """Some of the experts, as adapters of one base, in a process of their own.

    A question holds all that its answer needs, so that it may come twice, or to a group that was made anew.

    Args:
        base: decodes as many sequences at once as it has slots.
    """

    _causal: CausalModel | None = None

    def __init__(self, base: AdapterBase) -> None:
        self.base = base
        self._places = dict[tuple[int, int], int]()
        self._read = dict[int, tuple[int, ...]]()

    def say(self, team: Team, prefixes: Prefixes) -> Shipped:
        """What may follow each row, the likeliest."""
        return shipped(self.whole(team, prefixes))

    @torch.inference_mode()
    def whole(self, team: Team, prefixes: Prefixes) -> np.ndarray:
        """All that may follow, ``[rows, ids]``, as sums over the team of weight times what it votes."""
        causal, numbers = self.base.beside(team.experts)
        slots = self._slots(causal, [(number, row) for number in numbers for row in prefixes])
        wanted = list(prefixes.values()) * len(numbers)
        tokens = [self._unread(causal, slot, prefix) for slot, prefix in zip(slots, wanted, strict=True)]
        order = np.argsort(slots)
        logits = causal.read([slots[at] for at in order], [tokens[at] for at in order])
        self._read |= dict(zip(slots, wanted, strict=True))
        total: torch.Tensor | None = None
        for part, alpha in zip(
            logits[np.argsort(order)].view(len(numbers), len(prefixes), -1), team.alphas, strict=True
        ):
            total = add_vote(total, part, float(alpha), team.vote)
        assert total is not None
        found: np.ndarray = total.cpu().numpy()
        return found

    @torch.inference_mode()
    def chances(self, team: Team, answers: Sequence[EncodedResponse]) -> np.ndarray:
        """Probability of each token of answers after those before it by each expert, ``[experts, tokens]``."""
        causal, numbers = self.base.beside(team.experts)
        ends = np.cumsum([len(answer.response) for answer in answers])
        found = np.zeros((len(numbers), int(ends[-1])))
        for rows in length_batches(answers, PADDED_TOKENS):
            batch = [answers[row] for row in rows]
            places = np.concatenate([np.arange(ends[row] - len(answers[row].response), ends[row]) for row in rows])
            ids = torch.tensor([token for answer in batch for token in answer.response], device=causal.model.device)
            for place, number in enumerate(numbers):
                chances = answer_logits(causal, batch, number).softmax(dim=-1).gather(-1, ids[:, None])[:, 0]
                found[place, places] = chances.double().cpu().numpy()
        return found

    def _slots(self, causal: CausalModel, pairs: Sequence[tuple[int, int]]) -> list[int]:
        """A slot for each adapter and row, the same as before where there is room for all."""
        new = [pair for pair in pairs if pair not in self._places]
        if causal is not self._causal or len(self._places) + len(new) > causal.cache.slots:
            self._causal, new = causal, list(pairs)
            self._places.clear()
            self._read.clear()
        for pair in new:
            slot = self._places[pair] = len(self._places)
            causal.release(slot, pair[0])
        return [self._places[pair] for pair in pairs]

    def _unread(self, causal: CausalModel, slot: int, prefix: tuple[int, ...]) -> list[int]:
        """What a slot must still read; at least one token, since what follows is asked."""
        known = min(agreeing(self._read.get(slot, ()), prefix), len(prefix) - 1)
        causal.rewind(slot, known)
        return list(prefix[known:])


class SpreadEnsemble:
    """An ensemble dealt out to several groups, which answers as :class:`~.decoding.Ensemble` does. It votes by ``linear`` or
    ``share``: log-linear votes are no sum over experts.

    Args:
        own: the group in this process.
        others: further ones.
        groups: how many there are, with the own.
    """

    def __init__(self, team: Team, own: ExpertGroup, others: Others, groups: int) -> None:
        self._team, self._own, self._others, self._groups = team, own, others, groups
        self.doubtful = 0
        """Tokens for which all had to be shipped."""

    def write(self, prompts: Sequence[tuple[int, ...]], longest: int, rounds: Sequence[int]) -> list[Written]:
        """See :meth:`~.decoding.Ensemble.write`."""
        size = max(1, self._own.base.slots // -(-max(rounds) // self._groups))
        teams = [self._dealt(number) for number in rounds]
        parts: list[list[tuple[str, float]]] = [[] for _ in rounds]
        for start in range(0, len(prompts), size):
            for found, team in zip(parts, teams, strict=True):
                found += self._batch(team, prompts[start : start + size], longest)
        return [Written(tuple(text for text, _ in found), np.array([sure for _, sure in found])) for found in parts]

    def weigh(self, answers: Sequence[EncodedResponse], rounds: Sequence[int]) -> np.ndarray:
        """See :meth:`~.decoding.Ensemble.weigh`, of linear votes."""
        teams = self._dealt(max(rounds))
        parts = self._ask("chances", teams, answers)
        chances = np.zeros((max(rounds), parts[0].shape[1]))
        for number, part in enumerate(parts):
            chances[number :: len(parts)] = part
        alphas = self._team.alphas[: max(rounds), None]
        totals = np.cumsum(alphas * chances, axis=0) / np.cumsum(alphas, axis=0)
        counts = np.array([len(answer.response) for answer in answers])
        logs = np.log(np.maximum(totals[np.array(rounds) - 1], FLOOR))
        found: np.ndarray = np.add.reduceat(logs, np.cumsum(counts) - counts, axis=1) / counts
        return found

    def _batch(
        self, teams: Sequence[Team], prompts: Sequence[tuple[int, ...]], longest: int
    ) -> list[tuple[str, float]]:
        """Answers and how sure they are; all groups go on from the same prefix."""
        alive: dict[int, tuple[int, ...]] = dict(enumerate(prompts))
        answers: list[list[int]] = [[] for _ in prompts]
        logs, counts = np.zeros((2, len(prompts)))
        tokenizer, ends = self._own.base.tokenizer, self._own.base.ends
        for _ in range(longest):
            ids, mass, certain = settled(self._ask("say", teams, alive))
            if len(unsure := np.flatnonzero(~certain)):
                rows = list(alive)
                whole = sum(self._ask("whole", teams, {rows[at]: alive[rows[at]] for at in unsure.tolist()}))
                ids[unsure], mass[unsure] = whole.argmax(axis=1), whole.max(axis=1)
                self.doubtful += len(unsure)
            logs[list(alive)] += np.log(mass)
            counts[list(alive)] += 1
            chosen = {row: int(token) for row, token in zip(alive, ids, strict=True) if int(token) not in ends}
            for row, token in chosen.items():
                answers[row].append(token)
            alive = {row: (*alive[row], token) for row, token in chosen.items()}
            if not alive:
                break
        texts = [tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]
        return list(zip(texts, np.maximum(logs / counts, np.log(FLOOR)).tolist(), strict=True))

    def _dealt(self, rounds: int) -> list[Team]:
        """The first so many experts by group, with shares of the weight; one alone says what it says."""
        alphas = self._team.alphas[:rounds] / self._team.alphas[:rounds].sum()
        vote = self._team.vote if rounds > 1 else "linear"
        parts = [slice(number, rounds, self._groups) for number in range(min(self._groups, rounds))]
        return [Team(self._team.experts[part], alphas[part], vote, [rounds]) for part in parts]

    def _ask(self, question: Question, teams: Sequence[Team], asked: Any) -> list[Any]:
        """Answers of all groups, this one at work while it waits for the others."""
        waiting = self._others(question, teams[1:], asked)
        return [getattr(self._own, question)(teams[0], asked), *waiting()]
