"""Small questions answered together: those that arrive while a batch computes make up the next."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from .computing import Computing
from .problems import RETRY_SECONDS, Problem

QuestionT = TypeVar("QuestionT")
AnswerT = TypeVar("AnswerT")


class Batching(Generic[QuestionT, AnswerT]):
    """One thread that answers whole batches; a question that finds it idle does not wait for company.

    ``serve.batch`` closes a batch a fixed wait after its first question, also while the batch before still computes: those
    that come further apart than the wait queue up alone. Here batches grow with the load.

    Args:
        answer: from questions to as many answers, on the thread.
        largest: questions of one batch.
        max_waiting: questions that may wait for the batch before theirs; beyond that: 503.
        deadline_seconds: wait and work together; beyond that: 504.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[QuestionT]], Sequence[AnswerT]],
        largest: int,
        max_waiting: int,
        deadline_seconds: float,
    ) -> None:
        self._answer, self._largest = answer, largest
        self._max_waiting, self._deadline = max_waiting, deadline_seconds
        self._computing = Computing(0, deadline_seconds)
        self._waiting: deque[tuple[QuestionT, asyncio.Future[AnswerT]]] = deque()
        self._working: asyncio.Task[None] | None = None

    @property
    def load(self) -> int:
        """Questions that wait, and batches that compute."""
        return len(self._waiting) + self._computing.load

    async def ask(self, question: QuestionT) -> AnswerT:
        """Its answer, or what answering its batch raised.

        Raises:
            Problem: 503 when too many wait, 504 past the deadline.
        """
        if self._working is not None and len(self._waiting) >= self._max_waiting:
            raise Problem(503, f"{len(self._waiting)} requests wait for a batch; try again", retry_after=1)
        future: asyncio.Future[AnswerT] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        try:
            async with asyncio.timeout(self._deadline):
                return await future
        except TimeoutError:
            raise Problem(504, f"not answered after {self._deadline:g} s; try again later", RETRY_SECONDS) from None

    def require_progress(self) -> None:
        """As :meth:`Computing.require_progress`."""
        self._computing.require_progress()

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._work_on([self._waiting.popleft() for _ in range(min(self._largest, len(self._waiting)))])
        finally:
            self._working = None

    async def _work_on(self, batch: Sequence[tuple[QuestionT, asyncio.Future[AnswerT]]]) -> None:
        wanted = [(question, future) for question, future in batch if not future.done()]
        if not wanted:
            return
        try:
            answers = await self._computing.run(lambda: self._answer([question for question, _ in wanted]))
        except Exception as error:
            for _, future in wanted:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in zip(wanted, answers, strict=True):
            if not future.done():
                future.set_result(answer)
