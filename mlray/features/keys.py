"""Typed keys to integer codes, for one block of events and queries."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from mlray.aggregation.aggregate import Ranges
from mlray.aggregation.timeline import NOWHERE
from mlray.errors import SchemaError
from mlray.features.types import check_same_family, key_type


def spine_key(column: pa.ChunkedArray, name: str, event_type: pa.DataType, who: str) -> pa.ChunkedArray:
    """A spine's key column in the type of the events' key; SchemaError where the two can never be equal."""
    kind = key_type(column.type, f"{who}: spine column '{name}'")
    check_same_family(kind, event_type, f"{who}: spine column '{name}'")
    try:
        return column.cast(kind).cast(event_type)
    except pa.ArrowInvalid as error:
        raise SchemaError(
            f"{who}: spine column '{name}' is {column.type} and does not fit {event_type}: {error}"
        ) from error


def distinct(keys: pa.Table) -> tuple[pa.Table, Ranges]:
    """The distinct keys, and the code (the position among them) of every row. No column: one key, code 0."""
    if not keys.num_columns:
        return keys, np.zeros(keys.num_rows, dtype=np.int64)
    frame = pl.DataFrame(pl.from_arrow(keys))
    unique = frame.unique(maintain_order=True)
    return unique.to_arrow().cast(keys.schema), _codes(frame, unique)


def codes(keys: pa.Table, dictionary: pa.Table) -> Ranges:
    """Per row of `keys` its position in the dictionary, NOWHERE where it is not in it or has a null."""
    if not keys.num_columns:
        return np.zeros(keys.num_rows, dtype=np.int64)
    named = keys.rename_columns(dictionary.column_names)
    return _codes(pl.DataFrame(pl.from_arrow(named)), pl.DataFrame(pl.from_arrow(dictionary)))


def complete(keys: Sequence[pa.ChunkedArray], length: int) -> NDArray[np.bool_]:
    """Where no part of the key is null."""
    mask = np.ones(length, dtype=np.bool_)
    for column in keys:
        mask &= column.is_valid().to_numpy()
    return mask


def _codes(frame: pl.DataFrame, unique: pl.DataFrame) -> Ranges:
    indexed = unique.with_row_index("__code")
    joined = frame.join(indexed, on=frame.columns, how="left", maintain_order="left")
    found: Ranges = joined["__code"].cast(pl.Int64).fill_null(NOWHERE).to_numpy()
    return found
