"""The spine in any form: a Ray Dataset of Arrow blocks with each row's position, checked against the service."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data

from mlray.errors import DefinitionError, SchemaError
from mlray.features.service import FeatureService
from mlray.features.types import canonical_type, instant_type
from mlray.offline import delta, fingerprint, scan

ROW = "__row"
_ROWS_PER_BLOCK = 32_768


@dataclass(frozen=True, slots=True)
class Spine:
    """dataset: the spine's columns and `__row`, its position; digest: of its rows, in order."""

    dataset: Any
    schema: pa.Schema
    rows: int
    digest: str
    text: str


def spine_of(spine: Any, lake: str, rows_per_block: int = _ROWS_PER_BLOCK) -> Spine:
    """From Arrow, pandas, Polars, a Ray Dataset or the path of a Delta table (relative: under the lake)."""
    if isinstance(spine, str | Path):
        table = delta.table_at(delta.resolve(lake, str(spine)), "spine")
        refs: list[Any] = [
            _read.remote(table.files[i : i + 1], table.schema, f"spine {table.name}")
            for i in range(max(len(table.files), 1))
        ]
        return _numbered(ray.data.from_arrow_refs(refs), f"{table.path} version {table.version}")
    if isinstance(spine, ray.data.Dataset):
        return _numbered(spine, "a Ray Dataset")
    return _from_table(in_memory(spine), rows_per_block)


def in_memory(rows: Any) -> pa.Table:
    """Arrow, pandas, Polars or a list of dicts as an Arrow table; SchemaError for anything else."""
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows])
    if isinstance(rows, Sequence) and all(isinstance(row, dict) for row in rows):
        return _from_dicts(rows)
    module = type(rows).__module__.partition(".")[0]
    if module == "pandas":
        return pa.Table.from_pandas(rows, preserve_index=False)
    if module == "polars":
        return rows.to_arrow()
    raise SchemaError(
        f"rows are {type(rows).__name__}; pass Arrow, pandas, Polars, a list of dicts, a Ray Dataset or a path"
    )


def check(service: FeatureService, schema: pa.Schema, timestamp: str, label: str | None) -> None:
    """SchemaError or DefinitionError where the service cannot be built on a spine of this schema."""
    who = f"feature service {service.name}"
    for column in [timestamp, *([label] if label else []), *service.keys, *service.request]:
        if column not in schema.names:
            raise SchemaError.missing_column(who, column, "the spine", schema.names)
    instant_type(schema.field(timestamp).type, f"spine column '{timestamp}'")
    if label in service.names:
        raise DefinitionError(f"{who}: the label '{label}' is one of the features; a model would be given its answer")
    taken = set(schema.names) - set(service.request)
    for name in service.names:
        if name in taken:
            raise DefinitionError(
                f"{who}: feature '{name}' is named like a spine column; use .prefixed('...') or rename"
            )
    for name in schema.names:
        if name.startswith("__"):
            raise DefinitionError(f"spine column '{name}': names that start with '__' are reserved")


def _from_dicts(rows: Sequence[dict[str, Any]]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: _column(name, [row.get(name) for row in rows]) for name in names}
    return pa.table(columns) if columns else pa.table({"": [None] * len(rows)}).select([])


def _column(name: str, cells: list[Any]) -> pa.Array:
    try:
        return pa.array(cells)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise SchemaError(f"column '{name}' of the rows holds values of different types: {error}") from error


def _from_table(table: pa.Table, rows_per_block: int) -> Spine:
    table = table.cast(pa.schema([pa.field(f.name, canonical_type(f.type)) for f in table.schema]))
    plain = fingerprint.combined([fingerprint.digest(table)], table.schema)
    blocks = [
        _with_positions(table.slice(i, rows_per_block), i) for i in range(0, max(table.num_rows, 1), rows_per_block)
    ]
    text = f"{table.num_rows} rows in memory"
    return Spine(ray.data.from_arrow(blocks), table.schema, table.num_rows, plain, text)


def _numbered(dataset: Any, text: str) -> Spine:
    """Positions need the sizes of all blocks before: the blocks stay in the object store, only counts come here."""
    refs = dataset.materialize().to_arrow_refs()
    schema = _unified(ray.get([_schema.remote(ref) for ref in refs]))
    counts = ray.get([_count.remote(ref) for ref in refs])
    offsets = [sum(counts[:i]) for i in range(len(counts))]
    blocks: list[Any] = [_place.remote(ref, offset, schema) for ref, offset in zip(refs, offsets, strict=True)]
    digests = ray.get([_digest.remote(ref, offset, schema) for ref, offset in zip(refs, offsets, strict=True)])
    digest = fingerprint.combined(digests, schema)
    return Spine(ray.data.from_arrow_refs(blocks), schema, sum(counts), digest, text)


def _unified(schemas: list[pa.Schema]) -> pa.Schema:
    """One schema for all blocks: a column that is all null in one block has its type from another."""
    try:
        return pa.unify_schemas(schemas)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SchemaError(f"the blocks of the spine have columns of different types: {error}") from error


def _with_positions(table: pa.Table, offset: int) -> pa.Table:
    return table.append_column(ROW, pa.array(range(offset, offset + table.num_rows), pa.int64()))


@ray.remote(num_cpus=1)
def _read(files: Sequence[delta.File], schema: pa.Schema, who: str) -> pa.Table:
    return scan.read(files, schema, schema.names, who)


@ray.remote(num_cpus=1)
def _schema(block: pa.Table) -> pa.Schema:
    return _canonical(block).schema


@ray.remote(num_cpus=1)
def _count(block: pa.Table) -> int:
    return int(block.num_rows)


@ray.remote(num_cpus=1)
def _place(block: pa.Table, offset: int, schema: pa.Schema) -> pa.Table:
    return _with_positions(block.cast(schema), offset)


@ray.remote(num_cpus=1)
def _digest(block: pa.Table, offset: int, schema: pa.Schema) -> tuple[int, int]:
    return fingerprint.digest(block.cast(schema), offset)


def _canonical(block: pa.Table) -> pa.Table:
    return block.cast(pa.schema([pa.field(f.name, canonical_type(f.type)) for f in block.schema]))
