"""An Arrow column as aggregates read it, and their results as Arrow again."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlray.aggregation.aggregate import Aggregate, Result, Values
from mlray.features.types import canonical_type


@dataclass(frozen=True, slots=True)
class Coded:
    """A column's values as float64, or int64 in the order of the values; `usable` where neither null nor NaN.

    `words`: for types that are not numbers inside, the sorted distinct values that the codes count through.
    """

    values: Values
    usable: NDArray[np.bool_]
    type: pa.DataType
    words: pa.Array | None = None

    def decode(self, result: Result) -> pa.Array:
        """Values of the column's own type; null where the result is none."""
        if self.words is not None:
            return self.words.take(pa.array(result.array, mask=~result.valid))
        array = pa.array(result.array, mask=~result.valid)
        if pa.types.is_date32(self.type):
            array = array.cast(pa.int32())
        return array.cast(self.type)


def coded(name: str, column: pa.ChunkedArray) -> Coded:
    """The column as numbers. -0.0 enters as 0.0."""
    array = column.combine_chunks()
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    kind = array.type
    if pa.types.is_floating(kind):
        floats = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
        return Coded(Values(name, "float", floats + 0.0), valid & ~np.isnan(floats), kind)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return Coded(Values(name, "int", _int64(array)), valid, kind)
    if pa.types.is_timestamp(kind) or pa.types.is_date32(kind):
        counts = array.cast(pa.int32() if pa.types.is_date32(kind) else pa.int64())
        return Coded(Values(name, "ordered", _int64(counts)), valid, kind)
    return _words(name, array, valid)


def to_arrow(aggregate: Aggregate, column: Coded | None, result: Result) -> pa.Array:
    """A result in the type that the aggregate promises for the column."""
    if column is not None and aggregate.result == "column":
        return column.decode(result)
    return pa.array(result.array, mask=~result.valid)


def result_type(aggregate: Aggregate, column: pa.DataType | None) -> pa.DataType:
    """The Arrow type of the aggregate over a column of this type."""
    if aggregate.result == "column" and column is not None:
        return canonical_type(column)
    if aggregate.result == "sum" and column is not None:
        return pa.float64() if pa.types.is_floating(column) else pa.int64()
    return pa.float64() if aggregate.result == "float64" else pa.int64()


def _words(name: str, array: pa.Array, valid: NDArray[np.bool_]) -> Coded:
    encoded = array.dictionary_encode()
    order = pc.array_sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    codes = rank[encoded.indices.fill_null(0).to_numpy()] if len(order) else np.zeros(len(array), dtype=np.int64)
    return Coded(Values(name, "ordered", codes), valid, array.type, encoded.dictionary.take(pa.array(order)))


def _int64(array: pa.Array) -> NDArray[Any]:
    numbers: NDArray[Any] = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return numbers
