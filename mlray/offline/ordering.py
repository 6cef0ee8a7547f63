"""Rows of a source by key and time: which of them count, and in which order they lie in a file of a managed copy."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlray.features.entity import Entity
from mlray.features.rows import KNOWN, SEQ, TS, events
from mlray.features.source import DeltaSource
from mlray.features.view import FeatureView
from mlray.offline.cutting import roomy


def marked(source: DeltaSource, keys: Sequence[str], rows: pa.Table) -> tuple[pa.Table, NDArray[np.int64]]:
    """Keys and times, as in `features.rows.events`, of the rows that have them all; and where these rows are.

    The source's `where` drops nothing: a copy serves every view.
    """
    position = "position"
    while position in rows.column_names or position in source.select or position in keys:
        position += "_"
    view = FeatureView(
        f"layout_of_{source.name}"[:128],
        entity=Entity("key", keys=keys),
        source=replace(source, where=None),
        features=[position],
    )
    found = events(view, rows.append_column(position, pa.array(np.arange(rows.num_rows))))
    return found, found.column(position).to_numpy()


def in_order(source: DeltaSource, keys: Sequence[str], rows: pa.Table) -> pa.Table:
    """Rows that count, by keys, event time, known_at and sequence; those equal in all of them as they come."""
    found, _ = marked(source, keys, rows)
    columns = [*keys, TS, *(c for c in (KNOWN, SEQ) if c in found.column_names)]
    marks = [mark for column in columns for mark in _numbers(found.column(column))]
    return roomy(rows).take(pa.array(np.lexsort(marks[::-1])))


def _numbers(column: pa.ChunkedArray) -> list[NDArray[Any]]:
    """Arrays of numbers that order the column together; null is lowest."""
    kind = column.type
    if pa.types.is_null(kind):
        return []
    nulls = [column.is_valid().to_numpy()] if column.null_count else []
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.int64())
    elif pa.types.is_date32(kind):
        column = column.cast(pa.int32())
    elif pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return [*nulls, _ranks(column)]
    return [*nulls, pc.fill_null(column, 0).to_numpy()]


def _ranks(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """The place of each cell among the distinct ones, text bytewise; of a null, any."""
    encoded = pa.chunked_array([column.combine_chunks()] if column.num_chunks else [], column.type).dictionary_encode()
    encoded = encoded.unify_dictionaries().combine_chunks()
    order = np.asarray(pc.sort_indices(encoded.dictionary)).astype(np.int64)
    ranks = np.zeros(len(order) + 1, dtype=np.int64)
    ranks[order] = np.arange(len(order))
    found: NDArray[np.int64] = ranks[np.asarray(encoded.indices.fill_null(len(order)))]
    return found
