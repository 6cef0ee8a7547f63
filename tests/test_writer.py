"""One writer: waiting calls become one commit, room is bounded, what was accepted is answered before the end."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

import mlray as ml
from mlray.errors import Busy, RequestTooLarge, SchemaError, StoreError
from mlray.ingest import Ingested
from mlray.offline.appends import Appender, Batch, transaction
from mlray.online.store import OnlineStore, open_store
from mlray.writer.lane import Lane, Limits
from mlray.writer.parts import ingest_parts
from mlray.writer.writer import Writer

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW = int(NOON.timestamp() * 1_000_000)

payments = ml.DeltaSource("payments", path="payments", timestamp="at")
user = ml.Entity("user", keys=["user_id"])
paid = ml.FeatureView("paid", entity=user, source=payments, features=[ml.Sum("amount", windows=[ml.lifetime])])
service = ml.FeatureService("service", features=[paid])


def rows(*amounts: Any, user_id: int = 7) -> pa.Table:
    return pa.table({"user_id": [user_id] * len(amounts), "at": [NOON] * len(amounts), "amount": list(amounts)})


class Held:
    """A commit of a lane that waits until it is let go; it notes what each group held and answers it doubled."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.begun, self.go = Event(), Event()

    def __call__(self, batches: Sequence[int]) -> list[int | Exception]:
        self.groups.append(list(batches))
        self.begun.set()
        assert self.go.wait(30)
        return [SchemaError("13") if batch == 13 else 2 * batch for batch in batches]


def lane(commit: Held, timer: Callable[[], float] = lambda: 0.0, **limits: int) -> Lane[int, int]:
    return Lane("source s", commit, Limits(**limits), timer=timer)


def put(to: Lane[int, int], *batches: int) -> list[Any]:
    """One call per batch, each of as many rows as the batch is; the first is being committed when this returns."""
    for batch in batches:
        to.admit(batch)
    return [to.put(batch, batch) for batch in batches]


def test_calls_that_wait_while_one_is_committed_go_together_and_each_gets_its_own_answer() -> None:
    held = Held()
    queue = lane(held)
    first = put(queue, 1)
    assert held.begun.wait(30)
    others = put(queue, 2, 13, 4)
    held.go.set()
    queue.close()
    assert held.groups == [[1], [2, 13, 4]]
    assert [one.result() for one in (*first, others[0], others[2])] == [2, 4, 8]
    with pytest.raises(SchemaError, match="13"):
        others[1].result()


def test_after_a_commit_those_who_came_before_are_waited_for_until_all_are_there() -> None:
    #  commits    [ 1: 100 s )     [ 2 3 4 )
    #  calls      1     2 3     4           the last one came within 10 s, and then nobody else is expected
    held, times = Held(), iter([0.0, 0.0, 0.0, 0.0, 100.0, *[100.0] * 9])
    queue = lane(held, timer=lambda: next(times))
    [first] = put(queue, 1)
    assert held.begun.wait(30)
    put(queue, 2, 3)
    held.go.set()
    assert first.result() == 2
    [last] = put(queue, 4)
    assert last.result(5) == 8
    assert held.groups == [[1], [2, 3, 4]]


@pytest.mark.parametrize("commit", [0.5, 100.0])  # seconds; a tenth of the longer one would be 10
def test_a_caller_who_does_not_come_again_is_waited_for_a_tenth_of_the_commit_and_never_long(commit: float) -> None:
    held, times = Held(), iter([0.0, 0.0, 0.0, commit, *[commit] * 9])
    queue = lane(held, timer=lambda: next(times))
    put(queue, 1)
    assert held.begun.wait(30)
    [second] = put(queue, 2)
    held.go.set()
    assert second.result(5) == 4
    assert put(queue, 3)[0].result(5) == 6
    assert held.groups == [[1], [2], [3]]


def test_a_group_is_bounded_in_rows_and_in_calls() -> None:
    for limits, groups in (({"rows": 5}, [[1], [2, 3], [4], [9]]), ({"calls": 2}, [[1], [2, 3], [4, 9]])):
        held = Held()
        queue = lane(held, **limits)
        put(queue, 1)
        assert held.begun.wait(30)
        put(queue, 2, 3, 4, 9)
        held.go.set()
        queue.close()
        assert held.groups == groups


def test_where_too_many_rows_wait_a_call_is_refused_with_the_seconds_that_they_take() -> None:
    held, times = Held(), iter([0.0, 0.0, 2.0, *[2.0] * 9])
    queue = lane(held, timer=lambda: next(times), waiting=100)
    held.go.set()
    put(queue, 20)[0].result()  # 20 rows in 2 seconds
    held.go.clear()
    put(queue, 70)
    with pytest.raises(Busy, match=r"70 rows wait to be written, 40 more would be over 100; try again in 7 s") as busy:
        queue.admit(40)
    assert busy.value.retry_after == 7
    with pytest.raises(RequestTooLarge, match="101 rows in one call, at most 100"):
        queue.admit(101)
    held.go.set()
    queue.close()
    with pytest.raises(Busy, match="the writer is ending"):
        queue.admit(1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[OnlineStore]:
    opened = open_store(f"lmdb://{tmp_path}/_mlray/online")
    yield opened
    opened.close()


@pytest.fixture
def platform(tmp_path: Path) -> ml.Platform:
    """A lake with one payment of 1, loaded."""
    platform = ml.connect(ml.Settings(lake=tmp_path))
    platform.apply(service)
    platform.ingest("payments", rows(1))
    platform.materialize(service, until=NOON)
    return platform


def sums(platform: ml.Platform, *users: int) -> list[Any]:
    answer = platform.get_features(service, [{"user_id": u} for u in users], at=NOON + timedelta(hours=1))
    found: list[Any] = answer["amount_sum_lifetime"].to_pylist()
    return found


def amounts(platform: ml.Platform) -> list[int]:
    return sorted(DeltaTable(f"{platform.settings.lake}/payments").to_pyarrow_table()["amount"].to_pylist())


def test_many_small_calls_are_few_commits_and_every_row_is_there(platform: ml.Platform, store: OnlineStore) -> None:
    writer = Writer(platform.settings.lake, store, clock=lambda: NOW)
    pending = [writer.submit(payments, rows(10, user_id=u), f"k{u % 30}") for u in range(100, 140)]
    answers = [one.result() for one in pending]
    writer.stop()
    versions = {one.version for one in answers if one.version is not None}
    assert (sum(one.rows for one in answers), len(versions) < 20, len(amounts(platform))) == (30, True, 31)
    assert sums(platform, 7, *range(100, 140)) == [1, *[10] * 30, *[None] * 10]
    [stats] = writer.stats()
    assert (stats.calls, stats.waiting, stats.newest, stats.age) == (40, 0, NOW, 0.0)


def test_a_call_whose_rows_do_not_fit_is_refused_alone(platform: ml.Platform, store: OnlineStore) -> None:
    double = ml.DeltaSource("payments", path="payments", timestamp="at", select={"amount": "CAST(note AS BIGINT)"})
    view = ml.FeatureView("noted", entity=user, source=double, features=[ml.Sum("amount", windows=[ml.lifetime])])
    lake = f"{platform.settings.lake}/other"
    other = ml.connect(ml.Settings(lake=lake, online=platform.settings.online))
    other.apply(ml.FeatureService("noted", features=[view]))
    writer = Writer(lake, store, clock=lambda: NOW)
    notes = [rows(1).append_column("note", pa.array([note])) for note in ("5", "five", "6")]
    pending = [writer.submit(double, one) for one in notes]
    assert [one.result().rows for one in (pending[0], pending[2])] == [1, 1]
    with pytest.raises(ml.MlrayError, match="five"):
        pending[1].result()
    writer.stop()
    assert len(DeltaTable(f"{lake}/payments").to_pyarrow_table()) == 2


class Overtaken(Appender):
    """One whom another process overtakes, with the same batch, between its look at the table and its commit."""

    def _newest(self) -> DeltaTable | None:
        found = super()._newest()
        if found is None or found.version() == 0:
            Appender(self.path, "the quicker one").append([Batch(rows(10), "k")])
        return found


@pytest.mark.parametrize("there", [False, True])
def test_of_two_processes_with_one_key_the_slower_adds_nothing_also_where_both_make_the_table(
    tmp_path: Path, there: bool
) -> None:
    if there:
        write_deltalake(f"{tmp_path}/table", rows(1))
    both = Overtaken(f"{tmp_path}/table", "the slower one").append([Batch(rows(10), "k"), Batch(rows(20))])
    stored = DeltaTable(f"{tmp_path}/table").to_pyarrow_table()["amount"].to_pylist()
    assert (both.new, sorted(stored)) == ((False, True), [1] * there + [10, 20])


BESIDE = """
import sys
import pyarrow as pa
from mlray.features.applied import Applied
from mlray.online.store import open_store
from mlray.writer.writer import Writer

lake, now, first = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
writer = Writer(lake, open_store(f"lmdb://{lake}/_mlray/online"), clock=lambda: now)
source = Applied(lake).source("payments")
at = pa.array([now]).cast(pa.timestamp("us", tz="UTC"))
print("ready", flush=True)
sys.stdin.readline()
for amount in range(first, first + 20):
    writer.ingest(source, pa.table({"user_id": [7], "at": at, "amount": [amount]}))
"""


def test_two_processes_that_ingest_beside_each_other_lose_nothing(platform: ml.Platform) -> None:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([sys.executable, "-c", BESIDE, platform.settings.lake, str(NOW), first], **pipes)
            for first in ("100", "200")]
    assert [one.stdout.readline() for one in both] == ["ready\n"] * 2
    for one in both:
        one.stdin.write("\n")
        one.stdin.flush()
    assert [one.communicate()[0] or one.returncode for one in both] == [0, 0]
    assert amounts(platform) == [1, *range(100, 120), *range(200, 220)]
    assert sums(platform, 7) == [sum(amounts(platform))]


def test_a_repeated_key_is_answered_when_its_rows_can_be_read_whoever_committed_them(
    platform: ml.Platform, store: OnlineStore
) -> None:
    writer = Writer(platform.settings.lake, store, clock=lambda: NOW)
    writer.ingest(payments, rows(100))
    lost = Batch(rows(10), transaction("payments", "a"))
    Appender(f"{platform.settings.lake}/payments", "a process that died here").append([lost])
    assert writer.ingest(payments, rows(10), "a").version is None
    assert sums(platform, 7) == [111]


DRAINED = """
import signal, sys
import pyarrow as pa
from mlray.features.applied import Applied
from mlray.online.store import open_store
from mlray.writer.writer import Writer

lake, now = sys.argv[1], int(sys.argv[2])
writer = Writer(lake, open_store(f"lmdb://{lake}/_mlray/online"), clock=lambda: now)
source = Applied(lake).source("payments")
at = pa.array([now]).cast(pa.timestamp("us", tz="UTC"))

def end(*_):
    writer.stop()
    print(sum(one.result().rows for one in pending), flush=True)
    sys.exit(0)

signal.signal(signal.SIGTERM, end)
pending = [writer.submit(source, pa.table({"user_id": [7], "at": at, "amount": [i]})) for i in range(100, 130)]
print("accepted", flush=True)
signal.pause()
"""


def test_a_process_told_to_end_answers_all_that_it_has_accepted(platform: ml.Platform) -> None:
    command = [sys.executable, "-c", DRAINED, platform.settings.lake, str(NOW)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "accepted\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "30\n"
    assert (process.returncode, amounts(platform)) == (0, [1, *range(100, 130)])
    assert sums(platform, 7) == [1 + sum(range(100, 130))]


def test_a_call_of_more_rows_than_may_wait_is_cut_and_a_repeated_one_goes_on_where_it_stopped() -> None:
    done: dict[str | None, int] = {}
    busy = [Busy("full", 3)]
    pauses: list[float] = []

    def take(source: ml.DeltaSource, part: pa.Table, key: str | None) -> Ingested:
        if part.num_rows < 10 and busy:
            raise busy.pop()
        new = key not in done
        done.setdefault(key, part.num_rows)
        return Ingested(source.name, part.num_rows * new, len(done) if new else None, ("paid",) if new else ())

    many = pa.table({"amount": list(range(25))})
    assert ingest_parts(take, payments, many, "k", 10, pauses.append) == Ingested("payments", 25, 3, ("paid",))
    assert (list(done.values()), pauses) == ([10, 10, 5], [3])
    del done["k\n1"]
    assert ingest_parts(take, payments, many, "k", 10, pauses.append).rows == 10


class Away:
    """A real store that cannot be written while it is away."""

    def __init__(self, store: OnlineStore) -> None:
        self.store, self.away = store, False

    def write(self, *arguments: Any, **named: Any) -> int:
        if self.away:
            raise StoreError("the store is away")
        return self.store.write(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


def test_a_store_that_goes_away_loses_nothing_and_is_made_complete_when_it_is_back(
    platform: ml.Platform, store: OnlineStore
) -> None:
    away = Away(store)
    writer = Writer(platform.settings.lake, away, clock=lambda: NOW)  # type: ignore[arg-type]
    away.away = True
    with pytest.raises(StoreError, match="away"):
        writer.ingest(payments, rows(10), "a")
    assert (sums(platform, 7), amounts(platform)) == ([1], [1, 10])
    writer.repair()
    assert "the store is away" in str(writer.stats()[0].problem)
    away.away = False
    writer.repair()
    assert (sums(platform, 7), writer.stats()[0].problem) == ([11], None)
    assert writer.ingest(payments, rows(10), "a").rows == 0
    writer.stop()


def test_who_watches_is_told_of_each_commit_and_of_the_newest_event_also_while_nothing_comes(
    platform: ml.Platform, store: OnlineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlray.writer.writer.REPAIR_EVERY", 0.01)
    told, later = list[Any](), Event()

    def watch(source: str, waited: Sequence[float], newest: int | None) -> None:
        told.append((source, len(waited), newest))
        if not waited:
            later.set()
            raise ValueError("of no consequence")

    writer = Writer(platform.settings.lake, store, clock=lambda: NOW, watch=watch)
    assert writer.ingest(payments, rows(10, 20)).rows == 2
    writer.start()
    assert later.wait(30)
    assert writer.ingest(payments, rows(30)).rows == 1
    writer.stop()
    assert {*told} == {("payments", 1, NOW), ("payments", 0, NOW)}


def test_a_view_that_came_into_force_while_a_writer_runs_is_fed(platform: ml.Platform, store: OnlineStore) -> None:
    writer = Writer(platform.settings.lake, store, clock=lambda: NOW)
    writer.ingest(payments, rows(10))
    count = ml.FeatureView("count", entity=user, source=payments, features=[ml.Count(windows=[ml.lifetime])])
    counted = ml.FeatureService("counted", features=[count])
    platform.apply(counted)
    platform.materialize(counted, until=NOON)
    writer.ingest(payments, rows(100))
    writer.stop()
    at = NOON + timedelta(hours=1)
    assert platform.get_features(counted, [{"user_id": 7}], at=at)["count_lifetime"].to_pylist() == [3]
