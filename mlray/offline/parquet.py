"""Parquet files of Delta tables, in the form that reads fastest, and the actions that put them into a table.

A column without nulls is written as required, though the table allows nulls; one of few distinct values as a
dictionary; nothing is compressed on a local disk, where decoding costs more than reading. See docs/design.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, create_table_with_add_actions
from obstore.exceptions import BaseError
from obstore.store import from_url

from mlray.errors import Conflict, MlrayError, SchemaError
from mlray.features.types import canonical_type

ROW_GROUP = 8_192
"""Rows of a group: few keys need few of them. What finer and coarser ones cost: docs/design/managed_layout.md."""

_HEAD = 4_096
"""Rows that are looked at to choose an encoding."""
_TEXT = 32
"""Characters of a text that readers of the log trust to be kept."""
_DIGITS = 15
"""Digits of a decimal that a JSON number keeps exactly."""
_WIDER = {pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64(), pa.uint64(): pa.int64()}
_NEAREST: Mapping[pa.DataType, pa.DataType] = {**_WIDER, pa.float16(): pa.float32(), pa.null(): pa.string()}


def stored_schema(schema: pa.Schema, who: str) -> pa.Schema:
    """The schema in types that a Delta table has: times in microseconds, no unsigned integers, no dictionaries.

    SchemaError for a type that has none.
    """
    plain = pa.schema([pa.field(f.name, _stored(f.type), f.nullable) for f in schema])
    try:
        Schema.from_arrow(plain)
    except Exception as error:  # delta-rs raises what its schema conversion happens to
        raise SchemaError(f"{who}: its columns cannot be kept in a Delta table: {error}; cast them") from error
    return plain


def write_file(
    root: str,
    name: str,
    rows: pa.Table,
    *,
    stats: Sequence[str],
    partition: Mapping[str, str | None] | None = None,
    row_group: int = ROW_GROUP,
) -> AddAction:
    """Writes `rows`, in types of `stored_schema`, as the file `name` under the table at `root`; a file of that name is
    replaced at once, never seen half-written.

    stats: the columns whose bounds the log and the file keep. partition: the values of columns that `rows` lack.
    """
    size = _put(root, name, _tight(rows), stats, row_group)
    now = int(datetime.now(UTC).timestamp() * 1000)
    return AddAction(name, size, dict(partition or {}), now, True, _statistics(rows, stats))


def commit_new(
    root: str,
    schema: pa.Schema,
    actions: Sequence[AddAction],
    *,
    partition_by: Sequence[str] = (),
    description: str | None = None,
    transactions: Sequence[Transaction] = (),
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Makes the files a new Delta table at `root`, version 0, in one commit. schema: with the partition columns.

    Conflict where a table is there already.
    """
    # Without `max_commit_retries` the slower of two adds its files to the table of the quicker one, as version 1.
    properties = CommitProperties(
        custom_metadata=dict(metadata or {}), max_commit_retries=0, app_transactions=list(transactions)
    )
    try:
        create_table_with_add_actions(
            root,
            Schema.from_arrow(schema),
            list(actions),
            mode="error",
            partition_by=list(partition_by),
            description=description,
            commit_properties=properties,
        )
    except DeltaError as error:
        kind = Conflict if DeltaTable.is_deltatable(root) else MlrayError
        raise kind(f"a new Delta table cannot be made at {root}: {error}") from error


def _stored(kind: pa.DataType) -> pa.DataType:
    plain = canonical_type(kind)
    if pa.types.is_timestamp(plain):
        return pa.timestamp("us", tz=plain.tz and "UTC")
    if pa.types.is_list(plain) or pa.types.is_large_list(plain):
        return pa.list_(_stored(plain.value_type))
    if pa.types.is_struct(plain):
        return pa.struct([pa.field(f.name, _stored(f.type), f.nullable) for f in plain])
    return _NEAREST.get(plain, plain)


def _tight(rows: pa.Table) -> pa.Table:
    """Columns without nulls as required ones: no levels to decode, half the time."""
    fields = [
        pa.field(f.name, f.type, bool(column.null_count)) for f, column in zip(rows.schema, rows.columns, strict=True)
    ]
    return pa.table(rows.columns, schema=pa.schema(fields))


def _put(root: str, name: str, rows: pa.Table, stats: Sequence[str], row_group: int) -> int:
    """Writes the file whole and gives its size."""
    options: dict[str, Any] = {
        "row_group_size": row_group,
        "use_dictionary": _repetitive(rows),
        "write_statistics": [c for c in stats if c in rows.column_names],
        "store_schema": False,
        "data_page_version": "2.0",
    }
    try:
        if "://" in root:
            sink = pa.BufferOutputStream()
            pq.write_table(rows, sink, compression="lz4", **options)
            content = sink.getvalue()
            if root.startswith("file://"):  # the one kind of store whose root must be there
                Path(root.removeprefix("file://")).mkdir(parents=True, exist_ok=True)
            from_url(root).put(name, pa.BufferReader(content))
            return int(content.size)
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.{uuid4().hex}")
        try:
            pq.write_table(rows, aside, compression="none", **options)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        return path.stat().st_size
    except (OSError, BaseError) as error:
        raise MlrayError(f"{root}/{name} cannot be written: {error}") from error


def _repetitive(rows: pa.Table) -> list[str]:
    """The columns of which few of the first cells are distinct; floats decode fastest as they are."""
    head = rows.slice(0, _HEAD)
    plain = [f.name for f in head.schema if not pa.types.is_nested(f.type) and not pa.types.is_floating(f.type)]
    return [c for c in plain if 4 * pc.count_distinct(head.column(c), mode="all").as_py() <= head.num_rows]


def _statistics(rows: pa.Table, columns: Sequence[str]) -> str:
    low, high = {}, {}
    for column in columns:
        if column in rows.column_names:
            bounds = _bounds(rows.column(column))
            if bounds is not None:
                low[column], high[column] = bounds
    nulls = {c: rows.column(c).null_count for c in columns if c in rows.column_names}
    return json.dumps({"numRecords": rows.num_rows, "minValues": low, "maxValues": high, "nullCount": nulls})


def _bounds(column: pa.ChunkedArray) -> tuple[Any, Any] | None:
    """The least and the greatest value as the log spells them; None where it cannot say them exactly."""
    kind = column.type
    if not (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_string(kind)
        or pa.types.is_date32(kind)
        or pa.types.is_timestamp(kind)
        or pa.types.is_decimal(kind)
    ):
        return None
    if pa.types.is_floating(kind) and pc.any(pc.is_nan(column)).as_py():
        return None
    found = pc.min_max(column)
    low, high = _spelt(found["min"]), _spelt(found["max"])
    return None if low is None or high is None else (low, high)


def _spelt(value: pa.Scalar) -> Any:
    try:
        plain = value.as_py()
    except (ValueError, OverflowError):  # a year that Python has not
        return None
    if isinstance(plain, datetime):
        text = plain.replace(tzinfo=None).isoformat(timespec="microseconds")
        return text + "Z" if value.type.tz else text
    if isinstance(plain, float):
        return plain if math.isfinite(plain) else None
    if isinstance(plain, Decimal):
        return float(plain) if value.type.precision <= _DIGITS else None
    if isinstance(plain, str):
        return plain if len(plain) <= _TEXT else None
    return plain if plain is None or isinstance(plain, int) else plain.isoformat()
