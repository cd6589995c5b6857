"""Requests and answers of the OpenAI protocol that guided generation speaks, with bounds and examples."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from .body import Body

MAX_PROMPT_CHARACTERS = 200_000

Weight = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Steps = Annotated[list[tuple[Annotated[int, Field(ge=0)], Weight]], Field(min_length=1, max_length=64)]
GuidanceField = Annotated[
    dict[str, Weight | Steps],
    Field(
        description="objective to weight, or to [[first token, weight], ...]",
        examples=[{"sentiment": 1.0}, {"sentiment": [[0, 0.0], [4, 1.5]]}],
    ),
]


class StreamOptions(Body):
    """What a stream carries beside text."""

    include_usage: bool = False


class SamplingBody(Body):
    """What both completions endpoints share."""

    model: str = Field(description="an id of GET /v1/models", examples=["smollm2-135m-instruct"])
    temperature: float = Field(1.0, ge=0, le=2, description="0 takes the most likely token")
    top_p: float = Field(1.0, gt=0, le=1)
    n: int = Field(1, ge=1, le=16, description="continuations of the prompt")
    stop: str | list[str] | None = Field(None, description="texts that end a continuation")
    seed: int | None = Field(None, ge=0, lt=2**63, description="the same seed gives the same text")
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, max_length=256, description="accepted and not used")
    presence_penalty: Literal[0] = 0
    frequency_penalty: Literal[0] = 0
    guidance: GuidanceField = Field(default_factory=dict)

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop texts as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @model_validator(mode="after")
    def _stops_are_few_and_not_empty(self) -> Self:
        if len(self.stops) > 8 or not all(self.stops):
            raise ValueError("stop: at most 8 texts, none of them empty")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only with stream=true")
        return self


class CompletionBody(SamplingBody):
    """``POST /v1/completions``."""

    prompt: str = Field(
        min_length=1, max_length=MAX_PROMPT_CHARACTERS, examples=["Title of a customer review of Dresses:"]
    )
    max_tokens: int = Field(16, ge=1, le=8192)


class Message(Body):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=MAX_PROMPT_CHARACTERS)


class ChatBody(SamplingBody):
    """``POST /v1/chat/completions``."""

    messages: list[Message] = Field(
        min_length=1, max_length=256, examples=[[{"role": "user", "content": "Write a title for a dress."}]]
    )
    max_tokens: int | None = Field(None, ge=1, le=8192, description="older name of max_completion_tokens")
    max_completion_tokens: int | None = Field(None, ge=1, le=8192)

    @property
    def token_limit(self) -> int:
        """Longest continuation."""
        return self.max_completion_tokens or self.max_tokens or 256


class GuidanceBody(Body):
    """``PATCH /v1/completions/ID/guidance``."""

    guidance: GuidanceField = Field(min_length=1)


class GuidanceReport(BaseModel):
    """What guidance did to one continuation."""

    log_z: float = Field(description="sum over tokens of the log-normaliser")
    kl_to_base: float = Field(description="sum over tokens of KL(guided || base) before temperature and top_p, nats")
    base_logprob: float = Field(description="log-probability of the text under the unguided base")
    reward_logprobs: dict[str, float] = Field(description="objective to log pi_r of the text, where it guided")
    weights: dict[str, list[float]] = Field(description="objective to the strength used at each token")


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


class ModelList(BaseModel):
    """``GET /v1/models``."""

    object: Literal["list"] = "list"
    data: list[Model]
