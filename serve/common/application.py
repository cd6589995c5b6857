"""A FastAPI application as all systems serve it: request ids, size limit, health, and errors as problems."""

import json
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from rayworks import __version__
from rayworks.core.errors import ConfigError, DataError, InfrastructureError, RayworksError

from .access import replica
from .problems import MEDIA_TYPE, Problem, ProblemsDocumented, problem_of

MAX_BODY_BYTES = 1 * 2**20
REQUEST_ID = "x-request-id"
FIELDS_SHOWN = 8
"""Wrong fields that one answer names before it says how many more there are."""
logger = logging.getLogger("rayworks.serve")


class Body(BaseModel):
    """A request body: unknown fields are refused, not ignored."""

    model_config = ConfigDict(extra="forbid")


def new_application(
    system: str,
    description: str,
    max_body_bytes: int = MAX_BODY_BYTES,
    admit: Callable[[Request], object] = lambda _: None,
    as_problem: Callable[[RayworksError], Problem] = problem_of,
) -> FastAPI:
    """An application with the shared middleware, error handlers and ``GET /healthz``.

    Args:
        system: whose name the OpenAPI document carries.
        description: of the OpenAPI document.
        max_body_bytes: longer bodies: 413.
        admit: asked before a body beyond the usual ``MAX_BODY_BYTES`` is read; raises ``Problem`` to refuse it.
        as_problem: what an error of the library is answered with.
    """
    application = ProblemsDocumented(
        title=f"Rayworks {system}", description=description, version=__version__, docs_url=None, redoc_url=None
    )

    @application.middleware("http")
    async def identify_and_limit(request: Request, following: Callable[[Request], Awaitable[Response]]) -> Response:
        # Serve's proxy gives every request an id and returns it as a header.
        request.state.request_id = request.headers.get(REQUEST_ID, "")[:64] or uuid.uuid4().hex
        try:
            _require_length(request, max_body_bytes, admit)
        except Problem as problem:
            return _answer(request, problem)
        return await following(request)

    async def answer(request: Request, error: Exception) -> Response:
        return _answer(request, _problem(request, error, as_problem))

    for kind in (Problem, RayworksError, HTTPException, RequestValidationError, Exception):
        application.add_exception_handler(kind, answer)
    application.add_api_route("/healthz", healthz)
    return application


async def healthz() -> dict[str, Any]:
    """Open to all: a real answer of the last second, beside all queues, and how long it took."""
    served = replica()
    seconds = await served.check_health()
    return {"status": "ok", "answered_in_seconds": seconds, **served.state()}


def _require_length(request: Request, most: int, admit: Callable[[Request], object]) -> None:
    length = request.headers.get("content-length")
    if request.method in ("POST", "PATCH", "PUT") and length is None:
        raise Problem(413, "body: send Content-Length; chunked bodies are not taken")
    if length is not None and int(length) > most:
        raise Problem(413, f"body: is {length} bytes, at most {most} are taken; shorten it")
    if length is not None and int(length) > MAX_BODY_BYTES:
        admit(request)


def _problem(request: Request, error: Exception, as_problem: Callable[[RayworksError], Problem]) -> Problem:
    """The answer to each kind of error; unforeseen ones are logged, not told."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        return Problem(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
    if isinstance(error, RequestValidationError):
        found = error.errors()
        more = [f"and {len(found) - FIELDS_SHOWN} more"] if len(found) > FIELDS_SHOWN else []
        return Problem(422, "; ".join([*map(_told, found[:FIELDS_SHOWN]), *more]))
    if isinstance(error, DataError | ConfigError):
        return as_problem(error)
    logger.exception("request %s failed", request.state.request_id, exc_info=error)
    if isinstance(error, InfrastructureError):
        return as_problem(error)
    return Problem(500, f"the server failed; give the operator request id {request.state.request_id}")


def _answer(request: Request, problem: Problem) -> JSONResponse:
    headers = {} if problem.retry_after is None else {"Retry-After": str(problem.retry_after)}
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = problem.answer(request.state.request_id)
    return JSONResponse(body, problem.status, headers=headers, media_type=MEDIA_TYPE)


def _told(item: dict[str, Any]) -> str:
    """A sentence about one wrong field."""
    if item["type"] == "json_invalid":
        return "body: is not JSON"
    parts = [str(part) for part in item["loc"] if part != "body"]
    if item["loc"][:1] == ("body",):
        # Alternatives of a union stand in a body's location under names of pydantic's own.
        parts = [part for part in parts if not set("[-") & set(part)]
    given = json.dumps(item.get("input"), default=str)
    shown = f" (given {given})" if len(given) <= 60 and item["type"] != "missing" else ""
    return f"{'.'.join(parts) or 'body'}: {item['msg'][0].lower()}{item['msg'][1:]}{shown}"
