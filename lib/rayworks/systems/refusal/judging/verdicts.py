"""What a judge is asked and says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["complied", "partial", "refused", "off-topic", "blocked", "abstained"]
KINDS: tuple[Kind, ...] = ("complied", "partial", "refused", "off-topic", "blocked", "abstained")
"""``partial`` answers a part and declines a part; ``blocked`` is a provider's refusal, with a stop reason in place of an
answer; ``abstained`` is no verdict."""
REFUSALS: frozenset[str] = frozenset({"partial", "refused", "blocked"})
"""The kinds that count as a refusal."""
STOP_REASONS = frozenset({"content_filter", "content-filter", "refusal", "safety", "blocked", "guardrail"})
"""Of providers that answer nothing because their filter refused."""


@dataclass(frozen=True)
class Case:
    """A reply to judge, with its request and why it ended, where a provider says that."""

    request: str
    reply: str
    finish_reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """A judge's word on a case."""

    kind: Kind
    confidence: float
    """In 0 to 1: the judge's own chance of being right; 0 for an abstention."""
    decided_by: str
    """``provider``, ``language``, ``rules``, ``classifier`` or ``model``."""
    refusal_probability: float | None = None
    """Chance that the request is not answered: declined, or passed over. None where nothing estimates it."""
    reason: str = ""
    """Of an abstention."""


class Judge(Protocol):
    """Anything that gives one verdict per case, in order."""

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """The verdicts."""
        ...
