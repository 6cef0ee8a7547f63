"""Reading Parquet files of a table: just the columns asked, in the table's types, without replaying its log."""

import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake.fs import DeltaStorageHandler

from mlray.errors import MlrayError, SchemaError, first_line
from mlray.features.types import canonical_type
from mlray.offline.log import File

_EPOCH, _DAY = date(1970, 1, 1), 86_400_000_000
"""Day 0, and microseconds of a day."""

Within = tuple[str, Any, Any]
"""A column and the least and greatest value wanted; None is an open end. Times are int microseconds UTC."""


@dataclass(frozen=True, slots=True)
class Among:
    """A column and the values wanted, in order, at least one: as `File.low` spells them, but texts as bytes."""

    column: str
    values: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Slice:
    """A file's row groups, but only the `index`-th of `count` runs of neighbours: a large file for several tasks."""

    file: File
    index: int = 0
    count: int = 1


def read(
    files: Sequence[File | Slice],
    schema: pa.Schema,
    columns: Sequence[str],
    who: str,
    within: Within | Among | None = None,
) -> pa.Table:
    """The columns of the files, one after another, in the types of `schema`.

    A column that a file lacks is null there; one of another type is cast where no value changes. within: row groups
    that hold no value in its range, or none of its values, are skipped; those that hold one come whole. who: the view
    or source, for messages.
    SchemaError names a column that is not in the schema, or that a file holds in a type which does not fit.
    """
    for name in columns:
        if name not in schema.names:
            raise SchemaError.missing_column(who, name, "the table", schema.names)
    wanted = pa.schema([schema.field(name) for name in columns])
    slices = [file if isinstance(file, Slice) else Slice(file) for file in files]
    tables = [_read(one, wanted, who, within) for one in slices]
    if not columns:  # the only thing a table without columns has is its length, and concatenation forgets it
        return pa.table({"": pa.nulls(sum(table.num_rows for table in tables))}).select([])
    return pa.concat_tables(tables or [wanted.empty_table()])


def pruned(files: Sequence[File], column: str, low: Any, high: Any) -> tuple[File, ...]:
    """The files that may hold a value of `column` in [low, high]; None: an open end. Times: int microseconds UTC.

    A file without statistics stays. One in which the column is null throughout may go.
    """
    return tuple(file for file in files if _may_hold(file, (column, low, high)))


def _may_hold(file: File, within: Within) -> bool:
    column, low, high = within
    for name, value in file.partition:
        if name == column:
            return value is not None and _meet(value, value, low, high)
    return _meet(file.low.get(column), file.high.get(column), low, high)


def _meet(least: Any, greatest: Any, low: Any, high: Any) -> bool:
    """Whether [least, greatest] and [low, high] have a point in common; None: unknown, or open."""
    least, greatest = _as_asked(least, low, high), _as_asked(greatest, low, high)
    above = low is not None and greatest is not None and greatest < low
    below = high is not None and least is not None and least > high
    return not (above or below)


def _as_asked(value: Any, low: Any, high: Any) -> Any:
    """A date that is asked for by instants is its first one."""
    by_instant = isinstance(low, int) or isinstance(high, int)
    return (value - _EPOCH).days * _DAY if by_instant and isinstance(value, date) else value


def _read(one: Slice, wanted: pa.Schema, who: str, within: Within | Among | None) -> pa.Table:
    file, partition = one.file, dict(one.file.partition)
    if isinstance(within, tuple) and not _may_hold(file, within):
        return wanted.empty_table()
    try:
        with _opened(file.path) as source:
            groups = _groups(source, one, within)
            names = set(source.schema_arrow.names)
            there = [n for n in wanted.names if n in names and n not in partition]
            rows = source.read_row_groups(groups, columns=there, use_threads=False)
    except FileNotFoundError as error:
        raise MlrayError(
            f"{who}: the file {file.path} is in the table's log but not there; was it removed by hand, or by a "
            "vacuum that did not keep this version? Read a newer version, or restore the file"
        ) from error
    except (pa.ArrowInvalid, OSError) as error:
        raise MlrayError(f"{who}: the file {file.path} cannot be read: {first_line(error)}") from error
    if not len(wanted):
        return rows
    arrays = []
    for target in wanted:
        if target.name in partition:
            arrays.append(_repeated(partition[target.name], target.type, rows.num_rows))
        elif target.name in there:
            arrays.append(_conformed(rows.column(target.name), target, who, file))
        else:
            arrays.append(pa.nulls(rows.num_rows, target.type))
    return pa.table(arrays, schema=wanted)


def _repeated(value: Any, kind: pa.DataType, count: int) -> pa.Array:
    return pa.nulls(count, kind) if value is None else pa.repeat(pa.scalar(value, kind), count)


def _opened(path: str) -> pq.ParquetFile:
    """Local files are mapped into memory; INT96 times, which count nanoseconds, would not reach years 1 and 9999."""
    if "://" not in path:
        return pq.ParquetFile(path, memory_map=True, coerce_int96_timestamp_unit="us")
    scheme, _, rest = path.partition("://")
    host, _, key = rest.partition("/")
    stream = _storage(f"{scheme}://{host}/").open_input_file(key)
    return pq.ParquetFile(stream, pre_buffer=True, coerce_int96_timestamp_unit="us")


@lru_cache(maxsize=64)
def _storage(root: str) -> pafs.PyFileSystem:
    """The storage of a URL, reached as delta-rs reaches it, with the environment's credentials."""
    return pafs.PyFileSystem(DeltaStorageHandler(root))


def _groups(source: pq.ParquetFile, one: Slice, within: Within | Among | None) -> list[int]:
    """The row groups of the slice that may hold a value wanted."""
    metadata = source.metadata
    count = metadata.num_row_groups
    mine = list(range(count * one.index // one.count, count * (one.index + 1) // one.count))
    if within is None or not mine:
        return mine
    column = within.column if isinstance(within, Among) else within[0]
    first = metadata.row_group(0)
    at = next((i for i in range(first.num_columns) if first.column(i).path_in_schema == column), None)
    if at is None:
        return mine
    logical = json.loads(source.schema.column(at).logical_type.to_json())
    bounds = [(i, *_bounds(metadata.row_group(i).column(at), logical)) for i in mine]
    if isinstance(within, Among):
        return [i for i, least, greatest in bounds if _one_lies(within.values, least, greatest)]
    ends = [end.encode() if isinstance(end, str) else end for end in within[1:]]
    return [i for i, least, greatest in bounds if _overlap(least, greatest, *ends)]


def _one_lies(values: Sequence[Any], least: Any, greatest: Any) -> bool:
    """Whether one of the ordered values lies in [least, greatest]; what cannot be compared may."""
    if least is None or greatest is None or len({_kind(v) for v in (least, greatest, values[0])}) != 1:
        return True
    at = bisect_left(values, least)
    return at < len(values) and values[at] <= greatest


def _overlap(least: Any, greatest: Any, low: Any, high: Any) -> bool:
    """`_meet`, where a file may hold another kind of value than the table: what cannot be compared may meet."""
    least, greatest = _as_asked(least, low, high), _as_asked(greatest, low, high)
    kinds = {_kind(value) for value in (least, greatest, low, high) if value is not None}
    return len(kinds) != 1 or _meet(least, greatest, low, high)


def _kind(value: Any) -> type:
    return next((kind for kind in (bytes, date) if isinstance(value, kind)), float)


def _bounds(chunk: Any, logical: dict[str, Any]) -> tuple[Any, Any]:
    """The least and the greatest value of a column chunk as `File.low` spells them, but texts as their bytes; (None,
    None): unknown.
    """
    found = chunk.statistics
    if found is None or not found.has_min_max or chunk.physical_type == "INT96":
        return None, None
    if logical["Type"] == "Timestamp":
        many, per = {"milliseconds": (1000, 1), "microseconds": (1, 1), "nanoseconds": (1, 1000)}[logical["timeUnit"]]
        return found.min_raw * many // per, -(-found.max_raw * many // per)
    if chunk.physical_type == "BYTE_ARRAY" and logical["Type"] != "Decimal":
        return found.min_raw, found.max_raw
    return found.min, found.max


def _conformed(column: pa.ChunkedArray, target: pa.Field, who: str, file: File) -> pa.ChunkedArray:
    """The column in the table's type; SchemaError where that would change a value."""
    if column.type == target.type:
        return column
    given = f"{who}: column '{target.name}' is {column.type} in {file.path}, but {target.type} in the table"
    if not _castable(column.type, target.type):
        raise SchemaError(f"{given}; rewrite the file with the table's type")
    try:
        cast = column.cast(target.type)
        same = not _narrower(column.type, target.type) or _equal(cast.cast(column.type), column)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaError(f"{given}, and not every value fits: {first_line(error)}") from error
    if not same:
        raise SchemaError(f"{given}, and not every value fits; rewrite the file with the table's type")
    return cast


def _castable(given: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values of one type can be meant by the other; a cast that guesses, as of text to number, is none."""
    given = canonical_type(given)
    if pa.types.is_null(given) or given == canonical_type(wanted):
        return True
    if pa.types.is_integer(given):
        return bool(pa.types.is_integer(wanted) or pa.types.is_floating(wanted) or pa.types.is_decimal(wanted))
    if pa.types.is_date(given):
        return bool(pa.types.is_date(wanted) or pa.types.is_timestamp(wanted))
    if pa.types.is_binary(given) or pa.types.is_fixed_size_binary(given):
        return bool(pa.types.is_binary(wanted) or pa.types.is_string(wanted))
    alike = (pa.types.is_floating, pa.types.is_decimal, pa.types.is_timestamp, pa.types.is_nested)
    return any(same(given) and same(wanted) for same in alike)


def _narrower(given: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether Arrow would round silently."""
    both = pa.types.is_floating(given) and pa.types.is_floating(wanted)
    return bool(both and wanted.bit_width < given.bit_width)


def _equal(left: pa.ChunkedArray, right: pa.ChunkedArray) -> bool:
    return bool(np.array_equal(left.to_numpy(), right.to_numpy(), equal_nan=True))
