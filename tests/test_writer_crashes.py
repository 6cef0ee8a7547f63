"""A writer that is killed anywhere between a call and its answer: every event counts once, offline and online."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

import mlray as ml
from mlray.writer.writer import Writer

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)

payments = ml.DeltaSource("payments", path="payments", timestamp="at")
user = ml.Entity("user", keys=["user_id"])
paid = ml.FeatureView("paid", entity=user, source=payments, features=[ml.Sum("amount", windows=[ml.lifetime])])
often = ml.FeatureView("often", entity=user, source=payments, features=[ml.Count(windows=[ml.lifetime])])
service = ml.FeatureService("service", features=[paid, often])

WRITER = """
import json, sys
import pyarrow as pa
from mlray.features.applied import Applied
from mlray.offline.appends import Appender
from mlray.online import state
from mlray.online.store import open_store
from mlray.writer.writer import Writer

lake, point, rows = json.loads(sys.argv[1])

def stops(at, function):
    def call(*arguments, **named):
        stop(f"before {at}")
        result = function(*arguments, **named)
        stop(f"after {at}")
        return result
    return call

def stop(here):
    global left
    seen[here] = seen.get(here, 0) + 1
    if point == f"{here} {seen[here]}":
        print("stopped", flush=True)
        sys.stdin.readline()

seen = {}
Appender.append = stops("commit", Appender.append)
state.push = stops("push", state.push)
writer = Writer(lake, open_store(f"lmdb://{lake}/_mlray/online"), clock=lambda: 2_000_000_000_000_000)
made = pa.Table.from_pylist(rows)
made = made.set_column(1, "at", made["at"].cast(pa.timestamp("us", tz="UTC")))
print(writer.ingest(Applied(lake).source("payments"), made, "a").version)
"""
"""Ingests rows under the key `a`, and stops where it is told to: the n-th time that it comes there."""


def rows(*amounts: int) -> list[dict[str, Any]]:
    at = int((NOON + HOUR).timestamp() * 1_000_000)
    return [{"user_id": 7, "at": at, "amount": amount} for amount in amounts]


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[ml.Platform]:
    """A lake with one payment of 1 at noon, loaded into LMDB."""
    platform = ml.connect(ml.Settings(lake=tmp_path))
    platform.apply(service)
    platform.ingest("payments", pa.table({"user_id": [7], "at": [NOON], "amount": [1]}))
    platform.materialize(service, until=NOON)
    yield platform
    platform.online.close()


def killed(platform: ml.Platform, point: str) -> None:
    """A process ingests 10 and 20 and is killed at that point."""
    arguments = json.dumps([platform.settings.lake, point, rows(10, 20)])
    command = [sys.executable, "-c", WRITER, arguments]
    with subprocess.Popen(command, env=os.environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "stopped\n"
        writer.kill()


@pytest.mark.parametrize("point", [
    "before commit 1", "after commit 1", "before push 1", "after push 1", "before push 2", "after push 2",
])
def test_a_call_that_is_repeated_after_a_kill_counts_once_on_both_sides(platform: ml.Platform, point: str) -> None:
    killed(platform, point)
    successor = ml.connect(platform.settings)
    again = pa.table({"user_id": [7] * 2, "at": [NOON + HOUR] * 2, "amount": [10, 20]})
    successor.ingest("payments", again, idempotency_key="a")
    online = successor.get_features(service, [{"user_id": 7}], at=NOON + 2 * HOUR).to_pylist()
    offline = DeltaTable(f"{platform.settings.lake}/payments").to_pyarrow_table()["amount"].to_pylist()
    assert sorted(offline) == [1, 10, 20]
    assert online == [{"amount_sum_lifetime": 31, "count_lifetime": 3}]


def test_a_writer_that_starts_pushes_what_its_predecessor_could_not(platform: ml.Platform) -> None:
    killed(platform, "before push 2")
    before = platform.get_features(service, [{"user_id": 7}], at=NOON + 2 * HOUR).to_pylist()
    assert before == [{"amount_sum_lifetime": 31, "count_lifetime": 1}]
    Writer(platform.settings.lake, platform.online, clock=lambda: 0).repair()
    after = platform.get_features(service, [{"user_id": 7}], at=NOON + 2 * HOUR).to_pylist()
    assert after == [{"amount_sum_lifetime": 31, "count_lifetime": 3}]
