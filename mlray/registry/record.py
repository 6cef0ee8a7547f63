"""What a version's record may hold, and its hash, by which the audit knows when somebody changed a field."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from mlray.errors import SchemaError
from mlray.registry.canonical import canonical_json, sha256_text
from mlray.registry.model_version import VersionRecord
from mlray.registry.plain import is_number, unfit
from mlray.registry.tables import VersionRow
from mlray.registry.texts import checked_text

MAX_METRICS = 10_000
MAX_METRIC_NAME = 250
MAX_RUN_ID = 255
MAX_FIELD = 4 << 20
_DEFAULTS = {one.name: one.default for one in fields(VersionRecord)}
RECORD_FIELDS = tuple(_DEFAULTS)
_TEXTS = (
    "digest", "service", "service_hash", "service_definition", "fingerprint", "spine", "label", "run_id", "source",
)  # fmt: skip


def checked_record(record: VersionRecord) -> VersionRecord:
    """`record` itself, else SchemaError: metrics are numbers, a curve is not one; each field is JSON of at most
    MAX_FIELD characters.
    """
    checked_text("run id", record.run_id, MAX_RUN_ID)
    _check_kinds(record)
    _check_metrics(record.metrics)
    for name, value in columns(record).items():
        try:
            text = canonical_json(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise SchemaError(f"{name} of the version is not plain JSON: {error}") from error
        if len(text) > MAX_FIELD:
            raise SchemaError(
                f"{name} of the version has {len(text)} characters as JSON, at most {MAX_FIELD} are kept; put it into "
                "a file of the checkpoint"
            )
        if isinstance(value, str):
            checked_text(name, value, MAX_FIELD)
        elif (why := unfit(value)) is not None:
            raise SchemaError(f"{name} of the version cannot be kept: {why}")
    return record


def columns(record: VersionRecord) -> dict[str, Any]:
    """What of a version's row its record says."""
    return vars(record) | {"features": list(record.features)}


def record_hash(record: VersionRecord) -> str:
    """SHA-256 of the record. Optional fields that say nothing are left out, so that a later one changes no hash."""
    return _hash(columns(record))


def hash_of_row(row: VersionRow) -> str:
    """SHA-256 of the record that the row holds."""
    return _hash({name: getattr(row, name) for name in RECORD_FIELDS})


def _hash(values: Mapping[str, Any]) -> str:
    told = {k: v for k, v in values.items() if _DEFAULTS[k] is MISSING or v != _DEFAULTS[k]}
    return sha256_text(canonical_json(json.loads(canonical_json(told))))  # as the row reads: its keys are texts


def _check_kinds(record: VersionRecord) -> None:
    """What no type checker has seen: a call of the actor, a run of somebody's own."""
    for name, value in columns(record).items():
        kind = str if name in _TEXTS else list if name == "features" else Mapping
        if not isinstance(value, kind):
            raise SchemaError(f"{name} of the version is a {type(value).__name__}; it must be a {kind.__name__}")
    if not all(isinstance(name, str) for name in record.features):
        raise SchemaError("features of the version are names, as texts")
    for name, number in record.sources.items():
        if type(number) is not int or not is_number(number):
            raise SchemaError(f"source '{name}' is at a {type(number).__name__}; it must be a whole number of 64 bits")


def _check_metrics(metrics: Mapping[str, float]) -> None:
    if len(metrics) > MAX_METRICS:
        raise SchemaError(
            f"the version has {len(metrics)} metrics, at most {MAX_METRICS} are kept: one value per name; put a curve "
            "into a file of the checkpoint"
        )
    for name, value in metrics.items():
        checked_text("metric", name, MAX_METRIC_NAME)
        if type(value) is int and not is_number(value):
            raise SchemaError(f"metric '{name}' is a whole number beyond 64 bits; write it as a float")
        if not is_number(value):
            raise SchemaError(f"metric '{name}' is {value!r:.100}; a metric is one number, its last value")
