"""The spine in any form: blocks of Arrow in the object store, in order, checked against the service."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from mlray.errors import DefinitionError, SchemaError, first_line
from mlray.features.service import FeatureService
from mlray.features.types import canonical_type, instant_type, instants
from mlray.offline import delta, fingerprint, scan
from mlray.offline.tasks import started, task

ROW = "__row"
"""The position of a row in the spine, int64."""
_FEWEST_ROWS, _MOST_ROWS = 32_768, 524_288
"""Rows of a block of a spine in memory."""
_BLOCKS = 8


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of the spine, in the object store. offset: the position of the first."""

    ref: Any
    offset: int
    rows: int


@dataclass(frozen=True, slots=True)
class TableAt:
    """A version of a Delta table as a spine (relative paths: under the lake); None: the newest.

    id: of the table itself, where it is known: one that is removed and made again has another.
    """

    path: str
    version: int | None = None
    id: str = ""


@dataclass(frozen=True, slots=True)
class Spine:
    """blocks: in order; schema: in canonical types; digest: of the rows in order; span: their earliest and latest
    instant in microseconds (rounded down and up), None where there is none; table: the version that was read, if it is
    one of a Delta table.
    """

    blocks: tuple[Block, ...]
    schema: pa.Schema
    digest: str
    span: tuple[int, int] | None
    text: str
    table: TableAt | None = None

    @property
    def rows(self) -> int:
        return sum(block.rows for block in self.blocks)


def spine_of(spine: Any, lake: str, timestamp: str, fits: Callable[[pa.Schema], None]) -> Spine:
    """From Arrow, pandas, Polars, a Ray Dataset, or a Delta table: its path (relative: under the lake) or a TableAt.

    fits: called with the schema before any row is looked at.
    """
    if isinstance(spine, str | Path | TableAt):
        asked = spine if isinstance(spine, TableAt) else TableAt(str(spine))
        table = delta.table_at(delta.resolve(lake, asked.path), "spine", asked.version)
        fits(_canonical(table.schema))
        who = f"spine {table.name}"
        blocks = _read_in(table.files, table.schema, who)
        made = _described(blocks, table.schema, timestamp, f"{table.path} version {table.version}")
        return replace(made, table=TableAt(asked.path, table.version, table.id))
    if isinstance(spine, ray.data.Dataset):
        blocks, schema = _blocks_of(spine)
        fits(schema)
        return _described(blocks, schema, timestamp, "a Ray Dataset")
    rows = in_memory(spine)
    fits(_canonical(rows.schema))
    rows = _portable(rows)
    return _described(_cut(rows), rows.schema, timestamp, "a table in memory")


def in_memory(rows: Any) -> pa.Table:
    """Arrow, pandas, Polars or a list of dicts as an Arrow table; SchemaError for anything else."""
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows])
    if isinstance(rows, Sequence) and all(isinstance(row, dict) for row in rows):
        return _from_dicts(rows)
    kind = f"{type(rows).__module__.partition('.')[0]}.{type(rows).__name__}"
    try:
        if kind == "pandas.DataFrame":
            return pa.Table.from_pandas(rows, preserve_index=False)
        if kind == "polars.DataFrame":
            return rows.to_arrow()
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise SchemaError(
            f"the rows of the {kind} are no Arrow table: {first_line(error)}; give each column a name of its own, and "
            "values of one type that Arrow has"
        ) from error
    raise SchemaError(
        f"rows are a {kind}; pass Arrow, a DataFrame of pandas or Polars (collect a LazyFrame first), a list of dicts, "
        "a Ray Dataset or a path"
    )


def check(service: FeatureService, schema: pa.Schema, timestamp: str, label: str | None) -> None:
    """SchemaError or DefinitionError where the service cannot be built on a spine of this schema."""
    who = f"feature service {service.name}"
    if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        raise SchemaError(f"{who}: the spine has column '{twice[0]}' twice; rename one")
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


def placed(rows: pa.Table, schema: pa.Schema, offset: int) -> pa.Table:
    """A block in the spine's schema, with `__row`."""
    positions = pa.array(np.arange(offset, offset + rows.num_rows, dtype=np.int64))
    return in_schema(rows, schema).append_column(ROW, positions)


def in_schema(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The rows in these columns and types; a column that they lack is null."""
    if rows.schema.equals(schema):
        return rows
    for field in schema:
        if field.name not in rows.column_names:
            rows = rows.append_column(field.name, pa.nulls(rows.num_rows, field.type))
    return rows.select(schema.names).cast(schema)


def _from_dicts(rows: Sequence[dict[str, Any]]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: _column(name, [row.get(name) for row in rows]) for name in names}
    return pa.table(columns) if columns else pa.table({"": [None] * len(rows)}).select([])


def _column(name: str, cells: list[Any]) -> pa.Array:
    try:
        return pa.array(cells)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise SchemaError(f"column '{name}' of the rows holds values of different types: {error}") from error


def _cut(rows: pa.Table) -> list[Block]:
    size = min(max(-(-rows.num_rows // _BLOCKS), _FEWEST_ROWS), _MOST_ROWS)
    starts = range(0, max(rows.num_rows, 1), size)
    return [Block(ray.put(part := rows.slice(i, size)), i, part.num_rows) for i in starts]


def _portable(rows: pa.Table) -> pa.Table:
    """Ray carries every Arrow type but views, which become plain text."""
    views = [f.name for f in rows.schema if pa.types.is_string_view(f.type) or pa.types.is_binary_view(f.type)]
    return in_schema(rows, _canonical(rows.schema)) if views else rows


def _parts_of(files: Sequence[delta.File]) -> list[tuple[delta.File, ...]]:
    """Neighbouring files, together about as many rows as a block has; no files: one empty part."""
    parts: list[list[delta.File]] = [[]]
    for file in files:
        held = sum(f.rows or _MOST_ROWS for f in parts[-1])
        if parts[-1] and held + (file.rows or _MOST_ROWS) > _MOST_ROWS:
            parts.append([])
        parts[-1].append(file)
    return [tuple(part) for part in parts]


def _read_in(files: Sequence[delta.File], schema: pa.Schema, who: str) -> list[Block]:
    """The blocks that the files make: each task reads some of them."""
    tasks = started((partial(_reading, part, schema, who) for part in _parts_of(files)), told=0)
    counts = np.concatenate(ray.get([task[0] for task in tasks])).tolist()
    return numbered([ref for task in tasks for ref in task[1:]], counts)


def _reading(files: Sequence[delta.File], schema: pa.Schema, who: str) -> list[Any]:
    """References to the rows of each block that some files make, and to the blocks."""
    pieces = max(-(-sum(file.rows or 0 for file in files) // _MOST_ROWS), 1)
    refs: list[Any] = _read.options(num_returns=pieces + 1).remote(files, schema, who, pieces)
    return refs


def numbered(refs: Sequence[Any], counts: Sequence[int]) -> list[Block]:
    """Blocks of so many rows, one after another."""
    ends = np.cumsum([0, *counts]).tolist()
    return [Block(ref, ends[i], counts[i]) for i, ref in enumerate(refs)]


def _described(blocks: Sequence[Block], given: pa.Schema, timestamp: str, text: str) -> Spine:
    schema = _canonical(given)
    facts = ray.get(started(partial(_facts.remote, b.ref, b.offset, schema, timestamp) for b in blocks))
    digest = fingerprint.combined([fact[0] for fact in facts], schema)
    spans = [fact[1] for fact in facts if fact[1] is not None]
    span = (min(s[0] for s in spans), max(s[1] for s in spans)) if spans else None
    return Spine(tuple(blocks), schema, digest, span, text)


def _blocks_of(dataset: Any) -> tuple[list[Block], pa.Schema]:
    """Its blocks that have rows, and the schema of all; Ray keeps no columns of a block that has none."""
    refs = dataset.materialize().to_arrow_refs()
    counts = ray.get(started(partial(_count.remote, ref) for ref in refs))
    kept = [(ref, rows) for ref, rows in zip(refs, counts, strict=True) if rows]
    if kept:
        full, rows = zip(*kept, strict=True)
        return numbered(full, rows), _unified(ray.get(started(partial(_schema.remote, ref) for ref in full)))
    known = dataset.schema()
    schema = _canonical(known.base_schema) if known and isinstance(known.base_schema, pa.Schema) else pa.schema([])
    return numbered([ray.put(schema.empty_table())], [0]), schema


def _unified(schemas: list[pa.Schema]) -> pa.Schema:
    """One schema for all blocks: a column that is all null in one block has its type from another."""
    try:
        return pa.unify_schemas(schemas)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SchemaError(f"the blocks of the spine have columns of different types: {error}") from error


def _canonical(schema: pa.Schema) -> pa.Schema:
    return pa.schema([pa.field(f.name, canonical_type(f.type)) for f in schema])


def facts(rows: pa.Table, offset: int, timestamp: str) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """A block's digest, and its earliest and latest instant in microseconds."""
    at = instants(rows.column(timestamp), f"spine column '{timestamp}'")
    known = at.floor[at.valid], at.ceil[at.valid]
    span = (int(known[0].min()), int(known[1].max())) if len(known[0]) else None
    return fingerprint.digest(rows, offset), span


@task
def _read(files: Sequence[delta.File], schema: pa.Schema, who: str, pieces: int) -> Any:
    rows = scan.read(files, schema, schema.names, who)
    size = -(-rows.num_rows // pieces)
    blocks = [rows.slice(i * size, size) for i in range(pieces)]
    return [[block.num_rows for block in blocks], *blocks]


@task
def _schema(block: pa.Table) -> pa.Schema:
    return _canonical(block.schema)


@task
def _count(block: pa.Table) -> int:
    return int(block.num_rows)


@task
def _facts(
    block: pa.Table, offset: int, schema: pa.Schema, timestamp: str
) -> tuple[tuple[int, int], tuple[int, int] | None]:
    return facts(in_schema(block, schema), offset, timestamp)
