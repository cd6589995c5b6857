"""Requests of the OpenAI protocol: what changes nothing is let by, what would change the answer and is not done is refused.

Null stands for a field that is not there, as clients send it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

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
Prompt = str | tuple[int, ...]
"""A text, or token ids."""
Ignored = Annotated[Any, Field(description="accepted and not used")]


@dataclass(frozen=True)
class Only:
    """Marks a field that may be sent while it changes nothing.

    Args:
        values: that change nothing.
        fix: what any other value is answered with.
    """

    values: Sequence[Any]
    fix: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        """The values as they are."""
        return PlainValidator(self._check).__get_pydantic_core_schema__(source, handler)

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """For the OpenAPI document."""
        if not self.values:
            return {"type": "null", "description": "must be absent"}
        return {"enum": list(self.values), "description": "accepted where it changes nothing"}

    def _check(self, value: Any) -> Any:
        if value not in self.values:
            raise ValueError(self.fix)
        return value


class Nullable(Body):
    """A body in which null is as good as absent."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value is not None or name not in cls.model_fields}

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Says so of every optional field."""
        schema = handler(core)
        found = handler.resolve_ref_schema(schema)
        for name, field in found.get("properties", {}).items():
            told_already = {"type": "null"} in field.get("anyOf", ()) or field.get("type") == "null"
            if name not in found.get("required", ()) and not told_already:
                told = {key: field.pop(key) for key in ("title", "description", "examples", "default") if key in field}
                found["properties"][name] = {"anyOf": [field, {"type": "null"}], **told}
        return schema


class StreamOptions(Nullable):
    """What a stream carries beside text."""

    include_usage: bool = False
    include_obfuscation: bool = Field(False, description="accepted and not used")


class SamplingBody(Nullable):
    """What both completions endpoints share."""

    model: str = Field(description="an id of GET /v1/models", examples=["smollm2-135m-instruct"])
    temperature: float = Field(1.0, ge=0, le=2, description="0 takes the most likely token")
    top_p: float = Field(1.0, gt=0, le=1)
    n: int = Field(1, ge=1, le=128, description="continuations of each prompt")
    stop: str | list[str] | None = Field(None, description="texts that end a continuation")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="the same seed gives the same text")
    stream: bool = False
    stream_options: StreamOptions | None = None
    guidance: GuidanceField = Field(default_factory=dict)

    user: Ignored = None
    metadata: Ignored = None
    store: Ignored = None
    service_tier: Ignored = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None

    presence_penalty: Annotated[Any, Only([0], "is not done here; send 0")] = None
    frequency_penalty: Annotated[Any, Only([0], "is not done here; send 0")] = None
    logit_bias: Annotated[Any, Only([{}], "is not done here; remove its entries")] = None

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


def _prompts(value: Any) -> list[Prompt]:
    """All prompts of a request, of which one alone need not stand in a list."""
    one = not isinstance(value, list) or (bool(value) and all(type(item) is int for item in value))
    found = [tuple(item) if isinstance(item, list) else item for item in ([value] if one else value)]
    if not found or not all(map(_is_prompt, found)):
        raise ValueError(
            f"send a text of 1 to {MAX_PROMPT_CHARACTERS} characters, token ids from 0 on, or a list of such prompts"
        )
    return found


def _is_prompt(value: Any) -> bool:
    if isinstance(value, tuple):
        # To Python true and false are numbers.
        return bool(value) and all(type(item) is int and item >= 0 for item in value)
    return isinstance(value, str) and 0 < len(value) <= MAX_PROMPT_CHARACTERS


TEXT = {"type": "string", "minLength": 1, "maxLength": MAX_PROMPT_CHARACTERS}
IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
PROMPTS = {
    "description": "a text, token ids, or a list of prompts; the choices of a prompt follow those of the prompt before",
    "anyOf": [TEXT, IDS, {"type": "array", "items": {"anyOf": [TEXT, IDS]}, "minItems": 1}],
    "examples": ["Title of a customer review of Dresses:", ["A title:", "Another:"], [504, 338]],
}


class CompletionBody(SamplingBody):
    """``POST /v1/completions``."""

    prompt: Annotated[list[Prompt], PlainValidator(_prompts), WithJsonSchema(PROMPTS)]
    max_tokens: int = Field(16, ge=1, le=8192)
    logprobs: Annotated[
        Any, Only([0, 1], "alternatives to the drawn tokens are not reported; send 0, which tells of the drawn ones")
    ] = None
    best_of: int | None = Field(None, description="1 or n, which change nothing")
    suffix: Annotated[Any, Only([""], "is not done here; remove it")] = None
    echo: Annotated[Any, Only([False], "is not done here; put the prompt before the text yourself")] = None

    @property
    def wants_logprobs(self) -> bool:
        """Whether tokens are to be told one by one."""
        return self.logprobs is not None and self.logprobs is not False

    @model_validator(mode="after")
    def _best_is_any(self) -> Self:
        if self.best_of not in (None, 1, self.n):
            raise ValueError("best_of: nothing is ranked here; remove it and raise n")
        return self


def _text(content: Any) -> Any:
    """A message's parts as one text."""
    if not isinstance(content, list):
        return content
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise ValueError(f"has a part of type {str(kind)[:40]}; send texts: {{'type': 'text', 'text': ...}}")
    return "\n".join(part["text"] for part in content)


PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
CONTENT = {
    "description": "a text, or parts of type text; null is for assistants",
    "anyOf": [
        {"type": "string", "maxLength": MAX_PROMPT_CHARACTERS},
        {"type": "array", "items": PART},
        {"type": "null"},
    ],
}


class Message(Nullable):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[
        str, Field(max_length=MAX_PROMPT_CHARACTERS), BeforeValidator(_text), WithJsonSchema(CONTENT)
    ] = ""
    name: str | None = Field(None, max_length=256)
    tool_call_id: str | None = Field(None, max_length=256)
    tool_calls: list[dict[str, Any]] = Field(default_factory=list, max_length=128)
    annotations: Ignored = None
    function_call: Annotated[Any, Only([], "is not taken; send tool_calls")] = None
    refusal: Annotated[Any, Only([""], "is not taken; send it as content")] = None
    audio: Annotated[Any, Only([], "is not taken; send its text as content")] = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if "content" not in self.model_fields_set and self.role != "assistant":
            raise ValueError("content is missing or null, which only an assistant's may be")
        return self

    def as_template_reads_it(self) -> dict[str, Any]:
        """What chat templates know, absent fields left out; a developer is what they call the system."""
        said = self.model_dump(include={"name", "tool_call_id", "tool_calls"}, exclude_defaults=True)
        return {"role": "system" if self.role == "developer" else self.role, "content": self.content, **said}


class ChatBody(SamplingBody):
    """``POST /v1/chat/completions``."""

    messages: list[Message] = Field(
        min_length=1, max_length=256, examples=[[{"role": "user", "content": "Write a title for a dress."}]]
    )
    max_tokens: int | None = Field(None, ge=1, le=8192, description="older name of max_completion_tokens")
    max_completion_tokens: int | None = Field(None, ge=1, le=8192)
    logprobs: bool = Field(False, description="tell of each drawn token")
    top_logprobs: Annotated[
        Any, Only([0], "alternatives to the drawn tokens are not reported; send 0 or remove it")
    ] = None

    parallel_tool_calls: Ignored = None
    prediction: Ignored = None
    tools: Annotated[Any, Only([[]], "this model calls no tools; remove them")] = None
    tool_choice: Annotated[Any, Only(["none", "auto"], "this model calls no tools; send 'none'")] = None
    functions: Annotated[Any, Only([[]], "this model calls no functions; remove them")] = None
    function_call: Annotated[Any, Only(["none", "auto"], "this model calls no functions; send 'none'")] = None
    response_format: Annotated[
        Any, Only([{"type": "text"}], "only text is written here; send {'type': 'text'} or remove it")
    ] = None
    modalities: Annotated[Any, Only([["text"]], "only text is written here; send ['text']")] = None
    audio: Annotated[Any, Only([], "only text is written here; remove it")] = None
    reasoning_effort: Annotated[Any, Only(["none"], "this model does not reason first; remove it")] = None
    verbosity: Annotated[Any, Only(["medium"], "is not done here; remove it, or ask for it in a message")] = None
    web_search_options: Annotated[Any, Only([], "nothing is searched here; remove it")] = None
    moderation: Annotated[Any, Only([], "nothing is moderated here; remove it")] = None

    @property
    def token_limit(self) -> int:
        """Longest continuation."""
        return self.max_completion_tokens or self.max_tokens or 256

    @property
    def wants_logprobs(self) -> bool:
        """Whether tokens are to be told one by one."""
        return self.logprobs


class GuidanceBody(Body):
    """``PATCH /v1/completions/ID/guidance``."""

    guidance: GuidanceField = Field(min_length=1)
