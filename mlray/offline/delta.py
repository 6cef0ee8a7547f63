"""Delta tables: where they lie, what a version holds, and appends that count once."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from obstore.store import LocalStore, from_url

from mlray.errors import Conflict, MlrayError, SchemaError, TableNotFound, first_line
from mlray.features.types import microseconds_of
from mlray.offline import log, scan
from mlray.offline.log import File as File
from mlray.offline.log import check_supported, files_of, schema_of, version_as_of

_COMMIT = "mlray.commit"
"""Names a commit in its own metadata."""
MANAGED = "mlray: laid out for point-in-time joins"
"""The description of a table that mlray made; see `layout.wanted`. delta-rs refuses properties it has no name for."""


@dataclass(frozen=True, slots=True)
class Table:
    """One version of a Delta table.

    rows: of the files whose log entries say so; size: bytes of its files; files: in order of their paths.
    """

    path: str
    version: int
    schema: pa.Schema
    rows: int
    size: int
    files: tuple[File, ...] = field(repr=False)
    id: str = ""
    """Of the table: one that is removed and made again has another."""

    @property
    def name(self) -> str:
        """Names the table in a message."""
        return f"{self.path} version {self.version}"


def resolve(lake: str, path: str) -> str:
    """An absolute path or URL as it is, a relative path under the lake."""
    return path if "://" in path or Path(path).is_absolute() else f"{lake.rstrip('/')}/{path}"


def exists(path: str) -> bool:
    """Whether a Delta table lies at `path`."""
    return bool(DeltaTable.is_deltatable(path))


def table_at(path: str, who: str, version: int | datetime | None = None) -> Table:
    """The table as of a version, or of an aware datetime (None: the newest).

    TableNotFound; TimeError for a naive datetime or one before the oldest version there is; MlrayError for table
    features that are not supported.
    """
    if isinstance(version, datetime):
        version = version_as_of(_open(path, who, None), _store(path), version, f"{who}: the Delta table at {path}")
    opened = _open(path, who, version)
    check_supported(opened, f"{who}: the Delta table at {path} version {opened.version()}")
    schema = schema_of(opened)
    files = files_of(opened, path, schema)
    rows, size = sum(file.rows or 0 for file in files), sum(file.size for file in files)
    return Table(path, opened.version(), schema, rows, size, files, str(opened.metadata().id))


def read(path: str, version: int, columns: list[str], part: int = 0, parts: int = 1) -> pa.Table:
    """The given columns of every `parts`-th file from file `part` on, in order of the files' paths."""
    table = table_at(path, path, version)
    return scan.read(table.files[part::parts], table.schema, columns, table.name)


def commit(path: str, version: int, columns: list[str]) -> pa.Table | None:
    """The given columns of the rows that commit `version` added: none for one that only rewrote files; None where it
    changed or removed rows.
    """
    table = table_at(path, path, version)
    if _only_rewrites(_log_entry(path, version)):
        return scan.read((), table.schema, columns, table.name)
    before = set(table_at(path, path, version - 1).files) if version else set()
    if before - set(table.files):
        return None
    added = [file for file in table.files if file not in before]
    return scan.read(added, table.schema, columns, table.name)


def _only_rewrites(entry: str) -> bool:
    """Whether a commit moved rows from files to others and changed none, as OPTIMIZE does."""
    actions = [json.loads(line) for line in entry.splitlines() if line.strip()]
    moved = [action.get("add") or action.get("remove") for action in actions if {"add", "remove"} & action.keys()]
    return bool(moved) and not any(file.get("dataChange", True) for file in moved)


def commits(path: str, who: str) -> list[tuple[int, datetime]]:
    """The versions that the table's log still has, in order, and when each was committed; TableNotFound."""
    return list(log.commits(_open(path, who, None), _store(path)))


def append(path: str, rows: pa.Table, who: str, transaction: str | None = None) -> int | None:
    """Appends in one commit, creating the table where there is none; gives its version.

    transaction: a name that is applied once; None is returned where it was applied before.
    """
    description = None if exists(path) else MANAGED
    if description is None:
        table = _open(path, who, None)
        if transaction is not None and table.transaction_version(transaction) is not None:
            return None
        rows = conformed(rows, pa.schema(table.schema().to_arrow()), who)
    marks = [Transaction(transaction, 1)] if transaction else []
    name = uuid4().hex
    properties = CommitProperties(app_transactions=marks, custom_metadata={_COMMIT: name})
    try:
        write_deltalake(path, rows, mode="append", description=description, commit_properties=properties)
    except CommitFailedError as error:
        raise Conflict(f"{who}: another writer changed {path} at the same time; try again: {error}") from error
    return _version_of(path, name, _open(path, who, None).version())


def _version_of(path: str, commit_name: str, newest: int) -> int:
    """The version of the commit of that name; others may have been added since.

    `DeltaTable.history` counts back from the version it was opened at, and so miscounts when others commit meanwhile.
    """
    for version in range(newest, -1, -1):
        if commit_name in _log_entry(path, version):
            return version
    raise MlrayError(f"the commit {commit_name} is not in the log of {path}; was the log cleaned meanwhile?")


def _log_entry(path: str, version: int) -> str:
    """The text of one commit."""
    return bytes(_store(path).get(f"_delta_log/{version:020}.json").bytes()).decode()


def _store(path: str) -> Any:
    return from_url(path) if "://" in path else LocalStore(Path(path).absolute())


@contextmanager
def nothing_left(path: str) -> Iterator[None]:
    """A new local table that could not be finished leaves no files behind."""
    new = "://" not in path and not Path(path).exists()
    try:
        yield
    except BaseException:
        if new:
            shutil.rmtree(path, ignore_errors=True)
        raise


def _open(path: str, who: str, version: int | None) -> DeltaTable:
    if version is not None and version < 0:
        raise MlrayError(f"{who}: version {version} of the Delta table at {path}: versions count from 0")
    try:
        return DeltaTable(path, version=version)
    except DeltaError as error:
        if version is not None and exists(path):
            newest = _open(path, who, None).version()
            cleaned = ", and the log of older ones is cleaned after a while" if version <= newest else ""
            raise MlrayError(
                f"{who}: there is no version {version} of the Delta table at {path}: the newest is {newest}{cleaned} "
                f"({first_line(error)})"
            ) from error
        if isinstance(error, TableNotFoundError):
            raise TableNotFound(
                f"{who}: there is no Delta table at {path}; check `path` and the lake, or write the table first"
            ) from error
        raise MlrayError(f"{who}: the Delta table at {path} cannot be read: {first_line(error)}") from error


def conformed(rows: pa.Table, schema: pa.Schema, who: str) -> pa.Table:
    """The rows in the table's columns and types; SchemaError names what is missing, extra or of another type."""
    for name in rows.column_names:
        if name not in schema.names:
            raise SchemaError(f"{who}: column '{name}' is not in the table; its columns are {', '.join(schema.names)}")
    for name in schema.names:
        if name not in rows.column_names:
            raise SchemaError.missing_column(who, name, "the rows", rows.column_names)
    return pa.table([_cast(rows.column(field.name), field, who) for field in schema], schema=schema)


def _cast(column: pa.ChunkedArray, field: pa.Field, who: str) -> pa.ChunkedArray:
    if not field.nullable and column.null_count:
        raise SchemaError(f"{who}: column '{field.name}' has {column.null_count} nulls, the table allows none")
    try:
        if pa.types.is_timestamp(field.type):
            return microseconds_of(column, f"{who}: column '{field.name}'").cast(field.type)
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaError(
            f"{who}: column '{field.name}' is {column.type}, the table has {field.type}: {error}"
        ) from error
