"""The alignment application over real HTTP on the shared cluster."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml
from ray.util.state import list_actors

from rayworks.core.errors import ConfigError, DataError
from serve import deploy
from serve.common import keys
from serve.common.access import Access
from serve.common.problems import Problem
from serve.common.streaming import GrowingText
from tests.conftest import FinishedRun
from tests.serve.deployment import deployed

PROMPT = "a dress:"


@pytest.fixture(scope="module")
def service(
    finished_runs: Callable[[str], FinishedRun], cluster: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """URL and key of the deployed application."""
    folder = tmp_path_factory.mktemp("serve")
    key_file = folder / "keys"
    key = keys.create("tester", str(key_file))
    args = {
        "export": str(finished_runs("alignment").directory / "export"),
        "api_keys": str(key_file),
        "slots": 2,
        "max_waiting": 3,
        "max_prompt_tokens": 60,
        "concurrent_per_key": 64,
        "deadline_seconds": 8,
        "num_cpus": 1,
    }
    with deployed(cluster, folder, "alignment", {"alignment": args}) as (url,):
        yield url, key


@pytest.fixture(scope="module")
def model(service: tuple[str, str]) -> str:
    url, key = service
    models = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}).json()
    assert models["data"][0]["objectives"] == ["sentiment", "brevity"]
    return str(models["data"][0]["id"])


Post = Callable[..., httpx.Response]


@pytest.fixture
def post(service: tuple[str, str], model: str) -> Post:
    url, key = service

    def send(path: str = "/v1/completions", **body: Any) -> httpx.Response:
        content = {"model": model, "prompt": PROMPT, "max_tokens": 6, **body}
        content = {name: value for name, value in content.items() if value is not None}
        return httpx.post(url + path, json=content, headers={"Authorization": f"Bearer {key}"}, timeout=60)

    return send


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


def test_stock_openai_client_works_unchanged(service: tuple[str, str], model: str, post: Post) -> None:
    url, key = service
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
        ({"n": 6}, 503, "try again"),
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


def test_keys_are_asked_for_and_open_paths_are_open(service: tuple[str, str]) -> None:
    url, _ = service
    assert httpx.get(f"{url}/v1/models").status_code == 401
    assert httpx.get(f"{url}/v1/models").headers["www-authenticate"] == "Bearer"
    assert httpx.get(f"{url}/v1/models", headers={"Authorization": "Bearer wrong"}).status_code == 403
    assert httpx.post(f"{url}/v1/completions", json={}).status_code == 401
    assert httpx.get(f"{url}/healthz", timeout=30).json()["status"] == "ok"
    assert "/v1/chat/completions" in httpx.get(f"{url}/openapi.json").json()["paths"]
    assert httpx.get(f"{url}/nothing").status_code == 404


def test_oversized_bodies_are_refused_before_they_are_read(service: tuple[str, str]) -> None:
    url, key = service
    answer = httpx.post(
        f"{url}/v1/completions", content=b"x" * 2_000_000, headers={"Authorization": f"Bearer {key}"}, timeout=30
    )
    assert answer.status_code == 413


def test_weights_change_while_a_stream_runs(service: tuple[str, str], model: str) -> None:
    url, key = service
    headers = {"Authorization": f"Bearer {key}"}
    body = {"model": model, "prompt": PROMPT, "max_tokens": 200, "seed": 11, "stream": True, "stop": None}
    body["guidance"] = {"sentiment": 0.0, "brevity": 0.0}
    changed, text = False, ""
    with httpx.stream("POST", f"{url}/v1/completions", json=body, headers=headers, timeout=60) as answer:
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            text += chunk["choices"][0]["text"]
            if not changed:
                completion = chunk["id"]
                patched = httpx.patch(
                    f"{url}/v1/completions/{completion}/guidance",
                    json={"guidance": {"sentiment": 4.0}},
                    headers=headers,
                )
                assert patched.status_code == 204
                changed = True
                for wrong in ({"x": 1.0}, {"sentiment": [[4, 1.0], [2, 1.0]]}):
                    refused = httpx.patch(
                        f"{url}/v1/completions/{completion}/guidance", json={"guidance": wrong}, headers=headers
                    )
                    assert refused.status_code == 422
    assert changed
    left_alone = httpx.post(f"{url}/v1/completions", json={**body, "stream": False}, headers=headers, timeout=60).json()
    assert left_alone["choices"][0]["text"][:3] == text[:3]
    assert left_alone["choices"][0]["text"] != text
    gone = httpx.patch(
        f"{url}/v1/completions/{completion}/guidance", json={"guidance": {"sentiment": 1.0}}, headers=headers
    )
    assert gone.status_code == 404


def test_a_full_queue_says_so_and_takes_up_again(post: Post) -> None:
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(post(max_tokens=150, seed=1).status_code)) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= 5
    assert post().status_code == 200


def test_one_key_can_not_take_every_place(tmp_path: Path) -> None:
    key = keys.create("ann", str(tmp_path / "keys"))
    access = Access(keys.ApiKeys(str(tmp_path / "keys")), concurrent_per_key=2)
    owner = access.owner(f"Bearer {key}")
    access.enter(owner)
    access.enter(owner)
    with pytest.raises(Problem) as caught:
        access.enter(owner)
    assert (caught.value.status, caught.value.retry_after) == (429, 1)
    access.leave(owner)
    access.enter(owner)
    with pytest.raises(Problem) as refused:
        access.owner("Bearer wrong")
    assert refused.value.status == 403


def test_a_killed_replica_is_replaced_and_answers_as_before(post: Post) -> None:
    before = post(seed=8).json()["choices"][0]["text"]
    replicas = [
        actor for actor in list_actors(filters=[("state", "=", "ALIVE")]) if "guided-generation" in (actor.name or "")
    ]
    assert len(replicas) == 1
    os.kill(replicas[0].pid, signal.SIGKILL)
    deadline = time.monotonic() + 90
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


def test_keys_are_stored_hashed_replaced_and_reread(tmp_path: Path) -> None:
    file = str(tmp_path / "keys")
    first = keys.create("ann", file)
    known = keys.ApiKeys(file)
    assert known.owner(first) == "ann"
    assert first not in Path(file).read_text()
    os.utime(file, (1, 1))
    second = keys.create("ann", file)
    assert (known.owner(first), known.owner(second)) == (None, "ann")
    with pytest.raises(DataError, match="make one"):
        keys.ApiKeys(str(tmp_path / "missing"))
    Path(file).write_text("broken line here\n")
    with pytest.raises(DataError, match="line 1"):
        keys.ApiKeys(file)
    assert known.owner(second) == "ann", "a broken file leaves the keys that were read before"


def test_streamed_text_only_grows_and_hides_what_may_become_a_stop() -> None:
    text = GrowingText(stop=("END",))
    pieces = [text.piece(whole, False) for whole in ("a", "a \ufffd", "a é", "a éE", "a éEN", "a éENx")]
    assert pieces == ["a", " ", "é", "", "", "ENx"]
    assert text.piece("a éENx", True) == ""
    wide = GrowingText(stop=("\n用户",))
    assert wide.piece("a\n\ufffd", False) == "a"
