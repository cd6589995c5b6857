"""What the OpenAI protocol's bodies take, let by and refuse, and how the tokens of a row are told; without a service."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import PreTrainedTokenizerFast

from rayworks.lm.continuous_batching import Row
from rayworks.lm.engine import GenerationRequest
from serve.common.openai import ChatBody, CompletionBody
from serve.common.openai_answers import DrawnTokens
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
    ChatBody.model_validate({**CHAT, name: value})


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
