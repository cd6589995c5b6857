"""Two replicas of an application: what fails when one of them dies, and what holds across them."""

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psutil
import pytest
from ray.util.state import list_actors

from cluster import local
from tests.conftest import FinishedRun
from tests.integration.test_listening import listening
from tests.observing import cluster_address, until
from tests.serve.deployment import Deployment

RATE, SECONDS, LIMIT = 20, 12, 64
MATRIX = [[1, 0, 0], [1, 1, 0], [0, 1, None], [1, 1, 1], [0, 0, 1]]


def replicas_of(application: str, deployment: str = "item-calibration") -> list[Any]:
    living = list_actors(cluster_address(), filters=[("state", "=", "ALIVE")])
    return [actor for actor in living if (actor.name or "").startswith(f"SERVE_REPLICA::{application}#{deployment}")]


@pytest.fixture(scope="module")
def two(deployment: Deployment) -> Iterator[str]:
    """An application with two replicas, which take ``LIMIT`` requests of one key."""
    from serve import deploy

    name = "difficulty-two"
    args = {"replicas": 2, "concurrent_per_key": LIMIT, "spool": str(deployment.folder / "two")}
    args |= {"max_waiting": LIMIT, "deadline_seconds": 60}
    with deployment.beside("difficulty", {name: args}) as file:
        deploy.deploy(file)
        until(lambda: len(replicas_of(name)) == 2)
        yield name


async def many_fits(deployment: Deployment, name: str, midway: Any) -> list[httpx.Response | BaseException]:
    """Fits, at most ``RATE`` begun a second and fewer under way than a key may have, so that a slow machine is refused none;
    ``midway`` is called once.
    """
    url, header = f"{deployment.url(name)}/v1/difficulty/fit", deployment.header("tester")
    sent: list[asyncio.Task[httpx.Response]] = []
    room = asyncio.Semaphore(LIMIT // 2)
    async with httpx.AsyncClient(timeout=60) as client:

        async def fit() -> httpx.Response:
            try:
                return await client.post(url, json={"matrix": MATRIX}, headers=header)
            finally:
                room.release()

        for number in range(RATE * SECONDS):
            if number == RATE * 3:
                midway()
            await room.acquire()
            sent.append(asyncio.create_task(fit()))
            await asyncio.sleep(1 / RATE)
        return await asyncio.gather(*sent, return_exceptions=True)


def test_no_request_fails_when_one_of_two_replicas_is_killed(deployment: Deployment, two: str) -> None:
    before = {actor.actor_id for actor in replicas_of(two)}

    def kill() -> None:
        os.kill(replicas_of(two)[0].pid, signal.SIGKILL)

    answers = asyncio.run(many_fits(deployment, two, kill))
    failed = [answer for answer in answers if isinstance(answer, BaseException) or answer.status_code != 200]
    assert not failed, [getattr(answer, "text", repr(answer)) for answer in failed[:3]]
    assert len(answers) == RATE * SECONDS
    until(lambda: len(replicas_of(two)) == 2 and {actor.actor_id for actor in replicas_of(two)} != before)


def test_the_limit_of_a_key_holds_over_both(deployment: Deployment, two: str) -> None:
    url, header = f"{deployment.url(two)}/v1/difficulty/fit", deployment.header("eve")
    many = json.dumps({"matrix": [[(s * i) % 2 for i in range(40)] for s in range(400)], "model": "2PL"})

    async def at_once() -> list[int]:
        async with httpx.AsyncClient(timeout=120, headers={**header, "Content-Type": "application/json"}) as client:
            answers = await asyncio.gather(*(client.post(url, content=many) for _ in range(LIMIT + 16)))
            assert (await client.post(url, json={"matrix": MATRIX})).status_code == 200, "places are given back"
            return [answer.status_code for answer in answers]

    found = asyncio.run(at_once())
    assert found.count(200) == LIMIT, "as many as one replica would take"
    assert found.count(429) == 16


def test_clients_that_hang_up_leave_their_places(deployment: Deployment, two: str) -> None:
    url, header = f"{deployment.url(two)}/v1/difficulty/fit", deployment.header("dan")

    async def hang_up() -> list[int]:
        async with httpx.AsyncClient(timeout=120, headers=header) as client:
            for number in range(LIMIT + 20):
                asked = asyncio.create_task(client.post(url, json={"matrix": MATRIX}))
                await asyncio.sleep(0.001 * (number % 20))
                asked.cancel()
            # Four times as long as replicas take to tell each other all that is under way.
            await asyncio.sleep(4)
            answers = await asyncio.gather(*(client.post(url, json={"matrix": MATRIX}) for _ in range(LIMIT)))
            return [answer.status_code for answer in answers]

    assert asyncio.run(hang_up()) == [200] * LIMIT


def test_what_serves_listens_on_loopback(two: str) -> None:
    for name in ("difficulty", two):
        for replica in [*replicas_of(name), *replicas_of(name, "shared")]:
            assert {ip for ip, _ in listening(psutil.Process(replica.pid))} <= {"127.0.0.1"}
    state = local.read_state()
    assert state is not None
    found = listening(psutil.Process(state["pid"]))
    assert len(found) >= 10
    assert {ip for ip, _ in found} == {"127.0.0.1"}


def test_the_proxies_speak_in_problems(deployment: Deployment) -> None:
    answer = httpx.get(f"http://127.0.0.1:{deployment.port}/nothing-here")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.slow
def test_weights_of_a_stream_change_whichever_replica_is_asked(
    deployment: Deployment, finished_runs: Callable[[str], FinishedRun]
) -> None:
    from serve import deploy

    name = "alignment-two"
    args = {
        "export": str(finished_runs("alignment").directory / "export"),
        "slots": 1,
        "max_waiting": 14,
        "replicas": 2,
    }
    with deployment.beside("alignment", {name: args}) as file:
        deploy.deploy(file)
        url, header = f"{deployment.url(name)}/v1", deployment.header("tester")
        [model] = httpx.get(f"{url}/models", headers=header).json()["data"]
        body = {"model": model["id"], "prompt": "a dress:", "max_tokens": 200, "stream": True, "n": 15}
        with httpx.stream("POST", f"{url}/completions", json=body, headers=header, timeout=60) as answer:
            lines = (line for line in answer.iter_lines() if line.startswith("data: "))
            path = f"{url}/completions/{json.loads(next(lines)[6:])['id']}/guidance"
            change = {"guidance": {model["objectives"][0]: 1.0}}
            codes = [httpx.patch(path, json=change, headers=header).status_code for _ in range(12)]
            codes.append(httpx.patch(path, json=change, headers=deployment.header("ann")).status_code)
    assert codes == [204] * 12 + [404]
