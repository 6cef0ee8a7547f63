"""How a served model's requests look, as OpenAPI says it: real names and types, made from the feature service."""

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from mlray.serving.answer import Answer, AnswerOfClasses, Explained, ExplainedOfClasses, Health, Problem, Taken
from mlray.serving.config import Config
from mlray.training.task import MULTICLASS, Task

DESCRIPTION = (
    "Scores of registered models. Features are read as of `q`, the request's `at` or its arrival, exactly as the "
    "training set read them. Null, NaN and the infinities are null in answers. Every prediction is logged."
)
_KINDS: tuple[tuple[Callable[[pa.DataType], bool], dict[str, str]], ...] = (
    (pa.types.is_integer, {"type": "integer", "format": "int64"}),
    (pa.types.is_floating, {"type": "number", "format": "double"}),
    (pa.types.is_string, {"type": "string"}),
    (pa.types.is_boolean, {"type": "boolean"}),
    (pa.types.is_timestamp, {"type": "string", "format": "date-time"}),
    (pa.types.is_date, {"type": "string", "format": "date"}),
)
_MEANING = {
    400: "not JSON, or not of this shape",
    403: "this server takes no events of the source",
    404: "no such model or source",
    413: "too many bytes or rows",
    422: "a field is unknown, missing or of the wrong type, or `at` cannot be answered",
    429: "too many rows wait to be written, or requests to be explained; try again after Retry-After seconds",
    500: "an unexpected error",
    503: "the store, its state or the prediction log is unavailable; try again after Retry-After seconds",
}
_OF_EVENTS = {403, 429}


def request_body(row: Mapping[str, pa.DataType], config: Config, max_rows: int) -> dict[str, Any]:
    """What POST predict and explain take, for a model with rows of these types."""
    one = {
        "type": "object", "additionalProperties": False, "required": list(row),
        "properties": {name: nullable(kind) for name, kind in row.items()},
    }
    rest: dict[str, Any] = {"features": {"type": "boolean", "default": False, "description": "answer the vectors too"}}
    if config.allow_at:
        moment = {"type": "string", "format": "date-time"}
        rest["at"] = {
            "anyOf": [moment, {"type": "array", "items": moment}, {"type": "null"}],
            "description": "as of when, with a zone: one instant, or one per row; now where it is left out",
        }
    many = {"type": "array", "items": one, "minItems": 1, "maxItems": max_rows}
    shapes = [
        {"type": "object", "additionalProperties": False, "required": [key], "properties": {key: value, **rest}}
        for key, value in (("rows", many), ("row", one))
    ]
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": {"oneOf": shapes}}}}}


def nullable(kind: pa.DataType) -> dict[str, Any]:
    """The JSON schema of a value of this type, or null."""
    found = next(schema for holds, schema in _KINDS if holds(kind))
    return {**found, "type": [found["type"], "null"]}


def answers(task: Task) -> dict[int | str, dict[str, Any]]:
    """What POST predict gives."""
    model = AnswerOfClasses if task.kind == MULTICLASS else Answer
    return {200: {"model": model, "description": "the scores"}} | answers_wrong()


def explained(task: Task) -> dict[int | str, dict[str, Any]]:
    """What POST explain gives."""
    model = ExplainedOfClasses if task.kind == MULTICLASS else Explained
    told = {"model": model, "description": "the scores, and what each feature added"}
    return {200: told} | answers_wrong() | problems(429)


def answers_wrong() -> dict[int | str, dict[str, Any]]:
    return problems(*(_MEANING.keys() - _OF_EVENTS))


def events_body(config: Config) -> dict[str, Any]:
    """What POST events takes."""
    rows = {
        "type": "array", "items": {"type": "object"}, "minItems": 1, "maxItems": config.max_events,
        "description": "each has every column of the source's table; the column of `known_at` may be left out of all",
    }
    key = {"type": "string", "minLength": 1, "maxLength": 255, "description": "a call with a used key adds nothing"}
    shape = {
        "type": "object", "additionalProperties": False, "required": ["rows"],
        "properties": {"rows": rows, "idempotency_key": key},
    }
    header = {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string"},
              "description": "the same as `idempotency_key`"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": shape}}},
            "parameters": [header]}


def taken() -> dict[int | str, dict[str, Any]]:
    """What POST events gives."""
    return {200: {"model": Taken, "description": "added, and readable"}, **problems(*_MEANING)}


def problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": Problem, "description": _MEANING[code]} for code in codes}


def not_ready() -> dict[int | str, dict[str, Any]]:
    return {503: {"model": Health, "description": "it cannot answer now"}}
