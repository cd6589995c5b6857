"""Hostile clients, without a cluster: keys, counts, slow bodies at the gate; dying replicas behind the gateway."""

import asyncio
import datetime
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from rayworks.core.errors import DataError
from serve.common import application, gate, gateway, keys, origins
from serve.common.access import Access, Caller
from serve.common.application import new_application
from serve.common.gateway import Gateway
from serve.common.measures import Measures
from serve.common.peers import Peers
from serve.common.problems import Problem


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "keys")


@pytest.fixture
def key(file: str) -> str:
    return keys.create("ann", file)


class Question(BaseModel):
    text: str


@pytest.fixture
def api(file: str, key: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    access = Access(keys.ApiKeys(file, "test"), 2, Peers())
    served = SimpleNamespace(access=access, receive_seconds=0.3, measures=Measures(), load=0, allowed_origins=[])
    for module in (application, gate, origins):
        monkeypatch.setattr(module, "replica", lambda: served)

    async def check_health() -> float:
        return 0.0

    served.check_health, served.state = check_health, lambda: {}
    api = new_application("test", "Echoes.", max_body_bytes=1000)

    @api.post("/echo")
    async def echo(body: Question, owner: Caller) -> dict[str, str]:
        await asyncio.sleep(0.05 if body.text == "slow" else 0)
        return {"text": body.text, "owner": owner}

    return api


def client(api: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test")


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


Ask = Callable[[httpx.AsyncClient], Awaitable[Any]]


def asked(api: Any, ask: Ask) -> Any:
    async def run() -> Any:
        async with client(api) as http:
            return await ask(http)

    return asyncio.run(run())


async def drip(seconds: float, times: int) -> AsyncIterator[bytes]:
    for _ in range(times):
        yield b"x"
        await asyncio.sleep(seconds)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"content": b"{"}, 401),
        ({"content": b"{", "headers": bearer("rw-wrong")}, 403),
        ({"content": b"x" * 5000}, 401),
        ({"content": drip(9, 3), "headers": {"Content-Length": "1000"}}, 401),
        ({"method": "PUT"}, 401),
        ({"url": "/nothing"}, 401),
    ],
)
def test_without_a_key_nothing_is_read(api: Any, request_: dict[str, Any], status: int) -> None:
    answer = asked(api, lambda http: http.request(**{"method": "POST", "url": "/echo", **request_}))
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"content": b'{"text": "a"}'}, 200),
        ({"content": b"{"}, 422),
        ({"content": b'{"text": "\xff"}'}, 422),
        ({"content": b"[" * 900}, 422),
        ({"content": b"x" * 1001}, 413),
        ({"content": drip(0, 3)}, 411),
        ({"content": drip(0.2, 3), "headers": {"Content-Length": "3"}}, 408),
        ({"method": "PUT", "content": b""}, 405),
        ({"url": "/nothing", "content": b""}, 404),
        ({"method": "HEAD", "url": "/healthz"}, 200),
    ],
)
def test_each_fault_of_a_request_has_its_answer(api: Any, key: str, request_: dict[str, Any], status: int) -> None:
    headers = {"Content-Type": "application/json", **bearer(key), **request_.get("headers", {})}
    answer = asked(api, lambda http: http.request(**{"method": "POST", "url": "/echo", **request_, "headers": headers}))
    assert answer.status_code == status, answer.text
    if status != 200:
        assert answer.json()["status"] == status
        assert answer.headers["content-type"] == "application/problem+json"
    if status == 405:
        assert answer.headers["allow"] == "POST"
        assert answer.json()["detail"] == "PUT /echo: is not offered; use POST"


def test_a_wrong_method_is_answered_with_all_right_ones(api: Any, key: str) -> None:
    answer = asked(api, lambda http: http.delete("/healthz", headers=bearer(key)))
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ({}, "Content-Type: is missing; send 'Content-Type: application/json'"),
        ({"Content-Type": "text/plain"}, "Content-Type: is text/plain; send 'Content-Type: application/json'"),
        ({"Content-Type": "application/json"}, "text: input should be a valid string (given 1)"),
    ],
)
def test_a_body_that_is_not_said_to_be_json_is_told_so(api: Any, key: str, kind: dict[str, str], told: str) -> None:
    answer = asked(api, lambda http: http.post("/echo", content=b'{"text": 1}', headers={**bearer(key), **kind}))
    assert (answer.status_code, answer.json()["detail"]) == (422, told)


def test_slow_bodies_take_no_place_from_others(api: Any, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "RECEIVING", 1)

    async def ask(http: httpx.AsyncClient) -> list[int]:
        slow = http.post("/echo", content=drip(9, 2), headers={"Content-Length": "2", **bearer(key)})
        waiting = asyncio.create_task(slow)
        await asyncio.sleep(0.05)
        another = await http.post("/echo", json={"text": "a"}, headers=bearer(key))
        health = await http.get("/healthz")
        return [(await waiting).status_code, another.status_code, health.status_code]

    assert asked(api, ask) == [408, 503, 200]


def test_one_key_cannot_take_every_place_and_gets_its_place_back(api: Any, key: str, file: str) -> None:
    other = keys.create("ben", file)

    async def ask(http: httpx.AsyncClient) -> list[int]:
        def post(key: str) -> Awaitable[httpx.Response]:
            return http.post("/echo", json={"text": "slow"}, headers=bearer(key))

        answers = await asyncio.gather(*(post(key) for _ in range(5)), post(other))
        answers.append(await post(key))
        return [answer.status_code for answer in answers]

    found = asked(api, ask)
    assert sorted(found[:5]) == [200, 200, 429, 429, 429]
    assert found[5:] == [200, 200]


@pytest.mark.parametrize("change", ["deleted", "emptied", "rewritten with an old time", "broken", "unreadable"])
def test_a_withdrawn_key_opens_nothing_however_it_was_withdrawn(file: str, key: str, change: str) -> None:
    path = Path(file)
    known = keys.ApiKeys(file, "test")
    assert known.owner(key) == "ann"
    before = path.stat()
    if change in ("deleted", "unreadable"):
        path.unlink()
    if change == "unreadable":
        path.mkdir()
    if change == "emptied":
        path.write_text("")
    if change == "broken":
        path.write_text("ann " + "g" * 12)
    if change == "rewritten with an old time":
        keys.create("ann", file)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert known.owner(key) is None
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    assert known.owner(keys.create("ann", file)) == "ann", "and a new one is taken up"


def test_keys_changed_at_once_are_all_there(file: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = dict(zip(range(24), pool.map(lambda n: keys.create(f"k{n}", file), range(24)), strict=True))
        list(pool.map(lambda n: keys.revoke(f"k{n}", file), range(0, 24, 2)))
    known = keys.ApiKeys(file, "test")
    assert [known.owner(key) for key in made.values()] == [f"k{n}" if n % 2 else None for n in made]


def test_a_key_that_is_written_over_in_place_opens_nothing(file: str, key: str) -> None:
    known, before = keys.ApiKeys(file, "test"), Path(file).stat()
    Path(file).write_text(f"ann {keys.hash_key('another')}\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert known.owner(key) is None


@pytest.mark.parametrize("name", ["marl federation", "marl,federation", "", "a=b", "../a"])
def test_a_key_for_what_is_no_application_is_not_made(file: str, name: str) -> None:
    with pytest.raises(SystemExit):
        keys.main(["new", "ben", "--for", name, "--file", file])
    assert not Path(file).exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a b"], "NAME 'a b': must be made of letters, digits, _"),
        (["ben", "--until", "2020-01-31"], "--until 2020-01-31: is past"),
        (["ben", "--until", "31.1.2999"], "'31.1.2999' is no day; write YYYY-MM-DD"),
    ],
)
def test_a_key_that_can_not_be_meant_is_not_made(
    file: str, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        keys.main(["new", *words, "--file", file])
    assert told in capsys.readouterr().err
    assert not Path(file).exists()


def test_an_application_of_no_system_is_noted(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert keys.main(["new", "1st-try", "--for", "mral", "marl", "--file", file]) == 0
    said = capsys.readouterr()
    assert said.err.count("note: ") == 1 and "--for mral: is none of alignment" in said.err
    assert keys.ApiKeys(file, "mral").owner(said.out.strip()) == "1st-try"


def test_a_revocation_without_a_file_makes_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "folder" / "keys"
    assert keys.main(["revoke", "ann", "--file", str(file)]) == 2
    assert f"{file}, which does not exist" in capsys.readouterr().err
    assert not file.parent.exists()


def test_keys_are_for_applications_and_end(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    today = datetime.datetime.now(datetime.UTC).date()
    day = datetime.timedelta(days=1)
    scoped = keys.create("scoped", file, ["marl", "federation"])
    good, late = keys.create("good", file, (), today), keys.create("late", file, (), today - day)
    for name, opened in (("marl", "scoped"), ("alignment", None)):
        known = keys.ApiKeys(file, name)
        assert (known.owner(scoped), known.owner(good), known.owner(late)) == (opened, "good", None)
    assert keys.main(["new", "made", "--for", "marl", "--until", "2999-01-01", "--file", file]) == 0
    made = capsys.readouterr().out.strip()
    assert keys.ApiKeys(file, "marl").owner(made) == "made"
    assert keys.main(["list", "--file", file]) == 0
    listed = capsys.readouterr().out
    assert "made  for marl  until 2999-01-01\n" in listed and made not in listed
    assert "scoped  for marl, federation  no last day\n" in listed
    assert f"good  for all  until {today}\n" in listed and f"late  for all  until {today - day} (expired)\n" in listed
    assert made not in Path(file).read_text()
    assert keys.main(["revoke", "made", "--file", file]) == 0
    assert capsys.readouterr().out == f"made: has no key in {file} any more\n"
    assert keys.ApiKeys(file, "marl").owner(made) is None
    assert keys.main(["revoke", "made", "--file", file]) == 2
    assert "known there: scoped" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    ["ann", "ann abc", f"ann {'0' * 64} until=soon", f"ann {'0' * 64} to=x", f"ann {'é' * 64}", f"ann {'A' * 64}"],
)
def test_a_file_of_keys_that_is_wrong_at_the_start_names_the_line(file: str, line: str) -> None:
    Path(file).write_text(f"\n{line}\n")
    with pytest.raises(DataError, match="line 2 is not"):
        keys.ApiKeys(file, "test")
    Path(file).unlink()
    with pytest.raises(DataError, match="make one"):
        keys.ApiKeys(file, "test")


def through_the_gateway(app: Any, **request: Any) -> httpx.Response:
    answer: httpx.Response = asked(
        Gateway(app), lambda http: http.request(**{"method": "POST", "url": "/x", **request})
    )
    return answer


def test_a_request_whose_replica_dies_is_asked_again_with_its_body_and_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "PAUSE_SECONDS", 0.0)
    seen = []

    async def dying(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        seen.append((body, dict(scope["headers"])[b"x-request-id"]))
        scope["path"] = "/spoilt"
        if len(seen) == 3:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body})

    answer = through_the_gateway(dying, content=b"hello", headers={"x-request-id": "mine"})
    assert (answer.status_code, answer.text, seen) == (200, "hello", [(b"hello", b"mine")] * 3)


def echoed(headers: dict[str, Any]) -> dict[str, str]:
    """What reaches a replica of a request's headers, and the id that the client gets."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen = {name.decode(): value.decode() for name, value in scope["headers"]}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(seen).encode()})

    found: dict[str, str] = through_the_gateway(app, headers=headers).json()
    return found


def test_headers_that_replicas_trust_do_not_come_from_clients() -> None:
    one, other = (echoed({"x-rayworks-ticket": "mine", "serve_multiplexed_model_id": "m"}) for _ in range(2))
    assert one["x-rayworks-ticket"] not in ("mine", other["x-rayworks-ticket"])
    assert "serve_multiplexed_model_id" not in one
    assert echoed({"x-request-id": "mine"})["x-request-id"] == "mine"
    for wrong in (b"\xff", b"a b", b""):
        assert echoed({"x-request-id": wrong})["x-request-id"].isalnum()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"headers": {"Content-Length": str(10**9)}}, 413),
        ({"headers": {"Content-Length": "9" * 5000}}, 413),
        ({"content": drip(0, 3)}, 411),
    ],
)
def test_the_proxy_holds_no_body_that_nobody_takes(request_: dict[str, Any], status: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("is not asked")

    answer = through_the_gateway(app, **request_)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def test_a_request_that_nobody_takes_ends_as_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "PAUSE_SECONDS", 0.0)

    async def dead(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    answer = through_the_gateway(dead, content=b"")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(("status", "retry"), [(404, None), (408, None), (503, "5")])
def test_what_serve_says_in_plain_text_becomes_a_problem(status: int, retry: str | None) -> None:
    async def plain(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"Request dropped due to backpressure"})

    answer = through_the_gateway(plain)
    assert (answer.status_code, answer.headers.get("retry-after")) == (status, retry)
    assert answer.headers["content-type"] == "application/problem+json"
    assert "backpressure" not in answer.text


def test_problems_and_begun_answers_pass_as_they_are() -> None:
    calls = []

    async def own(scope: Any, receive: Any, send: Any) -> None:
        calls.append(1)
        kind = [(b"content-type", b"application/problem+json")]
        await send({"type": "http.response.start", "status": 503, "headers": kind})
        await send({"type": "http.response.body", "body": json.dumps(Problem(503, "full").answer("i")).encode()})

    assert through_the_gateway(own).json()["detail"] == "full"
    assert calls == [1]


def test_pages_of_named_origins_may_ask_and_read(api: Any, key: str) -> None:
    leave = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    mine, other = {"Origin": "https://mine.example"}, {"Origin": "https://other.example"}

    async def ask() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as client:
            assert (await client.options("/echo", headers={**mine, **leave})).status_code == 401, "none are named"
            origins.replica().allowed_origins.append("https://mine.example")
            given = await client.options("/echo", headers={**mine, **leave})
            assert given.status_code == 200
            assert given.headers["access-control-allow-origin"] == "https://mine.example"
            assert "authorization" in given.headers["access-control-allow-headers"]
            assert (await client.options("/echo", headers={**other, **leave})).status_code == 400
            sent = {"json": {"text": "a"}, "headers": {**mine, "Authorization": f"Bearer {key}"}}
            answer = await client.post("/echo", **sent)
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://mine.example")
            refused = await client.post("/echo", json={"text": "a"}, headers=mine)
            assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (
                401,
                "https://mine.example",
            )
            silent = await client.post("/echo", **{**sent, "headers": {**sent["headers"], **other}})
            assert "access-control-allow-origin" not in silent.headers

    asyncio.run(ask())
