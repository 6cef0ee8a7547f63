"""Tiles: exact partials of old events, which stand for them where no read can tell the difference.

A window of `lifetime` begins before every event, one with a `resolution` at a multiple of it. So of the events that lie
before whatever else a read may need, the partial over each stretch of that grid is enough: merged with the partial of
the events that are kept as they are, it gives the value, to the bit. This holds for aggregates whose merge is
commutative, over numbers and times, of a source without `known_at` and `sequence`: there, a row can come late, and is
kept as it is, but can not be hidden or replaced. Other views keep all events that they need.

A tile is named by its place on the grid: (time - phase) // resolution, where phase is 1 for windows whose end is in.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlray.aggregation.aggregate import Aggregate, Partial
from mlray.aggregation.ranges import prefix_counts
from mlray.aggregation.window import EARLIEST, Window
from mlray.errors import SchemaError
from mlray.features.evaluate import usable
from mlray.features.needed import newest_before
from mlray.features.order import prepare
from mlray.features.rows import TS
from mlray.features.types import is_plain_decimal
from mlray.features.view import FeatureView
from mlray.online.partials import partial_bytes, partial_of

Grid: TypeAlias = tuple[int | None, int]
"""(resolution, None for a lifetime; phase)."""
_WHOLE = 0
"""The place of the only tile of a lifetime."""


@dataclass(frozen=True)
class Part:
    """What is condensed: one kind of partial of a column, where a condition holds, on a grid."""

    aggregate: Aggregate
    grid: Grid


@dataclass(frozen=True)
class Tiling:
    """parts: what is kept of old events; reach: how far before a read events are kept as they are, in microseconds."""

    view: FeatureView
    parts: tuple[Part, ...]
    reach: int

    @classmethod
    def of(cls, view: FeatureView, schema: pa.Schema) -> "Tiling | None":
        """None for a view whose events are all kept as long as they are needed. schema: of its events."""
        source = view.source
        if source.timestamp is None or source.known_at is not None or source.sequence is not None:
            return None
        windows = [(a, w) for a in view.aggregates for w in a.spans]
        tiled = [(a, w) for a, w in windows if (w.length is None or w.resolution) and _condensable(a, schema)]
        exact = [w for a, w in windows if (a, w) not in tiled]
        if not tiled or any(w.length is None for w in exact):
            return None
        reach = max([w.reach or 0 for w in exact] + [w.offset for _, w in tiled]) + source.lag_us
        far = [(a, w) for a, w in tiled if w.reach is None or w.reach + source.lag_us > reach]
        parts = dict.fromkeys(Part(a, grid_of(w)) for a, w in far)
        return cls(view, tuple(parts), reach) if parts else None

    def raw(self, rows: pa.Table, codes: NDArray[np.int64], since: int) -> NDArray[np.bool_]:
        """Which events must be kept as they are for reads at `since` and later; all others lie before all of these of
        their key.
        """
        times = rows.column(TS).to_numpy()
        first = np.full(int(codes.max(initial=-1)) + 1, since - self.reach)
        newest = newest_before(self.view, rows, since, codes)
        np.minimum.at(first, codes, np.maximum(newest, EARLIEST // 2))  # each key keeps its newest event
        kept: NDArray[np.bool_] = times >= first[codes]
        return kept

    def tails(self, rows: pa.Table, codes: NDArray[np.int64]) -> dict[int, bytes]:
        """Per key the tiles of its old events; `rows` with the outcome of conditions (`rows.with_conditions`)."""
        made: dict[int, list[tuple[int, int, Partial]]] = {}
        for index, part in enumerate(self.parts):
            for code, place, partial in _condensed(self.view, rows, codes, part):
                made.setdefault(code, []).append((index, place, partial))
        return {code: partial_bytes(tuple(tiles)) for code, tiles in made.items()}

    def read(self, tails: Sequence[tuple[int, bytes]]) -> "Tiles":
        """The tiles of the keys `code`."""
        found: dict[tuple[int, int], dict[int, Partial]] = {}
        try:
            for code, tail in tails:
                for index, place, partial in partial_of(memoryview(tail))[0]:
                    found.setdefault((index, code), {})[place] = partial
        except (struct.error, LookupError, TypeError, ValueError, RecursionError, ZeroDivisionError) as error:
            raise SchemaError(
                f"feature view {self.view.name}: stored partials are damaged ({error}); materialize the view again"
            ) from error
        return Tiles(self, found)


@dataclass(frozen=True)
class Tiles:
    """The tiles of some keys: by part and key, by place."""

    tiling: Tiling
    found: Mapping[tuple[int, int], Mapping[int, Partial]]

    def before(self, aggregate: Aggregate, window: Window, code: int, start: int) -> Partial | None:
        """The merged partial of a key's old events from `start` on; None where there are none."""
        part = Part(aggregate, grid_of(window))
        if part not in self.tiling.parts:
            return None
        tiles = self.found.get((self.tiling.parts.index(part), code), {})
        first = _WHOLE if window.length is None else _place(start, part.grid)
        held = [partial for place, partial in tiles.items() if place >= first]
        return reduce(aggregate.merge, held) if held else None


def grid_of(window: Window) -> Grid:
    """Where the window can begin."""
    phase = 1 if window.closed == "right" else 0
    return (None if window.length is None else window.resolution), phase if window.length is not None else 0


def _condensable(aggregate: Aggregate, schema: pa.Schema) -> bool:
    """Whether the aggregate's partials mean the same whatever rows they were made with."""
    if not aggregate.commutative:
        return False
    if not aggregate.column:
        return True
    kind = schema.field(aggregate.column).type
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    plain = number or is_plain_decimal(kind) or (pa.types.is_temporal(kind) and not pa.types.is_interval(kind))
    return bool(plain and not pa.types.is_uint64(kind))


def _place(time: int, grid: Grid) -> int:
    resolution, phase = grid
    return _WHOLE if resolution is None else (time - phase) // resolution


def _condensed(
    view: FeatureView, rows: pa.Table, codes: NDArray[np.int64], part: Part
) -> Iterator[tuple[int, int, Partial]]:
    """(key, place, partial) of each tile that holds a usable value."""
    events = prepare(view, rows, codes)
    order = np.arange(rows.num_rows) if events.rows is None else events.rows
    keys, times = codes[order], rows.column(TS).to_numpy()[order]
    places = np.full(len(times), _WHOLE) if part.grid[0] is None else (times - part.grid[1]) // part.grid[0]
    starts = np.flatnonzero((np.diff(keys, prepend=-1) != 0) | (np.diff(places, prepend=places[:1]) != 0))
    taken, values = usable(view, events, part.aggregate)
    bounds = np.append(starts, len(times))
    if taken is not None:
        bounds = prefix_counts(taken)[bounds]
    for start, (lo, hi) in zip(starts.tolist(), pairwise(bounds.tolist()), strict=True):
        if hi > lo:
            segment = replace(values, array=values.array[lo:hi], shared={})
            yield int(keys[start]), int(places[start]), part.aggregate.partial(segment)
