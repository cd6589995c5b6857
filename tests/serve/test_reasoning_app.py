"""The reasoning application over real HTTP on the shared cluster."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from rayworks.systems.reasoning.search import records
from tests.serve.deployment import Deployment

NARROW = "reasoning-narrow"
LONG = 5000
"""Simulations of a search that the narrow application does not end before its deadline."""
Solve = Callable[..., httpx.Response]


@pytest.fixture
def solve(deployment: Deployment) -> Solve:
    def send(app: str = "reasoning", key: str = "tester", **body: Any) -> httpx.Response:
        return deployment.ask(app, "v1/reasoning/solve", key, **{"question": "1+2", **body})

    return send


@contextmanager
def streamed(deployment: Deployment, app: str, **body: Any) -> Iterator[Iterator[dict[str, Any]]]:
    url, headers = f"{deployment.url(app)}/v1/reasoning/solve", deployment.header("tester")
    content = {"question": "1+2", "stream": True, **body}
    with httpx.stream("POST", url, json=content, headers=headers, timeout=60) as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
        yield map(json.loads, answer.iter_lines())


def idle(deployment: Deployment, app: str) -> None:
    """Wait until nothing is searched."""
    deadline = time.monotonic() + 60
    while httpx.get(f"{deployment.url(app)}/healthz", timeout=60).json()["searches"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def untimed(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return {name: value for name, value in found.items() if name != "seconds"}


def test_an_answer_says_how_it_is_supported_and_brings_its_tree(solve: Solve) -> None:
    found = solve(question="4+5-7", simulations=40, seed=3, tree=True).json()
    tree = found["tree"]
    [read] = records.read(records.written([tree]), "answer")
    assert read["question"] == "?4+5-7\n"
    assert sum(node["visits"] for node in tree["nodes"] if node["parent"] is None) == found["simulations"] <= 40
    assert (found["answers"], found["tokens"]) == (len(tree["answers"]), tree["drawn_tokens"])
    said = [answer["said"] for answer in tree["answers"]]
    assert found["support"] == said.count(found["answer"]) / len(said)
    shares = [said.count(one) / len(said) for one in dict.fromkeys(said)]
    assert sum(shares) == pytest.approx(1)
    mass: dict[str, float] = {}
    for answer in tree["answers"]:
        if answer["said"] is not None and not answer["repeated"]:
            mass[answer["said"]] = mass.get(answer["said"], 0) + answer["outcome"]
    assert mass[found["answer"]] == max(mass.values())
    assert found["confidence"] == max(a["outcome"] for a in tree["answers"] if a["said"] == found["answer"])
    assert found["by_rule"]["vote"] == found["answer"]
    assert {answer["correct"] for answer in tree["answers"]} == {None} and tree["expected"] is None


@pytest.mark.parametrize("rule", ["greedy", "best-leaf", "rerank", "vote"])
def test_a_rule_chooses_and_all_are_told(solve: Solve, rule: str) -> None:
    found = solve(rule=rule, simulations=12, seed=5).json()
    assert found["answer"] == found["by_rule"][rule]
    assert found["by_rule"] == solve(simulations=12, seed=5).json()["by_rule"]


def test_a_seed_gives_the_same_search_and_none_gives_another(solve: Solve) -> None:
    first, again = (untimed(solve(simulations=16, seed=7, tree=True)) for _ in range(2))
    for one in (first, again):
        del one["tree"]["timing"]
    assert first == again
    seeds = [solve(simulations=1).json()["seed"] for _ in range(2)]
    assert seeds[0] != seeds[1]
    assert untimed(solve(simulations=1, seed=seeds[0]))["seed"] == seeds[0]


def test_questions_at_once_get_the_answers_they_get_alone(solve: Solve) -> None:
    bodies = [{"question": f"{number % 10}+{number // 2}", "simulations": 10, "seed": number} for number in range(12)]
    alone = [untimed(solve(**body)) for body in bodies]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda body: untimed(solve(**body)), bodies))
    assert together == alone


def test_a_stream_tells_of_every_completion(deployment: Deployment, solve: Solve) -> None:
    body = {"question": "3-1", "simulations": 12, "seed": 2}
    with streamed(deployment, "reasoning", **body, tree=True) as lines:
        *events, last = list(lines)
    whole = untimed(solve(**body))
    tree = last["tree"]
    assert last == {**whole, "event": "result", "seconds": last["seconds"], "tree": tree}
    assert [event["event"] for event in events] == ["node"] * whole["simulations"]
    assert [event["simulation"] for event in events] == list(range(1, whole["simulations"] + 1))
    assert events[-1]["tokens"] == whole["tokens"]
    nodes = {tuple(path_of(tree, node)): node for node in tree["nodes"]}
    for event in events:
        node = nodes[tuple(event["node"])]
        assert (event["text"], event["terminal"]) == (node["text"], node["terminal"])
        assert 1 <= event["visits"] <= node["visits"]


def path_of(tree: dict[str, Any], node: dict[str, Any]) -> list[int]:
    """Which child at each step leads to a node of a record."""
    if node["parent"] is None:
        return []
    siblings = [one["id"] for one in tree["nodes"] if one["parent"] == node["parent"]]
    return [*path_of(tree, tree["nodes"][node["parent"]]), siblings.index(node["id"])]


def test_a_client_that_goes_away_ends_its_search(deployment: Deployment, solve: Solve) -> None:
    idle(deployment, NARROW)
    with streamed(deployment, NARROW, simulations=LONG) as lines:
        assert next(lines)["event"] == "node"
        assert solve(NARROW, simulations=1).status_code == 200, "beside the long one"
        with streamed(deployment, NARROW, simulations=LONG) as others:
            next(others)
            full = solve(NARROW, simulations=1)
            assert full.status_code == 503 and full.headers["retry-after"]
    idle(deployment, NARROW)


def test_a_search_that_is_late_ends_too(deployment: Deployment, solve: Solve) -> None:
    idle(deployment, NARROW)
    late = solve(NARROW, simulations=LONG)
    assert late.status_code == 504
    assert "fewer simulations" in late.json()["detail"]
    with streamed(deployment, NARROW, simulations=LONG) as lines:
        *_, last = lines
    assert (last["event"], last["problem"]["code"]) == ("error", "deadline")
    idle(deployment, NARROW)


def test_without_a_head_the_most_frequent_answer_wins(solve: Solve) -> None:
    found = solve(NARROW, simulations=20, seed=1, tree=True).json()
    said = [answer["said"] for answer in found["tree"]["answers"] if answer["said"] is not None]
    assert said.count(found["answer"]) == max(map(said.count, said))
    assert found["confidence"] is None


def test_tokens_bound_a_search(solve: Solve) -> None:
    found = solve(simulations=64, most_tokens=30, seed=1).json()
    assert (found["stopped"], found["simulations"] < 64) == ("budget", True)
    assert 30 <= found["tokens"] < 30 + 65


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"question": ""}, ["question: string should have at least 1 character"]),
        ({"question": "two plus 2"}, ["question: has 'two plus'"]),
        ({"question": "1+1$"}, ["question: has '$'"]),
        ({"question": "1+" * 70 + "1"}, ["question: is 143 tokens", "shorten it"]),
        ({"simulations": 0}, ["simulations: input should be greater than or equal to 1"]),
        ({"simulations": 65}, ["simulations: is 65, at most 64"]),
        ({"most_tokens": 4001}, ["most_tokens: is 4001, at most 4000"]),
        ({"rule": "best"}, ["rule", "vote"]),
        ({"seed": -1}, ["seed"]),
        ({"width": 3}, ["width"]),
    ],
)
def test_bad_requests_get_one_clear_answer(solve: Solve, body: dict[str, Any], words: list[str]) -> None:
    answer = solve(**body)
    assert answer.status_code == 422, answer.text
    for word in words:
        assert word in answer.json()["detail"]


def test_keys_and_open_paths(deployment: Deployment) -> None:
    url = deployment.url("reasoning")
    assert httpx.post(f"{url}/v1/reasoning/solve", json={}).status_code == 401
    health = httpx.get(f"{url}/healthz", timeout=30).json()
    assert (health["status"], health["task"]) == ("ok", "chain-sum")


def finished(deployment: Deployment, job: str) -> dict[str, Any]:
    deadline = time.monotonic() + 300
    while True:
        found: dict[str, Any] = deployment.ask(NARROW, f"v1/reasoning/jobs/{job}").json()
        if found["state"] not in ("pending", "running"):
            return found
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.mark.slow
def test_a_long_search_is_a_job_that_answers_as_a_short_one_does(deployment: Deployment, solve: Solve) -> None:
    body = {"question": "2+6", "most_tokens": 200, "seed": 9}
    assert "stream" in solve(NARROW, **body, simulations=LONG + 1, stream=True).json()["detail"]
    accepted = solve(NARROW, **body, simulations=LONG + 1, rule="best-leaf")
    assert accepted.status_code == 202, accepted.text
    job = accepted.json()["job"]
    assert accepted.headers["location"].endswith(f"/{NARROW}/v1/reasoning/jobs/{job}")
    assert deployment.ask(NARROW, f"v1/reasoning/jobs/{job}", "other").status_code == 404
    assert solve(NARROW, **body, simulations=LONG + 1).status_code == 429
    found = finished(deployment, job)
    assert found["state"] == "succeeded", found
    result = {name: value for name, value in found["result"].items() if name != "seconds"}
    assert result == untimed(solve(NARROW, **body, simulations=LONG, rule="best-leaf"))
    tree = deployment.ask(NARROW, f"v1/reasoning/jobs/{job}?tree=true").json()["result"]["tree"]
    assert tree["question"] == "?2+6\n"
