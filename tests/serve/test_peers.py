"""What replicas agree on, without a cluster: counts that lose nothing and leak nothing, and messages that find their way."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from serve.common import peers as replicas
from serve.common import shared
from serve.common.access import Access
from serve.common.peers import Peers
from serve.common.problems import Problem

State = shared.Shared.func_or_class
LIMIT = 2


class Handle:
    """The state as replicas reach it; ``delay`` holds back the calls of a method, ``gone`` loses all."""

    def __init__(self) -> None:
        self.state = State()
        self.delay: dict[str, float] = {}
        self.gone = False

    def __getattr__(self, name: str) -> Any:
        async def called(*arguments: Any) -> Any:
            await asyncio.sleep(self.delay.get(name, 0.0))
            if self.gone:
                raise ConnectionError("the process beside is gone")
            return await getattr(self.state, name)(*arguments)

        return SimpleNamespace(remote=lambda *arguments: asyncio.ensure_future(called(*arguments)))


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("LISTEN_SECONDS", 0.02), ("ALIVE_SECONDS", 0.2), ("ANSWER_SECONDS", 0.1)):
        monkeypatch.setattr(shared, name, seconds)
    monkeypatch.setattr(replicas, "ENTER_SECONDS", 0.1)
    monkeypatch.setattr(replicas, "PAUSE_SECONDS", 0.02)


@pytest.fixture
def replica(monkeypatch: pytest.MonkeyPatch) -> Callable[[Handle, str], Peers]:
    def made(handle: Handle, name: str) -> Peers:
        context = SimpleNamespace(replica_id=SimpleNamespace(unique_id=name))
        monkeypatch.setattr(replicas.serve, "get_replica_context", lambda: context)
        one = Peers(handle)
        one.listen()
        return one

    return made


def access(peers: Peers) -> Access:
    return Access(SimpleNamespace(), LIMIT, peers)  # type: ignore[arg-type]  # no keys are looked at


async def held(one: Access, ticket: str, ended: asyncio.Event) -> int:
    """200 once it may end, else what it was refused with."""
    try:
        async with one.entered("ann", ticket):
            await ended.wait()
            return 200
    except Problem as problem:
        return problem.status


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 30))  # type: ignore[arg-type]  # a coroutine


def test_a_limit_holds_over_replicas_and_places_are_given_back(replica: Any) -> None:
    async def scenario() -> None:
        handle, ended = Handle(), asyncio.Event()
        both = [access(replica(handle, name)) for name in "ab"]
        asked = [asyncio.create_task(held(both[n % 2], f"t{n}", ended)) for n in range(6)]
        await asyncio.sleep(0.05)
        ended.set()
        assert sorted(await asyncio.gather(*asked)) == [200] * LIMIT + [429] * 4
        await asyncio.sleep(0.01)
        for number in range(20):
            assert await held(both[number % 2], f"u{number}", ended) == 200, "one after another there is always room"

    run(scenario)


@pytest.mark.parametrize("slow", ["enter", "leave", ""])
def test_clients_that_hang_up_take_no_place_with_them(replica: Any, slow: str) -> None:
    async def scenario() -> None:
        handle, ended = Handle(), asyncio.Event()
        one = access(replica(handle, "a"))
        handle.delay = {slow: 0.03}
        for number in range(12):
            asked = asyncio.create_task(held(one, f"t{number}", ended))
            await asyncio.sleep(0.002 * number)
            asked.cancel()
        handle.delay = {}
        await asyncio.sleep(0.1)
        ended.set()
        assert [await held(one, f"u{n}", ended) for n in range(3)] == [200] * 3
        await asyncio.sleep(0.1)
        (known,) = handle.state._replicas.values()
        assert not known.tickets and not known.left

    run(scenario)


def test_the_limit_holds_on_a_replica_while_the_process_beside_is_gone(replica: Any) -> None:
    async def scenario() -> None:
        handle, ended = Handle(), asyncio.Event()
        one = access(replica(handle, "a"))
        handle.gone = True
        asked = [asyncio.create_task(held(one, f"t{number}", ended)) for number in range(50)]
        await asyncio.sleep(0.05)
        # A new one in its place hears again what is under way.
        handle.state, handle.gone = State(), False
        await asyncio.sleep(0.1)
        assert await held(access(replica(handle, "b")), "u", ended) == 429
        ended.set()
        assert sorted(await asyncio.gather(*asked)) == [200] * LIMIT + [429] * 48

    run(scenario)


def test_a_request_that_comes_again_is_counted_once_and_ends_two_replicas_at_most(replica: Any) -> None:
    async def scenario() -> None:
        handle, ended = Handle(), asyncio.Event()
        for number, expected in enumerate([200, 200, 500, 500]):
            peers = replica(handle, f"replica{number}")
            asked = [asyncio.create_task(held(access(peers), ticket, ended)) for ticket in ("deadly", "beside")]
            await asyncio.sleep(0.01)
            # The replica dies: it says nothing any more.
            peers._listening.cancel()
            peers._shared = None
            assert [one.done() for one in asked] == [expected != 200] * 2
        await asyncio.sleep(0.3)
        survivor = access(replica(handle, "survivor"))
        ended.set()
        assert [await held(survivor, f"u{n}", ended) for n in range(3)] == [200] * 3, "of the dead nothing is counted"

    run(scenario)


def test_messages_are_answered_or_dropped_and_nothing_is_kept(replica: Any) -> None:
    async def scenario() -> None:
        handle, heard = Handle(), []
        one, other = replica(handle, "a"), replica(handle, "b")
        other.receive = lambda message: heard.append(message) or "yes"
        await asyncio.sleep(0.01)
        assert await one.ask("b", "hello") == "yes"
        for number in range(50):
            assert await one.ask(f"nobody{number}", "hello") is None
        other._listening.cancel()
        assert await one.ask("b", "too late") is None
        other.listen()
        await asyncio.sleep(0.05)
        assert heard == ["hello"]
        assert set(handle.state._replicas) == {"a", "b"}
        assert not handle.state._answers
        handle.gone = True
        with pytest.raises(Problem) as refused:
            await one.ask("b", "hello")
        assert refused.value.status == 503

    run(scenario)


def test_listening_outlives_the_request_that_found_it_ended(replica: Any) -> None:
    async def scenario() -> None:
        handle = Handle()
        one = replica(handle, "a")
        one._listening.cancel()
        await asyncio.sleep(0)

        async def request() -> None:
            one.listen()
            await asyncio.sleep(9)

        asked = asyncio.create_task(request())
        await asyncio.sleep(0.01)
        asked.cancel()
        await asyncio.sleep(0.05)
        assert not one._listening.done()

    run(scenario)


def test_addresses_name_their_replica() -> None:
    assert Peers().address == ""
    assert Peers.replica_of("cmpl-abc.0123") == "abc"
    assert Peers.replica_of("chatcmpl-0123") == ""
