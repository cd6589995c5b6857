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
from serve import deploy
from serve.common.streaming import GrowingText
from tests.observing import cluster_address
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
    with pytest.raises(openai.UnprocessableEntityError, match="temperature"):
        client.completions.create(model=model, prompt="x", temperature=9)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"max_tokens": -5}, 422, "max_tokens"),
        ({"max_tokens": "many"}, 422, "max_tokens"),
        ({"guidance": {"kindness": 1.0}}, 422, "known: sentiment, brevity"),
        ({"guidance": {"sentiment": -1.0}}, 422, "guidance.sentiment"),
        ({"guidance": {"sentiment": [[4, 1.0], [2, 1.0]]}}, 422, "ascend"),
        ({"stop": ["a", ""]}, 422, "stop"),
        ({"surprise": 1}, 422, "surprise"),
        ({"prompt": None}, 422, "prompt"),
        ({"prompt": "dress " * 100}, 413, "at most 60"),
        ({"max_tokens": 4000}, 422, "exceed 256"),
        ({"model": "gpt"}, 404, "is not served"),
        ({"n": ROWS + 1}, 503, "try again"),
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
    if status == 503:
        assert answer.headers["retry-after"]


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
                assert patch({"x": 1.0}) == patch({"sentiment": [[4, 1.0], [2, 1.0]]}) == 422
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
