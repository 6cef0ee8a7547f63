"""Which events a window holds and which rows a latest value may come from: timelines in microseconds."""

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlray as ml
from mlray.aggregation.window import EARLIEST, LATEST, LONGEST, Instants, Lifetime, Window, latest_bounds, latest_span

EVENTS = (-10, 0, 10, 20, 30, 40, 50, 60)


def at(nanoseconds: int) -> Instants:
    """One query instant."""
    floor, ceil = nanoseconds // 1000, -(-nanoseconds // 1000)
    return Instants(np.array([floor]), np.array([ceil]), np.array([True]))


def held(window: Window, q: float, *, lag: int = 0, events: Sequence[int] = EVENTS) -> list[int]:
    """The events that `window` holds at q microseconds."""
    start, end = window.bounds(at(round(q * 1000)), lag)
    return [ts for ts in events if start[0] <= ts < end[0]]


def latest(q: float, *, lag: int = 0, ttl: int | None = None, closed: str = "right") -> list[int]:
    """The events among which the newest is the latest value at q microseconds."""
    start, end = latest_bounds(at(round(q * 1000)), lag, ttl, "left" if closed == "left" else "right")
    return [ts for ts in EVENTS if start[0] <= ts < end[0]]


def test_the_start_is_in_and_the_end_is_out() -> None:
    #  ts     -10    0    10    20    30    40    50    60
    #  W=20                     [-----------)|                 q=40: an event at q does not count itself
    assert held(Window(20), 40) == [20, 30]
    assert held(Window(20), 41) == [30, 40]
    assert held(Window(20), 39) == [20, 30]


def test_closed_right_is_the_reverse() -> None:
    #  ts     -10    0    10    20    30    40    50    60
    #  W=20                     (-----------]                  q=40
    assert held(Window(20, closed="right"), 40) == [30, 40]
    assert held(Window(20, closed="right"), 39) == [20, 30]


def test_windows_side_by_side_hold_every_event_once() -> None:
    #  ts     -10    0    10    20    30    40    50    60
    #  left                     [-----------)[----------)      q=40 and q=60
    #  right                    (-----------](----------]
    for closed in ("left", "right"):
        window = Window(20, closed="left" if closed == "left" else "right")
        assert not set(held(window, 40)) & set(held(window, 60))
        assert len(held(window, 40)) == len(held(window, 60)) == 2


def test_an_offset_ends_the_window_earlier() -> None:
    #  ts     -10    0    10    20    30    40    50    60
    #  o=20   [-----------)---- o ----|                        q=30: p - o = 10
    assert held(Window(20, offset=20), 30) == [-10, 0]
    assert held(Window(20, offset=20, closed="right"), 30) == [0, 10]


def test_a_lag_moves_every_end_back() -> None:
    #  ts     -10    0    10    20    30    40    50    60
    #  lag=5               [-----------)  p=40 <- 5 -> q=45
    assert held(Window(20), 45, lag=5) == [20, 30]
    assert held(Window(20, offset=10), 45, lag=5) == [10, 20]
    assert latest(45, lag=5) == [-10, 0, 10, 20, 30, 40]


def test_a_resolution_rounds_the_start_down_and_not_the_end() -> None:
    #  grid   -20         0          20          40          60
    #  W=15                          [--+--------)             q=42: start 27 -> 20
    #  before 1970: W=5 at q=-3: start -8 -> -20
    assert held(Window(15, resolution=20), 42) == [20, 30, 40]
    assert held(Window(5, resolution=20), -3) == [-10]
    assert held(Window(15, resolution=20, closed="right"), 42) == [30, 40]
    assert held(Window(20, resolution=20), 40) == held(Window(20), 40)


def test_a_lifetime_has_no_start() -> None:
    #  W=inf  [--------------------------)                     q=20
    distant = (-(2**62), *EVENTS)
    assert held(Window(None), 20, events=distant) == [-(2**62), -10, 0, 10]
    assert held(Window(None, offset=10, closed="right"), 20, events=distant) == [-(2**62), -10, 0, 10]


def test_the_latest_value_is_between_ttl_and_now_both_ends_in() -> None:
    #  ts     -10    0    10    20    30    40    50    60
    #  ttl=20                   [------------]                 q=40
    assert latest(40, ttl=20) == [20, 30, 40]
    assert latest(41, ttl=20) == [30, 40]
    assert latest(40, ttl=20, closed="left") == [20, 30]
    assert latest(15) == [-10, 0, 10]
    assert latest(30, ttl=0) == [30]


def test_nanoseconds_never_see_the_future_nor_lose_the_past() -> None:
    #  q = 40.5: left ends before ceil 41, so 40 counts, and 21 is the first instant;
    #  right and latest end at floor 40
    assert held(Window(20), 40.5) == [30, 40]
    assert held(Window(21), 40.5) == [20, 30, 40]
    assert held(Window(20, closed="right"), 40.5) == [30, 40]
    assert latest(40.5, ttl=20) == [20, 30, 40]
    assert latest(40.5, closed="left")[-1] == 40
    assert latest(39.999)[-1] == 30


def test_the_ends_of_time_do_not_wrap() -> None:
    early, late = at(0), at(0)
    early.floor[:] = early.ceil[:] = EARLIEST + 5
    late.floor[:] = late.ceil[:] = LATEST
    for window in (Window(10**18, offset=10**18), Window(None), Window(10, resolution=7)):
        start, end = window.bounds(early, lag=10)
        assert EARLIEST <= start[0] <= end[0]
    assert Window(10, closed="right").bounds(late, lag=0)[1][0] == LATEST


small = st.integers(0, 50)
spots = st.integers(-50, 50) | small.map(lambda n: EARLIEST + n) | small.map(lambda n: LATEST - n)
lengths = small | st.sampled_from([LONGEST, LONGEST - 1]) | st.integers(0, LONGEST)


@settings(max_examples=500, deadline=None)
@given(q=spots, sub=st.integers(0, 1), lag=lengths, offset=lengths, size=st.none() | lengths, grid=lengths)
def test_the_bounds_of_one_query_are_the_same_in_plain_integers(
    q: int, sub: int, lag: int, offset: int, size: int | None, grid: int
) -> None:
    floor, ceil = q, min(q + sub, LATEST)
    one = Instants(np.array([floor]), np.array([ceil]), np.array([True]))
    for closed in ("left", "right"):
        window = Window(None if size is None else max(size, 1), offset, closed, grid)
        assert window.span(floor, ceil, lag) == tuple(bound.item() for bound in window.bounds(one, lag))
        assert window.span(floor, ceil, lag)[1] == window.end(one, lag).item() >= window.span(floor, ceil, lag)[0]
        bounds = latest_bounds(one, lag, size, closed)
        assert bounds[0] <= bounds[1]
        assert latest_span(floor, ceil, lag, size, closed) == tuple(bound.item() for bound in bounds)


@pytest.mark.parametrize(("length", "offset", "name"), [
    (ml.minutes(5), ml.minutes(0), "5m"), (ml.hours(24), ml.minutes(0), "1d"),
    (ml.minutes(90), ml.days(7), "90m_before_7d"),
    (timedelta(seconds=1), ml.hours(1), "1s_before_1h"), (ml.lifetime, ml.days(1), "lifetime_before_1d"),
    (timedelta(microseconds=1500), ml.hours(0), "1500us"), (timedelta(milliseconds=20), ml.hours(0), "20ms"),
])
def test_a_window_is_named_by_the_largest_unit_that_divides_it(
    length: timedelta | Lifetime, offset: timedelta, name: str
) -> None:
    asked = ml.Sum("v", windows=[length], offset=offset)
    assert [asked.feature_name(w) for w in asked.spans] == [f"v_sum_{name}"]


@pytest.mark.parametrize("wrong", [
    {"windows": [timedelta(0)]}, {"windows": [ml.days(-1)]}, {"windows": [ml.days(1)], "offset": ml.days(-1)},
    {"windows": [ml.days(1)], "resolution": ml.hours(-1)}, {"windows": [ml.days(1)], "closed": "both"},
    {"windows": []}, {"windows": [7]},
])
def test_a_window_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ml.MlrayError):
        ml.Sum("v", **wrong)  # type: ignore[arg-type]
