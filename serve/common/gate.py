"""What every request passes before an application sees it: an id, a key, a count, and its body within a time.

In this order: who has no key can make a replica neither read nor wait, and what a slow client holds is a place at the gate,
of which there are more than it can take from those that are served.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .access import replica
from .gateway import TICKET
from .problems import MEDIA_TYPE, Problem, speaks_openai

MAX_BODY_BYTES = 1 * 2**20
RECEIVING = 96
"""Bodies that a replica receives at once; beyond that: 503."""
REQUEST_ID = "x-request-id"
OPEN = ("/healthz", "/openapi.json")
"""Paths that need no key."""
WITH_BODY = ("POST", "PUT", "PATCH")


class Gate:
    """ASGI middleware of every application.

    Args:
        app: what lies behind.
        max_body_bytes: longer bodies: 413.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._app, self._max_body_bytes = app, max_body_bytes
        self._receiving = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Called by Starlette."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        # Serve's proxy gives every request an id and returns it as a header.
        request.state.request_id = request.headers.get(REQUEST_ID, "")[:64] or uuid.uuid4().hex
        served = replica()
        with served.measures.request(scope, send) as watched:
            try:
                async with self._admitted(request) as received:
                    await self._app(scope, received, watched)
            except Problem as problem:
                await problem_answer(request, problem)(scope, receive, watched)
            finally:
                served.measures.queue(served.load)

    @asynccontextmanager
    async def _admitted(self, request: Request) -> AsyncIterator[Receive]:
        if path_of(request) in OPEN:
            yield request.receive
            return
        access = replica().access
        request.state.owner = access.owner(request.headers.get("authorization"))
        length = self._length(request)
        # The gateway gives a request that comes again the same ticket.
        request.state.ticket = request.headers.get(TICKET.decode()) or uuid.uuid4().hex
        async with access.entered(request.state.owner, request.state.ticket):
            yield await self._received(request, length)

    def _length(self, request: Request) -> int:
        """Of the body, in bytes."""
        length = request.headers.get("content-length")
        if length is None or "transfer-encoding" in request.headers:
            if request.method in WITH_BODY or "transfer-encoding" in request.headers:
                raise Problem(411, "body: send Content-Length; chunked bodies are not taken")
            return 0
        if int(length) > self._max_body_bytes:
            raise Problem(413, f"body: is {length} bytes, at most {self._max_body_bytes} are taken; shorten it")
        return int(length)

    async def _received(self, request: Request, length: int) -> Receive:
        """Receives the whole body, and gives it again."""
        if not length:
            return request.receive
        if self._receiving >= RECEIVING:
            raise Problem(503, f"{self._receiving} bodies are being received; try again", retry_after=2)
        seconds = replica().receive_seconds
        self._receiving += 1
        try:
            async with asyncio.timeout(seconds):
                body = await request.body()
        except TimeoutError:
            raise Problem(408, f"body: did not arrive within {seconds:g} s; send it faster") from None
        finally:
            self._receiving -= 1
        if len(body) > self._max_body_bytes:
            # Its length was given, and was not true.
            raise Problem(413, f"body: is {len(body)} bytes, at most {self._max_body_bytes} are taken; shorten it")
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return messages.pop() if messages else await request.receive()

        return again


def path_of(request: Request) -> str:
    """Below the application's prefix."""
    return str(request.scope["path"]).removeprefix(request.scope.get("root_path", ""))


def problem_answer(request: Request, problem: Problem) -> JSONResponse:
    """A problem as the response to a request; one that is not valid as the protocol of its path has it."""
    if problem.status == 422 and speaks_openai(path_of(request)):
        problem.status = 400
    headers = {**problem.headers, **({} if problem.retry_after is None else {"Retry-After": str(problem.retry_after)})}
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = problem.answer(request.state.request_id)
    return JSONResponse(body, problem.status, headers=headers, media_type=MEDIA_TYPE)
