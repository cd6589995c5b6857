"""The one thread that requests compute on: full, late, and stuck."""

import asyncio
import time

import pytest

from rayworks.core.errors import InfrastructureError
from serve.common.problems import Problem
from serve.common.computing import Computing


def test_a_computation_that_nobody_waits_for_shows_as_a_lack_of_progress() -> None:
    async def outlive_the_deadline() -> None:
        computing = Computing(max_waiting=0, deadline_seconds=0.05)
        with pytest.raises(Problem) as caught:
            await computing.run(lambda: time.sleep(0.3))
        assert caught.value.status == 504
        computing.require_progress()
        with pytest.raises(Problem) as refused:
            await computing.run(int)
        assert refused.value.status == 503
        await asyncio.sleep(0.1)
        with pytest.raises(InfrastructureError, match="a computation has run"):
            computing.require_progress()
        await asyncio.sleep(0.3)
        computing.require_progress()
        assert await computing.run(int) == computing.load == 0

    asyncio.run(outlive_the_deadline())
