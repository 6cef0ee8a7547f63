"""What a caller gets in place of an answer: one shape for every error, with its status.

401 without a good token; 403 what this caller may not do, or a version lacks; 404 what nothing carries; 409 what
somebody else changed first, or damaged bytes; 413 too large; 422 what is malformed (400: not even JSON); 503 with
Retry-After where the database or the artifact store is away. 500 is a fault of ours.
"""

import json
import logging
import re
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from mlray import errors
from mlray.errors import MlrayError, NotApproved

logger = logging.getLogger(__name__)

RETRY_AFTER = 5
"""Seconds that a refused caller is told to wait."""
STATUS: Mapping[type[MlrayError], int] = {
    errors.InvalidRequest: 400, errors.Unauthenticated: 401, errors.NotApproved: 403, errors.Forbidden: 403,
    errors.UnknownName: 404, errors.Conflict: 409, errors.CorruptArtifact: 409, errors.RequestTooLarge: 413,
    errors.InvalidName: 422, errors.InvalidQuery: 422, errors.SchemaError: 422, errors.PickleRefused: 422,
    errors.RegistryUnavailable: 503,
}  # fmt: skip
MEANING = {
    400: "not JSON, or a header that cannot be",
    401: "no token, or one that no active user holds",
    403: "the caller lacks a role, or the version its approvals and gates (`missing`)",
    404: "there is no such thing",
    409: "it has changed since, exists already, or its bytes are damaged",
    413: "too many bytes",
    422: "a name, a field or a value that cannot be (`wrong`)",
    500: "an unexpected error",
    503: "the database or the artifact store is away; try again after Retry-After seconds",
}
_NAMES = {401: "Unauthenticated", 404: "UnknownName", 413: "RequestTooLarge"}
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Missing(BaseModel):
    """What a version lacks: roles whose approval it needs, one entry per person, and gates without a passed result."""

    roles: list[str]
    gates: list[str]


class Wrong(BaseModel):
    """One thing that is wrong with a request: where, such as body.tags.team, and what."""

    where: str
    message: str


class Problem(BaseModel):
    """Why there is no answer."""

    error: str = Field(description="the kind of error", examples=["NotApproved"])
    status: int
    asked: str = Field(description="what was asked", examples=["POST /v1/models/fraud/versions/3/promote"])
    message: str = Field(description="what was needed, what was got, and what to do")
    request_id: str = Field(description="the request's X-Request-ID, or a new one; also in the server's log")
    missing: Missing | None = None
    wrong: list[Wrong] | None = None


def problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    """For OpenAPI: that an error with one of these statuses is a Problem."""
    return {code: {"model": Problem, "description": MEANING[code]} for code in (*codes, 500, 503)}


READ = problems(400, 401, 404, 422)
CHANGE = problems(400, 401, 403, 404, 409, 413, 422)


def request_id(request: Request) -> str:
    """The caller's own where it is 1 to 128 visible ASCII characters, else a new one; the same for a whole request."""
    if not hasattr(request.state, "request_id"):
        given = request.headers.get("x-request-id", "")
        request.state.request_id = given if _REQUEST_ID.fullmatch(given) else uuid4().hex
    found: str = request.state.request_id
    return found


def explained(request: Request, error: Exception) -> Problem:
    """The problem that an error is; an unexpected one is logged, and told without its details."""
    status, kind, message = _told(error)
    number = request_id(request)
    if status >= 500:
        logger.error("request %s: %s: %s", number, kind, error, exc_info=error if status == 500 else None)
    missing = Missing(roles=[*error.roles], gates=[*error.gates]) if isinstance(error, NotApproved) else None
    asked = f"{request.method} {request.url.path}"[:500]
    wrong = _wrong(error) if isinstance(error, RequestValidationError) else None
    return Problem(
        error=kind, status=status, asked=asked, message=message, request_id=number, missing=missing, wrong=wrong
    )


def answered(content: Mapping[str, Any], status: int, number: str) -> Response:
    """An error's response, with the headers that go with its status. Text that UTF-8 cannot carry is escaped."""
    headers = {"X-Request-ID": number}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status == 503:
        headers["Retry-After"] = str(RETRY_AFTER)
    return Response(json.dumps(content), status, headers, "application/json")


def problem(request: Request, error: Exception) -> Response:
    """The handler of every error on the registry's own routes."""
    found = explained(request, error)
    return answered(found.model_dump(exclude_none=True), found.status, found.request_id)


def _told(error: Exception) -> tuple[int, str, str]:
    if isinstance(error, RequestValidationError):
        if any(one["type"] == "json_invalid" for one in error.errors()):
            return 400, "InvalidRequest", "the body is not JSON; /openapi.json and /docs show what is taken"
        return 422, "InvalidRequest", "; ".join(f"{one.where}: {one.message}" for one in _wrong(error))
    if isinstance(error, HTTPException):
        kind = _NAMES.get(error.status_code, "InvalidRequest")
        return error.status_code, kind, f"{error.detail}; the paths are described at /openapi.json and /docs"
    if isinstance(error, MlrayError):
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
        hint = "; over HTTP it goes into the header 'Authorization: Bearer TOKEN'" if status == 401 else ""
        return status, type(error).__name__, str(error) + hint
    return 500, "InternalError", "an unexpected error; the server's log has it under this request_id"


def _wrong(error: RequestValidationError) -> list[Wrong]:
    found = [(".".join(str(part) for part in one["loc"]), str(one["msg"])) for one in error.errors()[:20]]
    return [Wrong(where=where[:200], message=what.removeprefix("Value error, ")) for where, what in found]


