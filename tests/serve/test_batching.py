"""Questions that share a batch: who shares, who is refused, who gives up."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from serve.common.batching import Batching
from serve.common.problems import RETRY_SECONDS, Problem


class Squares:
    """Answers batches when told to, and remembers them."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go_on = threading.Event()

    def answer(self, questions: Sequence[int]) -> list[int]:
        self.batches.append(list(questions))
        assert self.go_on.wait(30)
        if 13 in questions:
            raise ArithmeticError("13 is not answered")
        return [question**2 for question in questions]


async def asked(batching: Batching[int, int], *questions: int) -> list[asyncio.Task[int]]:
    """Tasks that have asked and wait."""
    tasks = [asyncio.create_task(batching.ask(question)) for question in questions]
    await asyncio.sleep(0)
    return tasks


async def computing(squares: Squares, batches: int) -> None:
    """Until so many batches have begun."""
    while len(squares.batches) < batches:
        await asyncio.sleep(0.001)


def test_questions_that_arrive_during_a_batch_make_up_the_next() -> None:
    async def scenario() -> None:
        squares = Squares()
        batching = Batching(squares.answer, largest=3, max_waiting=9, deadline_seconds=30)
        first = await asked(batching, 1)
        await computing(squares, 1)
        rest = await asked(batching, 2, 3, 4, 5)
        assert batching.load == 5
        squares.go_on.set()
        assert await asyncio.gather(*first, *rest) == [1, 4, 9, 16, 25]
        assert squares.batches == [[1], [2, 3, 4], [5]]
        assert await batching.ask(6) == 36
        assert batching.load == 0

    asyncio.run(scenario())


def test_a_full_queue_refuses_and_a_failed_batch_fails_its_own() -> None:
    async def scenario() -> None:
        squares = Squares()
        batching = Batching(squares.answer, largest=2, max_waiting=3, deadline_seconds=30)
        first = await asked(batching, 1)
        await computing(squares, 1)
        rest = await asked(batching, 2, 13, 3)
        with pytest.raises(Problem) as refused:
            await batching.ask(4)
        assert (refused.value.status, refused.value.retry_after) == (503, 1)
        squares.go_on.set()
        found = await asyncio.gather(*first, *rest, return_exceptions=True)
        assert [type(one) for one in found] == [int, ArithmeticError, ArithmeticError, int]

    asyncio.run(scenario())


def test_who_gives_up_is_left_out_and_a_stuck_batch_is_late() -> None:
    async def scenario() -> None:
        squares = Squares()
        batching = Batching(squares.answer, largest=9, max_waiting=9, deadline_seconds=1)
        first = await asked(batching, 1)
        await computing(squares, 1)
        impatient, other = await asked(batching, 2, 3)
        impatient.cancel()
        with pytest.raises(Problem) as late:
            await first[0]
        assert (late.value.status, late.value.retry_after) == (504, RETRY_SECONDS)
        found = await asyncio.gather(impatient, other, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert isinstance(found[1], Problem)
        squares.go_on.set()
        while batching.load:
            await asyncio.sleep(0.001)
        assert await batching.ask(4) == 16
        assert squares.batches == [[1], [4]]

    asyncio.run(scenario())
