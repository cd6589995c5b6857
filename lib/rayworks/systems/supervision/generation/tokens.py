"""Answers as tokens, the units that are boosted, and what can be missed of them without knowing the question."""

from collections import Counter
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
    if not len(tokens.values):
        return CLIP[1]
    places, previous = tokens.places.tolist(), tokens.previous.tolist()
    like, at_place = Counter[tuple[int, int, int]](), Counter[tuple[int, int]]()
    for token, place, before in zip(tokens.values.tolist(), places, previous, strict=True):
        like[place, before, token] += 1
        at_place[place, token] += 1
    groups = _best({(key[:2], key[2]): count for key, count in like.items()})
    whole = _best({((key[0],), key[1]): count for key, count in at_place.items()})
    right = 0.0
    for token, place, before in zip(tokens.values.tolist(), places, previous, strict=True):
        alone = sum(groups[place, before][0].values()) == 1
        right += _hit(*whole[place,], token) if alone else _hit(*groups[place, before], token)
    return float(np.clip(1 - right / len(tokens.values), *CLIP))


Group = tuple[dict[int, int], list[int]]
"""Counts of tokens, and the counts from the largest down."""


def _best(counts: dict[tuple[tuple[int, ...], int], int]) -> dict[tuple[int, ...], Group]:
    groups: dict[tuple[int, ...], dict[int, int]] = {}
    for (key, token), count in counts.items():
        groups.setdefault(key, {})[token] = count
    return {key: (group, sorted(group.values(), reverse=True)) for key, group in groups.items()}


def _hit(group: dict[int, int], ordered: Sequence[int], token: int) -> float:
    """Chance that the commonest of the others is this token."""
    own = group[token] - 1
    rest = list(ordered)
    rest.remove(group[token])
    most = rest[0] if rest else 0
    return 0.0 if own < max(most, 1) else 1 / (1 + rest.count(own))


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
