"""The oracle itself, against timelines worked out by hand."""

import math
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from oracle import Latest, Row, Source, View, Window, aggregate, answer

NAN, INF = math.nan, math.inf


def rows(*columns: str, of: Sequence[tuple[Any, ...]]) -> list[Row]:
    """Rows of key `a` with the given columns."""
    return [{"k": "a", **dict(zip(columns, values, strict=True))} for values in of]


def ask(history: Sequence[Row], q: int | None, *, source: Source | None = None, ttl: int | None = None,
        closed: str = "right", key: Any = "a", **features: Latest | Window) -> list[Any]:
    """The features at `q` microseconds, in order."""
    view = View(source=source or Source(), features=features, ties=("v",), ttl=ttl, closed=closed)
    return list(answer(view, history, (key,), None if q is None else q * 1000).values())


def test_a_window_holds_its_start_and_not_its_end() -> None:
    #  ts      10    20    30    40
    #  q=40    .     [-----------)        W=20: 20, 30
    history = rows("ts", "v", of=[(10, 1), (20, 2), (30, 4), (40, 8)])
    assert ask(history, 40, s=Window(kind="sum", column="v", size=20)) == [6]


def test_closed_right_holds_its_end_and_not_its_start() -> None:
    #  ts      10    20    30    40
    #  q=40    .     (-----------]        W=20: 30, 40
    history = rows("ts", "v", of=[(10, 1), (20, 2), (30, 4), (40, 8)])
    assert ask(history, 40, s=Window(kind="sum", column="v", size=20, closed="right")) == [12]


def test_offset_and_lag_move_the_window_back_and_resolution_its_start() -> None:
    #  ts      10    20    30    40    50    60
    #  lag=5, p=60-5=55
    #  offset  .     .     [-----)      |          o=10 W=20: [25, 45): 30, 40
    #  grid    .     [-----------)      |          start 25 -> 20: 20, 30, 40
    #  life    [----------------------)            ts < 55
    history = rows("ts", "v", of=[(10, 1), (20, 2), (30, 4), (40, 8), (50, 16), (60, 32)])
    windows = {
        "offset": Window(kind="sum", column="v", size=20, offset=10),
        "grid": Window(kind="sum", column="v", size=20, offset=10, resolution=20),
        "life": Window(kind="sum", column="v"),
    }
    assert ask(history, 60, source=Source(lag=5), **windows) == [12, 14, 31]


def test_the_latest_value_is_in_ttl_at_both_ends() -> None:
    #  ts      10    20
    #  q=20    ......]  v=2        q=30  [10..30] v=2 (20 in ttl=10)       q=31: 20 < 21, too old
    history = rows("ts", "v", of=[(10, 1), (20, 2)])
    assert [ask(history, q, ttl=10, v=Latest(column="v")) for q in (9, 10, 20, 30, 31)] == [
        [None], [1], [2], [2], [None]
    ]


def test_a_view_closed_left_does_not_see_its_own_instant() -> None:
    history = rows("ts", "v", of=[(10, 1), (20, 2)])
    assert ask(history, 20, closed="left", v=Latest(column="v")) == [1]


def test_the_latest_row_is_taken_whole_with_its_nulls() -> None:
    history = rows("ts", "v", "w", of=[(10, 1, 5), (20, None, 6)])
    assert ask(history, 25, v=Latest(column="v"), w=Latest(column="w")) == [None, 6]


def test_a_nanosecond_query_never_sees_the_future() -> None:
    #  q = 20.5 us: windows end before ceil = 21, so 20 is in; W=10 starts at 11, so 10 is out;
    #  latest and closed right look at floor = 20: (10, 20]
    history = rows("ts", "v", of=[(10, 1), (20, 2), (21, 4)])
    features = {
        "left": Window(kind="sum", column="v", size=10),
        "right": Window(kind="sum", column="v", size=10, closed="right"),
        "v": Latest(column="v"),
    }
    view = View(source=Source(), features=features)
    assert answer(view, history, ("a",), 20_500) == {"left": 2, "right": 2, "v": 2}


def test_late_knowledge_is_hidden_until_it_is_known() -> None:
    #  ts 10 is known at 10; ts 20 only at 35; ts 30 never
    history = rows("ts", "known", "v", of=[(10, 10, 1), (20, 35, 2), (30, None, 4)])
    source = Source(known_at="known")
    assert [ask(history, q, source=source, s=Window(kind="sum", column="v")) for q in (34, 35, 36)] == [
        [1], [3], [3]
    ]


def test_a_correction_replaces_its_event_from_when_it_was_known() -> None:
    #  event 7 at ts 10: v=1 known at 10, v=9 known at 30: counted once
    history = rows("ts", "seq", "known", "v", of=[(10, 7, 30, 9), (10, 7, 10, 1), (10, 7, 10, 1)])
    source = Source(known_at="known", sequence="seq")
    features = {"s": Window(kind="sum", column="v"), "n": Window(kind="count")}
    assert ask(history, 29, source=source, **features) == [1, 1]
    assert ask(history, 30, source=source, **features) == [9, 1]


def test_a_correction_that_fails_where_removes_the_event() -> None:
    history = rows("ts", "seq", "known", "v", of=[(10, 7, 10, 1), (10, 7, 30, -1), (20, 8, 20, 5)])
    source = Source(known_at="known", sequence="seq", where=lambda row: row["v"] > 0)
    of_window = Window(kind="sum", column="v", where=lambda row: row["v"] > 0)
    for asked in (source, Source(known_at="known", sequence="seq")):
        assert ask(history, 29, source=asked, s=of_window) == [6]
        assert ask(history, 30, source=asked, s=of_window) == [5]


def test_null_sequences_are_events_of_their_own_and_come_first() -> None:
    history = rows("ts", "seq", "v", of=[(10, None, 4), (10, None, 4), (10, 1, 2), (10, 1, 2)])
    features = {"n": Window(kind="count"), "first": Window(kind="first", column="v"), "v": Latest(column="v")}
    assert ask(history, 11, source=Source(sequence="seq"), **features) == [3, 4, 2]


def test_ties_go_to_the_greater_value_nulls_lowest_nan_highest() -> None:
    last = {"v": Latest(column="v")}
    assert ask(rows("ts", "v", of=[(10, 2.0), (10, None), (10, 3.0)]), 10, **last) == [3.0]
    assert math.isnan(ask(rows("ts", "v", of=[(10, NAN), (10, INF)]), 10, **last)[0])
    assert math.copysign(1, ask(rows("ts", "v", of=[(10, 0.0), (10, -0.0)]), 10, **last)[0]) == 1
    assert ask(rows("ts", "v", of=[(10, "Z"), (10, "é"), (10, "a")]), 10, **last) == ["é"]


def test_null_keys_instants_and_event_times_give_nothing() -> None:
    history = rows("ts", "v", of=[(None, 1), (10, 2)])
    features = {"n": Window(kind="count"), "v": Latest(column="v")}
    assert ask(history, 20, **features) == [1, 2]
    assert ask(history, 20, key=None, **features) == [None, None]
    assert ask(history, None, **features) == [None, None]
    assert ask(history, 20, key="unknown", **features) == [0, None]


def test_a_source_without_time_gives_what_was_known_last() -> None:
    history = rows("seq", "known", "v", of=[(1, 10, 5), (2, 10, 4), (1, 20, 3)])
    timeless = Source(timestamp=None, known_at="known", sequence="seq")
    assert ask(history, 10, source=timeless, v=Latest(column="v")) == [4]
    assert ask(history, 20, source=timeless, v=Latest(column="v")) == [3]
    assert ask(history, 10, source=Source(timestamp=None), v=Latest(column="v")) == [5]


@pytest.mark.parametrize(("kind", "inputs", "expected"), [
    ("sum", [1e300, 1.0, -1e300], 1.0),
    ("sum", [1.7976931348623157e308] * 2, INF),
    ("sum", [INF, 1.0], INF),
    ("sum", [INF, -INF], None),
    ("sum", [None, NAN], None),
    ("sum", [2**62, 2**62 - 1], 2**63 - 1),
    ("mean", [2**62, 2**62, 2**62], float(3 * 2**62) / 3),
    ("mean", [0.1, 0.2, 0.3], float(Fraction(0.1) + Fraction(0.2) + Fraction(0.3)) / 3),
    ("var", [1e9, 1e9 + 1], 0.5),
    ("var", [1.0], None),
    ("std", [1.0, INF], None),
    ("std", [1, 3], math.sqrt(2)),
    ("min", [-0.0], 0.0),
    ("first", [None, NAN, 3.0, 4.0], 3.0),
    ("count", [None, NAN, INF], 1),
    ("count_distinct", [0.0, -0.0, 1.0, None], 2),
    ("median", [3.0, 1.0, None, 2.0], 2.0),
    ("median", [1, 2], 1.5),
    ("median", [2**62, 2**62 + 1, 2**53, 2**53 + 1], float(2**61 + 2**52)),
    ("median", [INF, -INF], None),
    ("median", [-INF, 1.0], -INF),
    ("median", [Decimal("0.10"), Decimal("0.30")], 0.2),
    ("sum", [Decimal("0.10"), Decimal("0.20")], 0.3),
    ("share", [True, False, False], 1 / 3),
])
def test_an_aggregate_is_its_exact_value_rounded_once(kind: str, inputs: list[Any], expected: Any) -> None:
    got = aggregate(kind, inputs)
    assert (type(got), repr(got)) == (type(expected), repr(expected))


@pytest.mark.parametrize(("kind", "parameter", "expected"), [
    ("first_n", 2, [5, 3]), ("last_n", 2, [3, 4]), ("last_n", 9, [5, 3, 5, 3, 4]), ("last_distinct_n", 2, [4, 3]),
    ("last_distinct_n", 9, [4, 3, 5]), ("quantile", Fraction(0), 3.0), ("quantile", Fraction(1), 5.0),
    ("quantile", Fraction(19, 20), 5.0), ("quantile", Fraction(1, 8), 3.0), ("quantile", Fraction(3, 8), 3.5),
])
def test_an_aggregate_with_a_parameter(kind: str, parameter: Any, expected: Any) -> None:
    got = aggregate(kind, [5, None, 3, 5, 3, 4], parameter)
    assert (type(got), got) == (type(expected), expected)
    assert aggregate(kind, [None, NAN], parameter) is None


def test_a_share_is_of_all_rows_of_its_window() -> None:
    #  q=40, W=30: 10, 20, 30; true at 30, null at 20
    history = rows("ts", "v", of=[(10, 1), (20, None), (30, 3)])
    holds = Window(kind="share", size=30, where=lambda row: None if row["v"] is None else row["v"] > 2)
    assert ask(history, 40, s=holds) == [1 / 3]
    assert ask(history, 5, s=holds) == [None]


def test_an_integer_sum_beyond_int64_is_an_error() -> None:
    with pytest.raises(OverflowError, match="no int64"):
        aggregate("sum", [2**62, 2**62])
