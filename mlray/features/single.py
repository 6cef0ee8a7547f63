"""One query of a view in plain Python: what `evaluate` answers, to the bit, without its cost per call.

`evaluate` takes hundreds of NumPy calls, of about a microsecond each, however few the events are. Here the same is said
with lists, bisection and the `each` of every kind, over the events of one key that are visible at q.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import accumulate
from operator import itemgetter
from typing import Any

import pyarrow as pa

from mlray.aggregation.aggregate import Aggregate, Plain, Spans, ValuesKind
from mlray.aggregation.window import Window, latest_span
from mlray.errors import MlrayError, OverflowInSum
from mlray.features.column import beyond_int64, overflow_of, result_type
from mlray.features.rows import TS, condition_name
from mlray.features.types import is_plain_decimal
from mlray.features.view import FeatureView

Columns = Mapping[str, Sequence[Any]]


class Single:
    """A view, made ready for queries of one key each.

    schema: of the view's events, and of a bool column `condition_name(where)` for each `where` of an aggregate.
    names, types: of the features.
    """

    def __init__(self, view: FeatureView, schema: pa.Schema) -> None:
        self.names: list[str] = view.names
        self.types: list[pa.DataType] = [kind for feature in view.features for kind in _types(feature, schema)]
        self._schema = pa.schema(zip(self.names, self.types, strict=True))
        self._places: dict[pa.DataType, list[int]] = {}
        for place, kind in enumerate(self.types):
            self._places.setdefault(kind, []).append(place)
        self._view, self._lag, self._ttl = view, view.source.lag_us, view.ttl_us
        self._bare = [(self.names.index(column), column) for column in view.columns]
        self._windows = list(dict.fromkeys(window for a in view.aggregates for window in a.spans))
        groups: dict[Any, list[Aggregate]] = {}
        for aggregate in view.aggregates:
            groups.setdefault(_reads(aggregate), []).append(aggregate)
        self._groups = [_Group(view, group, self._windows, schema) for group in groups.values()]

    @staticmethod
    def possible(view: FeatureView, schema: pa.Schema) -> bool:
        """Whether plain Python orders the columns as the contract does, and holds all their values."""
        read = [schema.field(a.column).type for a in view.aggregates if a.column]
        return all(map(_is_single, read)) and all(_is_plain(schema.field(c).type) for c in view.columns)

    def answer(self, columns: Columns, floor: int, ceil: int) -> list[Any]:
        """One plain value per name, at the q that lies between `floor` and `ceil` in microseconds.

        columns: the events of one key, each of them current and visible at q, in the order of the contract. Null is
        None; a decimal is the integer of its digits, a date or a time that of its unit, and so they are in the answer.
        Raises OverflowInSum and SchemaError as `evaluate` does.
        """
        times, out = columns[TS], [None] * len(self.names)
        if self._bare and (row := self._latest(times, floor, ceil)) is not None:
            for place, column in self._bare:
                out[place] = columns[column][row]
        held = [_held(times, *window.span(floor, ceil, self._lag)) for window in self._windows]
        failures = [failure for group in self._groups for failure in group.answer(columns, held, out)]
        if failures:
            raise min(failures, key=itemgetter(0))[1]
        return out

    def to_table(self, answers: Sequence[Sequence[Any]]) -> pa.Table:
        """One row per answer. Columns of one type are made at once and cut: each call of Arrow costs microseconds."""
        count, columns = len(answers), [None] * len(self.names)
        for kind, places in self._places.items():
            together = to_arrow([answer[place] for place in places for answer in answers], kind)
            for i, place in enumerate(places):
                columns[place] = together.slice(i * count, count)
        return pa.Table.from_arrays(columns, schema=self._schema)

    def _latest(self, times: Sequence[int], floor: int, ceil: int) -> int | None:
        """The row of the latest value."""
        if self._view.source.timestamp is None:
            return len(times) - 1 if times else None
        lo, hi = _held(times, *latest_span(floor, ceil, self._lag, self._ttl, self._view.closed))
        return hi - 1 if lo < hi else None


class _Group:
    """Aggregates that read the same: a column, where a condition holds."""

    def __init__(
        self, view: FeatureView, aggregates: Sequence[Aggregate], windows: Sequence[Window], schema: pa.Schema
    ) -> None:
        self._view = view
        self._column, where, self._of_condition = _reads(aggregates[0])
        self._type = schema.field(self._column).type if self._column else pa.bool_()
        self._condition = None if where is None else condition_name(where)
        self._kind, self._scale = _kind(self._type), self._type.scale if is_plain_decimal(self._type) else 0
        self._limited = pa.types.is_uint64(self._type) and any(a.numeric for a in aggregates)
        self._windows = sorted({windows.index(window) for a in aggregates for window in a.spans})
        self._asks: dict[tuple[int, ...], list[tuple[Aggregate, int]]] = {}
        for a in aggregates:
            place = view.names.index(a.feature_name(a.spans[0]))
            self._asks.setdefault(tuple(map(windows.index, a.spans)), []).append((a, place))

    def answer(self, columns: Columns, held: Spans, out: list[Any]) -> list[tuple[int, MlrayError]]:
        """Writes what the aggregates give into `out`; gives what stands in the way, with its place there.

        held: per window of the view the rows that it holds.
        """
        failures: list[tuple[int, MlrayError]] = []
        first, last = min(held[i][0] for i in self._windows), max(held[i][1] for i in self._windows)
        cells = self._cells(columns, first, last)
        values = Plain(self._column, self._kind, _usable(cells, self._kind), self._scale)
        before = None if len(values.cells) == len(cells) else _counts(cells)
        beyond = self._limited and _beyond_int64(columns[self._column])
        for windows, asks in self._asks.items():
            ranges = [(held[i][0] - first, held[i][1] - first) for i in windows]
            if before:
                ranges = [(before[lo], before[hi]) for lo, hi in ranges]
            for aggregate, place in asks:
                if beyond and aggregate.numeric:
                    failures.append((place, beyond_int64(self._view.name, aggregate, self._type)))
                    continue
                try:
                    out[place : place + len(windows)] = aggregate.each(values, ranges)
                except OverflowInSum as error:
                    failures.append((place, overflow_of(self._view, error)))
        return failures

    def _cells(self, columns: Columns, first: int, last: int) -> Sequence[Any]:
        """The rows' cells, None where the condition does not hold; of a share whether it does."""
        cells = columns[self._column][first:last] if self._column else [True] * (last - first)
        if self._condition is None:
            return cells
        holds = columns[self._condition][first:last]
        if self._of_condition:
            return [bool(held) for held in holds]
        return [cell if held else None for cell, held in zip(cells, holds, strict=True)]


def to_arrow(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Plain values of one feature as a column of its type."""
    if pa.types.is_decimal(kind):
        return _decimals(values, kind)
    if pa.types.is_list(kind) and pa.types.is_decimal(kind.value_type):
        cells = [cell for value in values if value is not None for cell in value]
        if not any(isinstance(cell, Decimal) for cell in cells):
            ends = list(accumulate((len(value or ()) for value in values), initial=0))
            null = pa.array([value is None for value in values], pa.bool_())
            parts = _decimals(cells, kind.value_type)
            return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), parts, kind, mask=null)
    return pa.array(values, kind)


def _decimals(digits: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Decimals of these digits, in whichever place the point is."""
    whole = pa.decimal128 if pa.types.is_decimal128(kind) else pa.decimal256
    return pa.array(digits, whole(kind.precision, 0)).view(kind)


def _types(feature: str | Aggregate, schema: pa.Schema) -> list[pa.DataType]:
    if isinstance(feature, str):
        return [schema.field(feature).type]
    column = schema.field(feature.column).type if feature.column else None
    return [result_type(feature, column)] * len(feature.spans)


def _reads(aggregate: Aggregate) -> tuple[str, str | None, bool]:
    """Aggregates for which this is the same read the same values."""
    return aggregate.column, aggregate.where, aggregate.of_condition


def _held(times: Sequence[int], start: int, end: int) -> tuple[int, int]:
    """The range of rows with start <= time < end, start <= end."""
    return bisect_left(times, start), bisect_left(times, end)


def _usable(cells: Sequence[Any], kind: ValuesKind) -> list[Any]:
    """Without null and NaN; -0.0 enters as 0.0."""
    if kind != "float":
        return [x for x in cells if x is not None]
    return [x + 0.0 for x in cells if x is not None and x == x]


def _counts(cells: Sequence[Any]) -> list[int]:
    """How many usable cells lie before each row."""
    return list(accumulate((x is not None and x == x for x in cells), initial=0))


def _beyond_int64(cells: Sequence[Any]) -> bool:
    return any(cell is not None and cell >= 1 << 63 for cell in cells)


def _kind(kind: pa.DataType) -> ValuesKind:
    if is_plain_decimal(kind):
        return "decimal"
    if pa.types.is_floating(kind):
        return "float"
    return "int" if pa.types.is_integer(kind) or pa.types.is_boolean(kind) else "ordered"


def _is_single(kind: pa.DataType) -> bool:
    """Whether Python's order of its plain values is that of the type."""
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    text = pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return bool(number or text or pa.types.is_boolean(kind) or pa.types.is_null(kind) or _is_time(kind))


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_temporal(kind) and not pa.types.is_interval(kind))


def _is_plain(kind: pa.DataType) -> bool:
    """Whether plain values of the type are as exact as it; Python's own times inside others reach less far."""
    if not pa.types.is_nested(kind):
        return _is_single(kind)
    inner = [kind.field(i).type for i in range(kind.num_fields)]
    known = pa.types.is_list(kind) or pa.types.is_struct(kind) or pa.types.is_map(kind)
    return bool(known and all(_is_plain(part) and not pa.types.is_temporal(part) for part in inner))
