"""What a search asks of others, and what comes back: completions of a policy, and scores of critics."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from rayworks.lm.engine import Generation, GenerationRequest
from rayworks.systems.reasoning.tasks.questions import Question

Kind = Literal["value", "process", "outcome"]
"""Of a partial answer's prospects, of its last step, of a whole answer."""


@dataclass(frozen=True)
class ToScore:
    """The texts of one simulation."""

    steps: tuple["Scored", ...]
    """Beginnings, for critics of values and of processes."""
    wholes: tuple["Scored", ...]
    """Answers, for critics of outcomes."""

    def of(self, kind: Kind) -> tuple["Scored", ...]:
        """Those that a kind of critic scores."""
        return self.wholes if kind == "outcome" else self.steps


@dataclass(frozen=True)
class Scored:
    """A text to score: an answer, or its beginning."""

    question: Question
    prompt: tuple[int, ...]
    """Ids of the question."""
    tokens: tuple[int, ...]
    """Ids of the answer so far."""
    text: str
    step: int = 0
    """How many of the tokens stand before its last step."""
    ended: bool = True
    """Whether the answer has ended by itself."""


class Critic(Protocol):
    """Gives texts numbers."""

    @property
    def kind(self) -> Kind:
        """What it scores."""

    @property
    def weight(self) -> float:
        """Of its number in the score of a node."""

    def score(self, batch: Sequence[Scored]) -> list[float]:
        """One number per text."""


@dataclass(frozen=True)
class CriticOf:
    """Kind and weight of a critic that scores elsewhere."""

    kind: Kind
    weight: float


class Service(Protocol):
    """Takes requests, and gives results back in any order. A request's failure is its result."""

    def submit(self, ticket: int, uid: str, request: Any) -> None:
        """Queue a request; those of one ``uid`` have much in common."""

    def collect(self, seconds: float) -> list[tuple[int, Any]]:
        """What is finished, by ticket. Works, or waits up to so long, where nothing is."""


@dataclass(frozen=True)
class Completion:
    """What a policy drew."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    ended: bool
    """Whether by the end token: neither for want of room, nor at a text that ends a step."""

    @classmethod
    def of(cls, found: Generation) -> "Completion":
        """Of a generation, without the end token's log-probability."""
        count = len(found.token_ids)
        return cls(found.token_ids, found.logprobs[:count], ended=len(found.logprobs) > count)


@dataclass(frozen=True)
class Draw:
    """A completion to draw."""

    key: str
    """Its name within its question; see :func:`draw_key`."""
    request: GenerationRequest


def draw_key(answer: Sequence[int], number: int, rollout: int) -> str:
    """The name of a completion: what it continues, the how-manieth step it begins there, and which of its roll-outs it is.

    It says nothing of the order in which nodes were made, so that a completion is known again wherever it belongs.
    """
    digest = hashlib.blake2b(",".join(map(str, answer)).encode(), digest_size=8).hexdigest()
    return f"{digest}:{number}:{rollout}"
