"""What a search asks of others, and what comes back: completions of a policy, and scores of critics."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from rayworks.lm.engine import Generation, GenerationRequest
from rayworks.systems.reasoning.tasks.questions import Question

Kind = Literal["value", "process", "outcome"]
"""Of a partial answer's prospects, of its last step, of a whole answer."""


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
    """Whether by an end of its own, not for want of room."""

    @classmethod
    def of(cls, found: Generation) -> "Completion":
        """Of a generation, without the end token's log-probability."""
        return cls(found.token_ids, found.logprobs[: len(found.token_ids)], found.finish_reason == "stop")


@dataclass(frozen=True)
class Draw:
    """A completion to draw, and which one it is: the ``rollout``-th from the ``number``-th step asked of a node."""

    path: tuple[int, ...]
    number: int
    rollout: int
    request: GenerationRequest

    @property
    def key(self) -> str:
        """Its name in a journal, within its question."""
        return f"{'.'.join(map(str, self.path))}:{self.number}:{self.rollout}"
