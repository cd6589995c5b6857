"""Questions that somebody asks: nobody knows their answers, so a response is read, and not judged."""

from dataclasses import dataclass

from rayworks.core.errors import DataError
from rayworks.systems.reasoning.config import CHAIN_SUM, COUNTDOWN, GSM_SYMBOLIC, GYM, TaskSection
from rayworks.systems.reasoning.tasks import gym, procedural, verifiers, word_problems
from rayworks.systems.reasoning.tasks.opening import rule_of
from rayworks.systems.reasoning.tasks.questions import Question, Split, Verdict, uid_of
from rayworks.systems.reasoning.tasks.word_problems import ASDIV, GSM8K

UNKNOWN = "nobody knows the answer"


@dataclass(frozen=True)
class AskedTask:
    """A task as whoever asks sees it: its prompt, and where an answer stands in a response."""

    section: TaskSection

    @property
    def rule(self) -> str:
        """The verifier whose way to read an answer is used."""
        return "text" if self._is_of_the_user and self.section.verifier is None else rule_of(self.section)

    @property
    def template(self) -> str:
        """The prompt of a question; of a user's own task, without a template, the question itself."""
        name = self.section.name
        if self.section.template is not None or self._is_of_the_user:
            return self.section.template or "{question}"
        if name == CHAIN_SUM:
            return procedural.TEMPLATE
        return gym.TEMPLATE if name in (GSM_SYMBOLIC, COUNTDOWN) or name.startswith(GYM) else word_problems.TEMPLATE

    def ask(self, text: str) -> Question:
        """A question as the policy reads it."""
        prompt = self.template.replace("{question}", text)
        return Question(uid_of(prompt), prompt, "")

    def verify(self, question: Question, response: str) -> Verdict:
        """What a response says; it is never right."""
        rule, pattern = self.rule, self.section.answer_pattern
        if rule in ("number", "lines"):
            said = verifiers.number(question, response, pattern).answer
        elif rule == "symbolic":
            said = verifiers.symbolic(question, response, pattern).answer
        elif rule == "unit-tests":
            said = verifiers.program_of(response)
        else:
            said = verifiers.answer_text(response, pattern)
        return Verdict(said, False, UNKNOWN)

    def questions(self, split: Split, count: int) -> list[Question]:
        """It has none of its own."""
        raise DataError(f"task.name: {self.section.name} is asked questions here, and has none for {split}")

    def solution(self, question: Question) -> str | None:
        """It knows none."""
        return None

    @property
    def _is_of_the_user(self) -> bool:
        name = self.section.name
        packaged = name in (CHAIN_SUM, GSM_SYMBOLIC, COUNTDOWN, ASDIV, GSM8K) or name.startswith(GYM)
        return not packaged and not name.endswith(".jsonl")
