"""Policies, tasks and critics for tests of the search: all answers are known, and nothing is learned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rayworks.core import seeds
from rayworks.systems.reasoning.config import SearchSection
from rayworks.systems.reasoning.policy.characters import character_tokenizer
from rayworks.systems.reasoning.search.requests import Completion, Critic, Draw, Kind, Scored
from rayworks.systems.reasoning.search.scheduler import Scheduler, Search
from rayworks.systems.reasoning.search.services import LocalScorer
from rayworks.systems.reasoning.tasks.questions import Question, Verdict

TOKENIZER = character_tokenizer(160)


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER(text)["input_ids"])


@dataclass(frozen=True)
class Digits:
    """Answers are ``steps`` lines of one digit below ``width``; right are those whose digits add up to the question's."""

    steps: int = 3
    width: int = 3

    def questions(self, split: str, count: int) -> list[Question]:
        most = self.steps * (self.width - 1)
        return [Question(f"q{number}", f"?{number}\n", str(number % (most + 1))) for number in range(count)]

    def verify(self, question: Question, response: str) -> Verdict:
        digits = response.split()
        if len(digits) != self.steps or not all(digit.isdigit() for digit in digits):
            return Verdict(None, False)
        total = str(sum(map(int, digits)))
        return Verdict(total, total == question.answer)

    def solution(self, question: Question) -> str | None:
        return None

    def reward(self, text: str) -> float:
        """Of a whole answer, the larger the better: digits as a number between 0 and 1."""
        digits = [int(digit) for digit in text.split()]
        return (
            sum(digit / self.width ** (place + 1) for place, digit in enumerate(digits)) * self.width / (self.width + 1)
        )


@dataclass
class DigitPolicy:
    """Completes an answer of :class:`Digits` at random, by the request's seed; greedily it draws zeros."""

    task: Digits
    reorder: bool = False
    """Whether results come back in another order than they were asked for."""
    draws: int = 0
    asked: Callable[[Draw], None] = lambda draw: None

    def __post_init__(self) -> None:
        self._waiting: list[tuple[int, Completion]] = []

    def submit(self, ticket: int, uid: str, request: Draw) -> None:
        self.asked(request)
        self.draws += 1
        done = request.request.prompt[len(ids("?")) :]
        before = TOKENIZER.decode(done).partition("\n")[2].count("\n")
        left = self.task.steps - before
        digits = seeds.stream(request.request.seed, "digits").integers(0, self.task.width, left)
        if request.request.temperature == 0:
            digits = digits * 0
        if request.request.stop:
            digits = digits[:1]
        text = "".join(f"{digit}\n" for digit in digits)
        ended = len(digits) == left and not request.request.stop
        self._waiting.append((ticket, Completion(ids(text), (-1.0,) * len(ids(text)), ended)))

    def collect(self, seconds: float) -> list[tuple[int, Completion]]:
        found, self._waiting = self._waiting, []
        return found[::-1] if self.reorder else found


@dataclass(frozen=True)
class Reward:
    """A critic by a function of a text."""

    function: Callable[[Scored], float]
    kind: Kind = "outcome"
    weight: float = 1.0

    def score(self, batch: Sequence[Scored]) -> list[float]:
        return [self.function(text) for text in batch]


def search_all(
    section: SearchSection,
    policy: Any,
    critics: Sequence[Critic],
    questions: Sequence[Question],
    task: Any,
    seed: int = 0,
    **more: Any,
) -> list[Search]:
    """Searches of the questions, in their order."""
    scheduler = Scheduler(section, task, policy, LocalScorer(critics), critics, TOKENIZER, 160, seed)
    found = {search.question.uid: search for search in scheduler.run(questions, **more)}
    return [found[question.uid] for question in questions]
