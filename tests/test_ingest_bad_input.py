"""What is refused at the door, whole and with a reason; and what is large and still taken."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

import mlray as ml
from mlray.errors import TimeError, UnknownName

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

user = ml.Entity("user", keys=["user"])
payments = ml.DeltaSource("payments", path="payments", timestamp="at")
paid = ml.FeatureView("paid", entity=user, source=payments, features=[ml.Sum("amount", windows=[ml.lifetime])])
service = ml.FeatureService("service", features=[paid])


def rows(*users: str, at: datetime = NOON, amount: Any = 1.0) -> pa.Table:
    return pa.table({"user": list(users), "at": [at] * len(users), "amount": [amount] * len(users)})


@pytest.fixture
def platform(tmp_path: Path) -> ml.Platform:
    """A lake with one payment of ana, loaded into LMDB."""
    platform = ml.connect(ml.Settings(lake=tmp_path))
    platform.apply(service)
    platform.ingest("payments", rows("ana"))
    platform.materialize(service, until=NOON)
    return platform


def versions(platform: ml.Platform) -> int:
    return int(DeltaTable(f"{platform.settings.lake}/payments").version())


def test_an_unknown_source_is_named_with_its_neighbour(platform: ml.Platform) -> None:
    with pytest.raises(UnknownName, match="did you mean 'payments'"):
        platform.ingest("payment", rows("ana"))


@pytest.mark.parametrize(("bad", "wrong"), [
    (rows("ana").append_column("colour", pa.array(["red"])), "column 'colour' is not in the table"),
    (rows("ana").drop_columns(["amount"]), "column 'amount' is not in the rows"),
    (rows("ana", amount="ten"), "column 'amount' is string, the table has double"),
])  # fmt: skip
def test_columns_that_do_not_fit_are_refused_whole(platform: ml.Platform, bad: pa.Table, wrong: str) -> None:
    with pytest.raises(ml.MlrayError, match=wrong):
        platform.ingest("payments", bad)
    assert versions(platform) == 0


def test_an_event_of_the_far_future_is_refused_with_its_batch(platform: ml.Platform) -> None:
    late, near = (datetime.now(UTC) + timedelta(minutes=minutes) for minutes in (11, 9))
    with pytest.raises(TimeError, match=r"source payments: column 'at' holds .* more than the tolerance of 0:10:00"):
        platform.ingest("payments", pa.concat_tables([rows("ana"), rows("ana", at=late)]))
    assert versions(platform) == 0
    assert platform.ingest("payments", rows("ana", at=near)).version == 1
    patient = ml.connect(ml.Settings(lake=platform.settings.lake, future=timedelta(hours=1)))
    assert patient.ingest("payments", rows("ana", at=late)).version == 2


def test_an_event_time_that_a_select_makes_is_looked_at_too(tmp_path: Path) -> None:
    made = ml.DeltaSource("made", path="made", timestamp="then", select={"then": "at + INTERVAL '1 day'"})
    view = ml.FeatureView("view", entity=user, source=made, features=["amount"])
    platform = ml.connect(ml.Settings(lake=tmp_path))
    platform.apply(ml.FeatureService("made", features=[view]))
    with pytest.raises(TimeError, match="column 'then' holds"):
        platform.ingest("made", rows("ana", at=datetime.now(UTC)))
    assert platform.ingest("made", rows("ana", at=datetime.now(UTC) - timedelta(days=1))).version == 0


def test_a_key_of_a_megabyte_is_a_key_like_any_other(platform: ml.Platform) -> None:
    long, other = "x" * (1 << 20), "x" * (1 << 20) + "y"
    platform.ingest("payments", rows(long, long, other))
    answer = platform.get_features(service, [{"user": long}, {"user": other}], at=NOON + timedelta(hours=1))
    assert answer["amount_sum_lifetime"].to_pylist() == [2.0, 1.0]


FULL_LAKE = """
import os, resource, sys
from mlray import Settings, connect
from mlray.errors import StoreError
import pyarrow as pa

platform = connect(Settings(lake=sys.argv[1]))
at = pa.array([int(sys.argv[2])]).cast(pa.timestamp("us", tz="UTC"))
call = {"user": [os.urandom(100_000).hex()], "at": at, "amount": [1.0]}
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    platform.ingest("payments", pa.table(call), idempotency_key="a")
except StoreError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(platform.ingest("payments", pa.table(call), idempotency_key="a").version)
"""


def test_a_lake_without_room_is_an_error_and_the_same_call_counts_once_there_is(platform: ml.Platform) -> None:
    command = [sys.executable, "-c", FULL_LAKE, platform.settings.lake, str(int(NOON.timestamp() * 1_000_000))]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # a thread of delta-rs may panic
    error, version = ended.stdout.splitlines()
    assert (f"source payments: {platform.settings.lake}/payments cannot be written:" in error, version) == (True, "1")
    assert DeltaTable(f"{platform.settings.lake}/payments").to_pyarrow_table().num_rows == 2
