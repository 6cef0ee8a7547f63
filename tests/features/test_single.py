"""One query in plain Python answers what the one evaluation does, to the bit, and so what the oracle says."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Context, Decimal
from typing import Any

import declared
import numpy as np
import pyarrow as pa
import pytest
from generated import Key, World, bits, differences, expected, plain, world
from hypothesis import given, settings
from hypothesis import strategies as st

import mlray as ml
from mlray.aggregation.aggregate import Aggregate
from mlray.aggregation.window import Instants
from mlray.errors import MlrayError
from mlray.features.evaluate import Queries, evaluate, view_schema
from mlray.features.order import prepare
from mlray.features.rows import condition_name, events, with_conditions
from mlray.features.single import Single, to_arrow
from mlray.features.types import instants


def single(view: ml.FeatureView, table: pa.Table, floor: int, ceil: int) -> pa.Table:
    """What a single query is answered over all rows of `table` that are visible at it."""
    rows = with_conditions(view, events(view, table))
    ready = prepare(view, rows, np.zeros(len(rows), dtype=np.int64))
    order = np.arange(len(rows)) if ready.rows is None else ready.rows
    seen = ready.timeline.current(np.arange(len(order)), np.full(len(order), floor))
    kept = rows.take(pa.array(order[seen]))
    assert Single.possible(view, rows.schema)
    made = Single(view, rows.schema)
    return made.to_table([made.answer({name: values(kept[name]) for name in rows.column_names}, floor, ceil)])


def bulk(view: ml.FeatureView, table: pa.Table, floor: int, ceil: int) -> pa.Table:
    """The same by way of the one evaluation."""
    rows = events(view, table)
    ready = prepare(view, rows, np.zeros(len(rows), dtype=np.int64))
    yes, at = np.ones(1, dtype=np.bool_), (np.array([q], dtype=np.int64) for q in (floor, ceil))
    return evaluate(view, ready, Queries(np.zeros(1, dtype=np.int64), Instants(*at, yes), yes))


def values(column: pa.ChunkedArray) -> list[Any]:
    """Plain values: times as integers of their unit, decimals as their digits."""
    kind = column.type
    if pa.types.is_list(kind):
        return [None if not cell.is_valid else values(pa.chunked_array([cell.values])) for cell in column]
    if pa.types.is_decimal(kind):
        exact = Context(prec=80)
        return [None if cell is None else int(cell.scaleb(kind.scale, exact)) for cell in column.to_pylist()]
    if pa.types.is_temporal(kind):
        column = column.cast(pa.int32() if kind.bit_width == 32 else pa.int64())
    return list(column.to_pylist())


def assert_same(found: pa.Table, wanted: pa.Table) -> None:
    assert found.schema == wanted.schema
    for name in wanted.column_names:
        assert bits(values(found[name])) == bits(values(wanted[name])), name


def of_key(world: World, key: Key) -> pa.Table:
    """The source's rows of one entity."""
    named = zip(*(plain(world.table[name]) for name in world.view.keys), strict=True)
    return world.table.filter(pa.array([found == key for found in named], pa.bool_()))


def complete(world: World) -> list[int]:
    """The queries that have a key and an instant."""
    return [i for i, (key, q) in enumerate(world.queries) if None not in key and q is not None]


def check(asked: World, most: int) -> None:
    view, wanted = declared.view(asked), expected(asked)
    at = instants(asked.spine["timestamp"], "spine")
    for i in complete(asked)[:most]:
        table, ends = of_key(asked, asked.queries[i][0]), (int(at.floor[i]), int(at.ceil[i]))
        found = single(view, table, *ends)
        assert_same(found, bulk(view, table, *ends))
        assert differences(asked, found, [wanted[i]]) == []


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 60))
def test_a_query_of_a_world_is_answered_as_in_bulk_and_by_the_oracle(seed: int, size: int) -> None:
    check(world(seed, size), most=3)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_source_without_time_is_answered_so_too(seed: int) -> None:
    check(world(seed, 30, timeless=True), most=3)


def floats(width: int) -> st.SearchStrategy[float]:
    return st.floats(width=width) | st.sampled_from([0.0, -0.0, 1.5, float("nan"), float("inf")])


few = st.integers(-3, 3)
CELLS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.bool_(): st.booleans(),
    pa.int8(): st.integers(-128, 127),
    pa.int64(): few | st.sampled_from([-(2**63), 2**63 - 1, 2**62]),
    pa.uint64(): st.integers(0, 9) | st.sampled_from([2**63 - 1, 2**63, 2**64 - 1]),
    pa.float16(): floats(16),
    pa.float32(): floats(32),
    pa.float64(): floats(64),
    pa.decimal128(5, 2): st.integers(-99_999, 99_999),
    pa.decimal128(38, 4): few | st.sampled_from([10**38 - 1, 1 - 10**38]) | st.integers(-(10**38) + 1, 10**38 - 1),
    pa.decimal128(5, -2): st.integers(-99_999, 99_999),
    pa.decimal256(60, 1): few | st.integers(-(10**60) + 1, 10**60 - 1),
    pa.string(): st.text(max_size=3) | st.sampled_from(["", "Z", "é", "\U0001f600", "\uffee"]),
    pa.binary(): st.binary(max_size=3),
    pa.binary(2): st.binary(min_size=2, max_size=2),
    pa.date32(): few | st.integers(-(2**31), 2**31 - 1),
    pa.date64(): few.map(lambda day: day * 86_400_000),
    pa.timestamp("us", tz="UTC"): few | st.integers(-(2**63), 2**63 - 1),
    pa.timestamp("ns"): few | st.integers(-(2**63), 2**63 - 1),
    pa.time32("ms"): st.integers(0, 86_399_999),
    pa.time64("us"): st.integers(0, 86_399_999_999),
    pa.duration("s"): few,
    pa.null(): st.none(),
}
"""Plain values of each type."""


def view_of(*features: str | Aggregate) -> ml.FeatureView:
    return ml.FeatureView("v", entity=None, source=ml.DeltaSource("s", path="s", timestamp="ts"), features=features)


def every_kind(number: bool) -> list[Aggregate]:
    """Every kind over `x`, of the last three microseconds and of all."""
    windows = [timedelta(microseconds=3), ml.lifetime]
    alone = [ml.Count, ml.CountDistinct, ml.Min, ml.Max, ml.First, ml.Last]
    lists: list[tuple[Any, float]] = [(ml.FirstN, 2), (ml.LastN, 2), (ml.LastDistinctN, 2)]
    if number:
        alone += [ml.Sum, ml.Mean, ml.Var, ml.Std, ml.Median]
        lists += [(ml.Quantile, 0.95)]
    return [*(kind("x", windows=windows) for kind in alone), *(kind("x", n, windows=windows) for kind, n in lists)]


def outcome(way: Callable[..., pa.Table], view: ml.FeatureView, table: pa.Table) -> pa.Table | str:
    """The answer after all rows, or the refusal."""
    try:
        return way(view, table, table.num_rows, table.num_rows)
    except MlrayError as error:
        return str(error)


@pytest.mark.parametrize("kind", CELLS, ids=str)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_values_of_every_type_are_answered_as_in_bulk(kind: pa.DataType, data: st.DataObject) -> None:
    """Or refused in the same words: sums beyond int64, numbers of uint64 that are ordered and not added."""
    cells = data.draw(st.lists(st.none() | CELLS[kind], max_size=7))
    table = pa.table({"ts": pa.array(range(len(cells)), pa.timestamp("us")), "x": to_arrow(cells, kind)})
    kinds = every_kind(_is_number(kind))
    wanted = outcome(bulk, view_of("x", *kinds), table)
    for view in [view_of("x", *kinds)] if isinstance(wanted, pa.Table) else [view_of(k) for k in kinds]:
        found, wanted = outcome(single, view, table), outcome(bulk, view, table)
        if isinstance(wanted, str) or isinstance(found, str):
            assert found == wanted
        else:
            assert_same(found, wanted)


def _is_number(kind: pa.DataType) -> bool:
    decimal = pa.types.is_decimal128(kind) and kind.scale >= 0
    return bool(decimal or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def test_answers_are_the_rows_of_a_table() -> None:
    view = view_of("x", ml.Count("x", windows=[ml.lifetime]), ml.LastN("x", 2, windows=[ml.lifetime]), "y")
    made = Single(view, pa.schema([("__ts", pa.int64()), ("x", pa.int64()), ("y", pa.decimal128(5, 2))]))
    answers = [made.answer({"__ts": [1, 2], "x": [7, None], "y": [305, 1]}, q, q) for q in (1, 2, 3)]
    assert made.to_table(answers).to_pylist() == [
        {"x": 7, "x_count_lifetime": 0, "x_last_2_lifetime": None, "y": Decimal("3.05")},
        {"x": None, "x_count_lifetime": 1, "x_last_2_lifetime": [7], "y": Decimal("0.01")},
        {"x": None, "x_count_lifetime": 1, "x_last_2_lifetime": [7], "y": Decimal("0.01")},
    ]
    assert made.to_table([]).schema == made.to_table(answers).schema


def test_integers_of_a_decimal_or_a_time_come_back_as_such() -> None:
    cents = pa.decimal128(5, 2)
    assert to_arrow([305, None], cents).to_pylist() == [Decimal("3.05"), None]
    lists = to_arrow([[305, -1], None, []], pa.list_(cents))
    assert lists.to_pylist() == [[Decimal("3.05"), Decimal("-0.01")], None, []]
    assert to_arrow([[Decimal("3.05"), None]], pa.list_(cents)).to_pylist() == [[Decimal("3.05"), None]]
    assert to_arrow([[1]], pa.list_(pa.date32())).type == pa.list_(pa.date32())


@pytest.mark.parametrize(("kind", "can"), [
    (pa.list_(pa.struct([("a", pa.float32()), ("b", pa.decimal128(5, 2))])), True),
    (pa.map_(pa.string(), pa.int64()), True),
    (pa.list_(pa.timestamp("ns")), False),         # Python's own times have microseconds
    (pa.month_day_nano_interval(), False),
])  # fmt: skip
def test_what_plain_python_cannot_hold_is_left_to_the_bulk(kind: pa.DataType, can: bool) -> None:
    view = view_of("x")
    schema = view_schema(view, pa.schema([("ts", pa.timestamp("us")), ("x", kind)]))
    assert Single.possible(view, schema) is can


def test_the_rows_of_a_condition_come_with_its_outcome() -> None:
    """No SQL runs at a read."""
    view = view_of(ml.Count(windows=[ml.lifetime], where="x > 1"), ml.Share(windows=[ml.lifetime], where="x > 1"))
    holds = condition_name("x > 1")
    schema = pa.schema([("__ts", pa.int64()), ("x", pa.int64()), (holds, pa.bool_())])
    columns = {"__ts": [1, 2, 3, 4], "x": [0, 5, 6, None], holds: [False, True, True, None]}
    assert Single(view, schema).answer(columns, 5, 5) == [2, 0.5]
