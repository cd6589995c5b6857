"""The one thread that requests compute on: full, late, and stuck."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from rayworks.core.errors import InfrastructureError
from serve.common import computing as module
from serve.common.computing import Computing
from serve.common.problems import Problem


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
