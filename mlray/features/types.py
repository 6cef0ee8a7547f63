"""Arrow types as the contract sees them: families of keys, instants, canonical columns."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlray.aggregation.window import Instants, Times
from mlray.errors import SchemaError, TimeError

INSTANT = pa.timestamp("us", tz="UTC")


def canonical_type(kind: pa.DataType) -> pa.DataType:
    """The one type that stands for all spellings of it: dictionaries decoded, text as string, decimals in 128 bits
    where those hold them.
    """
    if pa.types.is_dictionary(kind):
        return canonical_type(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_decimal(kind) and kind.precision <= 38:
        return pa.decimal128(kind.precision, kind.scale)
    return kind


def is_plain_decimal(kind: pa.DataType) -> bool:
    """Whether this is a decimal of at most 38 digits whose scale is not negative: those can be added."""
    return bool(pa.types.is_decimal128(kind) and kind.scale >= 0)


def canonical(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column in its canonical type."""
    kind = canonical_type(column.type)
    return column if column.type == kind else column.cast(kind)


def key_type(kind: pa.DataType, who: str) -> pa.DataType:
    """The type that keys of this family compare in: every integer as int64, every text as string."""
    plain = canonical_type(kind)
    if pa.types.is_integer(plain):
        return pa.int64()
    if pa.types.is_timestamp(plain):
        return INSTANT
    if pa.types.is_floating(plain) or pa.types.is_nested(plain):
        raise SchemaError(
            f"{who} is a key of type {kind}; keys are integers, text, bool, dates, times, decimals or binary (a pandas "
            "column of integers with gaps turns into float: use dtype 'Int64')"
        )
    if pa.types.is_date(plain):
        return pa.date32()
    return pa.binary() if pa.types.is_fixed_size_binary(plain) else plain


def check_same_family(left: pa.DataType, right: pa.DataType, who: str) -> None:
    """SchemaError where keys of the two types can never be equal; an all-null column fits any."""
    if pa.types.is_decimal(left) and pa.types.is_decimal(right):
        return
    if left != right and not pa.types.is_null(left) and not pa.types.is_null(right):
        raise SchemaError(
            f"{who}: the key is {left} in the spine and {right} in the source; cast one to the other's type"
        )


def microseconds_of(column: pa.ChunkedArray, who: str) -> pa.ChunkedArray:
    """Times as int64 microseconds UTC, rounded down; a column without zone is read as UTC; null stays null."""
    kind = canonical_type(column.type)
    dated = pa.types.is_date(kind) or pa.types.is_null(kind)
    if not dated and not pa.types.is_timestamp(kind):
        raise SchemaError(f"{who} is {column.type}, but a time is needed; make it a timestamp in UTC")
    if dated or kind.unit != "ns":
        try:
            return column.cast(pa.timestamp("us", tz=None if dated else kind.tz)).cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise TimeError(f"{who} is {column.type} and holds a time beyond int64 microseconds: {error}") from error
    counts = column.cast(pa.int64()).combine_chunks()
    return pa.chunked_array([pa.array(_floor(counts, 1000), mask=_nulls(counts))])


def instants(column: pa.ChunkedArray | pa.Array, who: str) -> Instants:
    """Query times: floor and ceil in microseconds, valid where not null."""
    chunked = pa.chunked_array([column]) if isinstance(column, pa.Array) else column
    floor = microseconds_of(chunked, who).combine_chunks()
    valid = ~_nulls(floor)
    down: Times = floor.fill_null(0).to_numpy(zero_copy_only=False)
    if not (pa.types.is_timestamp(chunked.type) and chunked.type.unit == "ns"):
        return Instants(down, down, valid)
    counts = chunked.cast(pa.int64()).combine_chunks()
    return Instants(down, -_floor(pc.negate(counts), 1000), valid)


def instant_type(kind: pa.DataType, who: str) -> pa.DataType:
    """Checks that a column of this type can be a time."""
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_null(kind):
        return kind
    raise TimeError(f"{who} is {kind}; make it a timestamp (without zone it is read as UTC)")


def _floor(counts: pa.Array, unit: int) -> Times:
    whole: Times = np.floor_divide(counts.fill_null(0).to_numpy(zero_copy_only=False), unit)
    return whole


def _nulls(array: pa.Array) -> "np.typing.NDArray[np.bool_]":
    mask: np.typing.NDArray[np.bool_] = array.is_null().to_numpy(zero_copy_only=False)
    return mask
