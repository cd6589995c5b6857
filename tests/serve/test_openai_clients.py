"""Clients of the OpenAI protocol, as their packages send and read it, against the alignment application."""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI, OpenAI

from tests.serve.deployment import Deployment

PROMPT = "a dress:"
CHAT: list[Any] = [{"role": "user", "content": "a shirt"}]
TOKENS = 6
GUIDED: dict[str, Any] = {"guidance": {"sentiment": 1.0}}


@pytest.fixture(scope="module")
def base_url(deployment: Deployment) -> str:
    return f"{deployment.url('alignment')}/v1"


@pytest.fixture(scope="module")
def key(deployment: Deployment) -> str:
    return deployment.keys["tester"]


@pytest.fixture(scope="module")
def model(deployment: Deployment) -> str:
    return str(deployment.ask("alignment", "v1/models").json()["data"][0]["id"])


@pytest.fixture(scope="module")
def texts(deployment: Deployment, model: str) -> tuple[str, str]:
    """What every client is to read: the completion and the chat, guided, of seed 1."""
    shared: dict[str, Any] = {"model": model, "max_tokens": TOKENS, "seed": 1, **GUIDED}
    written = deployment.ask("alignment", "v1/completions", prompt=PROMPT, **shared).json()["choices"][0]["text"]
    said = deployment.ask("alignment", "v1/chat/completions", messages=CHAT, **shared).json()["choices"][0]["message"]
    assert written
    assert said["content"]
    return written, said["content"]


def test_openai(base_url: str, key: str, model: str, texts: tuple[str, str]) -> None:
    client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)
    shared: dict[str, Any] = {"model": model, "max_tokens": TOKENS, "seed": 1, "extra_body": GUIDED}
    shared |= {"stop": None, "logit_bias": {}, "temperature": openai.omit}
    written = client.completions.create(prompt=PROMPT, logprobs=1, suffix=None, **shared).choices[0]
    assert written.text == texts[0]
    assert written.logprobs is not None
    assert "".join(written.logprobs.tokens or []) == texts[0]
    said = client.chat.completions.create(messages=CHAT, logprobs=True, tool_choice="none", **shared).choices[0]
    assert said.message.content == texts[1]
    assert said.logprobs is not None
    assert "".join(token.token for token in said.logprobs.content or []) == texts[1]
    echoed = [*CHAT, said.message.model_dump(), {"role": "developer", "content": "Go on."}]
    assert client.chat.completions.create(messages=echoed, **shared).choices[0].message.content
    with client.chat.completions.stream(messages=CHAT, logprobs=True, **shared) as stream:
        stream.until_done()
        assert stream.current_completion_snapshot.choices[0].message.content == texts[1]
    parts = client.completions.create(prompt=PROMPT, stream=True, **shared)
    assert "".join(part.choices[0].text for part in parts) == texts[0]
    for wrong, kind in (
        ({"model": "gpt"}, openai.NotFoundError),
        ({"logit_bias": {"5": 1}}, openai.BadRequestError),
        ({"extra_body": {"surprise": 1}}, openai.BadRequestError),
        ({"n": 100}, openai.BadRequestError),
    ):
        with pytest.raises(kind) as found:
            client.chat.completions.create(messages=CHAT, **{**shared, **wrong})
        assert found.value.type == "invalid_request_error"  # type: ignore[attr-defined]  # an APIError


def test_openai_async(base_url: str, key: str, model: str, texts: tuple[str, str]) -> None:
    shared: dict[str, Any] = {"model": model, "max_tokens": TOKENS, "seed": 1, "extra_body": GUIDED}

    async def ask() -> None:
        async with openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0) as client:
            assert [one.id async for one in client.models.list()] == [model]
            both = await asyncio.gather(
                client.completions.create(prompt=PROMPT, **shared),
                client.completions.create(prompt=[PROMPT], **shared),
            )
            assert [one.choices[0].text for one in both] == [texts[0]] * 2
            stream = await client.chat.completions.create(
                messages=CHAT, stream=True, stream_options={"include_usage": True}, **shared
            )
            parts = [part async for part in stream]
            assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == texts[1]
            assert [part.usage is not None for part in parts] == [False] * (len(parts) - 1) + [True]

    asyncio.run(ask())


def test_langchain(base_url: str, key: str, model: str, texts: tuple[str, str]) -> None:
    shared: dict[str, Any] = {"base_url": base_url, "api_key": key, "model": model, "max_retries": 0}
    shared |= {"max_tokens": TOKENS, "seed": 1, "extra_body": GUIDED, "temperature": 1.0}
    written = OpenAI(**shared)
    assert written.invoke(PROMPT) == texts[0]
    first, second = written.batch([PROMPT, PROMPT])
    assert first == texts[0] != second, "one request of two prompts, whose choices have seeds of their own"
    assert "".join(written.stream(PROMPT)) == texts[0]
    chat = ChatOpenAI(**shared)
    said = chat.invoke("a shirt")
    assert said.content == texts[1]
    assert said.usage_metadata is not None
    assert said.usage_metadata["output_tokens"] >= 1
    assert "".join(str(part.content) for part in chat.stream([("user", "a shirt")])) == texts[1]
    known = chat.bind(logprobs=True).invoke("a shirt").response_metadata["logprobs"]["content"]
    assert "".join(token["token"] for token in known) == texts[1]
    with pytest.raises(openai.BadRequestError, match="tools"):
        chat.bind(tools=[{"type": "function", "function": {"name": "f"}}]).invoke("a shirt")


@pytest.fixture(scope="module")
def litellm() -> Iterator[Any]:
    """Where it is installed: 85 MB are more than the development environment asks for."""
    before = os.environ.get("LITELLM_LOCAL_MODEL_COST_MAP")
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    yield pytest.importorskip("litellm")
    if before is None:
        del os.environ["LITELLM_LOCAL_MODEL_COST_MAP"]


def test_litellm(litellm: Any, base_url: str, key: str, model: str, texts: tuple[str, str]) -> None:
    shared: dict[str, Any] = {"api_base": base_url, "api_key": key, "max_tokens": TOKENS, "seed": 1, "num_retries": 0}
    shared |= {"extra_body": GUIDED}
    said = litellm.completion(model=f"openai/{model}", messages=CHAT, **shared)
    assert said.choices[0].message.content == texts[1]
    parts = litellm.completion(model=f"openai/{model}", messages=CHAT, stream=True, **shared)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == texts[1]
    written = litellm.text_completion(model=f"text-completion-openai/{model}", prompt=PROMPT, **shared)
    assert written.choices[0].text == texts[0]
    with pytest.raises(litellm.BadRequestError, match="logit_bias"):
        litellm.completion(model=f"openai/{model}", messages=CHAT, logit_bias={"5": 1}, **shared)
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(model="openai/other", messages=CHAT, **shared)
