"""The order of events does not depend on how it is found."""

import numpy as np
import pyarrow as pa
import pytest

import mlray as ml
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
