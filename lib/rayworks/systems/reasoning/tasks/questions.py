"""Questions, verdicts on answers, and the splits that no question is in twice."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from rayworks.core.errors import DataError

Split = Literal["supervision", "search", "validation", "test"]
SPLIT = "split"
"""Key of a question's data that says its split, where its source does."""
_SHARES: dict[Split, float] = {"supervision": 0.4, "search": 0.3, "validation": 0.1, "test": 0.2}


@dataclass(frozen=True)
class Question:
    """What a policy is asked.

    Args:
        uid: names it in trees and pairs.
        prompt: the text as the policy reads it.
        answer: the right answer, in words of the task.
        data: what else its verifier or its solution needs.
    """

    uid: str
    prompt: str
    answer: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What a response says, and whether that is right."""

    answer: str | None
    """None where the response says nothing that can be read as an answer."""
    correct: bool
    reason: str = ""
    """Why it is not."""


Verify = Callable[[Question, str], Verdict]


@runtime_checkable
class Task(Protocol):
    """Where questions come from, and who says what is right."""

    def questions(self, split: Split, count: int) -> list[Question]:
        """The first ``count`` of a split. Splits share no question, and none holds one twice.

        Raises:
            DataError: the split has fewer.
        """

    def verify(self, question: Question, response: str) -> Verdict:
        """Judge a response, which is text of a model: anything may stand in it."""

    def solution(self, question: Question) -> str | None:
        """A response to learn from, without the end token; None where there is none."""


@dataclass(frozen=True)
class DrawnTask:
    """A task that draws its questions from a stream.

    Which split a question is in, its source says, or else its prompt alone decides: a policy that was made with one seed
    never learnt what it is tested on with another.

    Args:
        name: as ``task.name`` has it.
        draw: a new stream for a split, of questions of any split, maybe endless, with repetitions.
        patience: questions to look at for each that is wanted before a stream counts as used up.
    """

    name: str
    draw: Callable[[Split], Iterable[Question]]
    verify: Verify
    patience: int = 50

    def questions(self, split: Split, count: int) -> list[Question]:
        """As :class:`Task` says."""
        found: dict[str, Question] = {}
        for seen, question in enumerate(self.draw(split)):
            if len(found) == count or seen >= self.patience * (count + 10):
                break
            if (question.data.get(SPLIT) or split_of(question.prompt)) == split:
                found.setdefault(question.prompt, question)
        if len(found) < count:
            setting = "recipe.traces" if split == "supervision" else f"task.count_{split}"
            raise DataError(f"{setting}: is {count}, but {self.name} has {len(found)} questions for {split}; lower it")
        return list(found.values())

    def solution(self, question: Question) -> str | None:
        """The one that came with the question."""
        return question.data.get("solution")


def split_of(prompt: str) -> Split:
    """The split of a question, by a hash of its prompt."""
    share = int.from_bytes(_digest(prompt)) / 2**64
    for split, part in _SHARES.items():
        share -= part
        if share < 0:
            return split
    return "test"


def uid_of(prompt: str) -> str:
    """A name for a question that only this prompt has."""
    return _digest(prompt).hex()


def _digest(prompt: str) -> bytes:
    return hashlib.blake2b(prompt.encode(), digest_size=8).digest()
