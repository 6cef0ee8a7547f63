"""Errors as MLflow's clients read them: an `error_code` by name, and a message.

A status that they repeat by themselves (408, 429, 500, 502, 503, 504) is given only where a repetition can help.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field

from mlray import errors
from mlray.registry_server.problems import Missing, answered, explained

PREFIX = "/api/2.0/mlflow"
_CODES: Mapping[type[Exception], tuple[int, str]] = {
    errors.Unauthenticated: (401, "UNAUTHENTICATED"),
    errors.NotApproved: (403, "PERMISSION_DENIED"),
    errors.Forbidden: (403, "PERMISSION_DENIED"),
    errors.UnknownName: (404, "RESOURCE_DOES_NOT_EXIST"),
    errors.AlreadyExists: (400, "RESOURCE_ALREADY_EXISTS"),
    errors.Conflict: (409, "RESOURCE_CONFLICT"),
    errors.CorruptArtifact: (409, "DATA_LOSS"),
    errors.InvalidRequest: (400, "INVALID_PARAMETER_VALUE"),
    errors.InvalidName: (400, "INVALID_PARAMETER_VALUE"),
    errors.InvalidQuery: (400, "INVALID_PARAMETER_VALUE"),
    errors.SchemaError: (400, "INVALID_PARAMETER_VALUE"),
    errors.PickleRefused: (400, "INVALID_PARAMETER_VALUE"),
    RequestValidationError: (400, "INVALID_PARAMETER_VALUE"),
    errors.RegistryUnavailable: (503, "TEMPORARILY_UNAVAILABLE"),
}
_BY_STATUS = {404: "ENDPOINT_NOT_FOUND", 405: "ENDPOINT_NOT_FOUND", 500: "INTERNAL_ERROR"}


class Refusal(BaseModel):
    """Why there is no answer, as MLflow says it."""

    error_code: str = Field(examples=["PERMISSION_DENIED"])
    message: str
    request_id: str
    missing: Missing | None = None


def refused(request: Request, error: Exception) -> Response:
    """The handler of every error on MLflow's routes."""
    found = explained(request, error)
    status, code = _code(error, found.status)
    refusal = Refusal(error_code=code, message=found.message, request_id=found.request_id, missing=found.missing)
    return answered(refusal.model_dump(exclude_none=True), status, found.request_id)


REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Refusal, "description": "what the caller can change"},
    500: {"model": Refusal, "description": "an unexpected error"},
    503: {"model": Refusal, "description": "the database or the artifact store is away"},
}
"""For OpenAPI: that every error is a Refusal."""


def _code(error: Exception, status: int) -> tuple[int, str]:
    known = next((told for kind, told in _CODES.items() if isinstance(error, kind)), None)
    return known or (status, _BY_STATUS.get(status, "BAD_REQUEST"))
