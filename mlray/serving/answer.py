"""What a caller gets, as JSON.

Floats are written so that they read back to the same bits. JSON has no NaN and no infinities: they are null, like a
missing value (the prediction log keeps them apart). Times are ISO 8601 in UTC, durations seconds, bytes hexadecimal,
decimals text.
"""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from mlray.gates.explainer import Explanation
from mlray.training.task import MULTICLASS, Task


class Answer(BaseModel):
    """One score per row, in the order of the request: the probability of label 1, or the value."""

    request_id: str = Field(description="the request's X-Request-ID, or a new one; also in the prediction log")
    model: str = Field(description="the version that answered", examples=["flights/3"])
    scores: list[float] = Field(description="per row")
    q: list[datetime] = Field(description="per row, as of when its features are, UTC")
    features: list[dict[str, Any]] | None = Field(None, description="per row, if asked for; NaN and inf are null")


class AnswerOfClasses(BaseModel):
    """The probabilities of the classes per row, in the order of the request."""

    request_id: str = Field(description="the request's X-Request-ID, or a new one; also in the prediction log")
    model: str = Field(description="the version that answered", examples=["iris/3"])
    scores: list[dict[str, float]] = Field(description="per row, the probability of each class; they sum to 1")
    predicted: list[str] = Field(description="per row, the likeliest class")
    q: list[datetime] = Field(description="per row, as of when its features are, UTC")
    features: list[dict[str, Any]] | None = Field(None, description="per row, if asked for; NaN and inf are null")


class Reasons(BaseModel):
    """Base and what the features add sum to the output."""

    base: float = Field(description="what the model says where no feature is known")
    output: float
    features: dict[str, float] = Field(description="what each adds, the largest first")


class ReasonsOfClasses(BaseModel):
    """The same for each class."""

    base: dict[str, float] = Field(description="what the model says where no feature is known")
    output: dict[str, float]
    features: dict[str, dict[str, float]] = Field(description="what each adds, the largest first")


class Explained(Answer):
    """An answer, and why it is so."""

    method: str = Field(description="how the SHAP values were computed", examples=["tree"])
    unit: str = Field(description="of what is explained: log-odds, logits, probability, value or logarithm")
    explanations: list[Reasons] = Field(description="per row")


class ExplainedOfClasses(AnswerOfClasses):
    """An answer, and why it is so."""

    method: str = Field(description="how the SHAP values were computed", examples=["tree"])
    unit: str = Field(description="of what is explained: log-odds, logits, probability, value or logarithm")
    explanations: list[ReasonsOfClasses] = Field(description="per row")


class Taken(BaseModel):
    """What a call added; its rows can be read."""

    request_id: str
    source: str
    rows: int = Field(description="0 where the idempotency key was used before")
    version: int | None = Field(description="the Delta commit; null where nothing was added")
    views: list[str] = Field(description="the online views that have the rows now")


class Problem(BaseModel):
    """Why there is no answer."""

    error: str = Field(description="the kind of error", examples=["SchemaError"])
    message: str = Field(description="what was wrong, and what to do")
    request_id: str


class ModelCard(BaseModel):
    """A served model version and what it takes."""

    name: str
    version: int
    reference: str = Field(examples=["flights/3"])
    service: str
    service_hash: str = Field(description="SHA-256 of the feature service that the version pins")
    row: dict[str, str] = Field(description="what a row of a request holds, name to type")
    request_fields: dict[str, str]
    keys: dict[str, str] = Field(description="entity keys; an unknown one is answered as in training")
    features: dict[str, str] = Field(description="what the model reads, name to type")
    label: str
    task: str = Field(description="binary, multiclass or regression")
    classes: list[str] = Field(description="of a multiclass model, in the order of the prediction log's scores")
    metrics: dict[str, float | None]
    aliases: list[str] = Field(description="as they were when serving began")
    created_at: datetime


class Models(BaseModel):
    models: list[ModelCard]


class LogState(BaseModel):
    """The prediction log of this process."""

    waiting: int = Field(description="rows not yet written")
    written: int = Field(description="rows")
    failures: int = Field(description="failed attempts since the last that succeeded")
    error: str | None = Field(None, description="of the last failed attempt, until one succeeds")


class Health(BaseModel):
    """status: 'ok', 'degraded' (answers, but something needs attention) or 'unavailable'."""

    status: str
    models: list[str]
    problems: list[str]
    log: LogState


def scores(task: Task, predictions: NDArray[np.float64]) -> dict[str, Any]:
    """The fields of an answer that say what was predicted."""
    if task.kind != MULTICLASS:
        return {"scores": predictions.tolist()}
    each = [dict(zip(task.classes, row, strict=True)) for row in predictions.tolist()]
    return {"scores": each, "predicted": task.names(predictions)}


def reasons(task: Task, found: Explanation) -> dict[str, Any]:
    """The fields of an answer that say why. ExplanationFailed where the values do not add up."""
    return {"method": found.method, "unit": found.unit, "explanations": list(found.each(task.classes))}


def vectors(table: pa.Table) -> list[dict[str, Any]]:
    """One object per row, by feature name."""
    columns = [[plain(value) for value in column.to_pylist()] for column in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def plain(value: Any) -> Any:
    """The value in JSON's types."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return instant(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(inner) for inner in value]
    return value


def instant(moment: datetime) -> str:
    """ISO 8601 in UTC, ended by Z."""
    utc = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return utc.isoformat().replace("+00:00", "Z")


def moments(times: np.ndarray[Any, np.dtype[np.int64]]) -> list[str]:
    """Microseconds UTC as ISO 8601."""
    return [f"{moment}Z" for moment in np.datetime_as_string(times.view("datetime64[us]"), timezone="naive").tolist()]


def encoded(content: Any) -> bytes:
    """JSON in UTF-8; floats by repr."""
    return json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
