"""Errors as clients get them: problem+json documents (RFC 9457), and their place in the OpenAPI document."""

import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field

from rayworks.core.errors import InfrastructureError, RayworksError

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 10
OPENAI_PATHS = re.compile(r"/v1/(models(/.*)?|completions|chat/completions)")
"""Routes of the OpenAI protocol, whose clients know a request that is not valid by the status 400."""
FIELD = re.compile(r"([a-z_][\w.]*)(?: '[^']*')?: ")
"""How a sentence begins that names a field."""
TITLES = {
    400: ("invalid-request", "The request is not valid"),
    401: ("missing-key", "An API key is needed"),
    403: ("forbidden", "The API key does not allow that"),
    404: ("not-found", "Nothing is there"),
    405: ("wrong-method", "The method is not offered here"),
    408: ("too-slow", "The request did not arrive in time"),
    409: ("conflict", "The state does not allow that"),
    411: ("length-required", "The length of the body is needed"),
    413: ("too-large", "The request is too large"),
    422: ("invalid-request", "The request is not valid"),
    429: ("too-many-requests", "This key has too many requests under way"),
    500: ("internal", "The server failed"),
    503: ("busy", "The service cannot take that now"),
    504: ("deadline", "The deadline has passed"),
}
HEADERS = {
    401: ("WWW-Authenticate", "Bearer", "string"),
    405: ("Allow", "the methods that are offered", "string"),
    429: ("Retry-After", "seconds", "integer"),
    503: ("Retry-After", "seconds, where waiting helps", "integer"),
}
"""What answers carry beside a problem: name, meaning, JSON type."""


class ProblemAnswer(BaseModel):
    """An error, as ``Problem.answer`` makes it."""

    type: str = Field(description="stable name of the kind", examples=["urn:rayworks:problem:invalid-request"])
    title: str
    status: int
    detail: str = Field(description="one sentence that names the field and the fix")
    request_id: str = Field(description="as in the header x-request-id; give it to the operator")
    error: dict[str, str | None] = Field(
        description="message, type, param (the field) and code, where OpenAI clients look for them"
    )


class Problem(Exception):
    """An error answer.

    Args:
        status: HTTP status, one of ``TITLES``.
        detail: one sentence that names the field and the fix.
        retry_after: seconds, sent as ``Retry-After``.
        headers: sent with the answer.
        code: by which OpenAI clients know the kind of error, where it is not ours.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        retry_after: int | None = None,
        headers: Mapping[str, str] = {},
        code: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.retry_after, self.headers = status, detail, retry_after, headers
        self._code = code

    def answer(self, request_id: str) -> dict[str, Any]:
        """A :class:`ProblemAnswer` as JSON."""
        kind, title = TITLES.get(self.status, ("error", "Error"))
        return {
            "type": f"urn:rayworks:problem:{kind}",
            "title": title,
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
            "error": self.openai_error(),
        }

    def openai_error(self) -> dict[str, str | None]:
        """The same as OpenAI tells it, whole or as the last event of a stream."""
        kind, _ = TITLES.get(self.status, ("error", "Error"))
        field = FIELD.match(self.detail) if self.status in (400, 404, 422) else None
        type_ = "rate_limit_error" if self.status == 429 else "invalid_request_error"
        return {
            "message": self.detail,
            "type": "server_error" if self.status >= 500 else type_,
            "param": field and field[1],
            "code": self._code or kind,
        }


def problem_of(error: RayworksError) -> Problem:
    """What the library refuses is the request's fault; what disks and the cluster fail at is not, and may pass."""
    if isinstance(error, InfrastructureError):
        return Problem(503, f"{error}; try again", RETRY_SECONDS)
    return Problem(422, str(error))


def speaks_openai(path: str) -> bool:
    """Whether a path below an application's prefix is one of the OpenAI protocol."""
    return OPENAI_PATHS.fullmatch(path) is not None


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route that gives these answers beside those of every route; see :class:`ProblemsDocumented`."""
    return {status: {"description": TITLES[status][1]} for status in statuses}


class ProblemsDocumented(FastAPI):
    """Adds to each operation of the OpenAPI document the problems that follow from what it asks for."""

    def openapi(self) -> dict[str, Any]:
        """The document, made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            schemas["ProblemAnswer"] = ProblemAnswer.model_json_schema()
            for path, methods in document["paths"].items():
                for operation in methods.values():
                    _document(operation, 400 if speaks_openai(path) else 422)
        return self.openapi_schema or {}


def _document(operation: dict[str, Any], invalid: int) -> None:
    given = operation["responses"]
    # FastAPI's own, of a shape that is never answered.
    given.pop("422", None)
    statuses = {500, 503, *(int(status) for status in given if int(status) in TITLES)}
    if "security" in operation:
        statuses |= {401, 403, 429}
    if "requestBody" in operation or "parameters" in operation:
        statuses.add(invalid)
    if "requestBody" in operation:
        statuses |= {408, 411, 413, 504}
    schema = {"$ref": "#/components/schemas/ProblemAnswer"}
    for status in sorted(statuses):
        documented = {"description": TITLES[status][1], "content": {MEDIA_TYPE: {"schema": schema}}}
        if status in HEADERS:
            name, meaning, kind = HEADERS[status]
            documented["headers"] = {name: {"description": meaning, "schema": {"type": kind}}}
        given[str(status)] = documented
