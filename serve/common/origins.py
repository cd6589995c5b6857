"""Leave for web pages of other origins to ask from a browser (CORS), where the operator has named them."""

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from .access import replica

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
READABLE = ("Retry-After", "X-Request-Id")
"""Headers of answers that pages may read beyond those that browsers always show."""


class Origins:
    """ASGI middleware: browsers that ask for leave get it without a key, and every answer says whose page may read it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._with_leave: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Called by Starlette."""
        if scope["type"] != "http" or not replica().allowed_origins:
            await self._app(scope, receive, send)
            return
        if self._with_leave is None:
            # The setting is known only once the replica is there.
            self._with_leave = CORSMiddleware(
                self._app,
                allow_origins=replica().allowed_origins,
                allow_methods=METHODS,
                allow_headers=["*"],
                expose_headers=READABLE,
            )
        await self._with_leave(scope, receive, send)
