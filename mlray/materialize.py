"""From history to now: a view's events of one Delta version, up to an instant, into the online store.

A large table is loaded in parts, each of the keys of some hash buckets, so that one part is in memory at a time. A load
that was cut off goes on with the part that it was at.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlray.features.needed import needs_all
from mlray.features.rows import TS, events, raw_columns
from mlray.features.service import FeatureService
from mlray.features.view import FeatureView
from mlray.offline import delta, scan
from mlray.offline.bucket import buckets
from mlray.offline.training_set import source_tables
from mlray.online import loading, state
from mlray.online.store import OnlineStore

PART_ROWS, PART_BYTES = 4_000_000, 1 << 29
"""Rows and bytes of files of one part. Every part reads the table's columns once more."""


@dataclass(frozen=True)
class Materialized:
    """What one view took. rows, keys, bytes: written; of a load that went on, only by this call."""

    view: str
    version: int
    rows: int
    keys: int
    bytes: int
    seconds: float


def materialize(
    store: OnlineStore,
    service: FeatureService,
    lake: str,
    *,
    until: int,
    history: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    note: Callable[[str], None] = lambda _: None,
    part_rows: int = PART_ROWS,
) -> Iterator[Materialized]:
    """Loads every view of the service with events up to `until`, one after another; yields as each is done.

    until, history: microseconds; answers are exact from until - history on. note: told how far it is.
    """
    tables = source_tables(service, lake)
    for view in service.views:
        started = clock()
        table = tables[view.source.name]
        parts = max(1, -(-table.rows // part_rows), -(-table.size // PART_BYTES)) if view.keys else 1
        written = _load(store, view, table, until, history, parts, note)
        yield Materialized(view.name, table.version, written.rows, written.keys, written.bytes, clock() - started)


def _load(
    store: OnlineStore, view: FeatureView, table: delta.Table, until: int, history: int, parts: int,
    note: Callable[[str], None],
) -> state.Written:  # fmt: skip
    schema = events(view, pa.schema([table.schema.field(c) for c in raw_columns(view)]).empty_table()).schema
    load = loading.begin(store, view, schema, version=table.version, until=until, history=history, parts=parts)
    for part in range(load.loading.part, parts):
        note(f"{view.name}: part {part + 1} of {parts}")
        load.part(_part(view, table, load.loading.since, part, parts))
    written = load.finish()
    if load.loading.until >= until:
        return written
    return written + _load(store, view, table, until, history, parts, note)  # a load that was cut off asked for less


def _part(view: FeatureView, table: delta.Table, since: int, part: int, parts: int) -> pa.Table:
    """The events of the keys of one bucket that a read at `since` or later may meet, and perhaps some others."""
    source, columns, who = view.source, raw_columns(view), f"feature view {view.name}: source {view.source.name}"
    oldest = None if needs_all(view) or view.columns else since - (view.reach or 0)
    files = table.files
    if oldest is not None and source.timestamp and source.timestamp not in source.select:
        files = scan.pruned(files, source.timestamp, oldest, None)
    found = [events(view, scan.read((), table.schema, columns, who))]
    for file in files:
        rows = events(view, scan.read((file,), table.schema, columns, who))
        if oldest is not None:
            rows = rows.filter(pc.greater_equal(rows.column(TS), oldest))
        if parts > 1:
            mine: np.typing.NDArray[np.bool_] = buckets(rows.select(list(view.keys)), parts) == part
            rows = rows.filter(pa.array(mine))
        found.append(rows)
    return pa.concat_tables(found)
