"""Slices: every row is in one, also a row whose value is missing, and no slice is forgotten."""

import numpy as np
import pyarrow as pa

from mlray.gates.slices import Slices, crossed, sliced


def column(values: list[object], dtype: pa.DataType | None = None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, dtype)])


def counts(slices: Slices) -> dict[str, int]:
    return dict(zip(slices.names, slices.rows.tolist(), strict=True))


def test_texts_booleans_and_few_integers_go_by_value_and_what_is_missing_is_a_slice() -> None:
    assert counts(sliced("c", column(["b", "a", None, "a"]))) == {"a": 2, "b": 1, "(missing)": 1}
    assert counts(sliced("b", column([True, False, True]))) == {"false": 1, "true": 2}
    assert counts(sliced("n", column([3, 1, 3]))) == {"1": 1, "3": 2}
    assert counts(sliced("d", column(["x", "y", "x"]).dictionary_encode())) == {"x": 2, "y": 1}


def test_numbers_go_by_quantile_each_from_its_low_end_to_before_its_high_end() -> None:
    values = [float(i) for i in range(8)] + [None]
    assert counts(sliced("x", column(values), bins=2)) == {"< 3": 3, ">= 3": 5, "(missing)": 1}
    assert counts(sliced("same", column([5.0, 5.0, 5.0]))) == {"all": 3}
    assert counts(sliced("none", column([None, None], pa.float64()))) == {"all": 0, "(missing)": 2}


def test_of_many_values_the_most_frequent_have_slices_and_the_rest_is_one() -> None:
    found = counts(sliced("tail", column([f"t{i:03}" for i in range(150)] + ["t149"])))
    assert len(found) == 101
    assert (found["t149"], found["(other)"]) == (2, 50)


def test_a_crossing_has_every_combination_also_one_without_a_row() -> None:
    a, b = sliced("a", column(["x", "x", "y"])), sliced("b", column(["1", "2", "1"]))
    both = crossed([a, b])
    assert both.column == "a x b"
    assert counts(both) == {"x, 1": 1, "x, 2": 1, "y, 1": 1, "y, 2": 0}
    assert {name: rows.tolist() for name, rows in both.each()}["y, 1"] == [2]


def test_no_row_at_all_makes_no_slice_but_the_whole() -> None:
    assert counts(sliced("x", column([], pa.float64()))) == {"all": 0}
    assert sliced("c", column([], pa.string())).codes.dtype == np.int64
