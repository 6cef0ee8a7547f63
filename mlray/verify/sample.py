"""Which rows are compared: some of a spine or a log, in bounded memory, or real keys at real instants."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlray.features.rows import TS, events, raw_columns
from mlray.features.service import FeatureService
from mlray.features.types import INSTANT, microseconds_of
from mlray.features.view import BoundView, FeatureView
from mlray.offline import delta, scan
from mlray.offline.spine import in_memory
from mlray.offline.training_set import source_tables
from mlray.verify.history import slices

_FILES = 64
"""Stretches of a table from which keys and instants are drawn, at most."""


def chosen(spine: Any, lake: str, timestamp: str, rows: int) -> pa.Table:
    """`rows` rows of a spine, in time order, evenly spaced; of a Delta table only their files' stretches are read."""
    if not isinstance(spine, str | Path):
        return evenly(in_memory(spine), timestamp, rows)
    table = delta.table_at(delta.resolve(lake, str(spine)), "spine")
    parts = [(one, scan.read([one], table.schema, [timestamp], table.name)) for one in slices(table.files)]
    times = [microseconds_of(part.column(timestamp), f"spine column '{timestamp}'") for _, part in parts]
    joined = pa.chunked_array([chunk for part in times for chunk in part.chunks], pa.int64())
    order = pc.array_sort_indices(joined).to_numpy()[: len(joined) - joined.null_count]  # nulls come last
    return taken(table, [one for one, _ in parts], order[_spread(len(order), rows)])


def evenly(spine: pa.Table, timestamp: str, rows: int) -> pa.Table:
    """`rows` rows of the spine, in time order, evenly spaced; all of them where there are fewer."""
    ordered = spine.sort_by(timestamp)
    ordered = ordered.filter(pc.is_valid(ordered.column(timestamp)))
    return ordered.take(pa.array(_spread(ordered.num_rows, rows)))


def some_rows(table: delta.Table, rows: int) -> pa.Table:
    """`rows` rows of a table, evenly spaced in the order of its files; all of them where there are fewer."""
    parts = slices(table.files)
    count = sum(scan.read([one], table.schema, [], table.name).num_rows for one in parts)
    return taken(table, parts, _spread(count, rows))


def taken(table: delta.Table, parts: Sequence[scan.Slice], positions: NDArray[np.int64]) -> pa.Table:
    """The rows at these positions of the parts one after another, in the order of `positions`."""
    found, first, order = [table.schema.empty_table()], 0, np.argsort(positions, kind="stable")
    wanted = positions[order]
    for one in parts:
        count = scan.read([one], table.schema, [], table.name).num_rows
        mine = wanted[(wanted >= first) & (wanted < first + count)] - first
        if len(mine):
            found.append(scan.read([one], table.schema, table.schema.names, table.name).take(pa.array(mine)))
        first += count
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.arange(len(order))
    return pa.concat_tables(found).take(pa.array(back)).combine_chunks()


def sampled_spine(service: FeatureService, lake: str, timestamp: str, rows: int, seed: int) -> pa.Table:
    """Real keys at real instants, for a service whose spine is not at hand: keys and event times drawn from its tables.

    Instants are event times, and those ends at which a window would drop or take one. Request fields are of a plain
    value of their type, or null.
    """
    tables, rng = source_tables(service, lake), np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    moments: list[NDArray[np.int64]] = []
    for read in service.reads:
        found = _drawn(read.view, tables[read.view.source.name], rows, rng)
        if not found.num_rows:
            continue
        picks = rng.integers(0, found.num_rows, rows)
        for here, key in zip(read.spine_keys, read.view.keys, strict=True):
            columns.setdefault(here, found.column(key).take(pa.array(picks)))
        moments += _moments(read, found.column(TS).to_numpy()[picks])
    for name, kind in service.request.items():
        columns.setdefault(name, pa.array([kind()] * rows) if kind in (int, float, str, bool) else pa.nulls(rows))
    for key in service.keys:
        columns.setdefault(key, pa.nulls(rows))
    at = np.zeros(rows, dtype=np.int64)
    if moments:
        at = np.stack(moments)[rng.integers(0, len(moments), rows), np.arange(rows)]
    columns[timestamp] = pa.array(at, pa.int64()).cast(INSTANT)
    return pa.table(columns)


def _moments(read: BoundView, times: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Per event when it can be seen first, and when it leaves each window."""
    if read.view.source.timestamp is None:
        return []
    seen = times + read.view.source.lag_us
    return [seen, *(seen + w.reach for a in read.view.aggregates for w in a.spans if w.reach is not None)]


def _drawn(view: FeatureView, table: delta.Table, rows: int, rng: np.random.Generator) -> pa.Table:
    """Events of the view, from stretches of a few files drawn at random, at most `rows` of each stretch."""
    columns, parts = raw_columns(view), slices(table.files)
    picked = rng.choice(len(parts), min(_FILES, len(parts)), replace=False) if parts else np.zeros(0, np.int64)
    found = [events(view, table.schema.empty_table())]
    for one in sorted(picked.tolist()):
        part = events(view, scan.read([parts[one]], table.schema, columns, table.name))
        few = np.sort(rng.choice(part.num_rows, min(rows, part.num_rows), replace=False))
        found.append(part.take(pa.array(few, pa.int64())))
    return pa.concat_tables(found)


def _spread(count: int, wanted: int) -> NDArray[np.int64]:
    """`wanted` numbers below `count`, evenly spaced, each once."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(wanted, count)).astype(np.int64))
