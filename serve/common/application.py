"""A FastAPI application as all systems serve it: request ids, size limit, and errors as problem+json (RFC 9457)."""

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

MAX_BODY_BYTES = 1 * 2**20
REQUEST_ID = "x-request-id"
FIELDS_SHOWN = 8
"""Wrong fields that one answer names before it says how many more there are."""
logger = logging.getLogger("rayworks.serve")

TITLES = {
    401: ("missing-key", "An API key is needed"),
    403: ("forbidden", "The API key does not allow that"),
    404: ("not-found", "Nothing is there"),
    405: ("wrong-method", "The method is not offered here"),
    409: ("conflict", "The state does not allow that"),
    413: ("too-large", "The request is too large"),
    422: ("invalid-request", "The request is not valid"),
    429: ("too-many-requests", "This key has too many requests under way"),
    500: ("internal", "The server failed"),
    503: ("busy", "The queue is full"),
    504: ("deadline", "The deadline has passed"),
}


class Body(BaseModel):
    """A request body: unknown fields are refused, not ignored."""

    model_config = ConfigDict(extra="forbid")


class Problem(Exception):
    """An error answer.

    Args:
        status: HTTP status, one of ``TITLES``.
        detail: one sentence that names the field and the fix.
        retry_after: seconds, sent as ``Retry-After``.
    """

    def __init__(self, status: int, detail: str, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.retry_after = status, detail, retry_after


def problem_body(status: int, detail: str, request_id: str) -> dict[str, Any]:
    """The problem document; ``error`` repeats it in the shape that OpenAI clients read."""
    kind, title = TITLES.get(status, ("error", "Error"))
    return {
        "type": f"urn:rayworks:problem:{kind}",
        "title": title,
        "status": status,
        "detail": detail,
        "request_id": request_id,
        "error": {"message": detail, "type": kind, "code": kind},
    }


Admit = Callable[[Request], object]


def new_application(
    title: str, description: str, version: str, max_body_bytes: int = MAX_BODY_BYTES, admit: Admit | None = None
) -> FastAPI:
    """An application with the shared middleware and error handlers.

    Args:
        title: of the OpenAPI document.
        description: of the OpenAPI document.
        version: of the OpenAPI document.
        max_body_bytes: longer bodies: 413.
        admit: asked before a body beyond the usual ``MAX_BODY_BYTES`` is read; raises ``Problem`` to refuse it.
    """
    application = FastAPI(title=title, description=description, version=version, docs_url=None, redoc_url=None)

    @application.middleware("http")
    async def identify_and_limit(request: Request, following: Callable[[Request], Awaitable[Response]]) -> Response:
        return await _identify_and_limit(request, following, max_body_bytes, admit)

    application.add_exception_handler(Problem, _answer_problem)
    application.add_exception_handler(HTTPException, _answer_http)
    application.add_exception_handler(RequestValidationError, _answer_validation)
    application.add_exception_handler(Exception, _answer_unexpected)
    return application


async def _identify_and_limit(
    request: Request,
    following: Callable[[Request], Awaitable[Response]],
    max_body_bytes: int,
    admit: Admit | None,
) -> Response:
    # Serve's proxy gives every request an id and returns it as a header.
    request.state.request_id = request.headers.get(REQUEST_ID, "")[:64] or uuid.uuid4().hex
    length = request.headers.get("content-length")
    if request.method in ("POST", "PATCH", "PUT") and length is None:
        return _answer(request, 413, "body: send Content-Length; chunked bodies are not taken")
    if length is not None and int(length) > max_body_bytes:
        return _answer(request, 413, f"body: is {length} bytes, at most {max_body_bytes} are taken; shorten it")
    if admit is not None and length is not None and int(length) > MAX_BODY_BYTES:
        try:
            admit(request)
        except Problem as problem:
            return await _answer_problem(request, problem)
    return await following(request)


def _answer(request: Request, status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    request_id = getattr(request.state, "request_id", "")
    body = problem_body(status, detail, request_id)
    return JSONResponse(body, status, headers=headers, media_type="application/problem+json")


async def _answer_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _answer(request, error.status, error.detail, headers)


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _answer(request, error.status_code, f"{request.method} {request.url.path}: {error.detail}")


async def _answer_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems, found = [], error.errors()
    for item in found[:FIELDS_SHOWN]:
        if item["type"] == "json_invalid":
            problems.append("body: is not JSON")
            continue
        parts = [str(part) for part in item["loc"] if part != "body"]
        if item["loc"][:1] == ("body",):
            # Alternatives of a union stand in a body's location under names of pydantic's own.
            parts = [part for part in parts if not set("[-") & set(part)]
        field = ".".join(parts) or "body"
        given = json.dumps(item.get("input"), default=str)
        shown = f" (given {given})" if len(given) <= 60 and item["type"] != "missing" else ""
        problems.append(f"{field}: {item['msg'][0].lower()}{item['msg'][1:]}{shown}")
    if len(found) > FIELDS_SHOWN:
        problems.append(f"and {len(found) - FIELDS_SHOWN} more")
    return _answer(request, 422, "; ".join(problems))


async def _answer_unexpected(request: Request, error: Exception) -> Response:
    request_id = getattr(request.state, "request_id", "")
    logger.exception("request %s failed", request_id, exc_info=error)
    return _answer(request, 500, f"the server failed; give the operator request id {request_id}")
