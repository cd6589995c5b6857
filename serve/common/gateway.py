"""Runs in Serve's HTTP proxies: a request whose replica dies goes to another one, and Serve's own answers become problems.

Taken up where ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`` is ``serve.common.gateway:middlewares`` and this package can be
imported when a node starts, as ``cluster.local`` has it. Routes have to bear a request that comes again under its id: what
they have begun to answer is never asked again.
"""

import asyncio
import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .problems import MEDIA_TYPE, Problem

ATTEMPTS = 5
PAUSE_SECONDS = 0.2
"""Before the second attempt; doubled each time, so that a replica that died has been missed before the last."""
REQUEST_ID = b"x-request-id"
TICKET = b"x-rayworks-ticket"
"""Header that replicas tell requests by. A client's is dropped, so that none can pass for another request."""
OURS = (REQUEST_ID, TICKET, b"serve_multiplexed_model_id")
"""Headers that do not go on as they came; the last is one of Serve's, by which it fails on what is not ASCII."""
PRINTABLE = re.compile(rb"[!-~]+")
LARGEST_BODY = 64 * 2**20
"""No application takes more."""
RETRY_SECONDS = 5
RESERVED = "/-/"
"""Serve's own paths: health and routes of the proxy."""
OWN = {404: "no application has this path", 408: "the request timed out", 503: "no replica can take the request now"}
"""What Serve answers as plain text."""


class Gateway:
    """ASGI middleware around Serve's proxy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Called by the proxy's web server."""
        if scope["type"] != "http" or scope["path"].startswith(RESERVED):
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"])
        request_id = given.get(REQUEST_ID, b"")[:64]
        if not PRINTABLE.fullmatch(request_id):
            request_id = uuid.uuid4().hex.encode()
        refused = _refused(given)
        if refused is not None:
            await _send_problem(send, refused, request_id.decode())
            return
        headers = [(name, value) for name, value in scope["headers"] if name not in OURS]
        headers += [(REQUEST_ID, request_id), (TICKET, uuid.uuid4().hex.encode())]
        request = _Request({**scope, "headers": headers}, receive, send)
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
            await request.ask(self._app)
            if request.answered or request.left:
                return
        problem = Problem(503, "the replica that had the request is gone, and no other took it", RETRY_SECONDS)
        await _send_problem(send, problem, request_id.decode())


def _refused(headers: Mapping[bytes, bytes]) -> Problem | None:
    """Why a body can not be taken: the proxy holds it whole before any key is asked for."""
    length = headers.get(b"content-length", b"0")
    if b"transfer-encoding" in headers:
        return Problem(411, "body: send Content-Length; chunked bodies are not taken")
    if len(length) > 15 or int(length) > LARGEST_BODY:
        return Problem(413, f"body: is {length[:15].decode()} bytes, at most {LARGEST_BODY} are taken; shorten it")
    return None


class _Request:
    """Remembers what has been received, so that it can be asked again."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._received: list[Message] = []
        self.answered = self.left = False
        self._replaced = False

    async def ask(self, app: ASGIApp) -> None:
        again = list(self._received)

        async def receive() -> Message:
            if again:
                return again.pop(0)
            message = await self._receive()
            self.left = message["type"] == "http.disconnect"
            self._received.append(message)
            return message

        # Serve's proxy writes into the scope.
        await app({**self._scope, "state": {}}, receive, self._answer)

    async def _answer(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.answered = True
            kinds = [value for name, value in message.get("headers", ()) if name.lower() == b"content-type"]
            self._replaced = message["status"] in OWN and not any(MEDIA_TYPE.encode() in kind for kind in kinds)
            if self._replaced:
                status = message["status"]
                retry = RETRY_SECONDS if status == 503 else None
                request_id = dict(self._scope["headers"])[REQUEST_ID].decode("latin-1")
                await _send_problem(self._send, Problem(status, OWN[status], retry), request_id)
        if not self._replaced:
            await self._send(message)


async def _send_problem(send: Send, problem: Problem, request_id: str) -> None:
    body = json.dumps(problem.answer(request_id)).encode()
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    headers.append((REQUEST_ID, request_id.encode("latin-1")))
    if problem.retry_after is not None:
        headers.append((b"retry-after", str(problem.retry_after).encode()))
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def middlewares() -> list[Any]:
    """What Serve asks for when a proxy starts."""
    return [Middleware(Gateway)]
