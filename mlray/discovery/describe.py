"""One thing in full, as a tree of texts: what it is, where it lies, and who uses it."""

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from mlray.aggregation.window import duration_name
from mlray.discovery.inventory import Inventory, Kind, Reader
from mlray.features.applied import Applied
from mlray.features.catalog import view_hash
from mlray.features.evaluate import view_schema
from mlray.features.source import REQUEST_TYPES, DeltaSource
from mlray.features.thing import called, owned
from mlray.features.view import FeatureView
from mlray.features.words import described, described_view
from mlray.offline import delta

Tree = dict[str, Any]
"""A name per branch: a text, or a tree."""


def describe(applied: Applied, inventory: Inventory, lake: str, name: str, kind: Kind | None = None) -> Tree:
    """All that is known of the name, a branch per kind of thing that carries it: entity, source, view (also as
    owner/view), service or model. Tables are looked at where they lie now. UnknownName where nothing has the name.
    """
    tell: Mapping[Kind, Callable[[str], Tree]] = {
        "entity": lambda one: _entity(inventory, one),
        "source": lambda one: _sources(inventory, lake, one),
        "view": lambda one: _views(inventory, lake, one),
        "service": lambda one: _service(applied, inventory, one),
        "model": lambda one: _model(inventory, one),
    }
    return {f"{one} {name}": tell[one](name) for one in inventory.kinds_of(name, kind)}


def _entity(inventory: Inventory, name: str) -> Tree:
    entities = [entity for entity in inventory.entities if entity.name == name]
    views = [owned(view) for view in inventory.views if view.entity in entities]
    return {"keys": " or ".join(", ".join(entity.keys) for entity in entities), "views": ", ".join(sorted(set(views)))}


def _sources(inventory: Inventory, lake: str, name: str) -> Tree:
    return _each([_source(inventory, lake, source) for source in inventory.sources if source.name == name])


def _source(inventory: Inventory, lake: str, source: DeltaSource) -> Tree:
    declared = {
        "event time": source.timestamp or "none: valid at every instant",
        "known at": source.known_at or "",
        "sequence": source.sequence or "",
        "lag": duration_name(source.lag_us) if source.lag_us else "",
        "where": source.where or "",
        **{f"select {column}": text for column, text in source.select.items()},
    }
    views = [owned(view) for view in inventory.views if view.source == source]
    return {
        "path": source.path,
        **_said(declared),
        "table": _table(lake, source),
        "views": ", ".join(views),
        **_read_by(inventory, lambda reader: source.name in {one.name for one in reader.sources}),
    }


def _table(lake: str, source: DeltaSource) -> Tree | str:
    """What lies at the source's path now."""
    path = delta.resolve(lake, source.path)
    if not delta.exists(path):
        return f"there is no Delta table at {path} yet"
    table = delta.table_at(path, f"source {source.name}")
    columns = {field.name: str(field.type) for field in table.schema}
    return {"at": table.name, "rows": f"{table.rows:,}", "bytes": f"{table.size:,}", "columns": columns}


def _views(inventory: Inventory, lake: str, name: str) -> Tree:
    return _each([_view(inventory, lake, view) for view in inventory.views if called(name, owned(view))])


def _view(inventory: Inventory, lake: str, view: FeatureView) -> Tree:
    types = _types(lake, view)
    texts = described_view(view)
    declared = {
        "owner": view.owner or "",
        "entity": f"{view.entity.name} ({', '.join(view.keys)})" if view.entity else "none: one global row",
        "source": view.source.name,
        "latest row": f"at most {duration_name(view.ttl_us)} old" if view.ttl_us is not None else "",
        "definition": view_hash(view),
        "services": ", ".join(one.name for one in inventory.services if view in one.views),
    }
    features = {n: f"{types[n]}, {texts[n]}" if n in types else texts[n] for n in view.names}
    return {
        **_said(declared),
        "features": features,
        **_read_by(inventory, lambda reader: view.name in {one.name for one in reader.views}),
    }


def _types(lake: str, view: FeatureView) -> dict[str, str]:
    """The types of the view's features over its table as it is; none where there is no table that fits."""
    path = delta.resolve(lake, view.source.path)
    if not delta.exists(path):
        return {}
    schema: pa.Schema = view_schema(view, delta.table_at(path, f"source {view.source.name}").schema)
    return {field.name: str(field.type) for field in schema}


def _service(applied: Applied, inventory: Inventory, name: str) -> Tree:
    service = next(one for one in inventory.services if one.name == name)
    request = {field: REQUEST_TYPES[kind] for field, kind in service.request.items()}
    return {
        "keys": ", ".join(service.keys),
        "views": ", ".join(owned(view) for view in service.views),
        "sent with a request": request or "nothing",
        "features": described(service),
        "definitions": {
            one.digest: f"applied {one.applied_at.isoformat(timespec='seconds')}{', in force' if one.in_force else ''}"
            for one in applied.definitions(name)
        },
        **_read_by(inventory, lambda reader: reader.version.service == name),
    }


def _model(inventory: Inventory, name: str) -> Tree:
    return {"versions": {reader.version.reference: _state(inventory, reader) for reader in inventory.models[name]}}


def _read_by(inventory: Inventory, reads: Callable[[Reader], bool]) -> Tree:
    models = {r.version.reference: _state(inventory, r) for r in inventory.readers if reads(r)}
    return {"models": models or "none"}


def _state(inventory: Inventory, reader: Reader) -> str:
    version = reader.version
    if not version.service:
        return f"{version.stage}, of no feature service"
    now = inventory.hashes.get(version.service) == version.service_hash
    state = [version.stage, *version.aliases, f"service {version.service}"]
    return ", ".join([*state, "as in force" if now else f"as it was: {version.service_hash[:12]}"])


def _said(declared: Mapping[str, str]) -> Tree:
    return {name: text for name, text in declared.items() if text}


def _each(trees: list[Tree]) -> Tree:
    """One tree, or one per definition where services read the thing in several."""
    return trees[0] if len(trees) == 1 else {f"definition {i}": tree for i, tree in enumerate(trees, 1)}
