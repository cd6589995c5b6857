"""Answers as tokens, the units that are boosted, and what can be missed of them without knowing the question."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayworks.systems.supervision.boosting.votes import Vote

CLIP = (0.05, 0.95)
"""Between which a prior error counts: outside it one expert would decide alone, or none could be better."""


@dataclass(frozen=True)
class Tokens:
    """Ids of many answers, one behind the other, each with its end token."""

    values: np.ndarray
    """``[tokens]``."""
    starts: np.ndarray
    """``[answers + 1]``, where each begins, and the end of all."""

    @classmethod
    def of(cls, answers: Sequence[Sequence[int]]) -> "Tokens":
        """Of ragged ids."""
        starts = np.cumsum([0, *map(len, answers)])
        return cls(np.array([token for answer in answers for token in answer], int), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, answer: int) -> tuple[int, ...]:
        return tuple(self.values[self.starts[answer] : self.starts[answer + 1]].tolist())

    @property
    def owners(self) -> np.ndarray:
        """``[tokens]``: the answer that each is of."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    @property
    def places(self) -> np.ndarray:
        """``[tokens]``: how many stand before it in its answer."""
        places: np.ndarray = np.arange(len(self.values)) - self.starts[self.owners]
        return places

    @property
    def previous(self) -> np.ndarray:
        """``[tokens]``: the token before it in its answer, -1 for the first."""
        before: np.ndarray = np.where(self.places == 0, -1, np.concatenate([[-1], self.values[:-1]]))
        return before


def prior_error(tokens: Tokens) -> float:
    """The error of a predictor that knows the place in the answer and the token before alone, clipped to :data:`CLIP`.

    Each token is predicted as the commonest of the others like it, of those at its place where it is the only one; ties are
    shared. The untuned error of a cut language model would say nothing: it misses nearly all.
    """
    likely = _chance(np.stack([tokens.places, tokens.previous]), tokens.values)
    right = np.where(np.isnan(likely), _chance(tokens.places[None], tokens.values), likely)
    return float(np.clip(1 - np.nan_to_num(right).mean(), *CLIP))


def _chance(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """That the commonest value of the others with the same keys is the own one, ``[values]``; NaN where there are no others.

    Args:
        keys: ``[kinds, values]``.
    """
    groups = np.unique(keys, axis=1, return_inverse=True)[1]
    (owner, _), pair, counts = np.unique(np.stack([groups, values]), axis=1, return_inverse=True, return_counts=True)
    order = np.lexsort([-counts, owner])
    first = np.unique(owner[order], return_index=True)[1]
    following = np.append(counts[order], 0)[first + 1]
    # What comes second: nothing where the next pair is of another group.
    second = np.where(np.diff(np.append(first, len(order))) > 1, following, 0)
    rivals = np.bincount(owner, counts == second[owner])[groups]
    own, others = counts[pair] - 1, second[groups]
    likely = np.where((own > 0) & (own >= others), 1 / np.where(own == others, 1 + rivals, 1), 0.0)
    leads = counts[pair] == counts[order][first][groups]
    return np.where(np.bincount(groups)[groups] > 1, likely * leads, np.nan)


def packed(misses: np.ndarray) -> bytes:
    """Misses ``[tokens]`` as bits: an eighth of a byte for each, whatever the size of the vocabulary."""
    return np.packbits(misses.astype(bool)).tobytes()


def unpacked(bits: bytes, count: int) -> np.ndarray:
    """What :func:`packed` was given, as 0 and 1."""
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=count).astype(float)


@dataclass(frozen=True)
class Team:
    """Experts who speak together: the first so many of them, for each number of ``rounds``."""

    experts: Sequence[Any]
    alphas: np.ndarray
    """Their weights, above 0; only proportions matter."""
    vote: Vote
    rounds: Sequence[int]

    @classmethod
    def alone(cls, expert: Any) -> "Team":
        """One expert, who says what it says, whatever the vote."""
        return cls([expert], np.ones(1), "linear", [1])


@dataclass(frozen=True)
class Written:
    """Answers that were written or chosen."""

    texts: tuple[str, ...]
    confidence: np.ndarray
    """``[answers]``: mean log-probability of the chosen tokens; 0 for what is known."""
