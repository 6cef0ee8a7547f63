"""One query of a view in plain Python: what `evaluate` answers, to the bit, without its cost per call.

`evaluate` takes hundreds of NumPy calls, of about a microsecond each, however few the events are. Here the same is said
with lists, bisection and the `each` of every kind, over the events of one key that are visible at q.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import accumulate
from typing import Any

import pyarrow as pa

from mlray.aggregation.aggregate import Aggregate, Plain, Spans, ValuesKind
from mlray.aggregation.window import latest_span
from mlray.errors import OverflowInSum
from mlray.features.column import beyond_int64, result_type
from mlray.features.rows import TS, condition_name
from mlray.features.types import is_plain_decimal
from mlray.features.view import FeatureView

Columns = Mapping[str, Sequence[Any]]


class Single:
    """A view, made ready for queries of one key each.

    schema: of the view's events, and of a bool column `condition_name(where)` for each `where` of an aggregate.
    """

    def __init__(self, view: FeatureView, schema: pa.Schema) -> None:
        self.names: list[str] = view.names
        self.types: list[pa.DataType] = [kind for feature in view.features for kind in _types(feature, schema)]
        self._view, self._schema, self._lag, self._ttl = view, schema, view.source.lag_us, view.ttl_us
        self._windows = list(dict.fromkeys(window for a in view.aggregates for window in a.spans))
        groups: dict[Any, list[Aggregate]] = {}
        for aggregate in view.aggregates:
            groups.setdefault(_reads(aggregate), []).append(aggregate)
        inputs = {reads: _Input.of(group, self._places(group), schema) for reads, group in groups.items()}
        self._asks = [
            f if isinstance(f, str) else (f, inputs[_reads(f)], self._places([f])) for f in view.features
        ]  # fmt: skip

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
        times = columns[TS]
        row = self._latest(times, floor, ceil)
        held = [_held(times, *window.span(floor, ceil, self._lag)) for window in self._windows]
        found: dict[int, _Usable] = {}
        out: list[Any] = []
        for ask in self._asks:
            if isinstance(ask, str):
                out.append(None if row is None else columns[ask][row])
            else:
                out += self._over(*ask, columns, held, found)
        return out

    def _latest(self, times: Sequence[int], floor: int, ceil: int) -> int | None:
        """The row of the latest value."""
        if self._view.source.timestamp is None:
            return len(times) - 1 if times else None
        start, end = latest_span(floor, ceil, self._lag, self._ttl, self._view.closed)
        lo, hi = _held(times, start, end)
        return hi - 1 if lo < hi else None

    def _over(
        self,
        aggregate: Aggregate,
        read: "_Input",
        windows: tuple[int, ...],
        columns: Columns,
        held: Spans,
        found: "dict[int, _Usable]",
    ) -> list[Any]:
        """The aggregate over its windows."""
        if aggregate.numeric and read.unsigned:
            self._check_numbers(aggregate, columns[aggregate.column])
        if id(read) not in found:
            found[id(read)] = read.usable(columns, held)
        usable = found[id(read)]
        try:
            return aggregate.each(usable.values, usable.within(windows, held))
        except OverflowInSum as error:
            raise OverflowInSum(f"feature view {self._view.name}: {error}") from error

    def _check_numbers(self, aggregate: Aggregate, cells: Sequence[Any]) -> None:
        if max((cell for cell in cells if cell is not None), default=0) >= 1 << 63:
            raise beyond_int64(self._view.name, aggregate, self._schema.field(aggregate.column).type)

    def _places(self, aggregates: Sequence[Aggregate]) -> tuple[int, ...]:
        """Where the windows of some aggregates stand among those of the view."""
        return tuple(dict.fromkeys(self._windows.index(window) for a in aggregates for window in a.spans))


@dataclass(slots=True)
class _Usable:
    """The usable values of some rows, of which `first` is the first.

    before: how many of them lie before each row; None where all are usable.
    """

    values: Plain
    first: int
    before: list[int] | None
    known: dict[tuple[int, ...], Spans] = field(default_factory=dict)

    def within(self, windows: tuple[int, ...], held: Spans) -> Spans:
        """The ranges of values that the windows hold; for the same windows the same object."""
        if windows not in self.known:
            rows = [(held[i][0] - self.first, held[i][1] - self.first) for i in windows]
            before = self.before
            self.known[windows] = rows if before is None else [(before[lo], before[hi]) for lo, hi in rows]
        return self.known[windows]


@dataclass(frozen=True, slots=True)
class _Input:
    """What some aggregates read: a column, where a condition holds, over the windows of all of them."""

    column: str
    condition: str | None
    of_condition: bool
    kind: ValuesKind
    scale: int
    unsigned: bool
    windows: tuple[int, ...]

    @classmethod
    def of(cls, aggregates: Sequence[Aggregate], windows: tuple[int, ...], schema: pa.Schema) -> "_Input":
        one = aggregates[0]
        kind = schema.field(one.column).type if one.column else pa.bool_()
        condition = condition_name(one.where) if one.where is not None else None
        scale = kind.scale if is_plain_decimal(kind) else 0
        return cls(one.column, condition, one.of_condition, _kind(kind), scale, pa.types.is_uint64(kind), windows)

    def usable(self, columns: Columns, held: Spans) -> _Usable:
        """The usable values of the rows that any of the windows holds."""
        first, last = min(held[i][0] for i in self.windows), max(held[i][1] for i in self.windows)
        cells = self._cells(columns, first, last)
        kept = [x for x in cells if x is not None and x == x]
        if self.kind == "float":
            kept = [x + 0.0 for x in kept]
        whole = len(kept) == len(cells)
        before = None if whole else list(accumulate((x is not None and x == x for x in cells), initial=0))
        return _Usable(Plain(self.column, self.kind, kept, self.scale), first, before)

    def _cells(self, columns: Columns, first: int, last: int) -> Sequence[Any]:
        """The rows' cells, None where the condition does not hold; without a column, whether it does."""
        cells = columns[self.column][first:last] if self.column else [True] * (last - first)
        if self.condition is None:
            return cells
        holds = columns[self.condition][first:last]
        if self.of_condition:
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
