"""What a view answers at q: the one evaluation, called by the training set and by the online read alike.

Both hand over events (see `rows`) with an integer code per entity and queries as codes and instants; they can differ
only in data. Codes stand for typed keys; which code a key has is the caller's business.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlray.aggregation.aggregate import Aggregate, Partial, Ranges, Result, Values
from mlray.aggregation.ranges import prefix_counts
from mlray.aggregation.timeline import NOWHERE, at_query
from mlray.aggregation.window import Instants, Times, Window, latest_bounds
from mlray.errors import OverflowInSum
from mlray.features.column import Coded, beyond_int64, coded, overflow_of, result_type, to_arrow
from mlray.features.expression import predicate
from mlray.features.order import Events
from mlray.features.rows import condition_name, event_schema, where_of
from mlray.features.view import FeatureView

COPIES = 4_000_000
"""Rows that are copied at once for queries which meet rows that they may not see."""


@dataclass(frozen=True, slots=True)
class Queries:
    """Per query an entity code (NOWHERE: no event has it), an instant, and whether it can be answered at all.

    `answerable` is false for a null key; a null instant is not answerable either.
    """

    codes: Ranges
    instants: Instants
    answerable: NDArray[np.bool_]

    def part(self, index: slice | Ranges) -> "Queries":
        """Some of the queries."""
        at = Instants(self.instants.floor[index], self.instants.ceil[index], self.instants.valid[index])
        return Queries(self.codes[index], at, self.answerable[index])


class Before(Protocol):
    """Older events of which only partials are left."""

    def __call__(self, aggregate: Aggregate, window: Window, code: int, start: int) -> Partial | None:
        """The partial of those of entity `code` from `start` on (microseconds); None where there are none."""


def evaluate(
    view: FeatureView, events: Events, queries: Queries, copies: int = COPIES, before: Before | None = None
) -> pa.Table:
    """One row per query, one column per feature of the view, in their order. Raises OverflowInSum naming the view.

    copies: where queries would copy more rows, half of them are answered after the other. before: what is left of
    events that are not among `events`; only of kinds whose merge is commutative.
    """
    evaluation = _Evaluation(view, events, queries, before)
    count = len(queries.codes)
    if count > 1 and evaluation.copied() > copies:
        halves = [queries.part(slice(0, count // 2)), queries.part(slice(count // 2, count))]
        return pa.concat_tables([evaluate(view, events, half, copies, before) for half in halves]).combine_chunks()
    columns = {name: column for feature in view.features for name, column in evaluation.columns(feature)}
    return pa.table(columns)


def usable(view: FeatureView, events: Events, aggregate: Aggregate) -> tuple[NDArray[np.bool_] | None, Values]:
    """Which events, in the order of the timeline, the aggregate takes in (None: all), and their values."""
    none = np.zeros(0, dtype=np.int64)
    nobody = Queries(none, Instants(none, none, none.astype(np.bool_)), none.astype(np.bool_))
    return _Evaluation(view, events, nobody)._values(aggregate, None)


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

    def __init__(self, view: FeatureView, events: Events, queries: Queries, before: Before | None = None) -> None:
        self.view, self.events, self.queries, self.before = view, events, queries, before
        self.silent = ~(queries.answerable & queries.instants.valid)
        self._coded: dict[str, Coded] = {}
        self._where: dict[str, NDArray[np.bool_]] = {}
        self._positions: dict[Window, tuple[Ranges, Ranges]] = {}
        self._ends: dict[tuple[int, str], Ranges] = {}
        self._visible: dict[tuple[Window, ...], Visible] = {}
        self._hidden: dict[tuple[Window, ...], Ranges] = {}
        self._inputs: dict[tuple[Any, ...], Any] = {}

    def copied(self) -> int:
        """How many rows the windows of one aggregate copy at most, for queries that meet hidden ones."""
        if self.events.timeline.known is None and self.events.timeline.replaced is None:
            return 0
        return max((self._copied(spans) for spans in {a.spans for a in self.view.aggregates}), default=0)

    def _copied(self, spans: tuple[Window, ...]) -> int:
        lo, hi = self._all_held(spans)
        return int((hi - lo)[self._meet_hidden(spans)].sum())

    def _meet_hidden(self, spans: tuple[Window, ...]) -> Ranges:
        """The ranges that hold a row which their query may not see."""
        if spans not in self._hidden:
            self._hidden[spans] = self.events.timeline.hidden(*self._all_held(spans), self._q(len(spans)))
        return self._hidden[spans]

    def columns(self, feature: str | Aggregate) -> Iterable[tuple[str, pa.Array | pa.ChunkedArray]]:
        if isinstance(feature, str):
            return [(feature, self._latest.column(feature))]
        return zip(map(feature.feature_name, feature.spans), self._windows(feature), strict=True)

    @cached_property
    def _latest(self) -> pa.Table:
        """Per query the row of its latest value, nulls for none."""
        row, rows, table = self.latest_row, self.events.rows, self.events.table.select(list(self.view.columns))
        index = row if rows is None or not len(rows) else rows[row]
        none = row == NOWHERE
        if len(index) == table.num_rows and not none.any() and (index == np.arange(len(index))).all():
            return table
        return table.take(pa.array(index, mask=none))

    @cached_property
    def latest_row(self) -> Ranges:
        """Per query the event of the latest value, NOWHERE for none."""
        q, view, timeline = self.queries.instants, self.view, self.events.timeline
        start, end = latest_bounds(q, view.source.lag_us, view.ttl_us, view.closed)
        if view.source.timestamp is None:
            start, end = np.zeros_like(start), np.ones_like(end)
        lo, hi = timeline.positions(self.queries.codes, start, end)
        return np.where(self.silent, NOWHERE, timeline.newest(lo, hi, at_query(q)))

    def _windows(self, aggregate: Aggregate) -> Iterator[pa.Array]:
        """One array per window; the aggregate is asked once, for the ranges of all of them one after another."""
        column = self._column(aggregate.column) if aggregate.column else None
        if column and aggregate.numeric and column.values.kind == "ordered":
            raise beyond_int64(self.view.name, aggregate, column.type)
        values, lo, hi = self._input(aggregate)
        try:
            result = self._result(aggregate, values, lo, hi)
        except OverflowInSum as error:
            raise overflow_of(self.view, error) from error
        size = len(self.silent)
        for i in range(len(aggregate.spans)):
            part = result.part(i * size, (i + 1) * size)
            yield to_arrow(aggregate, column, replace(part, valid=part.valid & ~self.silent))

    def _result(self, aggregate: Aggregate, values: Values, lo: Ranges, hi: Ranges) -> Result:
        """The aggregate over the ranges, and over what is left of events before them."""
        if self.before is None or not aggregate.commutative:
            return aggregate.over(values, lo, hi)
        old = dict(self._before(aggregate))
        place = np.fromiter(old, dtype=np.int64, count=len(old))
        rest = hi.copy()
        rest[place] = lo[place]
        result = aggregate.over(values, lo, rest)
        wide = values.kind == "decimal" and aggregate.result == "column"  # what is left may have more digits
        array, valid = result.array.astype(object if wide else result.array.dtype), result.valid.copy()
        for i, partial in old.items():
            part = replace(values, array=values.array[lo[i] : hi[i]], shared={})
            found = aggregate.finalize(aggregate.merge(partial, aggregate.partial(part)), values)
            valid[i] = found is not None
            array[i] = found if found is not None else 0
        return Result(array, valid)

    def _before(self, aggregate: Aggregate) -> Iterator[tuple[int, Partial]]:
        """Per place among the ranges of all windows what is left of older events."""
        assert self.before is not None
        size = len(self.silent)
        for i, window in enumerate(aggregate.spans):
            starts = window.bounds(self.queries.instants, self.view.source.lag_us)[0].tolist()
            for query in np.flatnonzero(~self.silent).tolist():
                partial = self.before(aggregate, window, int(self.queries.codes[query]), starts[query])
                if partial is not None:
                    yield i * size + query, partial

    def _input(self, aggregate: Aggregate) -> tuple[Values, Ranges, Ranges]:
        """The usable values, and the ranges of them that the windows hold: the same objects for the same input."""
        rows, lo, hi = self._ranges(aggregate.spans)
        what = (aggregate.column, aggregate.where, aggregate.of_condition)
        chosen = (*what, aggregate.spans if rows is not None else None)
        usable, values = self._once(("values", *chosen), lambda: self._values(aggregate, rows))
        if usable is None:
            return values, lo, hi
        counts = self._once(("counts", *chosen), lambda: prefix_counts(usable))
        found, until = self._once(("ranges", *what, aggregate.spans), lambda: (counts[lo], counts[hi]))
        return values, found, until

    def _values(self, aggregate: Aggregate, rows: Ranges | None) -> tuple[NDArray[np.bool_] | None, Values]:
        """Which events are usable (None: all), and their values; over `rows` of the timeline."""
        column = self._column(aggregate.column) if aggregate.column else None
        usable = column.usable if column else np.ones(len(self.events.timeline), dtype=np.bool_)
        known = column.values if column else Values("", "int", np.zeros(len(usable), dtype=np.int64))
        if aggregate.of_condition:
            known = replace(known, array=self._condition(aggregate).astype(np.int64))
        elif aggregate.where is not None:
            usable = usable & self._condition(aggregate)
        array = known.array
        if rows is not None:
            usable, array = usable[rows], array[rows]
        if usable.all():
            return None, replace(known, array=array, shared={})
        return usable, replace(known, array=array[usable], shared={})

    def _ranges(self, spans: tuple[Window, ...]) -> "Visible":
        if spans not in self._visible:
            lo, hi = self._all_held(spans)
            q, hidden = self._q(len(spans)), self._meet_hidden(spans)
            self._visible[spans] = self.events.timeline.visible(lo, hi, q, hidden)
        return self._visible[spans]

    def _all_held(self, spans: tuple[Window, ...]) -> tuple[Ranges, Ranges]:
        parts = [self._held(window) for window in spans]
        lo, hi = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        return lo, hi

    def _q(self, windows: int) -> Times:
        return np.tile(at_query(self.queries.instants), windows)

    def _held(self, window: Window) -> tuple[Ranges, Ranges]:
        """The range of events in the window, per query; empty where it has no answer."""
        if window not in self._positions:
            q, lag = self.queries.instants, self.view.source.lag_us
            ends = (window.offset, window.closed)
            if ends not in self._ends:
                self._ends[ends] = self._first(window.end(q, lag))
            lo, hi = self._first(window.bounds(q, lag)[0]), self._ends[ends]
            self._positions[window] = lo, np.maximum(lo, hi)
        return self._positions[window]

    def _first(self, bound: Times) -> Ranges:
        found = self.events.timeline.first(self.queries.codes, bound)
        found[self.silent] = 0
        return found

    def _column(self, name: str) -> Coded:
        """The column's values in the order of the timeline."""
        if name not in self._coded:
            column, rows = coded(name, self.events.table.column(name)), self.events.rows
            if rows is not None:
                values = replace(column.values, array=column.values.array[rows], shared={})
                column = replace(column, values=values, usable=column.usable[rows])
            self._coded[name] = column
        return self._coded[name]

    def _condition(self, aggregate: Aggregate) -> NDArray[np.bool_]:
        """Where the aggregate's `where` is true, in the order of the timeline."""
        sql = aggregate.where or ""
        if sql not in self._where:
            table, name = self.events.table, condition_name(sql)
            who = where_of(self.view, aggregate)
            held = table.column(name) if name in table.column_names else predicate(table, sql, who)
            mask = held.to_numpy(zero_copy_only=False) if isinstance(held, pa.Array) else held.to_numpy()
            self._where[sql] = mask if self.events.rows is None else mask[self.events.rows]
        return self._where[sql]

    def _once(self, name: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        if name not in self._inputs:
            self._inputs[name] = make()
        return self._inputs[name]


Visible = tuple[Ranges | None, Ranges, Ranges]
"""See `Timeline.visible`."""
