"""Rows cut by bucket, and files cut into what one task reads."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlray.offline.log import File
from mlray.offline.scan import Slice

GROUP_BYTES = 128 << 20
"""Bytes of files that one task reads, at most."""

_LONG = 1 << 31
"""Bytes of text that one Arrow column of 32-bit offsets cannot hold."""
_WIDE = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}


def cut(rows: pa.Table, of: NDArray[np.int64], count: int, kept: NDArray[np.int64] | None = None) -> Iterator[pa.Table]:
    """The rows by group, in their order.

    of: the group of each; kept: which rows these are, None: all.

    Column after column, each is brought into the order of the groups and then let go of, if the caller has, too: group
    after group would read every column from memory for each.
    """
    order = np.argsort(of.astype(np.uint16) if count <= 1 << 16 else of, kind="stable")
    ends = np.cumsum(np.bincount(of, minlength=count)).tolist()
    schema, places = rows.schema, pa.array(order if kept is None else kept[order])
    rows = wide(rows)
    whole, columns = rows.schema, list[pa.Array]()
    while rows.num_columns:
        columns.append(_joined(rows.column(0)).take(places))
        rows = rows.remove_column(0)
    for first, last in pairwise([0, *ends]):
        yield _tight(pa.table([c.slice(first, last - first) for c in columns], schema=whole), schema)


def taken(rows: pa.Table, places: NDArray[np.int64]) -> pa.Table:
    """The rows at these places, in the same types, in as many chunks as their texts need."""
    whole = roomy(rows)
    if whole.schema.equals(rows.schema):
        return whole.take(pa.array(places))
    some = np.array_split(places, 2 * rows.nbytes // _LONG + 1)
    parts = [_tight(whole.take(pa.array(part)), rows.schema) for part in some]
    return pa.concat_tables(parts, promote_options="permissive")


def retyped(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The rows in the columns and types of `schema`, in as many chunks as their texts need. ArrowInvalid."""
    rows = rows.select(schema.names)
    if rows.schema.equals(schema):
        return rows
    size = -(-rows.num_rows // (2 * rows.nbytes // _LONG + 1)) or 1
    return pa.concat_tables([_cast(rows.slice(i, size), schema) for i in range(0, max(rows.num_rows, 1), size)])


def roomy(rows: pa.Table) -> pa.Table:
    """The rows in one chunk; as `wide`."""
    return wide(rows).combine_chunks()


def wide(rows: pa.Table) -> pa.Table:
    """The rows with 64-bit offsets where a text column is too large for 32: Arrow takes rows of one chunk only, and a
    column of several becomes one first.
    """
    fields = [
        f.with_type(_WIDE[f.type]) if f.type in _WIDE and rows.column(f.name).nbytes >= _LONG else f
        for f in rows.schema
    ]
    schema = pa.schema(fields)
    return rows if schema.equals(rows.schema) else rows.cast(schema)


def _tight(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The rows in the types of `schema` again, but for text that is still too large."""
    if rows.schema.equals(schema):
        return rows
    fits = [f if rows.column(f.name).nbytes < _LONG else rows.schema.field(f.name) for f in schema]
    return _cast(rows, pa.schema(fits))


def _cast(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The rows in these types. A chunk of another one is copied first: a slice keeps the offsets of the whole, of which
    some do not fit 32 bits.
    """
    columns = [
        column if column.type == kind else pa.chunked_array([pa.concat_arrays([c]) for c in column.chunks], column.type)
        for column, kind in zip(rows.columns, schema.types, strict=True)
    ]
    return pa.table(columns, schema=rows.schema).cast(schema)


def _joined(column: pa.ChunkedArray) -> pa.Array:
    """In one chunk, which is copied only where it must."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def together(files: Sequence[File], size: int) -> list[tuple[Slice, ...]]:
    """What one task reads at a time: neighbouring files of together at most `size` bytes, or a run of row groups of a
    larger one.
    """
    parts: list[list[Slice]] = []
    filled = 0
    for file in files:
        pieces = max(-(-file.size // size), 1)
        if pieces > 1 or not parts or filled + file.size > size:
            parts += [[Slice(file, i, pieces)] for i in range(pieces)]
            filled = size if pieces > 1 else file.size
        else:
            parts[-1].append(Slice(file))
            filled += file.size
    return [tuple(part) for part in parts]
