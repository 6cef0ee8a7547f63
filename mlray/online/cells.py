"""A key's cells, and the events that they stand for.

Per key one *base*, written by a load, and *batches*, written by pushes. The base holds the snapshot of Delta version v
up to an event time `until`; a row of a batch carries the Delta commit w that brought it. An event is in the base
exactly if w <= v and its time is <= until; what counts is the base and, of the batches, the rest. So a batch that
arrives before, after or between loads counts once.

A row is stored without its key, which the cell has, and with the outcome of each aggregate's `where`. Of old events a
base may hold partials only (see `tiles`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlray.features.keys import distinct
from mlray.features.order import in_order
from mlray.features.rows import KEEP, TS, condition_name, read_columns, with_conditions
from mlray.features.view import FeatureView
from mlray.online.codec import IN_ORDER, Headers, Layout, layout_of
from mlray.online.encoding import key_bytes
from mlray.online.store import Cell
from mlray.online.tiles import Tiles, Tiling

COMMIT = "__commit"
BASE = b"\x00"
_BATCH = b"\x01"
_CHUNK, _CHUNK_BYTES = 4096, 16 << 20

Codes = NDArray[np.int64]


def batch_slot(version: int) -> bytes:
    """The slot of the batch that commit `version` brought, or of those up to it that were folded together."""
    return _BATCH + version.to_bytes(8, "big")


@dataclass(frozen=True)
class Shape:
    """How the events of a view, of one schema, lie in cells."""

    view: FeatureView
    events: pa.Schema
    base: Layout
    batch: Layout
    tiling: Tiling | None

    def layout(self, cell: Cell) -> Layout:
        return self.base if cell.slot == BASE else self.batch


@lru_cache(maxsize=1024)
def shape_of(view: FeatureView, events: pa.Schema) -> Shape:
    """events: the schema of `rows.events`."""
    read = set(read_columns(view))
    kept = [field for field in events.remove_metadata() if field.name not in view.keys or field.name in read]
    conditions = dict.fromkeys(condition_name(a.where) for a in view.aggregates if a.where)
    stored = pa.schema([*kept, *(pa.field(name, pa.bool_()) for name in conditions)])
    batch = layout_of(stored.append(pa.field(COMMIT, pa.int64())))
    return Shape(view, events, layout_of(stored), batch, Tiling.of(view, events))


def base_cells(shape: Shape, events: pa.Table, version: int, until: int, since: int) -> Iterator[tuple[Cell, int]]:
    """Per key, ascending, its base for reads at `since` and later, with the number of rows that it keeps."""
    codes, keys = _ascending(*_keys(shape.view, events))
    rows = with_conditions(shape.view, events)
    if shape.tiling is None or not rows.num_rows:
        yield from cells(shape, rows, codes, keys, BASE, version, until)
        return
    raw = shape.tiling.raw(rows, codes, since)
    tails = shape.tiling.tails(rows.filter(pa.array(~raw)), codes[~raw])
    yield from cells(shape, rows.filter(pa.array(raw)), codes[raw], keys, BASE, version, until, tails)


def batch_cells(shape: Shape, events: pa.Table, version: int) -> list[Cell]:
    """Per key the batch of commit `version`."""
    codes, keys = _keys(shape.view, events)
    rows = with_conditions(shape.view, events).append_column(COMMIT, pa.repeat(pa.scalar(version), events.num_rows))
    return [cell for cell, _ in cells(shape, rows, codes, keys, batch_slot(version), version, 0)]


def cells(
    shape: Shape, rows: pa.Table, codes: Codes, keys: Sequence[bytes], slot: bytes, version: int, until: int,
    tails: Mapping[int, bytes] = MappingProxyType({}),
) -> Iterator[tuple[Cell, int]]:  # fmt: skip
    """One cell per key that has rows; `codes`: per row the position of its key; tails: what else belongs to a key."""
    if not rows.num_rows:
        return
    layout = shape.base if slot == BASE else shape.batch
    order = in_order(shape.view, rows, codes)
    place = np.arange(rows.num_rows) if order.rows is None else order.rows
    ordered = rows if order.rows is None else rows.take(pa.array(order.rows))
    flagged, timeless = _out_of_order(ordered, order.same), shape.view.source.timestamp is None
    encoded = layout.encode(ordered.select(layout.schema.names))
    of_row = codes[place]
    starts = np.flatnonzero(np.diff(of_row, prepend=-1))
    unclean = np.add.reduceat(flagged, starts)
    ends = [*starts[1:].tolist(), len(of_row)]
    spans = zip(starts.tolist(), ends, unclean.tolist(), of_row[starts].tolist(), strict=True)
    lonely = starts[np.diff(starts, append=len(of_row)) == 1]
    alone = {} if tails else encoded.alone(lonely, until, np.where(flagged[lonely], 0, IN_ORDER).astype(np.uint8))
    for lo, hi, bad, key in spans:
        value = alone.get(lo)
        if value is None:
            flags, tail = 0 if bad or (timeless and hi - lo > 1) else IN_ORDER, tails.get(key, b"")
            value = encoded.cut(lo, hi, until, flags, tail)
        yield Cell(keys[key], slot, version, value), hi - lo


def _keys(view: FeatureView, events: pa.Table) -> tuple[Codes, list[bytes]]:
    dictionary, codes = distinct(events.select(list(view.keys)))
    if not view.keys:
        dictionary = dictionary.slice(0, 1)
    return codes, key_bytes(dictionary)


def _ascending(codes: Codes, keys: list[bytes]) -> tuple[Codes, list[bytes]]:
    """The same with the keys in order: a sorted store takes them four times as fast."""
    order = sorted(range(len(keys)), key=keys.__getitem__)
    place = np.empty(len(keys), dtype=np.int64)
    place[order] = np.arange(len(keys))
    return place[codes], [keys[i] for i in order]


def _out_of_order(rows: pa.Table, same: NDArray[np.bool_]) -> Codes:
    """Per row 1 where it keeps its cell from being read as it lies: it, or an earlier version of it, never counts."""
    bad = np.zeros(rows.num_rows, dtype=np.int64)
    bad[1:] += same
    if KEEP in rows.column_names:
        bad += ~rows.column(KEEP).to_numpy()
    return bad


def chunks(cells: Iterator[Cell]) -> Iterator[list[Cell]]:
    """The cells, some thousand or, of long ones, some megabytes at a time."""
    some, size = list[Cell](), 0
    for cell in cells:
        some.append(cell)
        size += len(cell.value)
        if len(some) == _CHUNK or size >= _CHUNK_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


@dataclass(frozen=True, slots=True)
class Stored:
    """Events of several keys. codes: per row the position of its key; commits: per row, -1 for the base's; tiles: what
    is left of older events, None for nothing.
    """

    rows: pa.Table
    codes: Codes
    commits: Codes
    tiles: Tiles | None = None

    def filtered(self, keep: NDArray[np.bool_]) -> "Stored":
        if keep.all():
            return self
        return Stored(self.rows.filter(pa.array(keep)), self.codes[keep], self.commits[keep], self.tiles)


def stored(shape: Shape, found: Sequence[Sequence[Cell]]) -> Stored:
    """The events that the cells of each key stand for, each once; bases first."""
    bases = [(code, cell) for code, cells in enumerate(found) for cell in cells if cell.slot == BASE]
    batches = [(code, cell) for code, cells in enumerate(found) for cell in cells if cell.slot != BASE]
    rows, headers = shape.base.decode([cell.value for _, cell in bases])
    codes = np.repeat(np.array([code for code, _ in bases], dtype=np.int64), headers.rows)
    one = Stored(rows, codes, np.full(len(codes), -1, dtype=np.int64), _tiles(shape, bases, headers))
    if not batches:
        return one
    rows, others = shape.batch.decode([cell.value for _, cell in batches])
    codes = np.repeat(np.array([code for code, _ in batches], dtype=np.int64), others.rows)
    commits = rows.column(COMMIT).to_numpy()
    version, until = np.full(len(found), -1), np.zeros(len(found), dtype=np.int64)
    based = [code for code, _ in bases]
    version[based], until[based] = [cell.version for _, cell in bases], headers.until
    fresh = (commits > version[codes]) | (rows.column(TS).to_numpy() > until[codes])
    rest = Stored(rows.select(one.rows.column_names), codes, commits).filtered(fresh)
    return Stored(
        pa.concat_tables([one.rows, rest.rows]),
        np.concatenate((one.codes, rest.codes)),
        np.concatenate((one.commits, rest.commits)),
        one.tiles,
    )


def _tiles(shape: Shape, bases: Sequence[tuple[int, Cell]], headers: Headers) -> Tiles | None:
    if shape.tiling is None or not headers.tail.any():
        return None
    tails = zip(bases, headers.tail.tolist(), strict=True)
    return shape.tiling.read([(code, cell.value[-size:]) for (code, cell), size in tails if size])
