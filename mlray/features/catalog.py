"""Declarations as plain data: what a content hash is taken of, and what a service is rebuilt from.

A content hash names what is computed, so `owner` is not part of it. A service that was stored as text is rebuilt
without the user's module: an on-demand function is its source text and its imports.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from mlray.aggregation.aggregate import Aggregate, registered
from mlray.aggregation.window import Window, microseconds
from mlray.errors import MlrayError, UnknownName
from mlray.features.entity import Entity
from mlray.features.on_demand import OnDemand
from mlray.features.service import FeatureService, Item
from mlray.features.source import REQUEST_TYPES, DeltaSource, RequestFields, RequestSource
from mlray.features.view import BoundView, FeatureView

Plain = dict[str, Any]

_UNREADABLE = (
    ValueError, KeyError, TypeError, AttributeError, IndexError, ArithmeticError, RecursionError, MlrayError,
)  # fmt: skip
"""What a text that is no service can raise: it may be anybody's."""


def service_text(service: FeatureService) -> str:
    """The service as canonical JSON: enough to rebuild it."""
    return json.dumps(encode_service(service), sort_keys=True, separators=(",", ":"))


def service_from_text(text: str) -> FeatureService:
    """The service that `service_text` wrote."""
    return decode_service(json.loads(text))


def pinned(definition: str) -> FeatureService | None:
    """The service that a version or a training set pins; None for the text of none that this release can rebuild.
    Nothing in the text is run.
    """
    try:
        return service_from_text(definition) if definition else None
    except _UNREADABLE:
        return None


def service_hash(service: FeatureService) -> str:
    """SHA-256 over everything that decides a value of the service, hexadecimal."""
    plain = encode_service(service)
    for view in plain["views"].values():
        view.pop("owner")
    return _digest(plain)


def view_hash(view: FeatureView) -> str:
    """SHA-256 over everything that decides a value of the view, hexadecimal."""
    plain = encode_view(view)
    plain.pop("owner")
    return _digest(plain)


def encode_service(service: FeatureService) -> Plain:
    return {
        "name": service.name,
        "views": {view.name: encode_view(view) for view in service.views},
        "features": [_encode_item(item) for item in service.items],
    }


def decode_service(plain: Plain) -> FeatureService:
    views = {name: decode_view(view) for name, view in plain["views"].items()}
    return FeatureService(plain["name"], features=[_decode_item(item, views) for item in plain["features"]])


def encode_view(view: FeatureView) -> Plain:
    return {
        "name": view.name,
        "entity": {"name": view.entity.name, "keys": list(view.entity.keys)} if view.entity else None,
        "source": encode_source(view.source),
        "features": [f if isinstance(f, str) else _encode_aggregate(f) for f in view.features],
        "ttl": _length(view.ttl),
        "closed": view.closed,
        "owner": view.owner,
    }


def decode_view(plain: Plain) -> FeatureView:
    entity = plain["entity"]
    return FeatureView(
        plain["name"],
        entity=Entity(entity["name"], keys=entity["keys"]) if entity else None,
        source=decode_source(plain["source"]),
        features=[f if isinstance(f, str) else _decode_aggregate(f) for f in plain["features"]],
        ttl=_duration(plain["ttl"]),
        closed=plain["closed"],
        owner=plain["owner"],
    )


def encode_source(source: DeltaSource) -> Plain:
    return {
        "name": source.name,
        "path": source.path,
        "timestamp": source.timestamp,
        "known_at": source.known_at,
        "sequence": source.sequence,
        "lag": source.lag_us,
        "select": dict(source.select),
        "where": source.where,
    }


def decode_source(plain: Plain) -> DeltaSource:
    return DeltaSource(**{**plain, "lag": timedelta(microseconds=plain["lag"])})


def _encode_aggregate(aggregate: Aggregate) -> Plain:
    spans = [[w.length, w.offset, w.closed, w.resolution] for w in aggregate.spans]
    kind = type(aggregate).__name__
    return {
        "kind": kind,
        "column": aggregate.column,
        "windows": spans,
        "where": aggregate.where,
        "name": aggregate.name,
        "offset": _length(aggregate.offset),
        "closed": aggregate.closed,
        "resolution": _length(aggregate.resolution),
        **aggregate.parameters,
    }


def _decode_aggregate(plain: Plain) -> Aggregate:
    if plain["kind"] not in registered:
        raise UnknownName.of("aggregate", plain["kind"], registered)
    known = {
        **plain,
        "windows": [Window(*span) for span in plain["windows"]],
        "offset": timedelta(microseconds=plain["offset"]),
        "resolution": timedelta(microseconds=plain["resolution"]),
    }
    kind = registered[known.pop("kind")]
    return kind(known.pop("column"), **known)


def _encode_item(item: Item) -> Plain:
    if isinstance(item, BoundView):
        return {
            "view": item.view.name,
            "on": [list(pair) for pair in item.keys],
            "prefix": item.prefix,
            "chosen": list(item.chosen) if item.chosen is not None else None,
        }
    if isinstance(item, RequestFields):
        return {"request": _encode_request(item.source), "columns": list(item.columns)}
    return {
        "on_demand": item.name,
        "parameters": list(item.parameters),
        "text": item.text,
        "returns": item.returns,
        "imports": [list(pair) for pair in item.imports],
        "inputs": [
            _encode_item(i) if isinstance(i, BoundView) else {"request": _encode_request(i)} for i in item.inputs
        ],
    }


def _decode_item(plain: Plain, views: Mapping[str, FeatureView]) -> Item:
    if "view" in plain:
        chosen = tuple(plain["chosen"]) if plain["chosen"] is not None else None
        return BoundView(views[plain["view"]], tuple((k, c) for k, c in plain["on"]), plain["prefix"], chosen)
    if "request" in plain:
        return RequestFields(_decode_request(plain["request"]), tuple(plain["columns"]))
    inputs = [_decode_item({"columns": [], **i}, views) for i in plain["inputs"]]
    return OnDemand(
        plain["on_demand"],
        tuple(i.source if isinstance(i, RequestFields) else i for i in inputs if not isinstance(i, OnDemand)),
        tuple(plain["parameters"]),
        plain["text"],
        tuple((a, m) for a, m in plain["imports"]),
        plain["returns"],
    )


def _encode_request(source: RequestSource) -> Plain:
    return {"name": source.name, "schema": [[column, REQUEST_TYPES[kind]] for column, kind in source.schema.items()]}


def _decode_request(plain: Plain) -> RequestSource:
    kinds = {name: kind for kind, name in REQUEST_TYPES.items()}
    return RequestSource(plain["name"], schema={column: kinds[name] for column, name in plain["schema"]})


def _length(duration: timedelta | None) -> int | None:
    return None if duration is None else microseconds(duration)


def _duration(length: int | None) -> timedelta | None:
    return None if length is None else timedelta(microseconds=length)


def _digest(plain: Plain) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
