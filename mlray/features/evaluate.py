"""What a view answers at q: the one evaluation, called by the training set and by the online read alike.

Both hand over events (see `rows`) with an integer code per entity and queries as codes and instants; they can differ
only in data. Codes stand for typed keys; which code a key has is the caller's business.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from mlray.aggregation.aggregate import Aggregate, Ranges, Values
from mlray.aggregation.ranges import prefix_counts
from mlray.aggregation.timeline import NOWHERE, Timeline, always, at_query, replaced_at
from mlray.aggregation.window import LATEST, Instants, Times, Window, latest_bounds
from mlray.errors import OverflowInSum
from mlray.features.column import Coded, coded, result_type, to_arrow
from mlray.features.expression import predicate
from mlray.features.rows import KEEP, KNOWN, SEQ, TS, event_schema, read_columns
from mlray.features.view import FeatureView


@dataclass(frozen=True, slots=True)
class Events:
    """A view's events in order, without those that no query can ever see."""

    table: pa.Table
    timeline: Timeline


@dataclass(frozen=True, slots=True)
class Queries:
    """Per query an entity code (NOWHERE: no event has it), an instant, and whether it can be answered at all.

    `answerable` is false for a null key; a null instant is not answerable either.
    """

    codes: Ranges
    instants: Instants
    answerable: NDArray[np.bool_]


def prepare(view: FeatureView, events: pa.Table, codes: Ranges) -> Events:
    """Sorts events by entity, time, sequence, known_at and tie order, and settles which version of an event is
    current.
    """
    frame = _sortable(view, events, codes)
    order = frame.select(pl.arg_sort_by(_order(frame, view.source.timestamp is not None, versions=True))).to_series()
    rows = order.to_numpy().astype(np.int64)
    known = _sorted(events, KNOWN, rows) if KNOWN in events.column_names else None
    replaced = None
    live = np.ones(len(rows), dtype=np.bool_)
    if SEQ in events.column_names:
        first = known if known is not None else always(len(rows))
        replaced = replaced_at(_same_event(frame[order]), first)
        live = replaced > first
    if KEEP in events.column_names:
        live &= events.column(KEEP).to_numpy()[rows]
    return _ordered(view, events, frame, rows[live], _pick(known, live), _pick(replaced, live))


def evaluate(view: FeatureView, events: Events, queries: Queries) -> pa.Table:
    """One row per query, one column per feature of the view, in their order. Raises OverflowInSum naming the view."""
    evaluation = _Evaluation(view, events, queries)
    columns = {name: column for feature in view.features for name, column in evaluation.columns(feature)}
    return pa.table(columns)


def view_schema(view: FeatureView, raw: pa.Schema) -> pa.Schema:
    """Names and types of the view's features over a source table of schema `raw`; SchemaError where it does not fit."""
    schema = event_schema(view, raw)
    fields = []
    for feature in view.features:
        if isinstance(feature, str):
            fields.append(pa.field(feature, schema.field(feature).type))
            continue
        column = schema.field(feature.column).type if feature.column else None
        fields += [pa.field(feature.feature_name(w), result_type(feature, column)) for w in feature.spans]
    return pa.schema(fields)


class _Evaluation:
    """One call of `evaluate`: what several features share is computed once."""

    def __init__(self, view: FeatureView, events: Events, queries: Queries) -> None:
        self.view, self.events, self.queries = view, events, queries
        self.silent = ~(queries.answerable & queries.instants.valid)
        self._coded: dict[str, Coded] = {}
        self._where: dict[str, NDArray[np.bool_]] = {}
        self._ranges: dict[Window, tuple[Ranges | None, Ranges, Ranges]] = {}
        self._row: Ranges | None = None

    def columns(self, feature: str | Aggregate) -> Iterable[tuple[str, pa.Array]]:
        if isinstance(feature, str):
            return [(feature, self._latest(feature))]
        return [(feature.feature_name(w), self._window(feature, w)) for w in feature.spans]

    def _latest(self, column: str) -> pa.Array:
        row = self.latest_row()
        cells = self.events.table.column(column).combine_chunks()
        return cells.take(pa.array(row, mask=row == NOWHERE))

    def latest_row(self) -> Ranges:
        """Per query the row of the latest value, NOWHERE for none."""
        if self._row is None:
            q, view, timeline = self.queries.instants, self.view, self.events.timeline
            start, end = latest_bounds(q, view.source.lag_us, view.ttl_us, view.closed)
            if view.source.timestamp is None:
                start, end = np.zeros_like(start), np.ones_like(end)
            lo, hi = timeline.positions(self.queries.codes, start, end)
            self._row = np.where(self.silent, NOWHERE, timeline.newest(lo, hi, at_query(q)))
        return self._row

    def _window(self, aggregate: Aggregate, window: Window) -> pa.Array:
        rows, lo, hi = self._visible(window)
        column = self._column(aggregate.column) if aggregate.column else None
        usable = self._usable(aggregate, column)
        array = column.values.array if column else np.zeros(len(usable), dtype=np.int64)
        if rows is not None:
            usable, array = usable[rows], array[rows]
        counts = prefix_counts(usable)
        values = Values(aggregate.column, column.values.kind if column else "int", array[usable])
        try:
            result = aggregate.over(values, counts[lo], counts[hi])
        except OverflowInSum as error:
            raise OverflowInSum(f"feature view {self.view.name}: {aggregate.feature_name(window)}: {error}") from error
        result.valid[self.silent] = False
        return to_arrow(aggregate, column, result)

    def _visible(self, window: Window) -> tuple[Ranges | None, Ranges, Ranges]:
        if window not in self._ranges:
            q, timeline = self.queries.instants, self.events.timeline
            lo, hi = timeline.positions(self.queries.codes, *window.bounds(q, self.view.source.lag_us))
            lo, hi = np.where(self.silent, 0, lo), np.where(self.silent, 0, hi)
            self._ranges[window] = timeline.visible(lo, hi, at_query(q))
        return self._ranges[window]

    def _column(self, name: str) -> Coded:
        if name not in self._coded:
            self._coded[name] = coded(name, self.events.table.column(name))
        return self._coded[name]

    def _usable(self, aggregate: Aggregate, column: Coded | None) -> NDArray[np.bool_]:
        usable = column.usable if column else np.ones(len(self.events.timeline.codes), dtype=np.bool_)
        if aggregate.where is None:
            return usable
        if aggregate.where not in self._where:
            who = f"feature view {self.view.name}: where of {aggregate.stem}"
            mask = predicate(self.events.table, aggregate.where, who)
            self._where[aggregate.where] = mask.to_numpy(zero_copy_only=False)
        return usable & self._where[aggregate.where]


def _sortable(view: FeatureView, events: pa.Table, codes: Ranges) -> pl.DataFrame:
    """The columns that order events, those of the tie last."""
    frame = pl.DataFrame({"code": codes, "ts": events.column(TS).to_numpy()})
    if SEQ in events.column_names:
        frame = frame.with_columns(pl.Series("seq", pl.from_arrow(events.column(SEQ))))
    if KNOWN in events.column_names:
        frame = frame.with_columns(pl.Series("known", events.column(KNOWN).to_numpy()))
    ties = [_tie(f"tie{i}", events.column(c)) for i, c in enumerate(read_columns(view))]
    return frame.with_columns(*ties)


def _tie(name: str, column: pa.ChunkedArray) -> pl.Series:
    """Orders as the contract does: nulls lowest, text bytewise, NaN highest, and -0.0 below 0.0 so that bits decide."""
    if not pa.types.is_floating(column.type):
        return pl.Series(name, pl.from_arrow(column))
    array = column.combine_chunks()
    floats = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
    bits = np.where(np.isnan(floats), np.nan, floats).view(np.int64)
    ordered = bits ^ ((bits >> 63) & LATEST)
    return pl.Series(name, pl.from_arrow(pa.array(ordered, mask=array.is_null().to_numpy(zero_copy_only=False))))


def _order(frame: pl.DataFrame, timed: bool, *, versions: bool) -> list[str]:
    """Versions of one event side by side; without event time the newest known row comes last instead."""
    lead = ["code", "ts", "seq", "known"] if timed or versions else ["code", "known", "seq"]
    return [c for c in lead if c in frame.columns] + [c for c in frame.columns if c.startswith("tie")]


def _same_event(frame: pl.DataFrame) -> NDArray[np.bool_]:
    """Whether row i + 1 is a version of row i: same entity, time and sequence; a null sequence is an event of
    its own.
    """
    same = [pl.col(c) == pl.col(c).shift(-1) for c in ("code", "ts", "seq")]
    mask: NDArray[np.bool_] = frame.select(pl.all_horizontal(same).fill_null(False)).to_series().to_numpy()
    return mask[:-1]


def _ordered(
    view: FeatureView, events: pa.Table, frame: pl.DataFrame, rows: Ranges, known: Times | None, replaced: Times | None
) -> Events:
    if view.source.timestamp is None and len(rows):
        again = frame[rows].select(pl.arg_sort_by(_order(frame, False, versions=False))).to_series()
        index = again.to_numpy().astype(np.int64)
        rows, known, replaced = rows[index], _pick(known, index), _pick(replaced, index)
    codes, times = frame["code"].to_numpy()[rows], frame["ts"].to_numpy()[rows]
    if replaced is not None and (replaced == LATEST).all():
        replaced = None
    table = events.select(read_columns(view)).take(pa.array(rows))
    return Events(table, Timeline.of(codes, times, known, replaced))


def _sorted(events: pa.Table, name: str, rows: Ranges) -> Times:
    times: Times = events.column(name).to_numpy()[rows]
    return times


def _pick(array: Times | None, index: NDArray[np.bool_] | Ranges) -> Times | None:
    return None if array is None else array[index]
