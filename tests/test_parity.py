"""THE LAW: a training row as of time t equals, bit for bit, what online serving would have answered at t."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random

import declared
import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from generated import (
    SLOTS,
    START,
    STEP,
    UTC_TIME,
    World,
    differences,
    every_window,
    expected,
    lean,
    plain,
    split,
    world,
)
from oracle import Row

import mlray as ml
from mlray.features.rows import events
from mlray.features.types import instants
from mlray.ingest import ingest
from mlray.materialize import materialize
from mlray.offline.training_set import build
from mlray.online import state
from mlray.online.folding import FOLD
from mlray.online.retrieval import get_features
from mlray.online.store import OnlineStore, open_store

NEVER = START + 1000 * SLOTS * STEP
STORES = ("memory", "lmdb")


def store_at(kind: str, path: Path) -> OnlineStore:
    return open_store(f"memory://{path.name}" if kind == "memory" else f"lmdb://{path}/online")


def service_of(parts: Sequence[World]) -> ml.FeatureService:
    """One view per part."""
    return ml.FeatureService("service", features=[declared.view(part, f"view{i}") for i, part in enumerate(parts)])


class Lake:
    """The two ways into the online store, by their verbs over a Delta table."""

    def __init__(self, parts: Sequence[World], store: OnlineStore, path: Path, rows: pa.Table) -> None:
        self.store, self.path = store, str(path)
        self.service, self.source = service_of(parts), declared.source(parts[0])
        write_deltalake(f"{path}/events", rows)

    def materialize(self, until: int, history: int) -> None:
        list(materialize(self.store, self.service, self.path, until=until, history=history))

    def ingest(self, rows: pa.Table, times: int, name: str) -> None:
        for _ in range(times):
            ingest(self.store, self.source, self.service.views, rows, self.path, now=0, idempotency_key=name)


class Remembered(Lake):
    """The same without a disk, so that many more histories can be tried: a version is the number of batches. fold: of
    how many batches one is made; few, so that short histories meet it.
    """

    fold = FOLD

    def __init__(self, parts: Sequence[World], store: OnlineStore, path: Path, rows: pa.Table) -> None:  # noqa: ARG002
        self.store, self.service, self.batches = store, service_of(parts), [rows]

    def materialize(self, until: int, history: int) -> None:
        rows, version = pa.concat_tables(self.batches), len(self.batches) - 1
        for view in self.service.views:
            state.load(self.store, view, events(view, rows), version=version, until=until, history=history)

    def ingest(self, rows: pa.Table, times: int, name: str) -> None:  # noqa: ARG002
        self.batches.append(rows)
        for view in self.service.views * times:
            version = len(self.batches) - 1
            state.push(self.store, view, events(view, rows), version=version, whole=False, fold=self.fold)


class Folding(Remembered):
    fold = 2


class AlwaysFolding(Remembered):
    fold = 1


def live_through(
    parts: Sequence[World], store: OnlineStore, path: Path, rng: Random, lake: type[Lake] = Lake
) -> Iterator[tuple[list[int], pa.Table]]:
    """History as it may arrive: what has happened by the first cut is materialised, all else ingested.

    Parts differ in their views only. Late knowledge arrives late or early, batches are shuffled, cut anywhere and
    repeated. Yields the positions of the queries that can be asked by then, and the online answers.
    """
    asked = parts[0]
    cuts = [*sorted(START + slot * STEP for slot in rng.sample(range(2, SLOTS), 3)), NEVER]
    stages = [_stage(asked, row, cuts, rng) for row in range(asked.table.num_rows)]
    held = lake(parts, store, path, _rows(asked, stages, 0, rng))
    history = rng.choice([0, 5 * STEP])
    for stage in range(1, len(cuts)):
        if stage == 1 or rng.random() < 0.6:
            held.materialize(cuts[stage - 1] - (rng.choice([0, 0, STEP, 3 * STEP]) if stage > 1 else 0), history)
        for batch in _batches(asked, _rows(asked, stages, stage, rng), rng):
            held.ingest(batch, rng.choice([1, 1, 2]), str(rng.random()))
        since = cuts[stage - 1] - (history if stage == 1 else 0)
        since = max(since, *(state.state_of(store, view).reach or since for view in held.service.views))  # folded
        due = [i for i, (_, q) in enumerate(asked.queries) if q is not None and since <= q // 1000 < cuts[stage]]
        rows = asked.spine.take(pa.array(due, pa.int64()))
        yield due, get_features(store, held.service, rows, instants(rows["timestamp"], "timestamp"))


def _stage(asked: World, row: int, cuts: Sequence[int], rng: Random) -> int:
    """When a row comes: by the cut after its time, or earlier; where it is known late, perhaps only then."""
    source, cells = asked.view.source, asked.rows[row]
    times = [cells[source.timestamp]] if source.timestamp else [START]
    if source.known_at and rng.random() < 0.5:
        times.append(cells[source.known_at])
    due = max(NEVER if time is None else time for time in times)
    stage = next(stage for stage, cut in enumerate(cuts) if due <= cut)
    return rng.randint(1, stage) if stage > 1 and rng.random() < 0.4 else stage


def _rows(asked: World, stages: Sequence[int], stage: int, rng: Random) -> pa.Table:
    picked = [row for row, due in enumerate(stages) if due == stage]
    return asked.table.take(pa.array(rng.sample(picked, len(picked)), pa.int64()))


def _batches(asked: World, rows: pa.Table, rng: Random) -> Iterator[pa.Table]:
    """Some batches; where a sequence names the events, some of them once more."""
    cut = rng.randint(0, rows.num_rows)
    yield from (part for part in (rows.slice(0, cut), rows.slice(cut)) if part.num_rows)
    if asked.view.source.sequence and rng.random() < 0.5:
        yield rows.filter(rows["seq"].is_valid())


def unequal(parts: Sequence[World], due: Sequence[int], found: pa.Table, wanted: Sequence[Sequence[Row]]) -> list[str]:
    """The cells of the queries `due` that are not the wanted ones."""
    return [
        text
        for part, answers in zip(parts, wanted, strict=True)
        for text in differences(replace(part, queries=[part.queries[i] for i in due]), found, [answers[i] for i in due])
    ]


def check(seed: int, kind: str, path: Path, lake: type[Lake]) -> None:
    """One world by its seed: dense or sparse; one view, one per feature, or one that needs little."""
    size = 6 + 9 * (seed % 7)
    asked = world(seed, size, timeless=False, features=lean(seed)) if seed % 4 > 1 else world(seed, size)
    parts = split(asked) if seed % 4 == 1 else [asked]
    wanted = [expected(part) for part in parts]
    for due, found in live_through(parts, store_at(kind, path), path, Random(seed), lake):
        assert unequal(parts, due, found, wanted) == []


@pytest.mark.parametrize("seed", range(16))
def test_online_answers_equal_the_oracle(seed: int, tmp_path: Path) -> None:
    check(seed, STORES[seed // 2 % 2], tmp_path, Lake)


@pytest.mark.parametrize("seed", range(100))
def test_online_answers_equal_the_oracle_in_many_histories(seed: int, tmp_path: Path) -> None:
    check(seed, "memory", tmp_path, (Remembered, Folding, AlwaysFolding)[seed % 3])


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("seed", range(6))
def test_a_training_row_equals_the_online_answer(seed: int, kind: str, tmp_path: Path) -> None:
    asked = world(seed, 100, timeless=False, features=every_window())
    store = store_at(kind, tmp_path)
    answers = list(live_through([asked], store, tmp_path, Random(seed)))
    ts = build(service_of([asked]), asked.spine, lake=str(tmp_path), label=None, timestamp="timestamp")
    columns = {name: plain(column) for name, column in zip(ts.features, ts.to_arrow().select(ts.features), strict=True)}
    training = [{name: columns[name][i] for name in ts.features} for i in range(ts.count())]
    assert sum(len(due) for due, _ in answers) > 30
    for due, found in answers:
        assert unequal([asked], due, found, [training]) == []
        assert found.schema == ts.to_arrow().select(ts.features).schema
    assert np.unique([i for due, _ in answers for i in due]).size == sum(len(due) for due, _ in answers)


def after_a_load(rows: list[tuple[int, int, int]], until: int, at: list[int], **source: str) -> list[int | None]:
    """The latest `v` at each instant; rows (ts, known, v), all in the table that is loaded up to `until`, history 0."""
    ts, known, v = zip(*rows, strict=True)
    table = pa.table({"k": ["a"] * len(rows), "ts": pa.array(ts, UTC_TIME), "known": pa.array(known, UTC_TIME), "v": v})
    held = ml.DeltaSource("e", path="e", timestamp="ts", known_at="known", select={"seq": "1"}, **source)
    view = ml.FeatureView("v", entity=ml.Entity("k", keys=["k"]), source=held, features=["v"])
    store = open_store(f"memory://after-{rows}")
    state.load(store, view, events(view, table), version=0, until=until, history=0)
    asked = pa.table({"k": ["a"] * len(at)})
    moments = instants(pa.array(at, UTC_TIME), "at")
    return get_features(store, ml.FeatureService("s", features=[view]), asked, moments)["v"].to_pylist()


def test_an_old_event_known_after_the_load_is_there_when_it_is_known() -> None:
    #  ts 10 is known at 100; loaded up to 50
    assert after_a_load([(10, 100, 7)], 50, [50, 99, 100, 101]) == [None, None, 7, 7]


def test_a_load_keeps_what_counts_until_the_newer_event_is_known() -> None:
    #  ts 10 known at 10, ts 20 known at 100; loaded up to 50
    assert after_a_load([(10, 10, 1), (20, 100, 2)], 50, [50, 99, 100]) == [1, 1, 2]


def test_a_load_keeps_what_counts_again_once_the_newest_event_is_withdrawn() -> None:
    #  ts 10: 1; ts 20: 5, corrected at 60 to -1, which `where` takes out; loaded up to 50
    rows = [(10, 10, 1), (20, 20, 5), (20, 60, -1)]
    assert after_a_load(rows, 50, [50, 59, 60], sequence="seq", where="v > 0") == [5, 5, 1]


def test_where_windows_are_all_that_is_read_an_event_before_them_is_none_whether_it_is_kept_or_not() -> None:
    #  event 10; window 5: in it at 12, before it at 50; both loads are up to 100, the first one keeps the event
    count = ml.Count(windows=[timedelta(microseconds=5)])
    source = ml.DeltaSource("e", path="e", timestamp="ts")
    view = ml.FeatureView("v", entity=ml.Entity("k", keys=["k"]), source=source, features=[count])
    table = pa.table({"k": ["a"], "ts": pa.array([10], UTC_TIME)})
    for history, due, wanted in ((95, [12, 50], [("present", 10), ("missing", None)]), (60, [50], [("missing", None)])):
        store = open_store(f"memory://windows-{history}")
        state.load(store, view, events(view, table), version=0, until=100, history=history)
        asked, at = pa.table({"k": ["a"] * len(due)}), instants(pa.array(due, UTC_TIME), "at")
        found = get_features(store, ml.FeatureService("s", features=[view]), asked, at, status=True)
        times = found["v__event_time"].cast(pa.int64()).to_pylist()
        assert list(zip(found["v__status"].to_pylist(), times, strict=True)) == wanted


@pytest.mark.usefixtures("ray_cluster")
def test_a_quotient_is_the_same_of_a_row_that_comes_alone_and_of_all_rows_together(tmp_path: Path) -> None:
    """57 / 100 is 0.57 and 57 * (1 / 100) is not: which of the two must not hang on how many rows are computed."""
    source = ml.DeltaSource("paid", path="paid", timestamp="at", select={"eur": "cents / 100"})
    below = ml.Count(windows=[ml.lifetime], where="eur <= 0.57", name="below")
    view = ml.FeatureView("v", entity=ml.Entity("user", keys=["id"]), source=source, features=["eur", below])
    service, store = ml.FeatureService("s", features=[view]), store_at("memory", tmp_path)
    cents = range(50, 70)
    rows = pa.table({"id": cents, "at": pa.array([START] * len(cents), UTC_TIME), "cents": cents})
    write_deltalake(tmp_path / "paid", rows.slice(0, 0))
    list(materialize(store, service, str(tmp_path), until=START - 1, history=0))
    for i in range(len(rows)):
        ingest(store, source, service.views, rows.slice(i, 1), str(tmp_path), now=START)

    spine = pa.table({"id": cents, "timestamp": pa.array([START + 1] * len(cents), UTC_TIME)})
    online = get_features(store, service, spine.select(["id"]), instants(spine["timestamp"], "timestamp"))
    offline = build(service, spine, lake=str(tmp_path), label=None, timestamp="timestamp").to_arrow().sort_by("id")
    assert online.equals(offline.select(online.column_names))
    assert online["below"].to_pylist() == [int(eur <= 0.57) for eur in online["eur"].to_pylist()]
