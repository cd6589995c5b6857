"""The one thread that requests compute on: full, late, and stuck."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from rayworks.core.errors import InfrastructureError
from serve.common import computing as module
from serve.common.computing import Computing
from serve.common.problems import RETRY_SECONDS, Problem


def test_who_waits_past_the_deadline_comes_again_and_who_sends_too_much_does_not() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def long() -> None:
        begun.set()
        go_on.wait(60)

    async def both_are_late() -> list[Problem]:
        computing = Computing(max_waiting=1, deadline_seconds=0.5)
        running = asyncio.create_task(computing.run(long))
        await asyncio.to_thread(begun.wait, 60)
        found = await asyncio.gather(running, computing.run(int), return_exceptions=True)
        go_on.set()
        return [one for one in found if isinstance(one, Problem)]

    much, late = asyncio.run(both_are_late())
    assert (much.status, much.retry_after) == (504, None)
    assert "send less data" in much.detail
    assert (late.status, late.retry_after) == (504, RETRY_SECONDS)
    assert "not begun" in late.detail


def test_a_computation_that_nobody_waits_for_shows_as_a_lack_of_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    now, go_on = 100.0, threading.Event()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))

    async def outlive_the_deadline() -> None:
        nonlocal now
        computing = Computing(max_waiting=0, deadline_seconds=0.05)
        with pytest.raises(Problem) as caught:
            await computing.run(lambda: go_on.wait(60))
        assert caught.value.status == 504
        now += 0.09
        computing.require_progress()
        with pytest.raises(Problem) as refused:
            await computing.run(int)
        assert refused.value.status == 503
        now += 0.02
        with pytest.raises(InfrastructureError, match="a computation has run"):
            computing.require_progress()
        go_on.set()
        while computing.load:
            await asyncio.sleep(0.001)
        computing.require_progress()
        assert await Computing(max_waiting=0, deadline_seconds=60).run(int) == 0

    asyncio.run(outlive_the_deadline())
