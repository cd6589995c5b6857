"""Answers of the OpenAI protocol, and the tokens of a row as it tells of them one by one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field
from transformers import PreTrainedTokenizerBase

from rayworks.lm.rows import Row

from .streaming import REPLACEMENT

REWARD = "reward_logprob:"


class TokenGuidance(BaseModel):
    """What guidance did to one token: log-probabilities before temperature and top_p."""

    logprob: float = Field(description="under the mixture of the base and its guides")
    base_logprob: float
    reward_logprobs: dict[str, float] = Field(description="by objective, of those that guided it")


class GuidanceReport(BaseModel):
    """What guidance did to one continuation."""

    log_z: float = Field(description="sum over tokens of the log-normaliser")
    kl_to_base: float = Field(description="sum over tokens of KL(guided || base) before temperature and top_p, nats")
    base_logprob: float = Field(description="log-probability of the text under the unguided base")
    reward_logprobs: dict[str, float] = Field(description="objective to log pi_r of the text, where it guided")
    weights: dict[str, list[float]] = Field(description="objective to the strength used at each token")
    tokens: list[TokenGuidance] | None = Field(None, description="one by one, where logprobs are asked for")


class Usage(BaseModel):
    """Tokens counted."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Choice(BaseModel):
    """One continuation; ``text`` for completions, ``message`` for chats."""

    index: int
    finish_reason: str
    text: str | None = None
    message: dict[str, Any] | None = None
    logprobs: dict[str, Any] | None = Field(None, description="of the drawn tokens under the mixture")
    guidance: GuidanceReport


class Completion(BaseModel):
    """The answer of both endpoints."""

    id: str
    object: Literal["text_completion", "chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class Model(BaseModel):
    """An entry of ``GET /v1/models``."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "rayworks"
    objectives: list[str] = Field(description="names that guidance accepts")
    proof: str | None = Field(None, description="how its decoding was found to be exact when it was loaded")


class ModelList(BaseModel):
    """``GET /v1/models``."""

    object: Literal["list"] = "list"
    data: list[Model]


@dataclass(frozen=True)
class DrawnToken:
    """A token of a row."""

    text: str
    """What it added to the text: nothing while its character lacks bytes, which the token that ends it has then added."""
    offset: int
    """Where in the text, in characters."""
    guidance: TokenGuidance


class DrawnTokens:
    """The tokens of a row as they are drawn, told once each, with their text.

    Args:
        row: may still be decoding; its reports have ``logprob`` and ``base_logprob``.
        tokenizer: of its tokens.
    """

    def __init__(self, row: Row, tokenizer: PreTrainedTokenizerBase) -> None:
        self._row, self._tokenizer = row, tokenizer
        self._found: list[DrawnToken] = []
        self._told = self._length = 0
        # Tokens before the first have their text; those up to the second are decoded again, for what spaces depend on.
        self._context = self._read = 0

    def take(self, sent: int) -> list[DrawnToken]:
        """Tokens not yet told that lie in the text's first ``sent`` characters.

        Of a text that ended before a stop, the tokens of the stop are never told; nor is the end token.
        """
        tokens = self._row.tokens
        for index in range(len(self._found), len(tokens)):
            before = self._decode(tokens[self._context : self._read])
            added = self._decode(tokens[self._context : index + 1])[len(before) :]
            if added.endswith(REPLACEMENT):
                added = ""
            else:
                self._context, self._read = self._read, index + 1
            self._found.append(DrawnToken(added, self._length, _guidance(self._row.reports[index])))
            self._length += len(added)
        fresh = self._found[self._told :]
        if self._row.finish_reason is None:
            # What has no text yet waits for what has: a stop may still take both away.
            settled = [n for n, token in enumerate(fresh, 1) if token.text and token.offset + len(token.text) <= sent]
            taken = fresh[: max(settled, default=0)]
        elif self._length > len(self._row.text):
            taken = [token for token in fresh if token.offset < sent]
        else:
            taken = fresh
        self._told += len(taken)
        return taken

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))


def _guidance(report: dict[str, float]) -> TokenGuidance:
    # A reward model that did not run for a token is told to have weighed 0.
    guided = {
        name.removeprefix(REWARD): value
        for name, value in report.items()
        if name.startswith(REWARD) and report.get(f"weight:{name.removeprefix(REWARD)}")
    }
    return TokenGuidance(logprob=report["logprob"], base_logprob=report["base_logprob"], reward_logprobs=guided)


def chat_logprobs(tokens: Sequence[DrawnToken]) -> dict[str, Any]:
    """``logprobs`` of a chat's choice or chunk."""
    return {
        "content": [
            {
                "token": token.text,
                "logprob": token.guidance.logprob,
                "bytes": list(token.text.encode()),
                "top_logprobs": [],
            }
            for token in tokens
        ],
        "refusal": None,
    }


def completion_logprobs(tokens: Sequence[DrawnToken]) -> dict[str, Any]:
    """``logprobs`` of a completion's choice or chunk."""
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.guidance.logprob for token in tokens],
        "top_logprobs": None,
        "text_offset": [token.offset for token in tokens],
    }
