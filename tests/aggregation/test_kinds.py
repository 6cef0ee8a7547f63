"""What each kind means, on values in event order, and what it is called."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import mlray as ml
from mlray.aggregation.aggregate import Aggregate, Values
from mlray.aggregation.interpolation import between
from mlray.aggregation.selection import select
from mlray.errors import DefinitionError

DAY = [ml.days(1)]
INF = float("inf")


def over(aggregate: Aggregate, *cells: Any) -> Any:
    """The value over all of `cells`."""
    floats = any(isinstance(cell, float) for cell in cells)
    values = Values("x", "float" if floats else "int", np.array(cells, dtype=np.float64 if floats else np.int64))
    result = aggregate.over(values, np.array([0]), np.array([len(cells)]))
    if not result.valid[0]:
        return None
    return result.array[0] if result.offsets is None else result.array.tolist()


def test_a_list_is_in_event_order() -> None:
    assert over(ml.FirstN("x", 2, windows=DAY), 5, 3, 5, 4) == [5, 3]
    assert over(ml.LastN("x", 2, windows=DAY), 5, 3, 5, 4) == [5, 4]
    assert over(ml.LastN("x", 9, windows=DAY), 5, 3) == [5, 3]
    assert over(ml.LastN("x", 2, windows=DAY)) is None


def test_distinct_values_stand_where_they_occurred_last_newest_first() -> None:
    #  5 3 5 4 3:  3 was seen last, then 4, then 5
    assert over(ml.LastDistinctN("x", 2, windows=DAY), 5, 3, 5, 4, 3) == [3, 4]
    assert over(ml.LastDistinctN("x", 9, windows=DAY), 5, 3, 5, 4, 3) == [3, 4, 5]


def test_a_quantile_lies_between_two_values() -> None:
    #  n=4, q=0.95: h = 2.85, so 0.15 * 30 + 0.85 * 40
    assert over(ml.Quantile("x", 0.95, windows=DAY), 40, 10, 30, 20) == 38.5
    assert over(ml.Quantile("x", 0, windows=DAY), 40, 10) == 10.0
    assert over(ml.Quantile("x", 1, windows=DAY), 40, 10) == 40.0
    assert over(ml.Median("x", windows=DAY), 3, 1, 2) == 2.0
    assert over(ml.Median("x", windows=DAY), 3, 1) == 2.0
    assert over(ml.Median("x", windows=DAY)) is None


def test_q_is_the_decimal_number_as_written() -> None:
    #  n=21: h = 20 * 19/20 = 19, one value; the double 0.95 lies below 19/20 and would reach for two
    cells = [0.0] * 19 + [1e300, -1.0]
    assert over(ml.Quantile("x", 0.95, windows=DAY), *cells) == 0.0
    assert ml.Quantile("x", 0.95, windows=DAY).fraction == Fraction(19, 20)
    assert Fraction(0.95) < Fraction(19, 20)


def test_an_infinity_counts_where_it_has_weight() -> None:
    median = ml.Median("x", windows=DAY)
    assert over(median, -INF, 1.0, INF) == 1.0
    assert over(median, 1.0, INF) == INF
    assert over(median, -INF, 1.0) == -INF
    assert over(median, -INF, INF) is None
    assert over(ml.Quantile("x", 0.25, windows=DAY), 1.0, 2.0, 3.0, 4.0, INF) == 2.0


@pytest.mark.parametrize(("low", "high", "weight", "whole"), [
    (0.1, 0.3, 1, 2), (0.1, 0.2, 1, 3), (1e308, 1.7e308, 1, 2), (-1.7e308, 1.7e308, 19, 20), (5e-324, 1e-323, 1, 2),
    (1.0, 1.0000000000000002, 1, 2), (1.0, 1.0000000000000004, 1, 4), (0.1, 0.1, 7, 20), (-0.1, 0.1, 1, 2),
    (2**53 + 1, 2**53 + 3, 1, 2), (-(2**63), 2**63 - 1, 999, 1000), (1e-310, 1e300, 999_999_999, 10**9),
    (3.0, 3.0000000000000004, 1, 3), (10**30, 10**30 + 1, 1, 2), (1e16, 1.0, 1, 3),
])
def test_between_is_the_exact_rational_rounded_once(low: Any, high: Any, weight: int, whole: int) -> None:
    exact = (Fraction(low) * (whole - weight) + Fraction(high) * weight) / whole
    ends = (np.array([cell, cell]) for cell in (low, high))
    assert between(*ends, np.array([weight, weight]), whole).tolist() == [float(exact)] * 2


def test_between_is_exact_for_numbers_of_every_size() -> None:
    rng = np.random.default_rng(7)
    low, high = (rng.normal(size=4000) * 10.0 ** rng.integers(-30, 30, 4000) for _ in range(2))
    high[::2] = low[::2] * (1 + rng.integers(-9, 9, 2000) * 2.0**-50)
    for whole in (2, 4, 20, 1000, 10**9):
        weight = rng.integers(0, whole, len(low))
        exact = [
            float((Fraction(a) * (whole - w) + Fraction(b) * w) / whole)
            for a, b, w in zip(low.tolist(), high.tolist(), weight.tolist(), strict=True)
        ]
        assert between(low, high, weight, whole).tolist() == exact


def test_select_finds_every_rank_of_every_range() -> None:
    rng = np.random.default_rng(3)
    array = rng.integers(0, 9, 40)
    asked = [(lo, hi, k) for lo in range(40) for hi in range(lo + 1, 41, 5) for k in range(hi - lo)]
    lo, hi, rank = (np.array(part) for part in zip(*asked, strict=True))
    assert select(array, lo, hi, rank).tolist() == [sorted(array[a:b].tolist())[k] for a, b, k in asked]


@pytest.mark.parametrize(("made", "name"), [
    (ml.FirstN("amount", 5, windows=[ml.days(30)]), "amount_first_5_30d"),
    (ml.LastN("amount", 5, windows=[ml.days(30)]), "amount_last_5_30d"),
    (ml.LastDistinctN("country", 3, windows=[ml.days(7)], offset=ml.days(1)), "country_last_distinct_3_7d_before_1d"),
    (ml.Quantile("amount", 0.95, windows=DAY), "amount_q95_1d"),
    (ml.Quantile("amount", 0.999, windows=DAY), "amount_q99_9_1d"),
    (ml.Quantile("amount", 0.5, windows=DAY), "amount_q50_1d"),
    (ml.Quantile("amount", 0.05, windows=DAY), "amount_q5_1d"),
    (ml.Quantile("amount", 1e-5, windows=DAY), "amount_q0_001_1d"),
    (ml.Quantile("amount", 1, windows=DAY), "amount_q100_1d"),
    (ml.Median("amount", windows=DAY), "amount_median_1d"),
    (ml.Share(where="amount > 1", windows=DAY), "share_1d"),
    (ml.Share(where="amount > 1", windows=DAY, name="large"), "large"),
])
def test_a_parameter_is_part_of_the_name(made: Aggregate, name: str) -> None:
    assert [made.feature_name(w) for w in made.spans] == [name]


@pytest.mark.parametrize(("kind", "given", "message"), [
    (ml.LastN, ("amount",), r"n=0 is no number of values; write LastN\('amount', 5, ...\)"),
    (ml.LastDistinctN, ("amount", 2.0), r"n=2.0 is no number of values"),
    (ml.FirstN, ("amount", True), r"n=True is no number of values"),
    (ml.Quantile, ("amount",), r"must lie between 0 and 1; write Quantile\('amount', 0.95, ...\)"),
    (ml.Quantile, ("amount", 95), r"q=95 must lie between 0 and 1"),
    (ml.Quantile, ("amount", float("nan")), r"q=nan must lie between 0 and 1"),
    (ml.Quantile, ("amount", 0.1234567891), r"more than 9 decimal places; round it"),
    (ml.Share, (), r"a share is of a condition"),
    (ml.Share, ("amount",), r"takes no column; write Share\(where="),
])
def test_a_parameter_that_cannot_be_is_refused(kind: type[Aggregate], given: Sequence[Any], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        kind(*given, windows=DAY)
