"""Why a cell differs: the first event within the feature's reach that counts on one side and not on the other."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlray.aggregation.window import Instants, latest_bounds
from mlray.features import keys as typed_keys
from mlray.features.on_demand import OnDemand
from mlray.features.order import prepare
from mlray.features.rows import KNOWN, SEQ, TS, read_columns
from mlray.features.service import FeatureService, item_names
from mlray.features.view import BoundView, FeatureView
from mlray.offline.answer import spine_keys
from mlray.verify.cells import bits
from mlray.verify.result import Difference, Event, Name


@dataclass(frozen=True)
class Side:
    """The events that a side has of a key. since: in microseconds, older ones are partials only; None: none are."""

    events: pa.Table
    since: int | None = None


History = Callable[[FeatureView, pa.Table], Side]
"""What a side has of a view's key, which is a table of one row."""


@dataclass(frozen=True)
class Reading:
    """A feature of a view, as a feature of the service reads it."""

    bound: BoundView
    feature: str


@dataclass(frozen=True)
class Evidence:
    """Explains cells of a service. offline, online: the two sides; keys: per view its keys in their events' types."""

    service: FeatureService
    keys: dict[str, pa.Schema]
    offline: History
    online: History

    def of_any(self, _row: int) -> "Evidence":
        """Itself: the same for every row."""
        return self

    def difference(self, part: str, feature: str, row: pa.Table, at: Instants, values: tuple[Any, Any]) -> Difference:
        """A cell that differs. row, at: one row as it was asked, and its instant; values: offline, online."""
        asked = row.to_pylist()[0]
        q = int(at.floor[0]) if at.valid[0] else None
        view, key, event = self._first(feature, row, at)
        return Difference(part, view, feature, key, q, asked, *values, event)

    def _first(self, feature: str, row: pa.Table, at: Instants) -> tuple[str, dict[str, Any], Event | None]:
        told: tuple[str, dict[str, Any], Event | None] = ("", {}, None)
        for reading in readings(self.service, feature):
            view = reading.bound.view
            columns = spine_keys(reading.bound, row, self.keys[view.name])
            key = pa.table(columns, schema=self.keys[view.name]) if columns else row.select([])
            named = key.to_pylist()[0] if columns else {}
            event = None
            if at.valid[0] and typed_keys.complete(columns, 1)[0]:
                sides = (self.offline(view, key), self.online(view, key))
                event = first_difference(view, reading.feature, *sides, at)
            if event is not None or not told[0]:
                told = (view.name, named, event)
            if event is not None:
                break
        return told


def readings(service: FeatureService, feature: str) -> Iterator[Reading]:
    """What a feature of the service is made of; nothing where it comes with the request."""
    item = next(item for item in service.items if feature in item_names(item))
    if isinstance(item, BoundView):
        yield from (Reading(item, own) for own, here in item.renamed.items() if here == feature)
    elif isinstance(item, OnDemand):
        for bound in (i for i in item.inputs if isinstance(i, BoundView)):
            yield from (Reading(bound, own) for own, here in bound.renamed.items() if here in item.parameters)


def first_difference(view: FeatureView, feature: str, offline: Side, online: Side, at: Instants) -> Event | None:
    """The earliest event that counts for the feature at the instant on one side only, or twice there; of the times in
    which both sides hold events one by one.
    """
    since = [side.since for side in (offline, online) if side.since is not None]
    given = {"offline": offline.events, "online": online.events}
    sides = {name: _counting(view, feature, events, at) for name, events in given.items()}
    if since:
        sides = {name: side.filter(pc.greater_equal(side.column(TS), max(since))) for name, side in sides.items()}
    if feature in view.columns and all(side.num_rows for side in sides.values()):
        newest = min(pc.max(side.column(TS)).as_py() for side in sides.values())  # online forgets what lies behind it
        sides = {name: side.filter(pc.greater_equal(side.column(TS), newest)) for name, side in sides.items()}
    plain = {name: [_plain(view, row) for row in side.to_pylist()] for name, side in sides.items()}
    counts = {name: Counter(bits(list(row)) for row in rows) for name, rows in plain.items()}
    alone: list[Event] = []
    pairs: tuple[tuple[Name, Name], ...] = (("offline", "online"), ("online", "offline"))
    for side, other in pairs:
        excess = counts[side] - counts[other]
        found = next((row for row in plain[side] if excess[bits(list(row))] > 0), None)
        if found is not None:
            alone.append(Event(side, *found))
    return min(alone, key=lambda event: event.at, default=None)


def _counting(view: FeatureView, feature: str, found: pa.Table, at: Instants) -> pa.Table:
    """The events that count for the feature at the instant, in order."""
    q = int(at.floor[0])
    if KNOWN in found.column_names:
        found = found.filter(pc.less_equal(found.column(KNOWN), q))
    ready = prepare(view, found, np.zeros(found.num_rows, dtype=np.int64))
    rows = np.arange(found.num_rows) if ready.rows is None else ready.rows
    replaced = ready.timeline.replaced
    found = found.take(pa.array(rows if replaced is None else rows[replaced > q]))
    start, end = _bounds(view, feature, at)
    inside = pc.and_(pc.greater_equal(found.column(TS), start), pc.less(found.column(TS), end))
    return found if view.source.timestamp is None else found.filter(inside)


def _bounds(view: FeatureView, feature: str, at: Instants) -> tuple[int, int]:
    """The half-open range of event times that the feature can meet."""
    lag = view.source.lag_us
    if feature in view.columns:
        start, end = latest_bounds(at, lag, view.ttl_us, view.closed)
    else:
        window = next(w for a in view.aggregates for w in a.spans if a.feature_name(w) == feature)
        start, end = window.bounds(at, lag)
    return int(start[0]), int(end[0])


def _plain(view: FeatureView, row: dict[str, Any]) -> tuple[int, Any, int | None, dict[str, Any]]:
    return row[TS], row.get(SEQ), row.get(KNOWN), {name: row[name] for name in read_columns(view)}
