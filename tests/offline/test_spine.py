"""A spine in Ray: blocks without rows, columns that some blocks lack, and what its digest tells apart."""

from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray
from deltalake import write_deltalake

import mlray as ml
from mlray.errors import SchemaError
from mlray.offline.fingerprint import combined, digest
from mlray.offline.spine import in_memory
from mlray.offline.write import build_of

NOON = pd.Timestamp("2026-01-01T12:00Z")


@pytest.fixture
def platform(ray_cluster: str, tmp_path: Path) -> ml.Platform:
    """A lake with one payment of user 7."""
    write_deltalake(str(tmp_path / "payments"), pa.table({"user": [7], "at": [NOON], "amount": [2.5]}))
    return ml.connect(ml.Settings(lake=str(tmp_path), online="memory://unused", ray=ray_cluster))


def service() -> ml.FeatureService:
    source = ml.DeltaSource("payments", path="payments", timestamp="at")
    view = ml.FeatureView("v", entity=ml.Entity("user", keys=["user"]), source=source, features=["amount"])
    return ml.FeatureService("s", features=[view])


def spine(*users: int) -> pa.Table:
    times = pa.array([NOON] * len(users), pa.timestamp("us", "UTC"))
    return pa.table({"user": pa.array(users, pa.int64()), "timestamp": times})


def test_blocks_without_rows_are_left_out(platform: ml.Platform) -> None:
    def late_users(rows: pa.Table) -> pa.Table:
        return rows.filter(pc.greater(rows["user"], 5))

    rows = ray.data.from_arrow([spine(1, 2), spine(7, 8)]).map_batches(late_users, batch_format="pyarrow")
    assert platform.build_training_set(service(), rows).to_arrow()["amount"].to_pylist() == [2.5, None]


def test_a_dataset_without_rows_gives_none(platform: ml.Platform) -> None:
    rows = ray.data.from_arrow([spine()])
    ts = platform.build_training_set(service(), rows)
    assert (ts.count(), ts.to_arrow().num_rows, ts.to_arrow().column_names) == (0, 0, ["user", "timestamp", "amount"])


def test_a_column_that_some_blocks_lack_is_null_there(platform: ml.Platform) -> None:
    rows = ray.data.from_arrow([spine(7), spine(7).append_column("shop", pa.array(["x"]))])
    assert platform.build_training_set(service(), rows).to_arrow()["shop"].to_pylist() == [None, "x"]


FRAME = pd.DataFrame({"user": [7], "timestamp": [NOON]})


@pytest.mark.parametrize(("rows", "message"), [
    (FRAME["user"], "rows are a pandas.Series; pass .* a list of dicts"),
    (pl.DataFrame(FRAME).lazy(), "rows are a polars.LazyFrame; .*collect"),
    (pd.concat([FRAME, FRAME], axis=1), "rows of the pandas.DataFrame .*[Dd]uplicate.*a name of its own"),
    (FRAME.assign(n=[2**70]), "rows of the pandas.DataFrame .*too large.*values of one type"),
    (FRAME.assign(n=[1j]), "rows of the pandas.DataFrame"),
])  # fmt: skip
def test_rows_that_arrow_has_no_columns_for_are_refused(rows: object, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        in_memory(rows)


def test_a_column_of_which_no_fingerprint_can_be_taken_is_named() -> None:
    with pytest.raises(SchemaError, match=r"'month' is .*period.*cast it"):
        digest(pa.Table.from_pandas(pd.DataFrame({"month": pd.period_range("2026-01", periods=2, freq="M")})))


def test_the_same_counts_in_another_unit_are_another_spine() -> None:
    kinds = pa.int64(), pa.timestamp("us"), pa.timestamp("s")
    tables = [pa.table({"t": pa.array([1, 2]).cast(kind)}) for kind in kinds]
    assert len({combined([digest(table)], table.schema) for table in tables}) == 3


def test_a_table_that_is_made_again_is_another_build(platform: ml.Platform, tmp_path: Path) -> None:
    #  both tables are at version 0: what was written of the first must not be taken for the second
    before = platform.build_training_set(service(), spine(7))
    write_deltalake(str(tmp_path / "again" / "payments"), pa.table({"user": [7], "at": [NOON], "amount": [9.5]}))
    again = ml.connect(ml.Settings(lake=str(tmp_path / "again"), online="memory://unused"))
    after = again.build_training_set(service(), spine(7))
    assert before.sources == after.sources == {"payments": 0}
    assert build_of(before.join, before.fingerprint) != build_of(after.join, after.fingerprint)
