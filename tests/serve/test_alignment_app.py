"""The alignment application over real HTTP on the shared cluster."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml
from ray.util.state import list_actors

from rayworks.core.errors import ConfigError
from rayworks.lm.checkpoints import load_tokenizer
from serve import deploy
from serve.common.streaming import GrowingText
from tests.observing import cluster_address
from tests.serve.applications import ORIGIN
from tests.serve.deployment import Deployment

PROMPT = "a dress:"
ROWS = 15
"""Rows that the application takes at a time: one decodes, the others wait."""


Post = Callable[..., httpx.Response]


@pytest.fixture
def url(deployment: Deployment) -> str:
    return deployment.url("alignment")


@pytest.fixture
def header(deployment: Deployment) -> dict[str, str]:
    return deployment.header("tester")


@pytest.fixture
def model(deployment: Deployment) -> str:
    models = deployment.ask("alignment", "v1/models").json()
    assert models["data"][0]["objectives"] == ["sentiment", "brevity"]
    return str(models["data"][0]["id"])


@pytest.fixture
def post(deployment: Deployment, model: str) -> Post:
    def send(**body: Any) -> httpx.Response:
        content = {"model": model, "prompt": PROMPT, "max_tokens": 6, **body}
        content = {name: value for name, value in content.items() if value is not None}
        return deployment.ask("alignment", "v1/completions", **content)

    return send


@contextmanager
def streamed(url: str, header: dict[str, str], model: str, **body: Any) -> Iterator[Iterator[dict[str, Any]]]:
    """Chunks of all rows that the application can hold, of which one decodes at a time.

    Whoever has read the first chunk knows that some three thousand tokens are still to come.
    """
    content = {"model": model, "prompt": PROMPT, "max_tokens": 200, "n": ROWS, "seed": 11, "stream": True, **body}
    with httpx.stream("POST", f"{url}/v1/completions", json=content, headers=header, timeout=120) as answer:
        assert answer.status_code == 200
        yield (json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {"))


def test_completion_is_reproducible_and_reports_its_guidance(post: Post) -> None:
    first, again = (post(seed=3, guidance={"sentiment": 1.5}) for _ in range(2))
    assert first.status_code == 200
    choice = first.json()["choices"][0]
    assert choice == again.json()["choices"][0]
    assert set(choice["guidance"]["weights"]["sentiment"]) == {1.5}
    assert choice["guidance"]["kl_to_base"] > 0
    base = post(seed=3).json()["choices"][0]
    assert base["guidance"]["kl_to_base"] == 0
    assert base["guidance"]["log_z"] == 0
    assert first.headers["x-request-id"]


def test_stock_openai_client_works_unchanged(deployment: Deployment, url: str, model: str, post: Post) -> None:
    key = deployment.keys["tester"]
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
    assert [entry.id for entry in client.models.list()] == [model]
    whole = client.completions.create(
        model=model, prompt=PROMPT, max_tokens=8, seed=5, n=2, extra_body={"guidance": {"sentiment": 1.0}}
    )
    assert [choice.text for choice in whole.choices] == [
        post(seed=5 + n, max_tokens=8, guidance={"sentiment": 1.0}).json()["choices"][0]["text"] for n in range(2)
    ]
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chat = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "a shirt"}], max_completion_tokens=7, seed=1
    )
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "a shirt"}],
        max_tokens=7,
        seed=1,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        == chat.choices[0].message.content
    )
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == chat.usage.completion_tokens
    with pytest.raises(openai.PermissionDeniedError):
        openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0).models.list()
    with pytest.raises(openai.BadRequestError, match="temperature") as found:
        client.completions.create(model=model, prompt="x", temperature=9)
    assert (found.value.param, found.value.type) == ("temperature", "invalid_request_error")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"max_tokens": -5}, 400, "max_tokens"),
        ({"max_tokens": "many"}, 400, "max_tokens"),
        ({"guidance": {"kindness": 1.0}}, 400, "known: sentiment, brevity"),
        ({"guidance": {"sentiment": -1.0}}, 400, "guidance.sentiment"),
        ({"guidance": {"sentiment": [[4, 1.0], [2, 1.0]]}}, 400, "ascend"),
        ({"stop": ["a", ""]}, 400, "stop"),
        ({"surprise": 1}, 400, "Unrecognized request argument supplied: surprise"),
        ({"prompt": None}, 400, "prompt"),
        ({"prompt": "dress " * 100}, 400, "at most 60"),
        ({"prompt": [5, 10**6]}, 400, "has tokens that a model does not have: 1000000; send ids below"),
        ({"prompt": [[5], []]}, 400, "token ids from 0 on"),
        ({"max_tokens": 4000}, 400, "exceed 256"),
        ({"model": "gpt"}, 404, "is not served"),
        ({"n": ROWS + 1}, 400, f"at most {ROWS} are held"),
        ({"n": 8, "prompt": ["a", "b"]}, 400, "16 continuations are asked for"),
        ({"logit_bias": {"5": 1}}, 400, "logit_bias: is not done here; remove its entries"),
        ({"presence_penalty": 0.5}, 400, "presence_penalty: is not done here; send 0"),
        ({"echo": True}, 400, "echo: is not done here"),
        ({"logprobs": 5}, 400, "logprobs: alternatives to the drawn tokens are not reported"),
        ({"best_of": 3, "n": 2}, 400, "best_of: nothing is ranked here"),
    ],
)
def test_bad_requests_get_one_clear_answer(post: Post, body: dict[str, Any], status: int, words: str) -> None:
    answer = post(**body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert words in problem["detail"]
    assert problem["type"].startswith("urn:rayworks:problem:")
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["x-request-id"]
    error = problem["error"]
    assert (error["message"], error["type"]) == (problem["detail"], "invalid_request_error")
    [field] = body if len(body) == 1 else [words.split(":")[0]]
    if field == "max_tokens" or status == 404:
        assert error["param"] == field
        assert error["code"] in ("invalid-request", "context_length_exceeded", "model_not_found")


IDLE: dict[str, Any] = {
    **{"logit_bias": {}, "best_of": 1, "suffix": "", "user": "u", "metadata": {"a": "b"}, "store": True},
    **{"service_tier": "auto", "echo": False, "presence_penalty": 0, "frequency_penalty": 0.0, "stop": []},
}


def test_what_changes_nothing_changes_nothing(deployment: Deployment, model: str, post: Post) -> None:
    plain = post(seed=3).json()["choices"]
    assert post(seed=3, **IDLE).json()["choices"] == plain
    nulls = dict.fromkeys((*IDLE, "temperature", "top_p", "n", "stream", "stream_options", "logprobs", "guidance"))
    content = {"model": model, "prompt": PROMPT, "max_tokens": 6, "seed": 3, **nulls}
    assert deployment.ask("alignment", "v1/completions", **content).json()["choices"] == plain


def test_prompts_come_as_texts_and_as_ids(post: Post, model: str) -> None:
    answers = post(prompt=[PROMPT, "a shirt:"], n=2, seed=3).json()
    assert [choice["index"] for choice in answers["choices"]] == [0, 1, 2, 3]
    texts = [choice["text"] for choice in answers["choices"]]
    alone = [post(prompt=prompt, n=2, seed=seed).json() for prompt, seed in ((PROMPT, 3), ("a shirt:", 5))]
    assert texts == [choice["text"] for answer in alone for choice in answer["choices"]]
    assert answers["usage"]["prompt_tokens"] == sum(answer["usage"]["prompt_tokens"] for answer in alone)
    ids = load_tokenizer(model)(PROMPT)["input_ids"]
    assert post(prompt=ids, seed=3).json()["choices"][0]["text"] == texts[0]
    both = post(prompt=[ids, ids], seed=3).json()["choices"]
    assert [choice["text"] for choice in both] == texts[:2]


@pytest.mark.parametrize("chat", [False, True])
def test_logprobs_are_those_of_the_drawn_tokens_whole_and_streamed(
    deployment: Deployment, url: str, header: dict[str, str], model: str, chat: bool
) -> None:
    path = "v1/chat/completions" if chat else "v1/completions"
    asked = {"messages": [{"role": "user", "content": "a shirt"}]} if chat else {"prompt": PROMPT}
    body = {**asked, "model": model, "max_tokens": 9, "seed": 4, "logprobs": chat or 0, "guidance": {"sentiment": 1.0}}
    [choice] = deployment.ask("alignment", path, **body).json()["choices"]
    tokens, values = told(choice["logprobs"], chat)
    assert "".join(tokens) == (choice["message"]["content"] if chat else choice["text"])
    guidance = choice["guidance"]
    if choice["finish_reason"] == "length":
        assert sum(token["base_logprob"] for token in guidance["tokens"]) == pytest.approx(guidance["base_logprob"])
        rewards = sum(token["reward_logprobs"]["sentiment"] for token in guidance["tokens"])
        assert rewards == pytest.approx(guidance["reward_logprobs"]["sentiment"])
    assert [token["logprob"] for token in guidance["tokens"]] == values
    # log pi = log pi_b + log pi_r - log Z, token by token.
    mixed = guidance["base_logprob"] + guidance["reward_logprobs"]["sentiment"] - guidance["log_z"]
    if choice["finish_reason"] == "length":
        assert sum(values) == pytest.approx(mixed, abs=1e-3)
    streamed_tokens, streamed_values, streamed_guidance = list[str](), list[float](), list[dict[str, Any]]()
    with httpx.stream("POST", f"{url}/{path}", json={**body, "stream": True}, headers=header, timeout=120) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {") and (logprobs := (part := json.loads(line[6:])["choices"][0])["logprobs"]):
                more, numbers = told(logprobs, chat)
                streamed_tokens, streamed_values = [*streamed_tokens, *more], [*streamed_values, *numbers]
                streamed_guidance += part.get("guidance", {}).get("tokens", [])
    assert (streamed_tokens, streamed_values, streamed_guidance) == (tokens, values, guidance["tokens"])


def told(logprobs: dict[str, Any], chat: bool) -> tuple[list[str], list[float]]:
    """Tokens and their log-probabilities."""
    if not chat:
        assert logprobs["text_offset"] == sorted(logprobs["text_offset"])
        return logprobs["tokens"], logprobs["token_logprobs"]
    content = logprobs["content"]
    assert all(bytes(one["bytes"]).decode() == one["token"] for one in content)
    return [one["token"] for one in content], [one["logprob"] for one in content]


CHATS: list[tuple[list[dict[str, Any]], int, str]] = [
    (
        [{"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}, {"role": "user", "content": "a"}],
        200,
        "",
    ),
    ([{"role": "user", "content": "a", "name": "ann"}, {"role": "assistant", "content": None}], 200, ""),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], 400, "part of type image_url"),
    ([{"role": "user", "content": None}], 400, "content is missing or null"),
    ([{"role": "assistant", "tool_calls": [{"id": "a"}]}], 400, "messages.0.tool_calls: the model's chat template"),
]


@pytest.mark.parametrize(("messages", "status", "words"), CHATS)
def test_messages_of_all_kinds(
    deployment: Deployment, model: str, messages: list[dict[str, Any]], status: int, words: str
) -> None:
    asked = {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "parallel_tool_calls": True}
    answer = deployment.ask(
        "alignment", "v1/chat/completions", model=model, messages=messages, max_completion_tokens=2, **asked
    )
    assert answer.status_code == status, answer.text
    assert words in answer.text


def test_pages_of_a_named_origin_get_leave_without_a_key(url: str, header: dict[str, str]) -> None:
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    leave = httpx.options(f"{url}/v1/completions", headers=asked)
    assert (leave.status_code, leave.headers["access-control-allow-origin"]) == (200, ORIGIN)
    models = httpx.get(f"{url}/v1/models", headers={**header, "Origin": ORIGIN})
    assert models.headers["access-control-allow-origin"] == ORIGIN


def test_one_model_is_found_by_its_id_which_may_have_slashes(deployment: Deployment, url: str, model: str) -> None:
    assert "/" in model
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=deployment.keys["tester"], max_retries=0)
    assert client.models.retrieve(model).id == model
    with pytest.raises(openai.NotFoundError, match="is not served here") as found:
        client.models.retrieve("owner/other")
    assert (found.value.code, found.value.param) == ("model_not_found", "model")


def test_keys_are_asked_for_and_open_paths_are_open(url: str, header: dict[str, str]) -> None:
    assert httpx.get(f"{url}/v1/models").status_code == 401
    assert httpx.get(f"{url}/v1/models").headers["www-authenticate"] == "Bearer"
    assert httpx.get(f"{url}/v1/models", headers={"Authorization": "Bearer wrong"}).status_code == 403
    assert httpx.post(f"{url}/v1/completions", json={}).status_code == 401
    assert httpx.get(f"{url}/healthz", timeout=30).json()["status"] == "ok"
    assert "/v1/chat/completions" in httpx.get(f"{url}/openapi.json").json()["paths"]
    assert httpx.get(f"{url}/nothing").status_code == 401
    assert httpx.get(f"{url}/nothing", headers=header).status_code == 404


def test_oversized_bodies_are_refused_before_they_are_read(url: str, header: dict[str, str]) -> None:
    answer = httpx.post(f"{url}/v1/completions", content=b"x" * 2_000_000, headers=header, timeout=30)
    assert answer.status_code == 413


def test_weights_change_while_a_stream_runs(url: str, header: dict[str, str], model: str, post: Post) -> None:
    def patch(guidance: dict[str, Any]) -> int:
        path = f"{url}/v1/completions/{completion}/guidance"
        return httpx.patch(path, json={"guidance": guidance}, headers=header, timeout=60).status_code

    unguided: dict[str, Any] = {"guidance": {"sentiment": 0.0, "brevity": 0.0}}
    texts, used, completion = [""] * ROWS, list[float](), ""
    with streamed(url, header, model, **unguided) as chunks:
        for chunk in chunks:
            if not completion:
                completion = chunk["id"]
                assert patch({"sentiment": 4.0}) == 204
                assert patch({"x": 1.0}) == patch({"sentiment": [[4, 1.0], [2, 1.0]]}) == 422, "a route of ours"
            [choice] = chunk["choices"]
            texts[choice["index"]] += choice["text"]
            if choice["finish_reason"]:
                used += choice["guidance"]["weights"].get("sentiment", [0.0])
    assert used == sorted(used), "the change holds from one token on"
    assert (used[0], used[-1]) == (0.0, 4.0)
    alone = post(max_tokens=200, n=ROWS, seed=11, **unguided).json()["choices"]
    assert alone[0]["text"][:1] == texts[0][:1]
    assert alone[-1]["text"] != texts[-1]
    guided = post(max_tokens=200, n=ROWS, seed=11, guidance={"sentiment": 4.0, "brevity": 0.0}).json()["choices"]
    assert guided[-1]["text"] == texts[-1]
    assert patch({"sentiment": 1.0}) == 404


def test_a_full_queue_says_so_and_takes_up_again(url: str, header: dict[str, str], model: str, post: Post) -> None:
    with streamed(url, header, model) as chunks:
        next(chunks)
        full = post(n=ROWS)
        assert (full.status_code, full.headers["retry-after"]) == (503, "2")
    deadline = time.monotonic() + 120
    while (answer := post(n=ROWS, max_tokens=1)).status_code == 503:
        assert time.monotonic() < deadline, "who is gone holds no place"
    assert answer.status_code == 200


def test_a_killed_replica_is_replaced_and_answers_as_before(post: Post) -> None:
    before = post(seed=8).json()["choices"][0]["text"]
    replicas = [
        actor
        for actor in list_actors(cluster_address(), filters=[("state", "=", "ALIVE")])
        if "guided-generation" in (actor.name or "")
    ]
    assert len(replicas) == 1
    os.kill(replicas[0].pid, signal.SIGKILL)
    deadline = time.monotonic() + 300
    while True:
        try:
            answer = post(seed=8)
            if answer.status_code == 200:
                break
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert answer.json()["choices"][0]["text"] == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"routes": "/x"}, "routes is not a key"),
        ({"applications": [{"name": "a", "import_path": "serve.apps.alignment:build", "surprise": 1}]}, "surprise"),
        ({"applications": [{"name": "a", "import_path": "serve.apps.alignment:build", "args": {"slot": 1}}]}, "slot"),
    ],
)
def test_serve_configs_with_keys_that_nothing_reads_are_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({"applications": [], **change}))
    with pytest.raises(ConfigError, match=words):
        deploy.load_config(file)


def test_repository_serve_configs_are_valid() -> None:
    for name in ("config.yaml", "config.smoke.yaml"):
        assert deploy.load_config(Path(deploy.__file__).parent / name)["applications"]


def test_streamed_text_only_grows_and_hides_what_may_become_a_stop() -> None:
    text = GrowingText(stop=("END",))
    pieces = [text.piece(whole, False) for whole in ("a", "a \ufffd", "a é", "a éE", "a éEN", "a éENx")]
    assert pieces == ["a", " ", "é", "", "", "ENx"]
    assert text.piece("a éENx", True) == ""
    wide = GrowingText(stop=("\n用户",))
    assert wide.piece("a\n\ufffd", False) == "a"
