"""Who may call: bearer keys, and a limit of concurrent requests per key."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from ray import serve

from .keys import ApiKeys
from .peers import Peers
from .problems import Problem

BEARER = HTTPBearer(scheme_name="api-key", description="A key that the operator gave out.", auto_error=False)
"""For the OpenAPI document; :meth:`Access.owner` is what checks."""


class Access:
    """Checks keys and counts requests under way.

    Args:
        keys: accepted keys.
        concurrent_per_key: most requests of one key at a time, over all replicas.
        peers: the other replicas.
    """

    def __init__(self, keys: ApiKeys, concurrent_per_key: int, peers: Peers) -> None:
        self._keys, self._limit, self._peers = keys, concurrent_per_key, peers
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
            raise Problem(
                403, "Authorization: the key is unknown, has expired or is for other applications; ask the operator"
            )
        return owner

    @asynccontextmanager
    async def entered(self, owner: str, ticket: str) -> AsyncIterator[None]:
        """Counts a request in, and out when its answer is sent.

        Args:
            owner: whose it is.
            ticket: name of the request; the same when it comes again since its replica died.

        Raises:
            Problem: 429 when the owner has too many under way, 500 when replicas have ended that had the request.
        """
        full = Problem(429, f"{owner} has {self._limit} requests under way, the most for one key; wait", retry_after=1)
        if self._under_way[owner] >= self._limit:
            raise full
        # Counted before the others are asked: many may arrive meanwhile.
        self._under_way[owner] += 1
        try:
            async with self._peers.entered(owner, ticket, self._limit) as has_room:
                if not has_room:
                    raise full
                yield
        finally:
            self._under_way[owner] -= 1


async def caller(request: Request, documented: Annotated[object, Depends(BEARER)]) -> str:
    """Whose request it is, which the gate has checked."""
    return str(request.state.owner)


Caller = Annotated[str, Depends(caller)]


def replica() -> Any:
    """The deployment object of this process."""
    return serve.get_replica_context().servable_object
