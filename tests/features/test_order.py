"""The order of events does not depend on how it is found."""

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

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


FAR = np.array([EARLIEST, -7, LATEST, EARLIEST, 0, 0])
"""So far apart that the axis counts instants."""
NEAR = np.array([3, 7, 20, 0, 9, 9])


@pytest.mark.parametrize("times", [FAR, NEAR, NEAR + EARLIEST, NEAR + (LATEST - 40), NEAR * 2**55], ids=str)
@pytest.mark.parametrize("asked", [[0, 1, 2, NOWHERE, 2], [2], [NOWHERE], [], [0, 3, 1, 2, NOWHERE], [117, 1 << 40, 0]])
def test_all_rows_of_a_key_before_an_instant_are_those_a_plain_look_finds(
    times: NDArray[np.int64], asked: list[int]
) -> None:
    #  key 0 |--x--x----x|   key 1 |-----------|   key 2 |x---xx-----|   others have none
    codes = np.array([0, 0, 0, 2, 2, 2])
    axis = Axis.of(codes, times)
    assert (axis.instants is not None) == (times is FAR)
    timeline = Timeline(axis, axis.places(codes, times))
    queries, always = np.array(asked, dtype=np.int64), np.full(len(asked), EARLIEST)
    for until in (times[3], times[1], times[2]):
        lo, hi = timeline.positions(queries, always, np.full(len(queries), until))
        found = [np.arange(a, b).tolist() for a, b in zip(lo, hi, strict=True)]
        assert found == [np.flatnonzero((codes == code) & (times < until)).tolist() for code in asked]
        assert lo.tolist() == timeline.first(queries, always).tolist()


def test_a_key_beyond_all_that_have_events_does_not_meet_those_of_another() -> None:
    axis = Axis.of(np.array([0, 0]), np.array([0, 2**51 - 2]))
    timeline = Timeline(axis, np.array([0, 2**51 - 2]))
    assert timeline.first(np.array([8192]), np.array([0])).tolist() == [2]  # 8192 times 2^51 is 2^64


@pytest.mark.parametrize(("codes", "rows"), [([0, 0, 1, 2], None), ([0, 0, 2, 1], [0, 1, 3, 2])])
def test_rows_that_lie_in_order_with_their_ties_are_not_moved(codes: list[int], rows: list[int] | None) -> None:
    at = pa.array([5, 5, 5, 5], pa.timestamp("us"))
    table = pa.table({"k": codes, "at": at, "x": [0, 1, 2, 3]})
    found = in_order(VIEW, events(VIEW, table), np.array(codes)).rows
    assert (None if found is None else found.tolist()) == rows
