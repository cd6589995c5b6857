"""What language-model engines are asked, and answer."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rayworks.core.errors import DataError

FinishReason = Literal["stop", "length", "cancelled", "failed"]


def token_ids(name: str, value: Any) -> tuple[int, ...]:
    """Ids of any kind, a list or an array, as a tuple; :class:`DataError` for what holds no ids."""
    try:
        return tuple(map(operator.index, value))
    except TypeError:
        raise DataError(f"{name}: is {value!r}, must be a text or token ids") from None


def require_list(requests: Any) -> None:
    """Raise :class:`DataError` for one request where several are wanted."""
    if not isinstance(requests, Sequence):
        raise DataError(f"requests: is a {type(requests).__name__}, must be a list of requests")


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One continuation to draw; :class:`DataError` where a value is outside its bounds."""

    prompt: str | tuple[int, ...]
    """A text, or token ids."""
    max_new_tokens: int = 64
    temperature: float = 1.0
    """0 takes the most likely token."""
    top_k: int = 0
    """0 keeps all."""
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    """The text ends before the first of these."""
    seed: int = 0
    ignore_end: bool = False
    """Go on past end tokens, as benchmarks of equal lengths do."""
    uid: str = ""
    adapter: str | None = None
    """Name of the adapter to read and draw with; ``None``: the model itself."""

    def __post_init__(self) -> None:
        checks = {
            f"max_new_tokens: is {self.max_new_tokens}, must be at least 1": self.max_new_tokens >= 1,
            f"temperature: is {self.temperature}, must be at least 0": self.temperature >= 0,
            f"top_k: is {self.top_k}, must be at least 0": self.top_k >= 0,
            f"top_p: is {self.top_p}, must be in (0, 1]": 0 < self.top_p <= 1,
            "stop: a stop text must not be empty": all(self.stop),
            f"stop: is the text {self.stop!r}, must be a tuple of texts": not isinstance(self.stop, str),
        }
        for message, holds in checks.items():
            if not holds:
                raise DataError(message)
        if not isinstance(self.prompt, str):
            object.__setattr__(self, "prompt", token_ids("prompt", self.prompt))


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One continuation that was drawn."""

    uid: str
    text: str
    token_ids: tuple[int, ...]
    """Without the end token."""
    finish_reason: FinishReason
    logprobs: tuple[float, ...]
    """log-probability of each token (and of the end token, when that ended it) under the model itself."""
    sampling_logprobs: tuple[float, ...]
    """The same under the sampling distribution, after temperature and truncation."""
    prompt_tokens: int


@dataclass(frozen=True)
class ScoringRequest:
    """A response to score after its prompt; :class:`DataError` where a text stands for a tuple of texts."""

    prompt: str | tuple[int, ...]
    """A text, or token ids; so the response."""
    response: str | tuple[int, ...]
    ends: bool = True
    """Whether the end token belongs to the response."""
    adapter: str | None = None
    """Name of the adapter to score with; ``None``: the model itself."""
    heads: tuple[str, ...] = ()
    """Names of heads to read at the last token."""
    answers: tuple[str, ...] = ()
    """Texts of one token each, such as " True" and " False": how likely each is to follow, the end token if that belongs to
    the response."""

    def __post_init__(self) -> None:
        for name in ("heads", "answers"):
            if isinstance(getattr(self, name), str):
                raise DataError(f"{name}: is the text {getattr(self, name)!r}, must be a tuple of texts")
        for name in ("prompt", "response"):
            if not isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, token_ids(name, value))


@dataclass(frozen=True)
class Score:
    """log-probability of each response token, in order, and the ids they belong to."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    values: Mapping[str, float] = field(default_factory=dict)
    """What the heads said."""
    answers: tuple[float, ...] = ()
    """log-probability, among all tokens, that each of the answers follows."""

    @property
    def total(self) -> float:
        """The log-probability of the whole response."""
        return sum(self.logprobs)
