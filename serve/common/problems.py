"""Errors as clients get them: problem+json documents (RFC 9457), and their place in the OpenAPI document."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field

from rayworks.core.errors import InfrastructureError, RayworksError

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 10
TITLES = {
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
    error: dict[str, str] = Field(description="message, type and code once more, where OpenAI clients look for them")


class Problem(Exception):
    """An error answer.

    Args:
        status: HTTP status, one of ``TITLES``.
        detail: one sentence that names the field and the fix.
        retry_after: seconds, sent as ``Retry-After``.
        headers: sent with the answer.
    """

    def __init__(
        self, status: int, detail: str, retry_after: int | None = None, headers: Mapping[str, str] = {}
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.retry_after, self.headers = status, detail, retry_after, headers

    def answer(self, request_id: str) -> dict[str, Any]:
        """A :class:`ProblemAnswer` as JSON."""
        kind, title = TITLES.get(self.status, ("error", "Error"))
        return {
            "type": f"urn:rayworks:problem:{kind}",
            "title": title,
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
            "error": {"message": self.detail, "type": kind, "code": kind},
        }


def problem_of(error: RayworksError) -> Problem:
    """What the library refuses is the request's fault; what disks and the cluster fail at is not, and may pass."""
    if isinstance(error, InfrastructureError):
        return Problem(503, f"{error}; try again", RETRY_SECONDS)
    return Problem(422, str(error))


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
            for methods in document["paths"].values():
                for operation in methods.values():
                    _document(operation)
        return self.openapi_schema or {}


def _document(operation: dict[str, Any]) -> None:
    given = operation["responses"]
    # FastAPI's own, of a shape that is never answered.
    given.pop("422", None)
    statuses = {500, 503, *(int(status) for status in given if int(status) in TITLES)}
    if "security" in operation:
        statuses |= {401, 403, 429}
    if "requestBody" in operation or "parameters" in operation:
        statuses.add(422)
    if "requestBody" in operation:
        statuses |= {408, 411, 413, 504}
    schema = {"$ref": "#/components/schemas/ProblemAnswer"}
    for status in sorted(statuses):
        documented = {"description": TITLES[status][1], "content": {MEDIA_TYPE: {"schema": schema}}}
        if status in HEADERS:
            name, meaning, kind = HEADERS[status]
            documented["headers"] = {name: {"description": meaning, "schema": {"type": kind}}}
        given[str(status)] = documented
