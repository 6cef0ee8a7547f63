"""The laws of aggregates, for every registered kind: no order, split, lateness or neighbour changes a bit.

A kind that takes parameters besides a column and windows needs a strategy for them in `PARAMETERS`.
"""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from generated import bits
from hypothesis import given, settings
from hypothesis import strategies as st

import mlray as ml
from mlray.aggregation.aggregate import Aggregate, Partial, Plain, Result, Values, registered
from mlray.features.evaluate import Queries, evaluate
from mlray.features.order import prepare
from mlray.features.rows import events
from mlray.features.types import INSTANT, instants

PARAMETERS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "FirstN": st.fixed_dictionaries({"n": st.integers(1, 4)}),
    "LastN": st.fixed_dictionaries({"n": st.integers(1, 4)}),
    "LastDistinctN": st.fixed_dictionaries({"n": st.integers(1, 4)}),
    "Quantile": st.fixed_dictionaries({"q": st.sampled_from([0.5, 0, 1, 0.25, 0.9, 0.95, 0.999])}),
}
"""What each kind takes besides a column and windows, by the name of its class."""

of_kernels = settings(max_examples=30, deadline=None)
of_single = settings(max_examples=60, deadline=None)
of_engine = settings(max_examples=12, deadline=None)
every_kind = pytest.mark.parametrize("kind", sorted(registered))


@dataclass(frozen=True)
class Form:
    """What a column may hold: as aggregates see it (`kind`, `scale`) and as Arrow does."""

    kind: Any
    cells: st.SearchStrategy[Any]
    type: pa.DataType
    scale: int = 0

    def values(self, cells: Sequence[Any]) -> Values:
        wide = any(isinstance(c, str) or (isinstance(c, int) and abs(c) >= 1 << 63) for c in cells)
        dtype = object if wide else np.float64 if self.kind == "float" else np.int64
        return Values("x", self.kind, np.array(cells, dtype=dtype), self.scale)

    def column(self, cells: Sequence[Any]) -> pa.Array:
        plain = [Decimal(c).scaleb(-self.scale) for c in cells] if self.kind == "decimal" else cells
        return pa.array(plain, self.type)


FLOATS = st.sampled_from([0.0, 1.0, 0.1, -2.5, 3.0, 1e300, -1e300, 5e-324, np.inf, -np.inf]) | st.floats(
    allow_nan=False
)
NUMBERS = [
    Form("int", st.integers(-5, 5) | st.sampled_from([2**53 + 1, -(2**58)]), pa.int64()),
    Form("float", FLOATS.map(lambda x: x + 0.0), pa.float64()),
    Form("decimal", st.integers(-500, 500) | st.sampled_from([10**17 + 1, -(10**30)]), pa.decimal128(38, 2), 2),
]
OTHERS = [
    Form("ordered", st.integers(-3, 3), pa.timestamp("us")),
    Form("ordered", st.text("aé", max_size=2), pa.string()),
]
CONDITION = Form("int", st.sampled_from([0, 1]), pa.int64())


@st.composite
def aggregates(draw: st.DrawFn, kind: str) -> Aggregate:
    """One of the kind over column `x`, its window an hour long."""
    made = registered[kind]
    own = set(made.__dataclass_fields__) - set(Aggregate.__dataclass_fields__)
    if own and kind not in PARAMETERS:
        pytest.fail(f"{kind} takes {', '.join(sorted(own))}: add a strategy for it to PARAMETERS in {__file__}")
    given = draw(PARAMETERS[kind]) if own else {}
    if made.of_condition:
        return made(windows=[ml.hours(1)], where="x = 1", **given)
    return made("x", windows=[ml.hours(1)], **given)


@st.composite
def segments(draw: st.DrawFn, kind: str, count: int) -> tuple[Aggregate, list[Values]]:
    """An aggregate, and segments of one column that it takes; few different values, so that they repeat."""
    aggregate = draw(aggregates(kind))
    form = draw(forms(aggregate))
    few = draw(st.lists(form.cells, min_size=1, max_size=3))
    cells = st.lists(st.sampled_from(few), max_size=5)
    return aggregate, [form.values(draw(cells)) for _ in range(count)]


def forms(aggregate: Aggregate) -> st.SearchStrategy[Form]:
    if aggregate.of_condition:
        return st.just(CONDITION)
    return st.sampled_from(NUMBERS if aggregate.numeric else NUMBERS + OTHERS)


def joined(parts: Sequence[Values]) -> Values:
    return replace(parts[0], array=np.concatenate([part.array for part in parts]), shared={})


def answers(result: Result) -> list[Any]:
    """Per query the value, None for null, a list for a list."""
    cells = result.array.tolist()
    if result.offsets is not None:
        cells = [cells[a:b] for a, b in zip(result.offsets, result.offsets[1:], strict=False)]
    return [cell if valid else None for cell, valid in zip(cells, result.valid, strict=True)]


def over(aggregate: Aggregate, values: Values, ranges: Sequence[tuple[int, int]]) -> list[Any]:
    lo, hi = (np.array([pair[i] for pair in ranges], dtype=np.int64) for i in (0, 1))
    return [bits(cell) for cell in answers(aggregate.over(values, lo, hi))]


def plain(values: Values) -> Plain:
    return Plain(values.name, values.kind, values.array.tolist(), values.scale)


def each(aggregate: Aggregate, values: Plain, ranges: Sequence[tuple[int, int]]) -> list[Any]:
    """What `over` gives, by the way of one query."""
    return [bits(cell) for cell in aggregate.each(values, ranges)]


def whole(aggregate: Aggregate, values: Values) -> Any:
    """The value over all of `values`, as bits."""
    return over(aggregate, replace(values, shared={}), [(0, len(values.array))])[0]


@every_kind
@of_kernels
@given(data=st.data())
def test_merge_is_associative_and_no_values_are_its_identity(kind: str, data: st.DataObject) -> None:
    aggregate, parts = data.draw(segments(kind, 3))
    a, b, c = map(aggregate.partial, parts)
    merge, nothing = aggregate.merge, aggregate.partial(replace(parts[0], array=parts[0].array[:0]))
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(a, nothing) == a == merge(nothing, a)


@every_kind
@of_kernels
@given(data=st.data())
def test_any_split_gives_the_partial_of_the_whole(kind: str, data: st.DataObject) -> None:
    aggregate, parts = data.draw(segments(kind, 4))
    merged = aggregate.partial(parts[0])
    for part in parts[1:]:
        merged = aggregate.merge(merged, aggregate.partial(part))
    assert merged == aggregate.partial(joined(parts))


@every_kind
@of_kernels
@given(data=st.data())
def test_the_finalized_partial_is_the_value_over_all(kind: str, data: st.DataObject) -> None:
    aggregate, (values,) = data.draw(segments(kind, 1))
    kept: Partial = pickle.loads(pickle.dumps(aggregate.partial(values)))
    assert bits(aggregate.finalize(kept, values)) == whole(aggregate, values)


@every_kind
@of_single
@given(data=st.data())
def test_one_query_in_plain_python_is_answered_to_the_same_bits(kind: str, data: st.DataObject) -> None:
    aggregate, parts = data.draw(segments(kind, 4))
    values = joined(parts)
    ends = st.integers(0, len(values.array))
    pairs = st.tuples(ends, ends).map(lambda pair: (min(pair), max(pair)))
    ranges = data.draw(st.lists(pairs, max_size=6))
    assert each(aggregate, plain(values), ranges) == over(aggregate, values, ranges)


@every_kind
@of_single
@given(data=st.data())
def test_one_query_in_plain_python_is_answered_as_the_partials_do(kind: str, data: st.DataObject) -> None:
    aggregate, (values,) = data.draw(segments(kind, 1))
    found = aggregate.finalize(aggregate.partial(values), values)
    assert each(aggregate, plain(values), [(0, len(values.array))]) == [bits(found)]


@of_single
@given(data=st.data())
def test_kinds_over_the_same_plain_values_do_not_disturb_one_another(data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(NUMBERS))
    values = plain(form.values(data.draw(st.lists(form.cells, max_size=6))))
    kinds = data.draw(st.permutations([kind for kind, made in registered.items() if not made.of_condition]))
    ranges = [(0, len(values.cells)), (len(values.cells) // 2, len(values.cells))]
    for aggregate in (data.draw(aggregates(kind)) for kind in kinds):
        assert each(aggregate, values, ranges) == each(aggregate, replace(values, shared={}), ranges)


@every_kind
@of_kernels
@given(data=st.data())
def test_merge_may_take_its_sides_in_any_order_where_it_claims_to(kind: str, data: st.DataObject) -> None:
    aggregate, parts = data.draw(segments(kind, 2))
    left, right = map(aggregate.partial, parts)
    if aggregate.commutative:
        assert aggregate.merge(left, right) == aggregate.merge(right, left)


@every_kind
@of_kernels
@given(data=st.data())
def test_revert_undoes_merge_where_it_claims_to(kind: str, data: st.DataObject) -> None:
    aggregate, parts = data.draw(segments(kind, 2))
    left, right = map(aggregate.partial, parts)
    if aggregate.invertible:
        assert aggregate.revert(aggregate.merge(left, right), left) == right
    else:
        with pytest.raises(NotImplementedError, match=kind):
            aggregate.revert(left, left)


@every_kind
@of_kernels
@given(data=st.data())
def test_a_range_is_answered_as_if_it_were_all_there_is(kind: str, data: st.DataObject) -> None:
    """So neither what lies outside it, nor the other ranges asked with it, nor their order, changes a bit."""
    aggregate, parts = data.draw(segments(kind, 5))
    ends = list(accumulate((len(part.array) for part in parts), initial=0))
    cuts = st.sampled_from(ends)
    ranges = [(min(a, b), max(a, b)) for a, b in data.draw(st.lists(st.tuples(cuts, cuts), min_size=1, max_size=6))]
    values = joined(parts)
    assert over(aggregate, values, ranges) == [
        whole(aggregate, replace(values, array=values.array[a:b])) for a, b in ranges
    ]


@every_kind
@of_kernels
@given(data=st.data())
def test_a_second_window_asks_what_the_first_asked(kind: str, data: st.DataObject) -> None:
    """Several aggregates over the same values share what they compute, and several windows one call."""
    aggregate, (values,) = data.draw(segments(kind, 1))
    ends = st.integers(0, len(values.array))
    pairs = st.lists(st.tuples(ends, ends).map(lambda pair: (min(pair), max(pair))), max_size=4)
    one, other = data.draw(pairs), data.draw(pairs)
    apart = [over(aggregate, replace(values, shared={}), part) for part in (one, other)]
    assert over(aggregate, values, one + other) == apart[0] + apart[1]
    assert over(aggregate, values, one) == apart[0]


@of_kernels
@given(data=st.data())
def test_kinds_over_the_same_values_and_ranges_do_not_disturb_one_another(data: st.DataObject) -> None:
    """They are given the same objects, and keep there what they share."""
    form = data.draw(st.sampled_from(NUMBERS))
    values = form.values(data.draw(st.lists(form.cells, max_size=6)))
    kinds = data.draw(st.permutations([kind for kind, made in registered.items() if not made.of_condition]))
    lo, hi = np.zeros(1, dtype=np.int64), np.array([len(values.array)])
    for aggregate in (data.draw(aggregates(kind)) for kind in kinds):
        assert bits(answers(aggregate.over(values, lo, hi))[0]) == whole(aggregate, values)


HOUR = 3_600_000_000
NOW = 1_772_946_000_000_000
Row = tuple[int, int, Any]
"""Event time and known_at in minutes before the question, and the cell."""


def asked(aggregate: Aggregate, form: Form, rows: Sequence[Row]) -> Any:
    """What the engine answers at NOW to a view of this one feature, as bits."""
    ts, known = (pa.array([NOW - row[i] * HOUR // 60 for row in rows], pa.int64()).cast(INSTANT) for i in (0, 1))
    table = pa.table({"ts": ts, "known": known, "x": form.column([cell for _, _, cell in rows])})
    source = ml.DeltaSource("s", path="s", timestamp="ts", known_at="known")
    view = ml.FeatureView("v", entity=None, source=source, features=[aggregate])
    ready = prepare(view, events(view, table), np.zeros(len(rows), dtype=np.int64))
    one = Queries(np.zeros(1, dtype=np.int64), instants(pa.array([NOW], INSTANT), "q"), np.ones(1, dtype=np.bool_))
    found = evaluate(view, ready, one).column(0)
    return bits(found.to_pylist()[0])


@st.composite
def histories(draw: st.DrawFn, kind: str) -> tuple[Aggregate, Form, list[Row]]:
    """Rows within the hour before NOW, all known by then, at instants that are often the same."""
    aggregate = draw(aggregates(kind))
    form = draw(forms(aggregate))
    minutes = st.integers(1, 60)
    rows = draw(st.lists(st.tuples(minutes, st.integers(0, 60), form.cells), max_size=8))
    return aggregate, form, [(ts, min(ts, known), cell) for ts, known, cell in rows]


@every_kind
@of_engine
@given(data=st.data())
def test_any_order_of_arrival_gives_the_same_bits(kind: str, data: st.DataObject) -> None:
    aggregate, form, rows = data.draw(histories(kind))
    assert asked(aggregate, form, data.draw(st.permutations(rows))) == asked(aggregate, form, rows)


@every_kind
@of_engine
@given(data=st.data())
def test_a_late_event_gives_the_same_bits_as_an_early_one(kind: str, data: st.DataObject) -> None:
    #  at one instant the later known comes later, so here no two events share one
    aggregate, form, rows = data.draw(histories(kind))
    late = list({ts: (ts, known, cell) for ts, known, cell in rows}.values())
    early = [(ts, ts, cell) for ts, _, cell in late]
    assert asked(aggregate, form, late) == asked(aggregate, form, early)


@every_kind
@of_engine
@given(data=st.data())
def test_an_event_outside_the_window_changes_nothing(kind: str, data: st.DataObject) -> None:
    #  before its start, at its end (NOW) or after it; or inside, and known only later
    aggregate, form, rows = data.draw(histories(kind))
    outside = st.sampled_from([(61, 61), (1000, 0), (0, 0), (-1, -1), (-1, 30), (30, -1)])
    more = data.draw(st.lists(st.tuples(outside, form.cells), min_size=1, max_size=4))
    unseen = [(ts, known, cell) for (ts, known), cell in more]
    assert asked(aggregate, form, rows + unseen) == asked(aggregate, form, rows)


@every_kind
@of_engine
@given(data=st.data())
def test_the_engine_answers_what_the_partials_give(kind: str, data: st.DataObject) -> None:
    """Of a history that comes in pieces, one before the other, each condensed alone."""
    aggregate, form, rows = data.draw(histories(kind))
    rows = sorted({ts: (ts, known, cell) for ts, known, cell in rows}.values(), reverse=True)
    cut = data.draw(st.integers(0, len(rows)))
    pieces = [form.values([cell for _, _, cell in part]) for part in (rows[:cut], rows[cut:])]
    partial = aggregate.merge(*map(aggregate.partial, pieces))
    assert asked(aggregate, form, rows) == bits(shown(form, aggregate, aggregate.finalize(partial, pieces[0])))


def shown(form: Form, aggregate: Aggregate, value: Any) -> Any:
    """A finalized value as it reads in the column's own type."""
    if value is None or aggregate.result not in ("column", "list"):
        return value
    cells = form.column(value if isinstance(value, list) else [value]).to_pylist()
    return cells if isinstance(value, list) else cells[0]
