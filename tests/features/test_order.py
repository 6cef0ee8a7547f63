"""The order of events does not depend on how it is found."""

import numpy as np
import pyarrow as pa
import pytest

import mlray as ml
from mlray.aggregation.timeline import NOWHERE, Axis, Timeline
from mlray.aggregation.window import EARLIEST, LATEST
from mlray.features.order import in_order
from mlray.features.rows import events

SOURCE = ml.DeltaSource("s", path="s", timestamp="at")
VIEW = ml.FeatureView("v", entity=ml.Entity("k", keys=["k"]), source=SOURCE, features=["x"])


@pytest.mark.parametrize("keys", [1, 50, 1 << 16, (1 << 16) + 1])
@pytest.mark.parametrize("late", [0, 3, 2000], ids=["in order", "nearly in order", "in any order"])
def test_rows_are_ordered_by_key_and_time_however_they_come(keys: int, late: int) -> None:
    rng = np.random.default_rng(keys + late)
    at = np.sort(rng.integers(0, 1500, 2000))
    moved = rng.permutation(2000)[:late]
    at[moved] = at[rng.permutation(moved)]
    codes = rng.integers(0, keys, 2000)
    codes[0] = keys - 1
    table = pa.table({"k": codes, "at": pa.array(at, pa.timestamp("us")), "x": rng.integers(0, 3, 2000)})
    order = in_order(VIEW, events(VIEW, table), codes)
    rows = np.arange(2000) if order.rows is None else order.rows
    wanted = np.lexsort((table["x"].to_numpy(), at, codes))
    for column in (codes, at, table["x"].to_numpy()):
        assert column[rows].tolist() == column[wanted].tolist()
    assert (np.diff(order.marks) >= 0).all()


@pytest.mark.parametrize("first", [EARLIEST, -7, LATEST - 40])
@pytest.mark.parametrize("asked", [[0, 1, 2, NOWHERE, 2], [2], [NOWHERE], []])
def test_all_rows_of_a_key_before_an_instant_are_those_a_plain_look_finds(first: int, asked: list[int]) -> None:
    #  key 0 |--x--x----x|   key 1 |-----------|   key 2 |x---xx-----|
    codes = np.array([0, 0, 0, 2, 2, 2])
    times = first + np.array([3, 7, 20, 0, 9, 9])
    axis = Axis.of(codes, times)
    timeline = Timeline(axis, axis.places(codes, times))
    queries = np.array(asked, dtype=np.int64)
    for until in (first, first + 8, first + 40):
        lo, hi = timeline.positions(queries, np.full(len(queries), EARLIEST), np.full(len(queries), until))
        found = [np.arange(a, b).tolist() for a, b in zip(lo, hi, strict=True)]
        assert found == [np.flatnonzero((codes == code) & (times < until)).tolist() for code in asked]
