"""How a view is joined, by what the spine's times can meet."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

import mlray as ml
from mlray.offline import delta, plan
from mlray.offline.log import File

START, DAYS, A_DAY = datetime(2026, 1, 1, tzinfo=UTC), 10, 100


@pytest.fixture
def platform(ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ml.Platform:
    """A table of a file a day, with a managed copy; nothing is small enough to be broadcast."""
    monkeypatch.setattr(plan, "BROADCAST_ROWS", 0)
    for day in range(DAYS):
        at = pa.array([START + timedelta(days=day)] * A_DAY, pa.timestamp("us", "UTC"))
        write_deltalake(tmp_path / "payments", pa.table({"user": range(A_DAY), "at": at}), mode="append")
    platform = ml.connect(ml.Settings(lake=str(tmp_path), online="memory://unused", ray=ray_cluster))
    platform.applied_diff(service())
    platform.layout("payments")
    return platform


def service() -> ml.FeatureService:
    source = ml.DeltaSource("payments", path="payments", timestamp="at")
    count = ml.Count(windows=[ml.hours(1)])
    view = ml.FeatureView("v", entity=ml.Entity("user", keys=["user"]), source=source, features=[count])
    return ml.FeatureService("s", features=[view])


#   files     0   1   2   3   4   5   6   7   8   9
#   one day                                       q      meets 1 of 10: what a copy would be read for in vain
#   two days                                  q   q      meets 2 of 10: less than a shuffle of them costs
@pytest.mark.parametrize(("days", "join"), [([9], "shuffle"), ([8, 9], "co-partitioned")])
def test_a_spine_whose_times_meet_little_of_a_table_does_not_read_the_whole_copy(
    days: list[int], join: str, platform: ml.Platform
) -> None:
    at = pa.array([START + timedelta(days=day, seconds=1) for day in days], pa.timestamp("us", "UTC"))
    ts = platform.build_training_set(service(), pa.table({"user": [7] * len(days), "timestamp": at}))
    assert f"v: {join} of payments" in ts.explain()
    assert ts.to_arrow()["count_1h"].to_pylist() == [1] * len(days)


#   rows told: 1,000 in 100 MiB are shared with every worker. Not told: as many bytes may hold a hundred million
@pytest.mark.parametrize(("rows", "join"), [(1000, "broadcast"), (None, "shuffle")])
def test_a_table_whose_log_tells_no_rows_is_shared_only_if_its_files_are_very_small(
    rows: int | None, join: str, tmp_path: Path
) -> None:
    at = pa.schema([("user", pa.int64()), ("at", pa.timestamp("us", "UTC"))])
    write_deltalake(tmp_path, at.empty_table())
    files = (File("f", rows, 100 << 20),)
    table = delta.Table(str(tmp_path), 0, at, rows or 0, 100 << 20, files)
    (read,) = plan.plan(service(), {"payments": table}, str(tmp_path), "auto", (0, 1))
    assert read.join == join
