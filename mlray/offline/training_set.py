"""A training set: a lazy Ray Dataset of spine rows and features, and what it was made of."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from mlray._ray_compat import mlray_errors
from mlray.errors import UnknownName
from mlray.features.catalog import service_hash, service_text
from mlray.features.evaluate import view_schema
from mlray.features.service import FeatureService
from mlray.features.vector import vector_schema
from mlray.offline import delta
from mlray.offline.cutting import retyped, taken
from mlray.offline.join import Join, Kept, check_keys
from mlray.offline.plan import Strategy, explained, plan
from mlray.offline.spine import ROW, Spine, check, spine_of
from mlray.offline.spine_store import keep
from mlray.offline.write import BuildProgress, write
from mlray.offline.written import description

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl


@dataclass(frozen=True)
class TrainingSet:
    """One row per spine row: the spine's columns, then the service's features.

    sources: the Delta version read of each source; fingerprint: of definitions, versions and spine.
    """

    definition: FeatureService
    label: str | None
    timestamp: str
    schema: pa.Schema
    sources: dict[str, int]
    fingerprint: str
    spine: Spine
    join: Join = field(repr=False)
    tables: dict[str, str] = field(default_factory=dict, repr=False)
    """The id of each source's table."""

    @property
    def dataset(self) -> Any:
        """The lazy ray.data.Dataset, in any order of rows.

        The rows of the spine, and the events of views that are shuffled, are moved into place here; they are joined
        when the dataset is executed.
        """
        return self.ordered.drop_columns([ROW])

    @property
    def ordered(self) -> Any:
        """The same with `__row`, int64: the position of each row in the spine."""
        return self.join.dataset()

    @property
    def features(self) -> list[str]:
        return self.definition.names

    @property
    def service(self) -> str:
        return self.definition.name

    @property
    def service_hash(self) -> str:
        return service_hash(self.definition)

    @property
    def service_definition(self) -> str:
        return service_text(self.definition)

    @property
    def recorded(self) -> dict[str, Any]:
        """What it takes to build the same training set again, as plain JSON, to be kept with what was trained on it. A
        spine that is no version of a Delta table is kept under the lake for that.
        """
        return {
            "timestamp": self.timestamp,
            "label": self.label,
            "types": {name: str(self.schema.field(name).type) for name in self.features},
            "tables": dict(self.tables),
            "spine": keep(self.spine, self.join.lake),
        }

    def cached(self) -> "TrainingSet":
        """The same training set, computed now and kept in the object store, which spills to disk."""
        return replace(self, join=Kept(self.join))

    def count(self) -> int:
        """The number of spine rows."""
        return self.spine.rows

    def explain(self) -> str:
        """How each view is joined, why, and what is read."""
        head = f"training set of {self.service}: {self.spine.text}, {self.spine.rows:,} rows, "
        return "\n".join([f"{head}{len(self.features)} features", *explained(self.join.planned)])

    def to_arrow(self) -> pa.Table:
        """All rows here, in spine order."""
        full = self.schema.append(pa.field(ROW, pa.int64()))
        tables = [retyped(table, full) for table in self.join.tables() if table.num_rows]
        tables.sort(key=lambda table: table.column(ROW)[0].as_py())
        rows = pa.concat_tables(tables or [full.empty_table()])
        position, rows = rows.column(ROW).to_numpy(), rows.drop_columns([ROW])
        if bool((position[1:] > position[:-1]).all()):  # parts that are blocks of the spine
            return rows
        place = np.empty(rows.num_rows, dtype=np.int64)
        place[position] = np.arange(rows.num_rows)
        return taken(rows, place)

    def to_pandas(self) -> "pd.DataFrame":
        """All rows here, in spine order."""
        return self.to_arrow().to_pandas()

    def to_polars(self) -> "pl.DataFrame":
        """All rows here, in spine order."""
        import polars as pl  # heavy, and only this form needs it

        return pl.DataFrame(pl.from_arrow(self.to_arrow()))

    def write_delta(self, path: str | Path, progress: Callable[[BuildProgress], None] = lambda _: None) -> int:
        """Writes a new Delta table in one commit, each task its own file; gives the number of rows.

        A write that was killed goes on where it stopped when the same training set is written to the same path.
        Conflict where there is a table already.
        """
        write(self.join, str(path), self.schema, self.fingerprint, description(self), progress)
        return self.count()


def build(
    service: FeatureService,
    spine: Any,
    *,
    lake: str,
    label: str | None,
    timestamp: str,
    join: Strategy = "auto",
    versions: Mapping[str, int | datetime] | None = None,
) -> TrainingSet:
    """Plans the training set and pins every source's version; nothing but the spine is read yet.

    versions: the Delta version of a source where not the newest: its number, or an aware datetime.
    """
    tables = source_tables(service, lake, versions or {})
    views = {view.name: view_schema(view, tables[view.source.name].schema) for view in service.views}

    def fits(schema: pa.Schema) -> None:
        check(service, schema, timestamp, label)
        check_keys(service, tables, schema)

    with mlray_errors():
        made = spine_of(spine, lake, timestamp, fits)
    schema = _schema(made.schema, vector_schema(service, views))
    reads = plan(service, tables, lake, join, made.span)
    pinned = {name: table.version for name, table in tables.items()}
    return TrainingSet(
        definition=service,
        label=label,
        timestamp=timestamp,
        schema=schema,
        sources=pinned,
        fingerprint=_fingerprint(service, pinned, made, label, timestamp),
        spine=made,
        join=Join(service, made, reads, lake, timestamp, schema),
        tables={name: table.id for name, table in tables.items()},
    )


def source_tables(
    service: FeatureService, lake: str, versions: Mapping[str, int | datetime] | None = None
) -> dict[str, delta.Table]:
    """Each source's table by name, at the given version (see `delta.table_at`) or the newest."""
    for name in set(versions or {}) - {source.name for source in service.sources}:
        raise UnknownName.of(f"source of feature service {service.name}", name, (s.name for s in service.sources))
    return {
        source.name: delta.table_at(
            delta.resolve(lake, source.path), f"source {source.name}", (versions or {}).get(source.name)
        )
        for source in service.sources
    }


def _schema(spine: pa.Schema, vectors: pa.Schema) -> pa.Schema:
    """Spine columns (request fields in their declared type), then features."""
    own = [vectors.field(f.name) if f.name in vectors.names else f for f in spine]
    return pa.schema(own + [f for f in vectors if f.name not in spine.names])


def _fingerprint(
    service: FeatureService, versions: dict[str, int], spine: Spine, label: str | None, timestamp: str
) -> str:
    parts = [service_hash(service), sorted(versions.items()), spine.digest, label, timestamp]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
