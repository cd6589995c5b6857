"""What a replica tells the others and hears from them, through :class:`.Shared`."""

import asyncio
import contextvars
import itertools
import logging
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from ray import serve

from .problems import RETRY_SECONDS, Problem

SEPARATOR = "."
PAUSE_SECONDS = 1.0
ENTER_SECONDS = 1.0
"""How long a request waits for the count over all replicas before its own replica's has to do."""
logger = logging.getLogger("rayworks.serve")


class Peers:
    """One replica's. Where it is the only one, nobody is told anything.

    Args:
        shared: handle of :class:`.Shared`; None where there is one replica.
    """

    def __init__(self, shared: Any = None) -> None:
        self._shared = shared
        self._replica = serve.get_replica_context().replica_id.unique_id if shared is not None else ""
        self._numbers = itertools.count(1)
        self._owners: dict[str, str] = {}
        self._listening: asyncio.Task[None] | None = None
        self.receive: Callable[[Any], Any] = lambda message: None
        """Answers a message of another replica."""

    @property
    def address(self) -> str:
        """What an id has to begin with, behind its last hyphen, for others to know where it is; may be empty."""
        return f"{self._replica}{SEPARATOR}" if self._shared is not None else ""

    @staticmethod
    def replica_of(identifier: str) -> str:
        """The replica that an id names; empty if none."""
        before, separator, _ = identifier.rpartition("-")[2].rpartition(SEPARATOR)
        return before if separator else ""

    def listen(self) -> None:
        """Go on listening until the process ends; needs a running event loop."""
        if self._shared is not None and (self._listening is None or self._listening.done()):
            # Not as a part of the request that found it ended.
            self._listening = asyncio.get_running_loop().create_task(self._listen(), context=contextvars.Context())

    @asynccontextmanager
    async def entered(self, owner: str, ticket: str, limit: int) -> AsyncIterator[bool]:
        """Counts a request over all replicas for as long as the block lasts; yields whether its owner has room for it.

        Raises:
            Problem: 500 when replicas have ended that had this request.
        """
        if self._shared is None:
            yield True
            return
        ticket = ticket if ticket not in self._owners else uuid.uuid4().hex
        self._owners[ticket] = owner
        try:
            yield await self._has_room(ticket, limit)
        finally:
            del self._owners[ticket]
            leave = partial(self._shared.leave.remote, self._replica, next(self._numbers), ticket)
            # Not as a part of the request: Serve ends what was begun for it together with it.
            contextvars.Context().run(leave)

    async def _has_room(self, ticket: str, limit: int) -> bool:
        told = self._replica, next(self._numbers), ticket, self._owners[ticket], limit
        try:
            async with asyncio.timeout(ENTER_SECONDS):
                entry = await self._shared.enter.remote(*told)
        except Exception as error:
            logger.warning("requests per key are counted on this replica alone: %s", error)
            return True
        if entry == "deadly":
            raise Problem(500, "replicas ended while they had this request, so it is not tried again")
        return bool(entry == "entered")

    async def ask(self, replica: str, message: Any) -> Any:
        """What another replica answers; None where there is none, or it does not answer in time."""
        if self._shared is None or replica in ("", self._replica):
            return None
        try:
            return await self._shared.ask.remote(replica, message)
        except Exception as error:
            raise Problem(503, "the other replicas cannot be asked now; try again", RETRY_SECONDS) from error

    async def _listen(self) -> None:
        while True:
            try:
                told = self._replica, next(self._numbers), dict(self._owners)
                for ticket, message in await self._shared.listen.remote(*told):
                    await self._shared.answer.remote(ticket, self.receive(message))
            except Exception as error:
                # The process beside is being replaced.
                logger.warning("messages between replicas: %s", error)
                await asyncio.sleep(PAUSE_SECONDS)
