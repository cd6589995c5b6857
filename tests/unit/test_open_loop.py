"""The client of the load benchmark against a small server of its own: on schedule, counting, bounded."""

import asyncio
import json
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest

from benchmarks import serving_load
from benchmarks.open_loop import NO_ANSWER, Answer, Load, arrivals, send

Reply = Callable[[int], Awaitable[bytes]]
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
PROBLEM = "Content-Type: application/problem+json\r\nContent-Length: 2\r\n"


def refusal(status: int, headers: str) -> bytes:
    return f"HTTP/1.1 {status} No\r\n{headers}\r\n{{}}".encode()


def answers(reply: Reply, phases: list[tuple[float, float]], **options: int | float | None) -> list[Answer]:
    """Of a server that gives the reply to the first, second, ... request, and hangs up on an empty one."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while b"Authorization: Bearer key" in await reader.readuntil(b"\r\n\r\n"):
                seen.append(await reader.readexactly(len(json.dumps({"a": 1}))))
                writer.write(content := await reply(len(seen)))
                if not content:
                    break
        writer.close()

    async def scenario() -> list[Answer]:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            found = await send(Load(url, {"a": 1}, ["key"], phases, **options))  # type: ignore[arg-type]  # by name
            server.close()
            return found

    return asyncio.run(scenario())


def test_requests_are_sent_on_schedule_though_none_is_answered() -> None:
    planned = arrivals(Load("", {}, [], [(200, 0.2)]))
    all_have_come = asyncio.Event()

    async def reply(number: int) -> bytes:
        if number == len(planned):
            all_have_come.set()
        await all_have_come.wait()
        return GOOD

    found = answers(reply, [(200, 0.2)])
    assert [one.due for one in found] == [one.due for one in planned]
    assert {one.kind for one in found} == {"2xx"}
    assert all(one.latency and one.latency >= planned[-1].due - one.due for one in found), (
        "counted from when it was due"
    )


def test_every_kind_of_answer_is_counted() -> None:
    replies = {
        "2xx": GOOD,
        "429": refusal(429, f"{PROBLEM}Retry-After: 1\r\n"),
        "503": refusal(503, f"{PROBLEM}Retry-After: 1\r\n"),
        "status 504 has no Retry-After": refusal(504, PROBLEM),
        "status 503 is no problem+json and has no Retry-After": refusal(503, "Content-Length: 2\r\n"),
        "status 500": refusal(500, PROBLEM),
        "no answer: ServerDisconnectedError": b"",
    }

    async def reply(number: int) -> bytes:
        return [*replies.values()][number % len(replies)]

    found = Counter(one.kind for one in answers(reply, [(2000, 0.1)]))
    assert found.keys() == replies.keys()


def test_what_goes_beyond_the_bound_is_not_sent_and_counted() -> None:
    come: list[int] = []

    async def reply(number: int) -> bytes:
        come.append(number)
        await asyncio.sleep(0.3)
        return GOOD

    # All are due at once.
    found = Counter(one.kind for one in answers(reply, [(1e7, 1e-6)], most=3))
    assert (found["2xx"], len(come)) == (3, 3)
    assert found["not sent"] == found.total() - 3 > 0


def test_what_is_not_answered_in_time_is_counted() -> None:
    async def reply(number: int) -> bytes:
        await asyncio.sleep(1)
        return GOOD

    found = answers(reply, [(100, 0.05)], timeout=0.1)
    assert all(one.kind.startswith(NO_ANSWER) for one in found)
    assert {one.latency for one in found} == {None}


def test_clients_of_a_closed_loop_wait_for_their_answers() -> None:
    under_way, most = 0, 0

    async def reply(number: int) -> bytes:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return GOOD

    found = answers(reply, [(0, 0.1)], clients=2)
    assert {one.kind for one in found} == {"2xx"}
    assert most == 2


def test_arrivals_are_a_poisson_process_phase_by_phase() -> None:
    load = Load("", {}, [], [(100, 50), (10, 50)])
    found = arrivals(load)
    assert found == arrivals(load)
    counts = Counter(one.phase for one in found)
    assert counts[0] == pytest.approx(5000, rel=0.1)
    assert counts[1] == pytest.approx(500, rel=0.3)
    assert min(one.due for one in found if one.phase == 1) >= 50
    gaps = [b.due - a.due for a, b in pairwise(found) if b.phase == 0]
    assert sum(gap > 0.01 for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.05), "exponential gaps"


def test_latency_is_back_in_the_first_calm_second() -> None:
    def second(number: int, latency: float, *kinds: str) -> list[Answer]:
        return [Answer(1, 10 + number + 0.1 * n, latency=latency, kind=kind) for n, kind in enumerate(kinds)]

    slow, refused = second(0, 0.5, "2xx", "2xx"), second(1, 0.01, "2xx", "503")
    calm = second(2, 0.015, "2xx", "2xx")
    assert serving_load.recovered([*slow, *refused, *calm, *second(3, 0.5, "2xx")], begin=10, before=10) == 2
    assert math.isnan(serving_load.recovered([*slow, *refused], begin=10, before=10))
    found = serving_load.summary([*slow, *refused, *calm])
    assert (found["kinds"], found["p50"]) == ({"2xx": 5 / 6, "503": 1 / 6}, 15)


def test_what_a_loaded_service_may_answer() -> None:
    def at(load: str, **kinds: float) -> dict[str, Any]:
        return {"loads": {load: {"kinds": kinds}}, "recovery_seconds": 1.0}

    good = [at("25%", **{"2xx": 1.0}), at("200%", **{"2xx": 0.5, "503": 0.25, "not sent": 0.25})]
    assert not serving_load.defects({"marl": good})
    bad = [at("25%", **{"503": 0.5}), at("200%", **{"status 500": 0.5}), {"loads": {}, "recovery_seconds": math.nan}]
    assert [len(serving_load.defects({"marl": [one]})) for one in bad] == [1, 1, 1]
