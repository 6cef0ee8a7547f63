"""Columns of every type reach the aggregates in order and come back as they were; results have the promised type."""

from dataclasses import replace
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import mlray as ml
from mlray.aggregation.aggregate import Aggregate
from mlray.errors import SchemaError
from mlray.features.column import coded, result_type, to_arrow
from mlray.features.evaluate import Queries, evaluate, view_schema
from mlray.features.order import prepare
from mlray.features.rows import events
from mlray.features.types import canonical, instants
from mlray.verify import same_bits

HUGE = Decimal("1234567890123456789012345678.5")
SORTED: dict[pa.DataType, list[Any]] = {
    pa.int8(): [-128, 0, 127],
    pa.uint8(): [0, 1, 255],
    pa.int64(): [-(2**63), 0, 2**63 - 1],
    pa.uint64(): [0, 2**63, 2**64 - 1],
    pa.float16(): [-1.5, 0.0, 2.0],
    pa.float32(): [-np.inf, 0.10000000149011612, 3.4028234663852886e38],
    pa.float64(): [-1e300, 5e-324, np.inf],
    pa.bool_(): [False, True],
    pa.string(): ["", "Z", "é"],
    pa.large_string(): ["a", "aa", "b"],
    pa.dictionary(pa.int8(), pa.string()): ["a", "aa", "b"],
    pa.binary(): [b"", b"a\x00", b"\xff"],
    pa.binary(2): [b"ab", b"b\x00", b"\xff\xff"],
    pa.date32(): [date(1960, 1, 1), date(1970, 1, 1), date(2026, 3, 1)],
    pa.date64(): [date(1960, 1, 1), date(1970, 1, 1), date(2026, 3, 1)],
    pa.timestamp("us", "UTC"): [-5, 0, 7],
    pa.timestamp("ns"): [-5, 0, 7],
    pa.time32("s"): [time(0), time(0, 0, 5), time(23)],
    pa.time64("us"): [time(0), time(0, 0, 5), time(23)],
    pa.duration("us"): [timedelta(-1), timedelta(0), timedelta(1)],
    pa.decimal128(12, 2): [Decimal("-3.05"), Decimal("0.00"), Decimal("9999999999.99")],
    pa.decimal128(38, 4): [-HUGE, Decimal("0.0001"), HUGE],
    pa.decimal128(5, -2): [Decimal("-300"), Decimal("0"), Decimal("99900")],
    pa.decimal256(60, 1): [-HUGE, Decimal("0.1"), HUGE],
}
"""Ascending values of each type."""


def answer(aggregate: Aggregate, column: pa.ChunkedArray) -> pa.Array:
    """Over all rows, and over none."""
    known = coded("x", column)
    values = replace(known.values, array=known.values.array[known.usable], shared={})
    lo, hi = np.array([0, 0]), np.array([len(values.array), 0])
    return to_arrow(aggregate, known, aggregate.over(values, lo, hi))


def shuffled(kind: pa.DataType) -> tuple[pa.Array, pa.ChunkedArray]:
    """The values in order, and with nulls in another one, cut in two."""
    ordered = pa.array(SORTED[kind], kind)
    mixed = pa.array([*SORTED[kind][1:], None, *SORTED[kind][:1], None], kind)
    return canonical(pa.chunked_array([ordered])).combine_chunks(), pa.chunked_array([mixed[:2], mixed[2:]])


@pytest.mark.parametrize("kind", SORTED, ids=str)
def test_a_value_comes_back_in_its_type(kind: pa.DataType) -> None:
    ordered, mixed = shuffled(kind)
    column = canonical(mixed)
    expected = {
        ml.Min: [ordered[0], None], ml.Max: [ordered[-1], None], ml.First: [ordered[1], None],
        ml.Last: [ordered[0], None], ml.CountDistinct: [pa.scalar(len(ordered)), pa.scalar(0)],
    }
    for aggregate, values in expected.items():
        found = answer(aggregate("x", windows=[ml.days(1)]), column)
        assert found.type == result_type(aggregate("x", windows=[ml.days(1)]), kind)
        assert [cell if cell.is_valid else None for cell in found] == values


@pytest.mark.parametrize("kind", SORTED, ids=str)
def test_lists_hold_values_in_their_type(kind: pa.DataType) -> None:
    ordered, mixed = shuffled(kind)
    column, in_time = canonical(mixed), [*ordered[1:], ordered[0]]
    expected = {ml.FirstN: in_time[:2], ml.LastN: in_time[-2:], ml.LastDistinctN: in_time[::-1][:2]}
    for aggregate, values in expected.items():
        made = aggregate("x", 2, windows=[ml.days(1)])
        found = answer(made, column)
        found.validate(full=True)
        assert found.type == result_type(made, kind) == pa.list_(ordered.type)
        assert list(found[0].values) == values
        assert not found[1].is_valid


def view_of(*features: str | Aggregate) -> ml.FeatureView:
    return ml.FeatureView("v", entity=None, source=ml.DeltaSource("s", path="s", timestamp="ts"), features=features)


def asked(view: ml.FeatureView, x: pa.Array) -> list[Any]:
    """The features after all rows of `x`, one a microsecond."""
    table = pa.table({"ts": pa.array(range(len(x)), pa.timestamp("us")), "x": x})
    promised = view_schema(view, table.schema)
    ready = prepare(view, events(view, table), np.zeros(len(x), dtype=np.int64))
    at = instants(pa.array([len(x)], pa.timestamp("us")), "q")
    found = evaluate(view, ready, Queries(np.zeros(1, np.int64), at, np.ones(1, np.bool_)))
    assert found.schema == promised
    return [column[0].as_py() for column in found.columns]


def test_numbers_of_uint64_beyond_int64_are_ordered_but_not_added() -> None:
    x = pa.array([2**64 - 1, 3, None, 2**63], pa.uint64())
    kept = view_of(ml.Max("x", windows=[ml.days(1)]), ml.CountDistinct("x", windows=[ml.days(1)]))
    assert asked(kept, x) == [2**64 - 1, 3]
    for kind in (ml.Sum, ml.Mean, ml.Var, ml.Median):
        with pytest.raises(SchemaError, match=r"view v: .*column 'x' is uint64, here .*; cast it: select="):
            asked(view_of(kept.features[0], kind("x", windows=[ml.days(1)])), x)
    assert asked(view_of(ml.Sum("x", windows=[ml.days(1)])), x.slice(1, 2)) == [3]


def test_decimals_are_numbers() -> None:
    x = pa.array([Decimal("0.10"), Decimal("0.20"), Decimal("0.60")], pa.decimal128(12, 2))
    kinds = (ml.Sum, ml.Mean, ml.Median, ml.Max)
    assert asked(view_of(*(kind("x", windows=[ml.days(1)]) for kind in kinds)), x) == [0.9, 0.3, 0.2, Decimal("0.60")]


def test_a_share_is_of_all_rows_and_a_count_of_those_that_are_kept() -> None:
    x, when = pa.array([1, 5, None, 7]), {"windows": [ml.days(1)], "where": "x > 4"}
    assert asked(view_of(ml.Count(**when), ml.Share(**when)), x) == [2, 0.5]
    assert asked(view_of(ml.Share(**when), ml.Count(**when)), x) == [0.5, 2]


@pytest.mark.parametrize("kind", [pa.string(), pa.binary(), pa.date32(), pa.decimal128(5, -2)], ids=str)
def test_a_numeric_kind_over_no_numbers_is_refused(kind: pa.DataType) -> None:
    with pytest.raises(SchemaError, match=r"view v: Median needs numbers, but column 'x' is .*; cast it: select="):
        asked(view_of(ml.Median("x", windows=[ml.days(1)])), pa.nulls(2, kind))


def test_a_list_is_a_bare_column_only() -> None:
    x = pa.array([[1], [2, 3]])
    assert asked(view_of("x"), x) == [[2, 3]]
    with pytest.raises(SchemaError, match=r"view v: Last needs single values, but column 'x' is list<.*bare column"):
        asked(view_of(ml.Last("x", windows=[ml.days(1)])), x)


def test_lists_are_compared_by_their_bits() -> None:
    left = pa.chunked_array([pa.array([[1.0], [0.0], [np.nan], [1.0, 2.0], None, None])])
    right = pa.chunked_array([pa.array([[1.0], [-0.0], [np.nan], [1.0], None, []], left.type)])
    assert same_bits(left, right).tolist() == [True, False, True, False, True, False]
