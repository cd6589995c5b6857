"""Who may call: bearer keys, and a limit of concurrent requests per key."""

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from ray import serve

from .keys import ApiKeys
from .problems import Problem

BEARER = HTTPBearer(scheme_name="api-key", description="A key that the operator gave out.", auto_error=False)
"""For the OpenAPI document; :meth:`Access.owner` is what checks."""
SHARED_SECONDS = 1.0
"""How long a request waits for the count over all replicas before its own replica's has to do."""
logger = logging.getLogger("rayworks.serve")


class Access:
    """Checks keys and counts requests under way.

    Args:
        keys: accepted keys.
        concurrent_per_key: most requests of one key at a time, over all replicas.
        shared: handle of what replicas share; None where there is one replica.
    """

    def __init__(self, keys: ApiKeys, concurrent_per_key: int, shared: Any = None) -> None:
        self._keys, self._limit, self._shared = keys, concurrent_per_key, shared
        self._under_way: Counter[str] = Counter()

    def owner(self, authorization: str | None) -> str:
        """Whose key the ``Authorization`` header carries.

        Raises:
            Problem: 401 without a bearer key, 403 with one that is not known or not for this application.
        """
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Problem(401, "Authorization: is missing; send 'Authorization: Bearer KEY'")
        owner = self._keys.owner(key.strip())
        if owner is None:
            raise Problem(403, "Authorization: the key is not known here, or has expired; ask the operator for one")
        return owner

    @asynccontextmanager
    async def entered(self, owner: str) -> AsyncIterator[None]:
        """Counts a request in, and out when its answer is sent.

        Raises:
            Problem: 429 when the owner has too many under way.
        """
        ticket = uuid.uuid4().hex
        if self._under_way[owner] >= self._limit or not await self._enter_shared(owner, ticket):
            raise Problem(
                429, f"{owner} has {self._limit} requests under way, the most for one key; wait", retry_after=1
            )
        self._under_way[owner] += 1
        try:
            yield
        finally:
            self._under_way[owner] -= 1
            if self._shared is not None:
                self._shared.leave.remote(ticket)

    async def _enter_shared(self, owner: str, ticket: str) -> bool:
        if self._shared is None:
            return True
        try:
            async with asyncio.timeout(SHARED_SECONDS):
                return bool(await self._shared.enter.remote(owner, self._limit, ticket))
        except Exception as error:
            logger.warning("requests per key are counted on this replica alone: %s", error)
            return True


async def caller(request: Request, documented: Annotated[object, Depends(BEARER)]) -> str:
    """Whose request it is, which the gate has checked."""
    return str(request.state.owner)


Caller = Annotated[str, Depends(caller)]


def replica() -> Any:
    """The deployment object of this process."""
    return serve.get_replica_context().servable_object
