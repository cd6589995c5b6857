"""The replica that keeps the ledger dies at the worst moments: no bid is lost, and every premium is paid once."""

import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray.util.state import list_actors

from tests.observing import cluster_address
from tests.serve.deployment import USERS, serving

BUILDERS = [user for user in USERS if user != "ruth"][:6]
Send = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def send(cluster: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Send]:
    """Posts where there is a body, else gets."""
    folder: Path = tmp_path_factory.mktemp("faults")
    args = {"database": str(folder / "ledger.sqlite"), "regulators": ["ruth"], "concurrent_per_key": 64}
    with serving(cluster, folder) as deployment:
        deployment.add("regulation", {"ledger": args})
        deployment.deploy()

        def send(path: str, key: str = "ruth", **body: Any) -> httpx.Response:
            again = f"{key}-{body.get('round')}"
            return deployment.ask("ledger", f"v1/regulation/{path}", key, again, **body)

        yield send


def replica() -> int:
    """Process of the one replica that is alive."""
    alive = list_actors(cluster_address(), filters=[("state", "=", "ALIVE")])
    (found,) = [actor.pid for actor in alive if (actor.name or "").startswith("SERVE_REPLICA::ledger#regulator#")]
    assert found is not None
    return int(found)


def until_answered(action: Callable[[], httpx.Response], seconds: float = 90) -> httpx.Response:
    """The first answer of the application itself, sent again while there is none."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            answer = action()
            if answer.status_code < 500:
                return answer
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline, "the application did not come back"
        time.sleep(0.2)


def filled(send: Send, name: str) -> list[dict[str, Any]]:
    """Receipts of a new round in which every builder submitted."""
    open_round(send, name, premium_cents=333, budget_cents=700)
    return [submit(send, name, number).json() for number in range(len(BUILDERS))]


def seed_of(name: str) -> str:
    return hashlib.sha256(f"seed of {name}".encode()).hexdigest()


def open_round(send: Send, name: str, **rules: Any) -> None:
    commitment = hashlib.sha256(seed_of(name).encode()).hexdigest()
    opened = until_answered(lambda: send("pair", round=name, commitment=commitment, threshold=0.5, **rules))
    assert opened.status_code == 200, opened.text


def submit(send: Send, name: str, number: int) -> httpx.Response:
    digest = hashlib.sha256(f"{name}-{number}".encode()).hexdigest()
    entry = {"round": name, "score": 0.5 + number / 100, "model": digest}
    return until_answered(lambda: send("submit", key=BUILDERS[number], **entry))


def assert_settled_once(send: Send, name: str, receipts: list[dict[str, Any]], paid: int) -> None:
    found = until_answered(lambda: send(f"audit?round={name}")).json()
    assert found["verified"], found["discrepancies"]
    assert [event["event"] for event in receipts] == found["trail"][1 : 1 + len(receipts)]
    assert len(found["trail"]) == len(receipts) + 3, "opened, submitted, paired and settled once each"
    assert [entry["model"] for entry in found["entries"]] == [entry["model"] for entry in receipts]
    assert sum(entry["paid_cents"] for entry in found["entries"]) == found["paid_cents"] == paid


def test_killed_between_submit_and_settle_loses_no_bid_and_settles_once(send: Send) -> None:
    receipts = filled(send, "spring")
    victim = replica()
    os.kill(victim, signal.SIGKILL)
    assert [submit(send, "spring", number).json() for number in range(len(BUILDERS))] == receipts
    assert replica() != victim
    assert until_answered(lambda: send("pair", round="spring", seed=seed_of("spring"))).json()["state"] == "paired"
    settlement = until_answered(lambda: send("settle", round="spring"))
    assert settlement.status_code == 200, settlement.text
    assert send("settle", round="spring").json() == settlement.json()
    assert_settled_once(send, "spring", receipts, 700)


def test_killed_while_many_settle_and_submit_at_once(send: Send) -> None:
    receipts = filled(send, "summer")
    assert until_answered(lambda: send("pair", round="summer", seed=seed_of("summer"))).json()["state"] == "paired"
    open_round(send, "autumn", premium_cents=5)
    victim = replica()
    with ThreadPoolExecutor(16) as pool:
        entering = [pool.submit(submit, send, "autumn", number) for number in range(len(BUILDERS))]
        settling = [pool.submit(until_answered, lambda: send("settle", round="summer")) for _ in range(10)]
        wait([*entering, *settling], return_when=FIRST_COMPLETED)
        os.kill(victim, signal.SIGKILL)
        settlements = [future.result() for future in settling]
        entries = sorted((future.result().json() for future in entering), key=lambda entry: int(entry["submission"]))
    assert {answer.status_code for answer in settlements} == {200}
    assert all(answer.json() == settlements[0].json() for answer in settlements)
    assert_settled_once(send, "summer", receipts, 700)
    assert [entry["submission"] for entry in entries] == list(range(1, len(BUILDERS) + 1))
    assert until_answered(lambda: send("pair", round="autumn", seed=seed_of("autumn"))).json()["submissions"] == len(
        BUILDERS
    )
    assert until_answered(lambda: send("settle", round="autumn")).json()["paid_cents"] == 15
    assert_settled_once(send, "autumn", entries, 15)
