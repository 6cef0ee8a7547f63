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

_DENSE = 16
"""Integer keys are looked up in an array while it is at most this many times longer than the rows."""
_FEW = 1 << 16
"""Up to so many other integer keys are sorted: a tenth of the processor time of hashing 2,000, half of 100,000."""


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
    numbers = _integers(keys)
    if numbers is not None:
        found = _ascending(numbers)
        if found is None:
            found = _dense(numbers)
        if found is None and len(numbers) <= _FEW:
            found = np.unique(numbers, return_inverse=True)
        if found is not None:
            return pa.table([pa.array(found[0])], schema=keys.schema), found[1]
    heads, run = _runs(keys)
    frame = pl.DataFrame(pl.from_arrow(heads))
    unique = frame.unique(maintain_order=True)
    return unique.to_arrow().cast(keys.schema), _codes(frame, unique)[run]


def codes(keys: pa.Table, dictionary: pa.Table) -> Ranges:
    """Per row of `keys` its position in the dictionary, NOWHERE where it is not in it or has a null."""
    if not keys.num_columns:
        return np.zeros(keys.num_rows, dtype=np.int64)
    here, known = _integers(keys), _integers(dictionary)
    if here is not None and known is not None and len(known):
        order = np.argsort(known, kind="stable")
        place = np.minimum(np.searchsorted(known, here, sorter=order), len(known) - 1)
        return np.where(known[order[place]] == here, order[place], NOWHERE)
    named = keys.rename_columns(dictionary.column_names)
    return _codes(pl.DataFrame(pl.from_arrow(named)), pl.DataFrame(pl.from_arrow(dictionary)))


def complete(keys: Sequence[pa.ChunkedArray], length: int) -> NDArray[np.bool_]:
    """Where no part of the key is null."""
    mask = np.ones(length, dtype=np.bool_)
    for column in keys:
        if column.null_count:
            mask &= column.is_valid().to_numpy()
    return mask


def _integers(keys: pa.Table) -> Ranges | None:
    """The only column, where it is of int64 without nulls."""
    if keys.num_columns != 1 or keys.column(0).type != pa.int64() or keys.column(0).null_count:
        return None
    numbers: Ranges = keys.column(0).to_numpy()
    return numbers


def _ascending(numbers: Ranges) -> tuple[Ranges, Ranges] | None:
    """(distinct, codes) of numbers that ascend, as in a managed copy; None where they do not. In an eighth of the
    time of `_dense`.
    """
    if not len(numbers) or not bool((numbers[1:] >= numbers[:-1]).all()):
        return None
    changed = numbers[1:] != numbers[:-1]
    codes = np.zeros(len(numbers), dtype=np.int64)
    np.cumsum(changed, out=codes[1:])
    return np.concatenate([numbers[:1], numbers[1:][changed]]), codes


def _dense(numbers: Ranges) -> tuple[Ranges, Ranges] | None:
    """(distinct, codes) by a table of all numbers between the least and the greatest; None where it is too long."""
    if not len(numbers):
        return None
    first, last = int(numbers.min()), int(numbers.max())
    if last - first >= _DENSE * len(numbers):
        return None
    present = np.zeros(last - first + 1, dtype=np.bool_)
    offsets = numbers - first
    present[offsets] = True
    position = np.cumsum(present, dtype=np.int64)
    position -= 1
    return np.flatnonzero(present) + first, position[offsets]


def _runs(keys: pa.Table) -> tuple[pa.Table, Ranges]:
    """Equal keys that lie side by side, once each, and per row its run: sorted tables have few."""
    if not keys.num_rows:
        return keys, np.zeros(0, dtype=np.int64)
    frame = pl.DataFrame(pl.from_arrow(keys))
    changed = frame.select(pl.any_horizontal(pl.all().ne_missing(pl.all().shift(1)))).to_series().to_numpy().copy()
    changed[0] = True
    return keys.filter(pa.array(changed)), np.cumsum(changed, dtype=np.int64) - 1


def _codes(frame: pl.DataFrame, unique: pl.DataFrame) -> Ranges:
    indexed = unique.with_row_index("__code")
    joined = frame.join(indexed, on=frame.columns, how="left", maintain_order="left")
    found: Ranges = joined["__code"].cast(pl.Int64).fill_null(NOWHERE).to_numpy()
    return found
