"""What the log of a Delta table says: its files with their statistics, the features it needs, versions by time.

The files alone do not give the rows of every table: where columns are mapped to other names they would read as null,
and rows that a deletion vector has removed would come back. Such tables are refused here, before anything is read.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from mlray.errors import MlrayError, TimeError, first_line

_TRUNCATED = 1_000
"""Microseconds that a time may have lost: Delta's statistics stop at milliseconds."""
_WHOLE_TEXT = 32
"""Characters that every writer keeps of a text; longer ones may be cut."""
_EXACT_DIGITS = 15
"""Decimals of more digits may be rounded in the log, where they are JSON numbers."""

_HARMLESS = {"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck", "typeWidening", "typeWidening-preview"}
_WHERE_USED = {"columnMapping", "deletionVectors"}
_COMMIT = re.compile(r"_delta_log/(\d{20})\.json$")
_ESCAPED = re.compile(rb"\\u00([0-9A-Fa-f]{2})")
_ESCAPES = re.compile(rb"(\\u00[0-9A-Fa-f]{2})*")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]*")


@dataclass(frozen=True, slots=True)
class File:
    """One Parquet file of a table.

    path: absolute, or a URL whose part after the host is the object's key, not percent-encoded.
    rows: None where the log does not say. size: bytes.
    partition: the value of every partition column, which the file itself does not hold.
    low, high: by column, bounds of its non-null values; absent where unknown. A NaN lies in no range.
    Times, here and in `partition`, are int microseconds UTC; dates are `date`, texts `str`, decimals `Decimal`.
    """

    path: str
    rows: int | None
    size: int
    partition: tuple[tuple[str, Any], ...] = ()
    low: Mapping[str, Any] = field(default_factory=dict, compare=False)
    high: Mapping[str, Any] = field(default_factory=dict, compare=False)


def schema_of(opened: DeltaTable) -> pa.Schema:
    """The table's columns in Arrow types, without what other engines note beside them."""
    schema = pa.schema(opened.schema().to_arrow())
    return pa.schema([pa.field(f.name, f.type, f.nullable) for f in schema])


def files_of(opened: DeltaTable, root: str, schema: pa.Schema) -> tuple[File, ...]:
    """The files of the table at `root`, in order of their names."""
    actions = pa.table(opened.get_add_actions())
    count = actions.num_rows
    partitions = _partitions(actions) if "partition" in actions.column_names else [{}] * count
    lows, highs = (_statistics(actions, side, schema) for side in ("min", "max"))
    root = root.rstrip("/") if _URL.match(root) else str(Path(root).absolute())
    paths = [_located(root, path) for path in actions.column("path").to_pylist()]
    rows, sizes = actions.column("num_records").to_pylist(), actions.column("size_bytes").to_pylist()
    files = [
        File(path, count, size, tuple(partition.items()), low, high)
        for path, count, size, partition, low, high in zip(paths, rows, sizes, partitions, lows, highs, strict=True)
    ]
    return tuple(sorted(files, key=lambda file: file.path))


def check_supported(opened: DeltaTable, who: str) -> None:
    """MlrayError where the files alone do not give the table's rows; it names the feature and the remedy."""
    mode = opened.metadata().configuration.get("delta.columnMapping.mode", "none")
    if mode != "none":
        raise MlrayError(
            f"{who} has column mapping (delta.columnMapping.mode = '{mode}'), which mlray does not read: its files "
            "name columns otherwise; take it off with ALTER TABLE ... SET TBLPROPERTIES ('delta.columnMapping.mode' = "
            "'none'), or write the rows to a table without it"
        )
    features = set(opened.protocol().reader_features or [])
    if unknown := sorted(features - _HARMLESS - _WHERE_USED):
        raise MlrayError(
            f"{who} needs the table feature {', '.join(unknown)}, which mlray does not read; drop it with ALTER TABLE "
            "... DROP FEATURE, or write the rows to a table without it"
        )
    if "deletionVectors" in features and (file := _deleted_from(opened)):
        raise MlrayError(
            f"{who} has deletion vectors ({file}), which mlray does not read; write them into the files with REORG "
            "TABLE ... APPLY (PURGE), or write the rows to a table with delta.enableDeletionVectors = false"
        )


def _deleted_from(opened: DeltaTable) -> str | None:
    """A file of which some rows are deleted by a vector, or why that cannot be told."""
    try:
        for batch in map(pa.record_batch, opened.deletion_vectors()):
            if batch.num_rows:
                return str(batch.column("filepath")[0].as_py())
    except DeltaError as error:
        return first_line(error)
    return None


def version_as_of(newest: DeltaTable, store: Any, moment: datetime, who: str) -> int:
    """The newest version committed at or before `moment`: by the commit's own time where the table keeps it
    (delta.enableInCommitTimestamps), else by that of the commit's file, as Delta defines it.

    TimeError for a naive datetime, and for one before the oldest commit still in the log.
    """
    if moment.tzinfo is None:
        raise TimeError.naive("version", moment)
    found = oldest = None
    for version, at in commits(newest, store):
        oldest = oldest or (version, at)
        if at <= moment:
            found = version
    if found is None:
        known = f"; the oldest commit in its log is version {oldest[0]} of {oldest[1].isoformat()}" if oldest else ""
        raise TimeError(f"{who} has no version as of {moment.isoformat()}{known}; ask for a later time, or a version")
    return found


def commits(newest: DeltaTable, store: Any) -> Iterator[tuple[int, datetime]]:
    """The versions whose log entries are there, in order, and when each was committed: see `version_as_of`."""
    own = newest.metadata().configuration.get("delta.enableInCommitTimestamps") == "true"
    for version, written in _commits(store, newest.version()):
        yield version, (_own_time(store, version) or written) if own else written


def _commits(store: Any, newest: int) -> list[tuple[int, datetime]]:
    """The versions whose log entries are there, in order, and when each entry was written."""
    listed = [entry for batch in store.list("_delta_log") for entry in batch]
    found = ((_COMMIT.search(entry["path"]), entry["last_modified"]) for entry in listed)
    return sorted((int(name.group(1)), at) for name, at in found if name and int(name.group(1)) <= newest)


def _own_time(store: Any, version: int) -> datetime | None:
    """What a commit says of its own time; None where it says nothing."""
    for line in bytes(store.get(f"_delta_log/{version:020}.json").bytes()).splitlines():
        if (milliseconds := json.loads(line).get("commitInfo", {}).get("inCommitTimestamp")) is not None:
            return datetime.fromtimestamp(milliseconds / 1000, UTC)
    return None


def _located(root: str, path: str) -> str:
    """Paths in the log are percent-encoded URLs, most of them relative to the table."""
    plain = unquote(path)
    if local := re.match(r"file:/+", plain):
        return "/" + plain[local.end() :]
    if _URL.match(path):
        return plain
    if not plain.startswith("/"):
        return f"{root}/{plain}"
    host = _URL.match(root)
    return (host.group() if host else "") + plain


def _statistics(actions: pa.Table, side: str, schema: pa.Schema) -> list[dict[str, Any]]:
    """Per file the bound of every column that has one."""
    found: list[dict[str, Any]] = [{} for _ in range(actions.num_rows)]
    if side not in actions.column_names or not actions.num_rows:
        return found
    struct = actions.column(side).combine_chunks()
    for name in (f.name for f in struct.type):
        if name in schema.names and _has_order(kind := schema.field(name).type):
            for bounds, value in zip(found, _plain(struct.field(name)), strict=True):
                if (bound := _widened(value, kind, side)) is not None:
                    bounds[name] = bound
    return found


def _has_order(kind: pa.DataType) -> bool:
    if pa.types.is_decimal(kind):
        return bool(kind.precision <= _EXACT_DIGITS)
    return not pa.types.is_nested(kind) and not pa.types.is_binary(kind)


def _widened(value: Any, kind: pa.DataType, side: str) -> Any:
    """A bound that holds for what the writer may have cut off; None where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if pa.types.is_timestamp(kind):
        return value - _TRUNCATED if side == "min" else value + _TRUNCATED
    if isinstance(value, str) and side == "max" and len(value) >= _WHOLE_TEXT:
        return _after(value)
    return value


def _after(prefix: str) -> str | None:
    """A text above every text that begins with `prefix`."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return None
    following = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if following == 0xD800 else following)


def _partitions(actions: pa.Table) -> list[dict[str, Any]]:
    """Per file the value of every partition column."""
    struct = actions.column("partition").combine_chunks()
    columns = {f.name: _plain(struct.field(f.name)) for f in struct.type}
    for name in (f.name for f in struct.type if pa.types.is_binary(f.type)):
        columns[name] = [None if cell is None else _unescaped(cell) for cell in columns[name]]
    return [{name: cells[i] for name, cells in columns.items()} for i in range(actions.num_rows)]


def _unescaped(cell: bytes) -> bytes:
    """Delta writes a binary partition value as \\u0001\\u00ff...; delta-rs hands that text over as it is."""
    return bytes(int(code, 16) for code in _ESCAPED.findall(cell)) if re.fullmatch(_ESCAPES, cell) else cell


def _plain(array: pa.Array) -> list[Any]:
    """Python values, times as integers: a `datetime` knows neither year 0 nor 10000."""
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.timestamp("us", tz=array.type.tz)).cast(pa.int64())
    values: list[Any] = array.to_pylist()
    return values
