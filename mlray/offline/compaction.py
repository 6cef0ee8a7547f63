"""Many small files of a table made few large ones: the same rows, in one commit that changes none.

Files are folded here and not by delta-rs: of its `optimize.compact` two that run at once both commit, and every row is
there twice (seen in 1.6). Here a commit is made onto one exact version in which every file to be folded still is; where
another commit came in between, it is looked at again.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, RemoveAction

from mlray.errors import Conflict, MlrayError
from mlray.offline import delta, scan
from mlray.offline.appends import store_of
from mlray.offline.delta import File
from mlray.offline.log import schema_of
from mlray.offline.parquet import write_file

TARGET = 32 << 20
"""Bytes of the files that are made, at most. A file of half as many stays as it is."""
ATTEMPTS = 100


@dataclass(frozen=True)
class Compacted:
    """What a compaction did. version: its commit, None where there was nothing to fold; rows, bytes: of new files."""

    source: str
    version: int | None
    removed: int
    added: int
    rows: int
    bytes: int


def small_files(table: delta.Table) -> tuple[File, ...]:
    """The files that a compaction would look at."""
    return tuple(file for file in table.files if 2 * file.size < TARGET)


def managed(path: str) -> bool:
    """Whether mlray made the table, and so keeps its files in order without being asked."""
    return bool(DeltaTable(path).metadata().description == delta.MANAGED)


def compact(
    path: str, source: str, by: str | None = None, turn: AbstractContextManager[Any] | None = None
) -> Compacted:
    """Folds the table's small files. by: a column in whose order they are put together, such as the event time.

    turn: held while the commit is made, and by this process's other writers while they make theirs. Old files stay for
    whoever reads an older version, until the table is vacuumed. Conflict where others keep folding the same files;
    MlrayError for a partitioned table, whose owner has to fold it.
    """
    who = f"source {source}"
    table = delta.table_at(path, who)
    if any(file.partition for file in table.files):
        raise MlrayError(f"{who}: the Delta table at {path} is partitioned; fold its files with what writes it")
    bins = list(_bins(small_files(table), by))
    if not bins:
        return Compacted(source, None, 0, 0, 0, 0)
    added = [_folded(table, files, who) for files in bins]
    removed = [file for files in bins for file in files]
    try:
        version = _commit(table, added, removed, turn or nullcontext())
    except MlrayError:
        _forget(path, added)
        raise
    rows, size = sum(file.rows or 0 for file in removed), sum(action.size for action in added)
    return Compacted(source, version, len(removed), len(added), rows, size)


def _bins(files: Sequence[File], by: str | None) -> Iterator[list[File]]:
    """Files that become one, at least two of them."""
    found: list[File] = []
    for file in sorted(files, key=lambda file: (str(file.low.get(by, "")) if by else "", file.path)):
        if found and sum(one.size for one in found) + file.size > TARGET:
            if len(found) > 1:
                yield found
            found = []
        found.append(file)
    if len(found) > 1:
        yield found


def _folded(table: delta.Table, files: Sequence[File], who: str) -> AddAction:
    rows = scan.read(files, table.schema, table.schema.names, who)
    made = write_file(table.path, f"part-folded-{uuid4().hex}.parquet", rows, stats=table.schema.names)
    return AddAction(made.path, made.size, made.partition_values, made.modification_time, False, made.stats)


def _commit(table: delta.Table, added: list[AddAction], removed: list[File], turn: AbstractContextManager[Any]) -> int:
    opened = DeltaTable(table.path)
    names = [file.path.removeprefix(f"{table.path.rstrip('/')}/") for file in removed]
    for _ in range(ATTEMPTS):
        with turn:
            opened.update_incremental()
            version = int(opened.version()) + 1
            gone = _removals(opened, table, names, removed)
            if gone is None:
                break
            with suppress(CommitFailedError):  # another commit came in between: look again
                opened.create_write_transaction(
                    [*added, *gone],
                    "append",
                    Schema.from_arrow(table.schema),
                    commit_properties=CommitProperties(max_commit_retries=0),
                )
                return version
    raise Conflict(f"{table.name}: others keep changing the table or fold the same files; try again later")


def _removals(
    opened: DeltaTable, table: delta.Table, names: Sequence[str], files: Sequence[File]
) -> list[RemoveAction] | None:
    """The files taken out, by the paths that the log itself uses; None where the table has other columns now, or not
    all of the files.
    """
    logged = {unquote(path): path for path in pa.table(opened.get_add_actions()).column("path").to_pylist()}
    if schema_of(opened) != table.schema or not set(names) <= logged.keys():
        return None
    now = int(datetime.now(UTC).timestamp() * 1000)
    return [RemoveAction(logged[name], False, now, file.size, {}) for name, file in zip(names, files, strict=True)]


def _forget(path: str, added: Sequence[AddAction]) -> None:
    for action in added:
        with suppress(FileNotFoundError):
            store_of(path).delete(action.path)
