"""The events of some keys out of tables of any size: read a stretch of a file at a time, of which little is kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlray.aggregation.aggregate import Ranges
from mlray.aggregation.timeline import NOWHERE
from mlray.features import keys as typed_keys
from mlray.features.rows import KNOWN, TS, event_schema, events, raw_columns
from mlray.features.service import FeatureService
from mlray.features.view import FeatureView
from mlray.offline import delta, scan
from mlray.offline.answer import keyless, spine_keys

_STRETCH = 500_000
"""Rows that are read at once, as far as row groups allow."""
_BYTES_A_ROW = 20
"""Where the log does not say how many rows a file has: few, so that stretches are rather too short."""


@dataclass(frozen=True)
class Keyed:
    """Events, and those of one key quickly."""

    view: FeatureView
    events: pa.Table

    @cached_property
    def _groups(self) -> tuple[pa.Table, Ranges, Ranges]:
        """The distinct keys, the events' rows in the order of their keys' codes, and where each code begins."""
        keys = self.events.select(list(self.view.keys)) if self.view.keys else keyless(self.events.num_rows)
        dictionary, codes = typed_keys.distinct(keys)
        order = np.argsort(codes, kind="stable")
        return dictionary, order, np.searchsorted(codes[order], np.arange(codes.max(initial=-1) + 2))

    def of(self, key: pa.Table) -> pa.Table:
        """The events of one key, given as a table of one row."""
        dictionary, order, starts = self._groups
        code = int(typed_keys.codes(key, dictionary)[0]) if self.events.num_rows else NOWHERE
        if code == NOWHERE:
            return self.events.slice(0, 0)
        return self.events.take(pa.array(order[starts[code] : starts[code + 1]]))


def key_schema(view: FeatureView, raw: pa.Schema) -> pa.Schema:
    """The view's keys in the types of its events, over a table of schema `raw`."""
    schema = event_schema(view, raw)
    return pa.schema([schema.field(key) for key in view.keys])


def asked_keys(service: FeatureService, view: FeatureView, rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The distinct complete keys by which the service asks the view for these rows; schema: see `key_schema`."""
    if not view.keys:
        return keyless(rows.num_rows).slice(0, 1)
    parts = []
    for read in (read for read in service.reads if read.view == view):
        columns = spine_keys(read, rows, schema)
        table = pa.table(columns, schema=schema)
        parts.append(table.filter(pa.array(typed_keys.complete(columns, rows.num_rows))))
    return typed_keys.distinct(pa.concat_tables(parts))[0]


def events_of(view: FeatureView, table: delta.Table, keys: pa.Table) -> Keyed:
    """The events that keys of the view have in a version of its table; keys: see `asked_keys`."""
    columns, found = raw_columns(view), [events(view, table.schema.empty_table())]
    for rows in stretches(table, columns, [(view, keys)]):
        part = events(view, rows)
        found.append(part.filter(pa.array(_among(view, part, keys))))
    return Keyed(view, pa.concat_tables(found).combine_chunks())


def rows_of(
    table: delta.Table, columns: Sequence[str], asked: Sequence[tuple[FeatureView, pa.Table]], until: int
) -> tuple[pa.Table, NDArray[np.int64]]:
    """The rows that are events of asked keys and known by `until`, and when each became known, in that order.

    asked: views of one source, each with its keys. A row without known_at counts as known at its event time, one
    without either from the beginning.
    """
    kept = [table.schema.empty_table().select(list(columns))]
    times: list[NDArray[np.int64]] = []
    number = next(name for name in ("row", "row_number", "row_number_of_the_table") if name not in columns)
    for rows in stretches(table, columns, asked):
        numbered = rows.append_column(number, pa.array(np.arange(rows.num_rows)))
        known = np.full(rows.num_rows, np.iinfo(np.int64).max)
        for view, keys in asked:
            part = events(_bare(view, number), numbered)
            part = part.filter(pa.array(_among(view, part, keys)))
            known[part.column(number).to_numpy()] = arrival(view, part)
        mine = known <= until
        kept.append(rows.filter(pa.array(mine)))
        times.append(known[mine])
    found, when = pa.concat_tables(kept), np.concatenate([np.zeros(0, np.int64), *times])
    order = np.argsort(when, kind="stable")
    return found.take(pa.array(order)).combine_chunks(), when[order]


def arrival(view: FeatureView, found: pa.Table) -> NDArray[np.int64]:
    """When each event became known, in microseconds."""
    times = np.full(found.num_rows, np.iinfo(np.int64).min)
    if view.source.timestamp is not None:
        times = found.column(TS).to_numpy()
    return np.maximum(times, found.column(KNOWN).to_numpy()) if KNOWN in found.column_names else times


def stretches(
    table: delta.Table, columns: Sequence[str], asked: Sequence[tuple[FeatureView, pa.Table]]
) -> Iterator[pa.Table]:
    """The columns of the table, a part of a file at a time; parts that hold none of the asked keys may be left out."""
    within = _within(asked)
    files = table.files
    if within is not None and not within.values:
        return
    if within is not None:
        low, high = within.values[0], within.values[-1]
        ends = [end.decode() if isinstance(end, bytes) else end for end in (low, high)]
        files = scan.pruned(files, within.column, *ends)
    for one in slices(files):
        yield scan.read([one], table.schema, columns, table.name, within)


def slices(files: Sequence[delta.File]) -> list[scan.Slice]:
    """The files in stretches of bounded length."""
    sizes = [file.rows if file.rows is not None else file.size // _BYTES_A_ROW for file in files]
    counts = [-(-size // _STRETCH) or 1 for size in sizes]
    return [scan.Slice(file, i, count) for file, count in zip(files, counts, strict=True) for i in range(count)]


def _within(asked: Sequence[tuple[FeatureView, pa.Table]]) -> scan.Among | None:
    """The first part of the keys, where all views share it and the table spells it itself."""
    first = {view.keys[0] if view.keys else None for view, _ in asked}
    column = first.pop()
    if first or column is None or any(column in view.source.select for view, _ in asked):
        return None
    chunks = [chunk for _, keys in asked for chunk in keys.column(0).chunks]
    values = pa.chunked_array(chunks, asked[0][1].field(0).type)
    if pa.types.is_string(values.type):
        values = values.cast(pa.binary())
    elif not pa.types.is_integer(values.type):
        return None
    return scan.Among(column, sorted(values.unique().to_pylist()))


def _among(view: FeatureView, found: pa.Table, keys: pa.Table) -> NDArray[np.bool_]:
    """Which events are of the keys."""
    if not view.keys:
        return np.ones(found.num_rows, np.bool_)
    here: NDArray[np.bool_] = typed_keys.codes(found.select(list(view.keys)), keys) != NOWHERE
    return here


def _bare(view: FeatureView, column: str) -> FeatureView:
    """A view with the same keys and times of the same rows, which keeps every row and reads one column."""
    source = replace(view.source, where=None, sequence=None)
    return FeatureView("rows", entity=view.entity, source=source, features=[column])
