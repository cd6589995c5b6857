"""Critics: what a beginning promises, whether a step is right, whether an answer is (arXiv 2404.12253, section 4.4)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rayworks.core.errors import DataError
from rayworks.lm.decoding import Engine
from rayworks.lm.engine import ScoringRequest
from rayworks.systems.reasoning.search.requests import Kind, Scored
from rayworks.systems.reasoning.tasks.questions import Question, Task, Verdict

PROCESS_PROMPT = (
    "Question: {question}\nSolution so far:\n{before}Last step: {step}\nIs the last step True or False? Answer:"
)
OUTCOME_PROMPT = (
    "Question: {question}\nSolution:\n{answer}\nAre the method, every calculation and the final answer of this solution "
    "correct? Answer True or False:"
)
TRUE, FALSE = " True", " False"


def judged(task: Task, question: Question, text: str) -> Verdict:
    """What a task says of a text.

    Raises:
        DataError: the task's own code failed.
    """
    try:
        return task.verify(question, text)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"task: judging an answer to {question.uid} failed ({reason}); mend its verify") from error


@dataclass(frozen=True)
class Verifier:
    """The task's own check of an answer: 1 where it is correct, else 0. Only where answers are known."""

    task: Task
    weight: float = 1.0
    kind: Kind = "outcome"

    def score(self, batch: Sequence[Scored]) -> list[float]:
        """One number per text; 0 for what has not ended."""
        return [float(text.ended and judged(self.task, text.question, text.text).correct) for text in batch]


@dataclass(frozen=True)
class Head:
    """A scalar head on an engine's last hidden state, trained on the outcomes of roll-outs."""

    engine: Engine
    name: str
    kind: Kind
    weight: float = 1.0

    def score(self, batch: Sequence[Scored]) -> list[float]:
        """One number per text."""
        requests = [
            ScoringRequest(text.prompt, text.tokens, ends=text.ended and self.kind == "outcome", heads=(self.name,))
            for text in batch
        ]
        return [score.values[self.name] for score in self.engine.score(requests)]


@dataclass(frozen=True)
class Judgement:
    """A language model asked for True or False: ``p_true / (p_true + p_false)`` of the next token."""

    engine: Engine
    kind: Kind
    weight: float = 1.0

    def score(self, batch: Sequence[Scored]) -> list[float]:
        """One probability per text."""
        import numpy as np

        requests = [ScoringRequest(self._prompt(text), "", ends=False, answers=(TRUE, FALSE)) for text in batch]
        logprobs = np.array([score.answers for score in self.engine.score(requests)]).reshape(-1, 2)
        return [float(share) for share in 1 / (1 + np.exp(logprobs[:, 1] - logprobs[:, 0]))]

    def _prompt(self, text: Scored) -> str:
        question = text.question.prompt.strip()
        if self.kind == "outcome":
            return OUTCOME_PROMPT.format(question=question, answer=text.text)
        tokenizer = self.engine.tokenizer
        before = tokenizer.decode(text.tokens[: text.step], skip_special_tokens=True)
        step = tokenizer.decode(text.tokens[text.step :], skip_special_tokens=True)
        return PROCESS_PROMPT.format(question=question, before=before, step=step.strip())


@dataclass(frozen=True)
class RewardModel:
    """An autoregressive reward model, such as alignment exports: mean log-probability of the last step's tokens under it."""

    engine: Engine
    weight: float = 1.0
    kind: Kind = "process"

    def score(self, batch: Sequence[Scored]) -> list[float]:
        """One number per text, at most 0."""
        requests = [
            ScoringRequest(text.prompt + text.tokens[: text.step], text.tokens[text.step :], ends=False)
            for text in batch
        ]
        return [score.total / max(1, len(score.logprobs)) for score in self.engine.score(requests)]


def alike(prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
    """One for every text: where nothing tells good answers from bad, so that a vote counts."""
    return [1.0] * len(texts)


@dataclass(frozen=True)
class Given:
    """The user's own function, from questions' prompts and texts to numbers."""

    function: Callable[[Sequence[str], Sequence[str]], Sequence[float]]
    kind: Kind
    weight: float = 1.0

    def score(self, batch: Sequence[Scored]) -> list[float]:
        """One number per text."""
        try:
            found = self.function([text.question.prompt for text in batch], [text.text for text in batch])
            return [float(number) for number in found]
        except Exception as error:
            # What it raises is about texts: those alone of which it is true must fail.
            reason = f"{type(error).__name__}: {error}"
            raise DataError(
                f"critics.{self.kind}: your function failed ({reason}); it takes questions and texts"
            ) from error
