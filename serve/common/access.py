"""Access control: bearer keys, and a limit of concurrent requests per key."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from ray import serve

from .keys import ApiKeys
from .problems import Problem

BEARER = HTTPBearer(scheme_name="api-key", description="A key that the operator gave out.", auto_error=False)
"""For the OpenAPI document; :meth:`Access.owner` is what checks."""


class Access:
    """Checks keys and counts requests under way.

    Args:
        keys: accepted keys.
        concurrent_per_key: most requests of one key at a time.
    """

    def __init__(self, keys: ApiKeys, concurrent_per_key: int) -> None:
        self._keys, self._limit = keys, concurrent_per_key
        self._under_way: Counter[str] = Counter()

    def owner(self, authorization: str | None) -> str:
        """Whose key the ``Authorization`` header carries.

        Raises:
            Problem: 401 without a bearer key, 403 with one that is not known.
        """
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Problem(401, "Authorization: is missing; send 'Authorization: Bearer KEY'")
        owner = self._keys.owner(key.strip())
        if owner is None:
            raise Problem(403, "Authorization: the key is not known; ask the operator for one")
        return owner

    def enter(self, owner: str) -> None:
        """Count a request in; pair with :meth:`leave`.

        Raises:
            Problem: 429 when the owner has too many under way.
        """
        if self._under_way[owner] >= self._limit:
            raise Problem(
                429, f"{owner} has {self._limit} requests under way, the most for one key; wait", retry_after=1
            )
        self._under_way[owner] += 1

    def leave(self, owner: str) -> None:
        """Count a request out."""
        self._under_way[owner] -= 1


async def owner_of(request: Request, documented: Annotated[object, Depends(BEARER)]) -> str:
    """Whose request it is; refuses requests without a known key."""
    return str(replica().access.owner(request.headers.get("authorization")))


Owner = Annotated[str, Depends(owner_of)]


async def caller(owner: Owner) -> AsyncIterator[str]:
    """Whose request it is; refuses more requests of one key than it may have under way, too."""
    access = replica().access
    access.enter(owner)
    try:
        yield owner
    finally:
        access.leave(owner)


def replica() -> Any:
    """The deployment object of this process."""
    return serve.get_replica_context().servable_object


Caller = Annotated[str, Depends(caller)]
