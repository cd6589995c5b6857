"""Messages between the replicas of an application, by the id of what only one of them holds."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ray import serve

MessageT = TypeVar("MessageT")
SEPARATOR = "."
PAUSE_SECONDS = 1.0
logger = logging.getLogger("rayworks.serve")


class Mailbox(Generic[MessageT]):
    """One replica's.

    Args:
        shared: handle of :class:`.Shared`; None where there is one replica, which has nobody to talk to.
        receive: answers a message.
    """

    def __init__(self, shared: Any, receive: Callable[[MessageT], Any]) -> None:
        self._shared, self._receive = shared, receive
        self._replica = serve.get_replica_context().replica_id.unique_id
        self._listening: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """What an id has to begin with, behind its last hyphen, for others to know where it is; may be empty."""
        return f"{self._replica}{SEPARATOR}" if self._shared is not None else ""

    @staticmethod
    def replica_of(identifier: str) -> str:
        """The replica that an id names; empty if none."""
        before, separator, _ = identifier.rpartition("-")[2].rpartition(SEPARATOR)
        return before if separator else ""

    def open(self) -> None:
        """Listen from now on; needs a running event loop."""
        if self._shared is not None and (self._listening is None or self._listening.done()):
            self._listening = asyncio.create_task(self._listen())

    async def ask(self, replica: str, message: MessageT) -> Any:
        """What another replica answers; None where there is none."""
        if self._shared is None or replica in ("", self._replica):
            return None
        return await self._shared.ask.remote(replica, message)

    async def _listen(self) -> None:
        while True:
            try:
                for ticket, message in await self._shared.messages.remote(self._replica):
                    await self._shared.answer.remote(ticket, self._receive(message))
            except Exception as error:
                # The process beside is being replaced.
                logger.warning("messages between replicas: %s", error)
                await asyncio.sleep(PAUSE_SECONDS)
