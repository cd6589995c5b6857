"""A model behind HTTP, over real connections to a server that a test scripts."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from rayworks.core.errors import ConfigError
from rayworks.systems.refusal.evaluation import endpoint as endpoints
from rayworks.systems.refusal.evaluation.answers import EMPTY, Answer
from rayworks.systems.refusal.evaluation.endpoint import Endpoint, EndpointSettings
from rayworks.systems.refusal.evaluation.prompt_sets import Prompt
from rayworks.systems.refusal.evaluation.rates import (
    Share,
    judged,
    rates,
)
from rayworks.systems.refusal.judging.calibration import shipped_judge

PROMPTS = [Prompt(f"p/{number}", f"What is {number} plus one?", "harmless") for number in range(6)]


def ignore(answer: Answer) -> None:
    """Of answers as they come."""


class Scripted(ThreadingHTTPServer):
    """Answers each request with what ``reply`` makes of its number and body."""

    daemon_threads = True

    def __init__(self, reply: Callable[[int, dict[str, Any]], tuple[int, dict[str, str], Any]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.bodies, self.headers = reply, list[dict[str, Any]](), list[dict[str, str]]()
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    """Of one request."""

    server: Scripted

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.busy += 1
            self.server.most_busy = max(self.server.busy, self.server.most_busy)
            self.server.bodies.append(body)
            self.server.headers.append(dict(self.headers))
            number = len(self.server.bodies)
        status, headers, answer = self.server.reply(number, body)
        with self.server.lock:
            self.server.busy -= 1
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        try:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            pass

    def log_message(self, *arguments: Any) -> None:
        pass


def said(content: Any, finish_reason: str = "stop", **message: Any) -> tuple[int, dict[str, str], Any]:
    choice = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish_reason}
    return 200, {}, {"choices": [choice]}


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], Scripted]]:
    monkeypatch.setattr(endpoints, "_FIRST_WAIT", 0.01)
    running: list[Scripted] = []

    def start(reply: Any) -> Scripted:
        server = Scripted(reply)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def ask(server: Scripted, prompts: Sequence[Prompt] = PROMPTS, **settings: Any) -> list[Answer]:
    return Endpoint(EndpointSettings(url=server.url, model="m", **settings)).answers(prompts, ignore)


def test_an_endpoint_is_asked_in_the_protocol(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "sesame")
    server = serve(lambda number, body: said(f"To {body['messages'][-1]['content']}"))
    settings = {
        "key_variable": "A_KEY",
        "system_prompt": "Be kind.",
        "max_tokens": 9,
        "extra_body": {"guidance": {"kind": 2}},
    }
    found = ask(server, **settings)
    assert found == [Answer(prompt.uid, f"To {prompt.text}", "stop") for prompt in PROMPTS]
    body = server.bodies[0]
    assert [turn["role"] for turn in body["messages"]] == ["system", "user"]
    assert (body["max_tokens"], body["temperature"], body["guidance"]) == (9, 0.0, {"kind": 2})
    assert server.headers[0]["Authorization"] == "Bearer sesame"
    endpoint = Endpoint(EndpointSettings(url=server.url, model="m", **settings))
    assert "sesame" not in str(endpoint.settings)
    with pytest.raises(ConfigError, match="has no ANOTHER_KEY"):
        Endpoint(EndpointSettings(url=server.url, model="m", key_variable="ANOTHER_KEY"))


def test_no_more_requests_at_once_than_allowed(serve: Any) -> None:
    gate = threading.Barrier(2, timeout=20)

    def reply(number: int, body: Any) -> Any:
        gate.wait()
        return said("fine")

    server = serve(reply)
    assert all(not answer.error for answer in ask(server, concurrency=2))
    assert server.most_busy == 2


def test_busy_endpoints_are_asked_again_after_what_they_say(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(endpoints, "_LONGEST_WAIT", 0.05)
    sleep = endpoints.asyncio.sleep

    async def observed(seconds: float) -> None:
        waits.append(seconds)
        await sleep(min(seconds, 0.05))

    monkeypatch.setattr(endpoints.asyncio, "sleep", observed)
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=50), usegmt=True)
    scripted = [
        (429, {"Retry-After": "0.04"}, {}),
        (503, {"Retry-After": later}, {}),
        (500, {"Retry-After": "soon"}, b"<html>"),
    ]
    server = serve(lambda number, body: scripted[number - 1] if number <= 3 else said("fine"))
    assert ask(server, PROMPTS[:1], concurrency=1) == [Answer("p/0", "fine", "stop")]
    assert waits[:2] == [0.04, 0.05]
    assert len(server.bodies) == 4


def test_what_an_endpoint_cannot_answer_is_an_error_not_a_refusal(serve: Any) -> None:
    replies = {
        0: (500, {}, b"Traceback: secret"),
        1: (429, {}, {}),
        2: (400, {}, {"error": "secret"}),
        3: said(""),
        4: (200, {}, b"not json, secret"),
        5: (200, {}, {"choices": []}),
    }
    server = serve(lambda number, body: replies[int(body["messages"][-1]["content"].split()[2])])
    found = ask(server, retries=1)
    protocol = "the endpoint's answer is not of the OpenAI protocol"
    assert [answer.error for answer in found] == ["HTTP 500", "HTTP 429", "HTTP 400", EMPTY, protocol, protocol]
    outcomes = judged(shipped_judge()[0], PROMPTS, found)
    assert {outcome.kind for outcome in outcomes} == {"error"}
    assert rates(outcomes)[0].total == Share(0, 0, None, 0.0, 1.0)


@pytest.mark.parametrize(
    "body", [b"[]", b"null", b'{"choices": [{"message": {"content": 7}}]}', b'{"choices": [null]}', b"\xff"]
)
def test_answers_of_another_protocol_are_errors(serve: Any, body: bytes) -> None:
    server = serve(lambda number, asked: (200, {}, body))
    assert "protocol" in ask(server, PROMPTS[:1])[0].error


def test_a_providers_filter_is_a_refusal(serve: Any) -> None:
    azure = {"error": {"code": "content_filter", "message": "The prompt triggered a policy."}}
    replies = [
        said("", "content_filter"),
        said(None, "stop", refusal="I will not."),
        (400, {}, azure),
        said("", "stop"),
        said("2", "stop"),
        said([{"type": "text", "text": "3"}]),
    ]
    server = serve(lambda number, body: replies[int(body["messages"][-1]["content"].split()[2])])
    outcomes = judged(shipped_judge()[0], PROMPTS, ask(server, retries=0))
    assert [outcome.kind for outcome in outcomes] == ["blocked", "blocked", "blocked", "error", "complied", "complied"]


def test_slow_and_absent_endpoints_are_errors(serve: Any) -> None:
    release = threading.Event()
    server = serve(lambda number, body: (release.wait(20), said("late"))[1])
    try:
        found = ask(server, PROMPTS[:2], retries=1, timeout_seconds=0.1)
    finally:
        release.set()
    assert {answer.error for answer in found} <= {"ReadTimeout", "TimeoutError"}
    closed = EndpointSettings(url="http://127.0.0.1:9/v1", model="m", retries=0, timeout_seconds=5)
    assert Endpoint(closed).answers(PROMPTS[:1], ignore)[0].error == "ConnectError"


@pytest.mark.parametrize(("status", "advice"), [(401, "API key"), (403, "API key"), (404, "address or model")])
def test_a_refused_key_stops_at_once(serve: Any, status: int, advice: str) -> None:
    server = serve(lambda number, body: (status, {}, {"error": "secret"}))
    with pytest.raises(ConfigError, match=f"answers {status}; .*{advice}"):
        ask(server, PROMPTS, concurrency=1)
    assert len(server.bodies) == 1


def test_requests_are_spread_over_the_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    waits: list[float] = []

    async def observed(seconds: float) -> None:
        waits.append(round(seconds, 1))

    async def three(pace: Any) -> None:
        for _ in range(3):
            await pace.turn()

    monkeypatch.setattr(endpoints.asyncio, "sleep", observed)
    asyncio.run(three(endpoints._Pace(30)))
    assert waits == [2.0, 4.0]
    asyncio.run(three(endpoints._Pace(0)))
    assert waits == [2.0, 4.0]


@pytest.mark.parametrize(
    ("status", "error", "filtered"),
    [
        (400, {"code": "content_filter"}, True),
        (400, {"innererror": {"code": "ResponsibleAIPolicyViolation"}}, True),
        (400, {"message": "Unknown parameter: content_filter"}, False),
        (403, {"message": "Input flagged by moderation"}, True),
        (403, {"message": "the key is wrong"}, False),
        (403, "no object", False),
    ],
)
def test_a_filter_is_told_by_its_code_and_moderation_is_no_wrong_key(status: int, error: Any, filtered: bool) -> None:
    assert endpoints._filtered(httpx.Response(status, json={"error": error})) is filtered
    assert not endpoints._filtered(httpx.Response(status, text="<html>"))
