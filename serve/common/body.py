"""Bodies of requests."""

from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

ERRORS_TOLD = 100
"""Errors of one body that are looked at; where there are more, only their number is told."""


def _end_lists_early(schema: Any) -> None:
    if isinstance(schema, dict):
        if schema.get("type") == "list":
            schema["fail_fast"] = True
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            _end_lists_early(part)


class Body(BaseModel):
    """A request body: unknown fields are refused, not ignored, and reading it ends early where much of it is wrong.

    An error for each of a million values would take seconds and gigabytes.
    """

    model_config = ConfigDict(extra="forbid")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> Any:
        """Of each list only the first wrong value is looked for."""
        schema = handler(source)
        _end_lists_early(schema)
        return schema

    @model_validator(mode="wrap")
    @classmethod
    def _count_errors(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(values)
        except ValidationError as error:
            if error.error_count() > ERRORS_TOLD:
                raise ValueError(f"{error.error_count()} names or values are wrong; send fewer to see which") from None
            raise
