"""An Arrow column as aggregates read it, and their results as Arrow again."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlray.aggregation.aggregate import Aggregate, Result, Values
from mlray.errors import OverflowInSum, SchemaError
from mlray.features.types import canonical_type, is_plain_decimal
from mlray.features.view import FeatureView


@dataclass(frozen=True, slots=True)
class Coded:
    """A column's values as float64, or int64 in the order of the values; `usable` where neither null nor NaN.

    `words`: for types that are not numbers inside, the sorted distinct values that the codes count through.
    """

    values: Values
    usable: NDArray[np.bool_]
    type: pa.DataType
    words: pa.Array | None = None

    def decode(self, array: NDArray[Any], null: NDArray[np.bool_]) -> pa.Array:
        """Values of the column's own type."""
        if self.words is not None:
            return self.words.take(pa.array(array, mask=null))
        if self.values.kind == "decimal":
            return _decimals(array, null, self.type)
        numbers = pa.array(array, mask=null)
        return numbers.cast(pa.int32()).cast(self.type) if _counts_in_32(self.type) else numbers.cast(self.type)


def coded(name: str, column: pa.ChunkedArray) -> Coded:
    """The column as numbers. -0.0 enters as 0.0."""
    array = column.combine_chunks()
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    kind = array.type
    if is_plain_decimal(kind):
        return Coded(Values(name, "decimal", _unscaled(array), kind.scale), valid, kind)
    if pa.types.is_floating(kind):
        floats = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
        return Coded(Values(name, "float", floats + 0.0), valid & ~np.isnan(floats), kind)
    if _fits_int64(array):
        return Coded(Values(name, "int", _int64(array)), valid, kind)
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        counts = array.cast(pa.int32() if _counts_in_32(kind) else pa.int64())
        return Coded(Values(name, "ordered", _int64(counts)), valid, kind)
    return _words(name, array, valid)


def to_arrow(aggregate: Aggregate, column: Coded | None, result: Result) -> pa.Array:
    """A result in the type that the aggregate promises for the column."""
    null = ~result.valid
    if column is not None and aggregate.result == "column":
        return column.decode(result.array, null)
    if column is not None and result.offsets is not None:
        first, last = int(result.offsets[0]), int(result.offsets[-1])
        cells = column.decode(result.array[first:last], np.zeros(last - first, dtype=np.bool_))
        offsets = pa.array((result.offsets - first).astype(np.int32))
        return pa.ListArray.from_arrays(offsets, cells, pa.list_(cells.type), mask=pa.array(null))
    return pa.array(result.array, mask=null)


def result_type(aggregate: Aggregate, column: pa.DataType | None) -> pa.DataType:
    """The Arrow type of the aggregate over a column of this type."""
    if aggregate.result == "column" and column is not None:
        return canonical_type(column)
    if aggregate.result == "list" and column is not None:
        return pa.list_(canonical_type(column))
    if aggregate.result == "sum" and column is not None:
        return pa.float64() if pa.types.is_floating(column) or pa.types.is_decimal(column) else pa.int64()
    return pa.float64() if aggregate.result == "float64" else pa.int64()


def overflow_of(view: FeatureView, error: OverflowInSum) -> OverflowInSum:
    """The same, of a view."""
    return OverflowInSum(f"feature view {view.name}: source {view.source.name}: {error}")


def beyond_int64(view: str, aggregate: Aggregate, column: pa.DataType) -> SchemaError:
    """Of integers that are ordered but not added."""
    name = aggregate.column
    return SchemaError(
        f"feature view {view}: {type(aggregate).__name__} needs numbers that 64 bits with sign hold, but column "
        f"'{name}' is {column}, here with values beyond them; cast it: select={{'{name}': 'CAST({name} AS DOUBLE)'}}"
    )


def _words(name: str, array: pa.Array, valid: NDArray[np.bool_]) -> Coded:
    encoded = array.dictionary_encode()
    order = pc.array_sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    codes = rank[encoded.indices.fill_null(0).to_numpy()] if len(order) else np.zeros(len(array), dtype=np.int64)
    return Coded(Values(name, "ordered", codes), valid, array.type, encoded.dictionary.take(pa.array(order)))


def _counts_in_32(kind: pa.DataType) -> bool:
    """Arrow casts these to and from int32 only."""
    return bool(pa.types.is_date32(kind) or pa.types.is_time32(kind))


def _fits_int64(array: pa.Array) -> bool:
    """Whether these are integers or bool that int64 holds; only uint64 may not."""
    if pa.types.is_uint64(array.type):
        return int(pc.max(array).as_py() or 0) < 1 << 63
    return bool(pa.types.is_integer(array.type) or pa.types.is_boolean(array.type))


def _unscaled(array: pa.Array) -> NDArray[Any]:
    """The digits of decimals as int64, as Python integers where one does not fit; 0 for null."""
    filled = array.fill_null(0) if array.null_count else array
    halves = np.frombuffer(filled.buffers()[1], dtype=np.int64)[2 * filled.offset :][: 2 * len(filled)]
    low, high = halves[::2], halves[1::2]
    if (high == low >> 63).all():
        return low.copy()
    digits: NDArray[Any] = (high.astype(object) << 64) + low.view(np.uint64).astype(object)
    return digits


def _decimals(digits: NDArray[Any], null: NDArray[np.bool_], kind: pa.DataType) -> pa.Array:
    """What `_unscaled` was made of."""
    halves = np.empty((len(digits), 2), dtype=np.int64)
    if digits.dtype == object:
        halves[:, 0] = (digits & ((1 << 64) - 1)).astype(np.uint64).view(np.int64)
        halves[:, 1] = (digits >> 64).astype(np.int64)
    else:
        halves[:, 0], halves[:, 1] = digits, digits >> 63
    valid = pa.array(~null).buffers()[1]
    return pa.Array.from_buffers(kind, len(digits), [valid, pa.py_buffer(halves)])


def _int64(array: pa.Array) -> NDArray[Any]:
    numbers: NDArray[Any] = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return numbers
