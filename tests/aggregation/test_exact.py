"""Sum, Mean, Var and Std are the exact rationals rounded once, of any doubles, integers and decimals; Fraction says."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import rounded

import mlray as ml
from mlray.aggregation.aggregate import Aggregate, Plain, Ranges, Values
from mlray.aggregation.ranges import extreme
from mlray.aggregation.total import rounded_sum

LARGEST = 1.7976931348623157e308
CORNERS = [
    0.0, 5e-324, -5e-324, 2.2250738585072014e-308, 1e-300, -1e-300, 1e-160, 3e-162, 0.1, 1.0, 1.0000000000000002,
    2.0**53, 2.0**53 + 2, 1e9 + 1e-6, 1e19, 1e150, -1e154, 1e300, -1e300, LARGEST, -LARGEST,
]  # fmt: skip
doubles = st.one_of(
    st.sampled_from(CORNERS),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-1e6, 1e6),
    st.integers(-(2**55), 2**55).map(float),
    st.floats(-1, 1).map(lambda x: 1e9 + x),
)
integers = st.one_of(
    st.integers(-5, 5), st.integers(-(2**40), 2**40), st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([2**63 - 1, -(2**63), 2**62, 2**53 + 1, 2**31, -(2**31)]),
)  # fmt: skip
Number = float | int | Fraction


def over(kind: type[Aggregate], values: Values, ranges: Sequence[tuple[int, int]]) -> list[Any]:
    """The results of `kind` over the ranges, None for null; of few values those of one query are the same."""
    lo, hi = ends(ranges)
    result = kind("v", windows=[ml.days(1)]).over(values, lo, hi)
    found = [x if valid else None for x, valid in zip(result.array.tolist(), result.valid.tolist(), strict=True)]
    if len(values.array) <= 1000:
        assert bits(each(kind, values, ranges)) == bits(found)
    return found


def each(kind: type[Aggregate], values: Values, ranges: Sequence[tuple[int, int]]) -> list[Any]:
    """The same by the way of one query."""
    plain = Plain(values.name, values.kind, values.array.tolist(), values.scale)
    return kind("v", windows=[ml.days(1)]).each(plain, ranges)


def ends(ranges: Sequence[tuple[int, int]]) -> tuple[Ranges, Ranges]:
    pairs = np.array(ranges, dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0].copy(), pairs[:, 1].copy()


def exact_sum(values: Sequence[Number]) -> float | None:
    return rounded(sum(map(Fraction, values), Fraction(0))) if values else None


def exact_mean(values: Sequence[Number]) -> float | None:
    total = exact_sum(values)
    return None if total is None else total / len(values)


def exact_var(values: Sequence[Number]) -> float | None:
    if len(values) < 2:
        return None
    centre = sum(map(Fraction, values), Fraction(0)) / len(values)
    return rounded(sum(((Fraction(v) - centre) ** 2 for v in values), Fraction(0)) / (len(values) - 1))


def exact_std(values: Sequence[Number]) -> float | None:
    var = exact_var(values)
    return None if var is None else math.sqrt(var)


EXACT: dict[type[Aggregate], Callable[[Sequence[Number]], float | None]] = {
    ml.Sum: exact_sum, ml.Mean: exact_mean, ml.Var: exact_var, ml.Std: exact_std,
}  # fmt: skip


def bits(values: Sequence[Any]) -> list[Any]:
    """Floats by their bits, so that 0.0 and -0.0 differ."""
    return [x.hex() if isinstance(x, float) else x for x in values]


@st.composite
def columns(draw: st.DrawFn, cells: st.SearchStrategy[Any]) -> tuple[list[Any], list[tuple[int, int]]]:
    """Values, and ranges over them in any order, empty ones among them."""
    values = draw(st.lists(cells, max_size=30))
    place = st.integers(0, len(values))
    return values, draw(st.lists(st.tuples(place, place).map(lambda p: (min(p), max(p))), min_size=1, max_size=8))


@pytest.mark.parametrize("kind", EXACT)
@settings(max_examples=150, deadline=None)
@given(column=columns(doubles))
def test_of_doubles_it_is_the_rational_rounded_once(
    kind: type[Aggregate], column: tuple[list[float], list[tuple[int, int]]]
) -> None:
    cells, ranges = column
    found = over(kind, Values("v", "float", np.array(cells, dtype=np.float64)), ranges)
    assert bits(found) == bits([EXACT[kind](cells[lo:hi]) for lo, hi in ranges])


@pytest.mark.parametrize("kind", [ml.Mean, ml.Var, ml.Std])
@settings(max_examples=150, deadline=None)
@given(column=columns(integers))
def test_of_integers_it_is_the_rational_rounded_once(
    kind: type[Aggregate], column: tuple[list[int], list[tuple[int, int]]]
) -> None:
    cells, ranges = column
    found = over(kind, Values("v", "int", np.array(cells, dtype=np.int64)), ranges)
    assert bits(found) == bits([EXACT[kind](cells[lo:hi]) for lo, hi in ranges])


@settings(max_examples=150, deadline=None)
@given(column=columns(integers))
def test_an_integer_sum_is_exact_or_an_error(column: tuple[list[int], list[tuple[int, int]]]) -> None:
    cells, ranges = column
    values, sums = Values("v", "int", np.array(cells, dtype=np.int64)), [sum(cells[lo:hi]) for lo, hi in ranges]
    outside = sum(not -(2**63) <= total < 2**63 for total in sums)
    if outside:
        for way in (over, each):
            with pytest.raises(ml.MlrayError, match=f"column 'v' leaves int64 in {outside} windows"):
                way(ml.Sum, values, ranges)
    else:
        found = over(ml.Sum, values, ranges)
        assert found == [s if hi > lo else None for s, (lo, hi) in zip(sums, ranges, strict=True)]


@pytest.mark.parametrize("kind", EXACT)
@settings(max_examples=100, deadline=None)
@given(column=columns(integers), scale=st.integers(0, 40), wide=st.booleans())
def test_of_decimals_it_is_the_rational_rounded_once(
    kind: type[Aggregate], column: tuple[list[int], list[tuple[int, int]]], scale: int, wide: bool
) -> None:
    cells = [v * (10**19 + 1) for v in column[0]] if wide else column[0]
    values = Values("v", "decimal", np.array(cells, dtype=object if wide else np.int64), scale)
    exact = [v / Fraction(10) ** scale for v in cells]
    assert bits(over(kind, values, column[1])) == bits([EXACT[kind](exact[lo:hi]) for lo, hi in column[1]])


@settings(max_examples=100, deadline=None)
@given(cells=st.lists(doubles, min_size=2, max_size=20), data=st.data())
def test_no_order_changes_a_bit(cells: list[float], data: st.DataObject) -> None:
    mixed = data.draw(st.permutations(cells))
    for kind in EXACT:
        one, other = (over(kind, Values("v", "float", np.array(c)), [(0, len(cells))]) for c in (cells, mixed))
        assert bits(one) == bits(other)


@pytest.mark.parametrize(("cells", "total"), [
    ([2.0**53, 1.0], 2.0**53),                              # a tie goes to the even neighbour
    ([2.0**53 + 2, 1.0], 2.0**53 + 4),
    ([2.0**53, 1.0, 5e-324], 2.0**53 + 2),                  # and anything below it decides it
    ([2.0**53 + 2, 1.0, -5e-324], 2.0**53 + 2),
    ([1e300, 1.0, 5e-324, -1e300], 1.0),
    ([1e300, 5e-324, -1e300], 5e-324),
    ([2.0**100, 2.0**47, 2.0**-15], 2.0**100 + 2.0**48),    # however far below
    ([2.0**100, 2.0**47, -(2.0**-15)], 2.0**100),
    ([2.0**120, 2.0**67, 1.0], 2.0**120 + 2.0**68),
    ([2.0**120, 2.0**67, -1.0], 2.0**120),
    ([LARGEST, LARGEST], math.inf),
    ([LARGEST, 2.0**970], math.inf),                        # half way to 2^1024
    ([LARGEST, 2.0**970, -5e-324], LARGEST),
    ([-LARGEST, -(2.0**970)], -math.inf),
    ([LARGEST, LARGEST, -LARGEST], LARGEST),
    ([1e-300, -1e-300], 0.0),
])  # fmt: skip
def test_a_sum_is_rounded_half_to_even_once(cells: list[float], total: float) -> None:
    assert bits(over(ml.Sum, Values("v", "float", np.array(cells)), [(0, len(cells))])) == bits([total])


@pytest.mark.parametrize("difference", [94_906_267, 94_906_269, 94_906_271])
def test_a_variance_half_way_between_two_doubles_goes_to_the_even_one(difference: int) -> None:
    # Of two values it is d^2 / 2, and the square of these has 54 bits, the last of them 1.
    for array in (np.array([7, 7 + difference]), np.array([0.25, 0.25 + difference])):
        kind = "int" if array.dtype == np.int64 else "float"
        assert over(ml.Var, Values("v", kind, array), [(0, 2)]) == [float(Fraction(difference**2, 2))]


@pytest.mark.parametrize("difference", [6166466264420463, 8998677704235147, 8175251132654787])
def test_a_subnormal_variance_is_not_rounded_twice(difference: int) -> None:
    # To 53 bits it would lie half way between two subnormals, which it does not.
    values = Values("v", "float", np.array([0.0, difference * 2.0**-570]))
    assert over(ml.Var, values, [(0, 2)]) == [float(Fraction(difference**2, 2 ** (2 * 570 + 1)))]


def test_a_decimal_half_way_between_two_doubles_goes_to_the_even_one() -> None:
    values = Values("v", "decimal", np.array([(2**53 + 1) * 10, 20]), scale=1)
    assert over(ml.Sum, values, [(0, 1), (0, 2)]) == [2.0**53, 2.0**53 + 4]


@pytest.mark.parametrize("beside", [-1, 0, 1])
def test_a_decimal_next_to_half_way_goes_to_the_nearer_one(beside: int) -> None:
    # Off the middle by 2^-92 of the distance of two doubles: no estimate sees that.
    unscaled = 5**22 * (2**53 + 1) * 2**40 + beside
    values = Values("v", "decimal", np.array([unscaled], dtype=object), scale=22)
    assert over(ml.Sum, values, [(0, 1)]) == [rounded(Fraction(unscaled, 10**22))]


def test_a_small_spread_far_from_zero_keeps_all_its_digits() -> None:
    steps = np.arange(1000) % 7
    cells, ranges = (1e9 + steps * 2.0**-23).tolist(), [(0, 1000), (3, 5)]
    near = over(ml.Var, Values("v", "float", np.array(cells)), ranges)
    assert near == [exact_var(cells[lo:hi]) for lo, hi in ranges]
    assert over(ml.Var, Values("v", "float", np.full(1000, 0.1)), [(0, 1000)]) == [0.0]


def test_infinities_are_values_and_have_no_spread() -> None:
    values = Values("v", "float", np.array([1.0, math.inf, 2.0, -math.inf, 3.0, 4.5]))
    ranges = [(0, 1), (0, 3), (2, 5), (0, 6), (4, 6), (6, 6)]
    assert over(ml.Sum, values, ranges) == [1.0, math.inf, -math.inf, None, 7.5, None]
    assert over(ml.Mean, values, ranges) == [1.0, math.inf, -math.inf, None, 3.75, None]
    assert over(ml.Var, values, ranges) == [None, None, None, None, 1.125, None]


def test_ten_million_rows_in_one_window_stay_exact() -> None:
    below_one, rows = 1 - 2.0**-53, 10_000_000
    values = Values("v", "float", np.full(rows, below_one))
    assert over(ml.Sum, values, [(0, rows), (1, rows)]) == [rounded(n * Fraction(below_one)) for n in (rows, rows - 1)]


@pytest.mark.parametrize("times", [[440_001, 333_333, 77_777, 9_001, 3_333], list(range(20_011, 50_000, 2_999))])
@pytest.mark.parametrize("pattern", [[0.1, 0.7, 1 / 3, 0.0, 0.9], [0.1, -0.3, 1e16, 3.0, 1e-20]])
def test_windows_of_two_million_rows_stay_exact(pattern: list[float], times: list[int]) -> None:
    values, ranges = Values("v", "float", np.tile(pattern, 440_003)), [(5, 5 + 5 * t) for t in times]
    total, squares = (sum(Fraction(x) ** power for x in pattern) for power in (1, 2))
    moments = [(5 * t, t * total, t * squares) for t in times]
    assert over(ml.Sum, values, ranges) == [rounded(s) for _, s, _ in moments]
    assert over(ml.Var, values, ranges) == [rounded((n * s2 - s * s) / (n * (n - 1))) for n, s, s2 in moments]


def test_long_windows_of_large_integers_stay_exact() -> None:
    column = np.tile([2**63 - 1, -(2**63), 2**62 + 1], 100_000)
    mean = over(ml.Mean, Values("v", "int", column), [(0, 300_000), (0, 2)])
    assert mean == [rounded(100_000 * (2**62)) / 300_000, -0.5]


def test_sum_and_mean_of_the_same_ranges_are_rounded_once() -> None:
    values, (lo, hi) = Values("v", "float", np.array([0.1, 0.2, 0.3])), ends([(0, 3), (1, 1)])
    assert rounded_sum(values, lo, hi) is rounded_sum(values, lo, hi)
    assert rounded_sum(values, lo, hi.copy()) is not rounded_sum(values, lo, hi)
    first = ml.Sum("v", windows=[ml.days(1)]).over(values, lo, hi)
    first.valid[:] = False
    assert ml.Mean("v", windows=[ml.days(1)]).over(values, lo, hi).valid.tolist() == [True, False]


@settings(max_examples=100, deadline=None)
@given(column=columns(st.integers(-100, 100)), kind=st.sampled_from([np.int64, np.float64, object]))
def test_least_and_greatest_of_every_range(column: tuple[list[int], list[tuple[int, int]]], kind: Any) -> None:
    array, (lo, hi) = np.array(column[0], dtype=kind), ends(column[1])
    least, greatest = extreme(np.minimum, array, lo, hi), extreme(np.maximum, array, lo, hi)
    for i, (a, b) in enumerate(column[1]):
        if a < b:
            assert (least[i], greatest[i]) == (min(column[0][a:b]), max(column[0][a:b]))
