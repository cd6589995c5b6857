"""What the replicas of an application have to agree on, in one small process beside them.

It is deployed only where there can be more than one replica. What it holds may be lost with it: counts expire and start
anew, and a message that was under way is answered as if its receiver were gone.
"""

import asyncio
import time
import uuid
from collections import defaultdict
from typing import Any

from ray import serve

LISTEN_SECONDS = 30.0
"""How long a replica waits for messages before it asks again."""
ANSWER_SECONDS = 5.0
"""How long a message waits for the answer of its receiver."""
EXPIRES_SECONDS = 900.0
"""After which a request is no longer counted whose replica died before it was answered."""
Message = tuple[str, Any]
"""An id for the answer, and what is said."""


@serve.deployment(name="shared", ray_actor_options={"num_cpus": 0}, max_ongoing_requests=100_000)
class Shared:
    """Requests under way by key, and messages from replica to replica."""

    def __init__(self) -> None:
        self._under_way: dict[str, dict[str, float]] = defaultdict(dict)
        self._owners: dict[str, str] = {}
        self._mail: dict[str, asyncio.Queue[Message]] = defaultdict(asyncio.Queue)
        self._answers: dict[str, asyncio.Future[Any]] = {}

    async def enter(self, owner: str, limit: int, ticket: str) -> bool:
        """Count a request in, unless its owner has ``limit`` under way."""
        mine, now = self._under_way[owner], time.monotonic()
        for old in [one for one, expires in mine.items() if expires < now]:
            await self.leave(old)
        if len(mine) >= limit:
            return False
        mine[ticket] = now + EXPIRES_SECONDS
        self._owners[ticket] = owner
        return True

    async def leave(self, ticket: str) -> None:
        """Count a request out."""
        owner = self._owners.pop(ticket, None)
        if owner is not None:
            self._under_way[owner].pop(ticket, None)
            if not self._under_way[owner]:
                del self._under_way[owner]

    async def ask(self, replica: str, message: Any) -> Any:
        """What a replica answers; None where it does not."""
        ticket = uuid.uuid4().hex
        answer = self._answers[ticket] = asyncio.get_running_loop().create_future()
        self._mail[replica].put_nowait((ticket, message))
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await answer
        except TimeoutError:
            return None
        finally:
            del self._answers[ticket]

    async def messages(self, replica: str) -> list[Message]:
        """What is said to a replica, as soon as something is; empty after ``LISTEN_SECONDS``."""
        mail = self._mail[replica]
        try:
            async with asyncio.timeout(LISTEN_SECONDS):
                found = [await mail.get()]
        except TimeoutError:
            found = []
        while not mail.empty():
            found.append(mail.get_nowait())
        if not found:
            del self._mail[replica]
        return found

    async def answer(self, ticket: str, value: Any) -> None:
        """A replica's answer to a message."""
        waiting = self._answers.get(ticket)
        if waiting is not None and not waiting.done():
            waiting.set_result(value)
