"""The managed layout: a source's table copied into sorted files by bucket of a key, and kept up to date.

`copies` says where a copy is and what it mirrors, `relayout` does the work; here it is decided what must be done, and
put into the copy in one commit. Of two writers that start from one version of a copy, one commits; the other starts
again from what it finds.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import RemoveAction

from mlray.errors import Conflict, SchemaError
from mlray.features.source import DeltaSource
from mlray.offline import changes, delta
from mlray.offline.copies import BUCKET, folder, identity, transactions
from mlray.offline.copies import Layout as Layout
from mlray.offline.copies import find as find
from mlray.offline.ordering import marked
from mlray.offline.parquet import commit_new
from mlray.offline.relayout import MOST_FILES, Job, Note, Written, run

ROWS = 1_000_000
"""Rows of a bucket, about."""
MOST_ROWS = 4 * ROWS
"""A copy whose buckets would have more on average is laid out anew."""
_BYTES = 512 << 20
"""Bytes of a bucket's files, at most, when it is laid out."""
_ATTEMPTS = 10


@dataclass(frozen=True)
class LaidOut:
    """What `lay_out` left: the copy's rows, files and bytes, and the seconds it took. version: of the source."""

    source: str
    keys: tuple[str, ...]
    version: int
    buckets: int
    rows: int
    files: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Work:
    """What makes a copy mirror a version. base: the copy's version to start from, None where there is no table; job and
    files: what to run; anew: all that is there is replaced; widened: the source has more columns than the copy.
    """

    base: int | None
    job: Job
    files: tuple[delta.File, ...]
    anew: bool
    widened: bool = False


def wanted(table: delta.Table) -> bool:
    """Whether mlray made the table, and so lays it out without being asked."""
    return bool(DeltaTable(table.path, version=table.version).metadata().description == delta.MANAGED)


def refresh(
    lake: str, source: DeltaSource, keys: Sequence[str], version: int | None = None, note: Note = lambda _: None
) -> Layout:
    """The copy that mirrors the source's `version` (None: the newest): as it is, topped up by what was appended since,
    or laid out anew. Runs on Ray; note: told how far it is.

    Conflict where the copy has gone beyond `version` and nothing mirrors it any more, or where others keep changing it.
    """
    root, who = folder(lake, source, keys), f"layout of source {source.name}"
    for _ in range(_ATTEMPTS):
        table = delta.table_at(delta.resolve(lake, source.path), who, version)
        if (exact := find(lake, source, keys, mirrors=table.version)) is not None:
            return exact
        base = DeltaTable(root).version() if delta.exists(root) else None
        copy = find(lake, source, keys)
        if copy is not None and copy.source_version > table.version:
            if version is None:
                continue
            raise Conflict(
                f"{who}: the managed copy at {root} mirrors version {copy.source_version} already and nothing mirrors "
                f"version {version} any more; read the newer version, or join by shuffle"
            )
        mark = identity(lake, source)
        base = base if copy is None else copy.table.version
        work = _work(root, source, tuple(keys), table, mark, base, copy)
        written = run(work.job, work.files, note)
        if _committed(work, mark, table.version, written):
            note(f"version {table.version} committed")
            if work.anew or written.folded:
                DeltaTable(root).vacuum(dry_run=False, full=True)
            if (made := find(lake, source, keys, mirrors=table.version)) is not None:
                return made
    raise Conflict(f"{who}: others kept changing the managed copy at {root}; try again")


def lay_out(lake: str, source: DeltaSource, keys: Sequence[str], note: Note = lambda _: None) -> LaidOut:
    """`refresh` to the source's newest version, and what came of it."""
    started = perf_counter()
    copy = refresh(lake, source, keys, note=note)
    table, seconds = copy.table, perf_counter() - started
    return LaidOut(
        source.name, copy.keys, copy.source_version, copy.buckets, table.rows, len(table.files), table.size, seconds
    )


def bucket_count(rows: int, size: int) -> int:
    """A power of two that gives buckets of about ROWS rows, and of at most half a GiB of files."""
    return 1 << max(round(rows / ROWS) - 1, -(-size // _BYTES) - 1, 0).bit_length()


def _work(
    root: str,
    source: DeltaSource,
    keys: tuple[str, ...],
    table: delta.Table,
    mark: str,
    base: int | None,
    copy: Layout | None,
) -> Work:
    if BUCKET in table.schema.names:
        raise SchemaError(
            f"layout of source {source.name}: the table has a column '{BUCKET}', which a copy needs; rename it"
        )
    marked(source, keys, table.schema.empty_table())  # what cannot be laid out says so before anything runs
    new = None if copy is None else _news(copy, table)
    files = table.files if new is None else new
    size = sum(file.size for file in files)
    parts = bucket_count(_rows(files), size)
    if copy is None or new is None:
        count, full = parts, {}
    else:
        count, parts = copy.buckets, min(copy.buckets, parts)
        full = {b: held for b in range(count) if len(held := copy.files(b)) >= MOST_FILES}
    made = json.dumps([mark, base, new is None, count, pa.__version__])
    stem = f"{table.version:08}-{hashlib.sha256(made.encode()).hexdigest()[:16]}"
    job = Job(root, source, keys, table.schema, count, parts, stem, full)
    widened = copy is not None and new is not None and len(table.schema) + 1 > len(copy.table.schema)
    return Work(base, job, files, new is None, widened)


def _news(copy: Layout, table: delta.Table) -> tuple[delta.File, ...] | None:
    """The files to top the copy up with; None where it must be laid out anew."""
    types = {field.name: field.type for field in table.schema}
    if any(types.get(field.name) != field.type for field in copy.table.schema if field.name != BUCKET):
        return None
    new = changes.appended(table, copy.source_version, table.name)
    if new is None or copy.table.rows + _rows(new) > MOST_ROWS * copy.buckets:
        return None
    return new


def _rows(files: Sequence[delta.File]) -> int:
    """Rows of the files; guessed from the size where the log does not say."""
    return sum(file.size // 64 if file.rows is None else file.rows for file in files)


def _committed(work: Work, mark: str, version: int, written: Written) -> bool:
    """Puts the files into the copy, in one commit; False where another writer was first."""
    job = work.job
    schema = job.schema.append(pa.field(BUCKET, pa.int32()))
    marks, metadata = transactions(mark, version, job.buckets), {"mlray.source_version": str(version)}
    try:
        if work.base is None:
            commit_new(job.root, schema, written.added, partition_by=[BUCKET], transactions=marks, metadata=metadata)
            return True
        opened = DeltaTable(job.root, version=work.base)
        removed = _removals(written.folded)
        # An overwrite of no partition replaces no file, but the schema.
        none: Any = [(BUCKET, "=", "-1")]
        opened.create_write_transaction(
            [*written.added, *removed],
            "overwrite" if work.anew or work.widened else "append",
            Schema.from_arrow(schema),
            partition_by=[BUCKET],
            partition_filters=none if work.widened else None,
            commit_properties=CommitProperties(custom_metadata=metadata, app_transactions=marks),
        )
    except (CommitFailedError, Conflict):
        return False
    return True


def _removals(files: Sequence[delta.File]) -> list[RemoveAction]:
    """Takes the files out of the log. A copy's own paths are plain: nothing in them is encoded."""
    now = int(datetime.now(UTC).timestamp() * 1000)
    found = []
    for file in files:
        values: dict[str, str | None] = {name: str(value) for name, value in file.partition}
        name = "/".join(file.path.rsplit("/", 2)[1:])
        found.append(RemoveAction(name, True, now, file.size, values))
    return found
