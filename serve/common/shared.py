"""What the replicas of an application have to agree on, in one small process beside them.

It is deployed only where there can be more than one replica. What it holds may be lost with it: within a second each replica
tells it again what is under way there, and a message that was under way is answered as if its receiver were gone.
"""

import asyncio
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ray import serve

from .replica_port import listen_on_the_node_only

LISTEN_SECONDS = 1.0
"""How long a replica waits for messages before it says again what is under way there."""
ALIVE_SECONDS = 5.0
"""A replica that was not heard of for so long is dead, and its requests are no longer counted."""
FORGOTTEN_SECONDS = 120.0
"""How long a dead replica's requests are known, so that one of them cannot end one replica after another."""
DEATHS = 2
"""How many replicas may end while they have a request; it is refused after that."""
ANSWER_SECONDS = 5.0
"""How long a message waits for the answer of its receiver."""
Message = tuple[str, Any]
"""An id for the answer, and what is said."""
Entry = Literal["entered", "full", "deadly"]


@dataclass
class _Replica:
    """What one replica has said. It numbers what it says, since that may arrive in another order."""

    tickets: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Of each request under way there, when it was told of it, and whose it is."""
    left: dict[str, int] = field(default_factory=dict)
    """Requests that have ended, where that may be known before their beginning."""
    told_all: int = 0
    heard: float = field(default_factory=time.monotonic)
    mail: dict[str, Any] = field(default_factory=dict)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_alive(self) -> bool:
        return time.monotonic() - self.heard < ALIVE_SECONDS

    def enter(self, number: int, ticket: str, owner: str) -> None:
        if number > self.told_all and ticket not in self.left:
            self.tickets[ticket] = number, owner

    def leave(self, number: int, ticket: str) -> None:
        self.tickets.pop(ticket, None)
        if number > self.told_all:
            self.left[ticket] = number

    def account(self, number: int, owners: Mapping[str, str]) -> None:
        """Take the replica's word for all that it said before."""
        if number > self.told_all:
            self.left = {ticket: at for ticket, at in self.left.items() if at > number}
            later = {ticket: entry for ticket, entry in self.tickets.items() if entry[0] > number}
            told = {ticket: (number, owner) for ticket, owner in owners.items() if ticket not in self.left}
            self.tickets, self.told_all = {**told, **later}, number


@serve.deployment(name="shared", ray_actor_options={"num_cpus": 0}, max_ongoing_requests=100_000)
class Shared:
    """Requests under way by key, and messages from replica to replica."""

    def __init__(self) -> None:
        listen_on_the_node_only()
        self._replicas: dict[str, _Replica] = {}
        self._answers: dict[str, asyncio.Future[Any]] = {}

    async def enter(self, replica: str, number: int, ticket: str, owner: str, limit: int) -> Entry:
        """Count a request in, unless its owner has ``limit`` under way or replicas ended that had it."""
        one, others = self._heard(replica), [other for name, other in self._replicas.items() if name != replica]
        if sum(ticket in other.tickets for other in others) >= DEATHS:
            return "deadly"
        under_way = {
            known
            for other in [one, *others]
            if other.is_alive
            for known, (_, whose) in other.tickets.items()
            if whose == owner
        }
        # One that comes again, since its replica died, is still counted there.
        if ticket not in under_way and len(under_way) >= limit:
            return "full"
        one.enter(number, ticket, owner)
        return "entered"

    async def leave(self, replica: str, number: int, ticket: str) -> None:
        """Count a request out."""
        self._heard(replica).leave(number, ticket)

    async def listen(self, replica: str, number: int, owners: Mapping[str, str]) -> list[Message]:
        """What is said to a replica, as soon as something is; empty after ``LISTEN_SECONDS``.

        Args:
            replica: who asks.
            number: of what it says.
            owners: of all requests under way there.
        """
        one = self._heard(replica)
        one.account(number, owners)
        now = time.monotonic()
        for name in [name for name, other in self._replicas.items() if now - other.heard > FORGOTTEN_SECONDS]:
            del self._replicas[name]
        try:
            async with asyncio.timeout(LISTEN_SECONDS):
                await one.arrived.wait()
        except TimeoutError:
            return []
        one.arrived.clear()
        found, one.mail = list(one.mail.items()), {}
        return found

    async def ask(self, replica: str, message: Any) -> Any:
        """What a replica answers; None where it does not."""
        one = self._replicas.get(replica)
        if one is None or not one.is_alive:
            return None
        ticket = uuid.uuid4().hex
        answer = self._answers[ticket] = asyncio.get_running_loop().create_future()
        one.mail[ticket] = message
        one.arrived.set()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await answer
        except TimeoutError:
            return None
        finally:
            one.mail.pop(ticket, None)
            del self._answers[ticket]

    async def answer(self, ticket: str, value: Any) -> None:
        """A replica's answer to a message."""
        waiting = self._answers.get(ticket)
        if waiting is not None and not waiting.done():
            waiting.set_result(value)

    def _heard(self, replica: str) -> _Replica:
        one = self._replicas.setdefault(replica, _Replica())
        one.heard = time.monotonic()
        return one
