"""A FastAPI application as all systems serve it: a gate before it, health, and errors as problems."""

import json
import logging
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from rayworks import __version__
from rayworks.core.errors import ConfigError, DataError, InfrastructureError, RayworksError

from .access import replica
from .gate import MAX_BODY_BYTES, Gate, path_of, problem_answer
from .origins import Origins
from .problems import FIELD, Problem, ProblemsDocumented, problem_of, speaks_openai

FIELDS_SHOWN = 8
"""Wrong fields that one answer names before it says how many more there are."""
logger = logging.getLogger("rayworks.serve")


def new_application(
    system: str,
    description: str,
    max_body_bytes: int = MAX_BODY_BYTES,
    as_problem: Callable[[RayworksError], Problem] = problem_of,
) -> FastAPI:
    """An application with the shared gate, error handlers and ``GET /healthz``.

    Args:
        system: whose name the OpenAPI document carries.
        description: of the OpenAPI document.
        max_body_bytes: longer bodies: 413.
        as_problem: what an error of the library is answered with.
    """
    application = ProblemsDocumented(
        title=f"Rayworks {system}",
        description=description,
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )

    application.add_middleware(Gate, max_body_bytes=max_body_bytes)
    # What is added last comes first: a browser asks for its leave without a key, and must be able to read refusals.
    application.add_middleware(Origins)

    async def answer(request: Request, error: Exception) -> Response:
        return problem_answer(request, _problem(request, error, as_problem))

    for kind in (Problem, RayworksError, HTTPException, RequestValidationError, Exception):
        application.add_exception_handler(kind, answer)
    application.add_api_route("/healthz", healthz)
    application.add_api_route("/healthz", healthz, methods=["HEAD"], include_in_schema=False)
    return application


async def healthz() -> dict[str, Any]:
    """Open to all: a real answer of the last second, beside all queues, and how long it took."""
    served = replica()
    seconds = await served.check_health()
    return {"status": "ok", "answered_in_seconds": seconds, **served.state()}


def _problem(request: Request, error: Exception, as_problem: Callable[[RayworksError], Problem]) -> Problem:
    """The answer to each kind of error; unforeseen ones are logged, not told."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        if error.status_code == 400:
            # FastAPI's word for a body that json cannot read.
            return Problem(422, "body: is not JSON in UTF-8")
        asked = f"{request.method} {request.url.path}"
        if error.status_code == 405:
            methods = ", ".join(_methods(request))
            return Problem(405, f"{asked}: is not offered; use {methods}", headers={"Allow": methods})
        return Problem(error.status_code, f"{asked}: {error.detail}", headers=error.headers or {})
    if isinstance(error, RequestValidationError):
        found = error.errors()
        if any(isinstance(item.get("input"), bytes) for item in found):
            # FastAPI does not read a body as JSON that is not said to be.
            kind = request.headers.get("content-type", "")
            told = f"is {kind[:60]}" if kind else "is missing"
            return Problem(422, f"Content-Type: {told}; send 'Content-Type: application/json'")
        unknown = [".".join(map(str, item["loc"][1:])) for item in found if item["type"] == "extra_forbidden"]
        if unknown and speaks_openai(path_of(request)):
            return Problem(422, f"Unrecognized request argument supplied: {', '.join(unknown[:FIELDS_SHOWN])}")
        more = [f"and {len(found) - FIELDS_SHOWN} more"] if len(found) > FIELDS_SHOWN else []
        return Problem(422, "; ".join([*map(_told, found[:FIELDS_SHOWN]), *more]))
    if isinstance(error, DataError | ConfigError):
        return as_problem(error)
    logger.exception("request %s failed", request.state.request_id, exc_info=error)
    if isinstance(error, InfrastructureError):
        return as_problem(error)
    return Problem(500, f"the server failed; give the operator request id {request.state.request_id}")


def _methods(request: Request) -> list[str]:
    """All that the path is offered with: a route knows only its own."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for route in routes for method in route.methods})


def _told(item: dict[str, Any]) -> str:
    """A sentence about one wrong field."""
    if item["type"] == "json_invalid":
        return "body: is not JSON"
    parts = [str(part) for part in item["loc"] if part != "body"]
    if item["loc"][:1] == ("body",):
        # Alternatives of a union stand in a body's location under names of pydantic's own.
        parts = [part for part in parts if not set("[-") & set(part)]
    said = item["msg"].removeprefix("Value error, ")
    if not parts and FIELD.match(said):
        return str(said)
    given = json.dumps(item.get("input"), default=str)
    shown = f" (given {given})" if len(given) <= 60 and item["type"] != "missing" else ""
    return f"{'.'.join(parts) or 'body'}: {said[0].lower()}{said[1:]}{shown}"
