"""What the OpenAI protocol's bodies take, let by and refuse, and how the tokens of a row are told; without a service."""

import asyncio
import json
from concurrent.futures import Future
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import PreTrainedTokenizerFast

from rayworks.core.errors import DataError
from rayworks.lm.engine import GenerationRequest
from rayworks.lm.rows import Row
from serve.apps.alignment import Alignment, Args
from serve.apps.alignment_answers import Asked
from serve.common.openai import ChatBody, CompletionBody
from serve.common.openai_answers import DrawnTokens, Model
from serve.common.streaming import GrowingText
from tests.tiny_models import make_tokenizer

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
IDLE: dict[str, list[Any]] = {
    "tools": [[]],
    "functions": [[]],
    "tool_choice": ["none", "auto"],
    "function_call": ["none", "auto"],
    "response_format": [{"type": "text"}],
    "modalities": [["text"]],
    "logit_bias": [{}],
    "presence_penalty": [0, 0.0],
    "frequency_penalty": [0],
    "top_logprobs": [0],
    "verbosity": ["medium"],
    "parallel_tool_calls": [True, False],
    "metadata": [{"a": "b"}],
    "store": [True],
    "prediction": [{"type": "content", "content": "a"}],
    "prompt_cache_key": ["k"],
    "safety_identifier": ["s"],
    "reasoning_effort": ["none"],
}
REFUSED: dict[str, Any] = {
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "functions": [{"name": "f"}],
    "tool_choice": "required",
    "response_format": {"type": "json_object"},
    "modalities": ["text", "audio"],
    "audio": {"voice": "x"},
    "logit_bias": {"5": -100},
    "presence_penalty": 0.1,
    "frequency_penalty": -2,
    "top_logprobs": 3,
    "reasoning_effort": "high",
    "web_search_options": {},
    "moderation": {"model": "x"},
    "suffix": "only completions have one",
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in IDLE.items() for value in values])
def test_what_changes_nothing_is_let_by(name: str, value: Any) -> None:
    said = ChatBody.model_validate({**CHAT, name: value}).model_dump(exclude={name})
    assert said == ChatBody.model_validate(CHAT).model_dump(exclude={name})


@pytest.mark.parametrize("name", sorted({*ChatBody.model_fields} - {"model", "messages"}))
def test_null_is_absent(name: str) -> None:
    assert ChatBody.model_validate({**CHAT, name: None}) == ChatBody.model_validate(CHAT)


@pytest.mark.parametrize(("name", "value"), REFUSED.items())
def test_what_would_change_the_answer_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValidationError) as found:
        ChatBody.model_validate({**CHAT, name: value})
    [error] = found.value.errors()
    assert error["loc"][0] == name


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([5, 6], [(5, 6)]),
        ([[5], [6, 7]], [(5,), (6, 7)]),
        ("", None),
        ([], None),
        ([[]], None),
        ([True], None),
        ([5, -1], None),
        ([5, "a"], None),
        ({"a": 1}, None),
    ],
)
def test_prompts_are_texts_or_ids(given: Any, read: Any) -> None:
    if read is None:
        with pytest.raises(ValidationError, match="token ids from 0 on"):
            CompletionBody.model_validate({"model": "m", "prompt": given})
    else:
        assert CompletionBody.model_validate({"model": "m", "prompt": given}).prompt == read


def test_templates_read_parts_as_one_text_and_a_developer_as_the_system() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    turns = [{"role": "developer", "content": parts}, {"role": "tool", "content": "4", "tool_call_id": "x"}]
    system, tool = ChatBody.model_validate({**CHAT, "messages": turns}).messages
    assert system.as_template_reads_it() == {"role": "system", "content": "a\nb"}
    assert tool.as_template_reads_it() == {"role": "tool", "content": "4", "tool_call_id": "x"}


TOKENIZER: PreTrainedTokenizerFast = make_tokenizer()


@given(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=3) | st.none())
def test_tokens_of_any_text_join_to_it_whole_and_as_it_grows(text: str, stop: str | None) -> None:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    stops = (stop,) if stop else ()
    row = Row(GenerationRequest(prompt="a", stop=stops), ((1,),))
    growing, streamed = GrowingText(stops), list[Any]()
    drawn = DrawnTokens(row, TOKENIZER)
    for number, token in enumerate(ids):
        row.tokens.append(token)
        row.reports.append({"logprob": -float(number), "base_logprob": -1.0, "weight:a": 0.0, "reward_logprob:a": 0.0})
        row.text = TOKENIZER.decode(row.tokens, skip_special_tokens=True)
        if stop and stop in row.text:
            row.text, row.finish_reason = row.text[: row.text.index(stop)], "stop"
        elif number == len(ids) - 1:
            row.finish_reason = "length"
        growing.piece(row.text, row.finish_reason is not None)
        streamed += drawn.take(growing.sent)
        # A token is told only once its text has been sent.
        assert all(token.offset <= growing.sent for token in streamed)
        if row.finish_reason:
            break
    whole = DrawnTokens(row, TOKENIZER).take(len(row.text))
    assert streamed == whole
    joined = "".join(token.text for token in whole)
    assert joined[: len(row.text)] == row.text
    assert row.finish_reason == "stop" or joined == row.text
    assert [token.offset for token in whole] == sorted(token.offset for token in whole)
    assert [token.guidance.logprob for token in whole] == [-float(number) for number in range(len(whole))]
    assert not any(token.guidance.reward_logprobs for token in whole), "it did not run"


class Decoding:
    """Fails one row and leaves the others waiting."""

    def __init__(self, failing: Row, error: Exception) -> None:
        self._failing, self._error = failing, error
        self.cancelled: list[Row] = []

    def submit(self, row: Row) -> Future[Row]:
        """As BackgroundDecoding does."""
        future: Future[Row] = Future()
        if row is self._failing:
            future.set_exception(self._error)
        return future

    def cancel(self, row: Row) -> None:
        """Remembered."""
        self.cancelled.append(row)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (DataError("logits: are not numbers; ask again"), "invalid_request_error", "logits: are not numbers"),
        (RuntimeError("/secret/path"), "server_error", "the continuation failed; try again"),
    ],
)
def test_a_row_that_fails_ends_its_stream_alone(error: Exception, kind: str, words: str) -> None:
    rows = [Row(GenerationRequest(prompt="a"), ((1,),)) for _ in range(2)]
    application = object.__new__(Alignment.func_or_class)  # type: ignore[attr-defined]  # a deployment
    application._args = Args(deadline_seconds=5)
    application._decoding = decoding = Decoding(rows[1], error)
    asked = Asked("cmpl-1", rows, 2, False, False, Model(id="m", created=0, objectives=[]), TOKENIZER)
    left: list[bool] = []

    async def ask() -> list[str]:
        return [event async for event in application._stream(asked, False, lambda: left.append(True))]

    [event] = asyncio.run(ask())
    told = json.loads(event.removeprefix("data: "))["error"]
    assert told["type"] == kind
    assert words in told["message"]
    assert "secret" not in told["message"]
    assert decoding.cancelled == rows
    assert left == [True]
