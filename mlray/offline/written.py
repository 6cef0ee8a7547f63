"""A training set that was written as a Delta table, read from there: nothing is joined again.

What it was made of stands in the table's description, as JSON; its schema, in types that Delta may not have, as
base64 of Arrow's own form.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from deltalake import DeltaTable

from mlray._ray_compat import dataset_of
from mlray.errors import SchemaError
from mlray.offline import delta, scan
from mlray.offline.log import File

KIND = "mlray training set"


class Told(Protocol):
    """What is told of a training set."""

    @property
    def schema(self) -> pa.Schema: ...
    @property
    def features(self) -> list[str]: ...
    @property
    def label(self) -> str | None: ...
    @property
    def timestamp(self) -> str: ...
    @property
    def sources(self) -> dict[str, int]: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def service(self) -> str: ...
    @property
    def service_hash(self) -> str: ...
    @property
    def service_definition(self) -> str: ...
    @property
    def recorded(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class WrittenSet:
    """`table` holds its rows; all else is as it was told by the training set when that was written."""

    table: delta.Table
    schema: pa.Schema
    features: list[str]
    label: str | None
    timestamp: str
    sources: dict[str, int]
    fingerprint: str
    service: str
    service_hash: str
    service_definition: str
    recorded: dict[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> "WrittenSet":
        """TableNotFound where nothing is; SchemaError for a table that no training set was written as."""
        table = delta.table_at(str(path), "the training set")
        try:
            told = json.loads(DeltaTable(str(path)).metadata().description or "")
            if told.pop("kind") != KIND:
                raise ValueError("of another kind")
            schema = pa.ipc.read_schema(pa.py_buffer(b64decode(told.pop("schema"))))
            return cls(table=table, schema=schema, **told)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SchemaError(
                f"the Delta table at {path} was not written by `write_delta` or `mlray build --out` of this version; "
                "build a training set from it as the spine, or write it again"
            ) from error

    @property
    def dataset(self) -> Any:
        """The lazy ray.data.Dataset of its rows, one task per file."""
        files = self.table.files
        tasks = [(partial(rows_of, f, self.table.schema, self.schema, self.table.name), f.rows or 0) for f in files]
        return dataset_of(tasks, self.schema)

    def count(self) -> int:
        """The number of rows."""
        return self.table.rows


def description(ts: Told) -> str:
    """What `WrittenSet.read` reads of it."""
    told = {f.name: getattr(ts, f.name) for f in fields(WrittenSet) if f.name not in ("table", "schema")}
    schema = b64encode(ts.schema.remove_metadata().serialize().to_pybytes()).decode()
    return json.dumps({"kind": KIND, "schema": schema, **told})


def rows_of(file: File, stored: pa.Schema, schema: pa.Schema, who: str) -> Sequence[pa.Table]:
    """The rows of one file, in the types that they were made in."""
    rows = scan.read([file], stored, schema.names, who)
    columns = [_as_made(rows.column(field.name), field.type) for field in schema]
    return [pa.table(columns, schema=schema)]


def _as_made(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Delta has no type for a column of nulls only, and Arrow casts none to it."""
    return pa.chunked_array([pa.nulls(len(column))]) if pa.types.is_null(kind) else column.cast(kind)
