"""Loads: in parts, killed and gone on with, two at once, and with batches that come meanwhile."""

import json
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

import mlray as ml
from mlray.errors import NotMaterialized, SchemaError, StoreError
from mlray.features.rows import events
from mlray.features.types import INSTANT, instants
from mlray.materialize import materialize
from mlray.online import loading, state
from mlray.online.loading import Load, begin
from mlray.online.memory import MemoryStore
from mlray.online.record import Loading
from mlray.online.retrieval import get_features
from mlray.online.store import Cell, OnlineStore, open_store

NOON = 1_773_057_600_000_000
MINUTE = 60_000_000
DECLARED = """
import mlray as ml
VIEW = ml.FeatureView(
    "v",
    entity=ml.Entity("k", keys=["k"]),
    source=ml.DeltaSource("e", path="e", timestamp="at"),
    features=["n", ml.Count(windows=[ml.hours(1)])],
)
SERVICE = ml.FeatureService("s", features=[VIEW])
"""
declared: dict[str, ml.FeatureView] = {}
exec(DECLARED, declared)
VIEW, SERVICE = declared["VIEW"], ml.FeatureService("s", features=[declared["VIEW"]])
KEYS = 40
DIES = """
import json, os, signal, sys
from mlray.materialize import materialize
from mlray.online import loading
from mlray.online.store import open_store
lake, until, part, when = json.loads(sys.argv[1])
write, done = loading.Load.part, loading.Load._noted

def dying(self, raw):
    written = done(self, raw) if when == "after" else self._written
    if self.loading.part == part:
        os.kill(os.getpid(), signal.SIGKILL)
    return written if when == "after" else done(self, raw)

loading.Load._noted = dying
list(materialize(open_store(f"lmdb://{lake}/online"), SERVICE, lake, until=until, part_rows=40))
"""


def rows(minute: int, n: int) -> pa.Table:
    """An event of every key so long after noon."""
    at = pa.array([NOON + minute * MINUTE] * KEYS, INSTANT)
    return pa.table({"k": range(KEYS), "at": at, "n": [n] * KEYS})


def happened(*minutes: int) -> pa.Table:
    return events(VIEW, pa.concat_tables([rows(minute, minute) for minute in minutes]))


def answers(store: OnlineStore, minute: int) -> list[tuple[object, object]]:
    """The distinct answers of all keys."""
    at = instants(pa.array([NOON + minute * MINUTE] * KEYS, INSTANT), "at")
    found = get_features(store, SERVICE, pa.table({"k": range(KEYS)}), at).to_pylist()
    return sorted({(row["n"], row["count_1h"]) for row in found}, key=str)


def lake_of(path: Path, *minutes: int) -> str:
    write_deltalake(f"{path}/e", pa.concat_tables([rows(minute, minute) for minute in minutes]), mode="append")
    return str(path)


def dies(lake: str, until: int, part: int, when: str) -> None:
    """A process that materialises in four parts and is killed before or after part `part` is noted as done."""
    arguments = json.dumps([lake, NOON + until * MINUTE, part, when])
    died = subprocess.run([sys.executable, "-c", DECLARED + DIES, arguments], check=False, env=os.environ)
    assert died.returncode == -signal.SIGKILL


def loaded(store: OnlineStore, lake: str, until: int, notes: list[str] | None = None) -> None:
    note = [].append if notes is None else notes.append
    list(materialize(store, SERVICE, lake, until=NOON + until * MINUTE, part_rows=40, note=note))


class Stop(Exception):
    pass


def stops(store: OnlineStore, lake: str, until: int, part: int) -> None:
    """A load in this process that ends before part `part`, counted from 1."""

    def note(text: str) -> None:
        if text.startswith(f"v: part {part} "):
            raise Stop

    with pytest.raises(Stop):
        list(materialize(store, SERVICE, lake, until=NOON + until * MINUTE, part_rows=40, note=note))


@pytest.mark.parametrize(("part", "when"), [(1, "before"), (3, "after")])
def test_a_load_that_was_killed_goes_on_with_the_part_that_it_was_at(part: int, when: str, tmp_path: Path) -> None:
    lake = lake_of(tmp_path, 1, 2, 3, 9)
    dies(lake, 5, part, when)
    store, notes = open_store(f"lmdb://{lake}/online"), list[str]()
    with pytest.raises(NotMaterialized):
        answers(store, 5)
    loaded(store, lake, 5, notes)
    done = part if when == "after" else part - 1
    assert notes == [f"v: part {i + 1} of 4" for i in range(done, 4)]
    assert answers(store, 5) == [(3, 3)]
    held = state.state_of(store, VIEW)
    assert (held.watermark, held.gap, held.loading) == (NOON + 5 * MINUTE, True, None)  # minute 9 is not online
    store.close()


def test_a_load_that_stopped_leaves_the_old_one_readable_and_a_later_one_may_ask_for_more(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, 1, 2, 3, 9)
    store = open_store(f"lmdb://{lake}/online")
    loaded(store, lake, 2)
    stops(store, lake, 5, 3)
    assert answers(store, 5) == [(2, 2), (3, 3)]  # each key by what it has: the old base or the new one
    loaded(store, lake, 9)
    assert answers(store, 9) == [(9, 3)]
    store.close()


def test_a_load_of_another_version_begins_anew(tmp_path: Path) -> None:
    lake = lake_of(tmp_path, 1, 2, 3, 9)
    store, notes = open_store(f"lmdb://{lake}/online"), list[str]()
    stops(store, lake, 5, 3)
    lake_of(tmp_path, 4)
    loaded(store, lake, 5, notes)
    assert notes[0] == "v: part 1 of 5"
    assert answers(store, 5) == [(4, 4)]
    store.close()


def test_a_cut_off_load_that_reached_further_is_not_mixed_with_one_that_reaches_less_far() -> None:
    #  part 1 of 2 up to minute 9, then asked again up to minute 5: bases up to 9 are there already
    store = open_store("memory://further")
    one = begin(store, VIEW, happened(1).schema, version=0, until=NOON + 9 * MINUTE, history=0, parts=2)
    one.part(happened(1, 9))
    state.load(store, VIEW, happened(1, 9), version=0, until=NOON + 5 * MINUTE, history=0)
    assert state.state_of(store, VIEW).until == NOON + 9 * MINUTE
    assert answers(store, 9) == [(9, 1)]


def two(store: OnlineStore, *versions_and_untils: tuple[int, int]) -> Iterator[Load]:
    for version, until in versions_and_untils:
        yield begin(store, VIEW, happened(1).schema, version=version, until=NOON + until * MINUTE, history=0, parts=1)


@pytest.mark.parametrize("later", [(0, 9), (1, 9)])
def test_of_two_loads_at_once_the_later_one_counts_and_the_other_says_so(later: tuple[int, int]) -> None:
    store = open_store(f"memory://two-{later}")
    one, other = two(store, (0, 5), later)
    other.part(happened(1, 2, 9))
    other.finish()
    with pytest.raises(StoreError, match="another materialize has taken the place"):
        one.part(happened(1, 2, 9))
    with pytest.raises(StoreError, match="another materialize has taken the place"):
        one.finish()
    held = state.state_of(store, VIEW)
    assert (held.version, held.until, held.reach) == (later[0], NOON + 9 * MINUTE, NOON + 9 * MINUTE)
    assert answers(store, 9) == [(9, 2)]


def test_loads_at_once_in_threads_leave_what_one_of_them_would_have_left() -> None:
    store, start, failed = open_store("memory://threads"), Barrier(4), list[Exception]()

    def load(until: int) -> None:
        start.wait()
        try:
            state.load(store, VIEW, happened(*range(1, 9)), version=3, until=NOON + until * MINUTE, history=0)
        except StoreError as error:
            failed.append(error)

    threads = [Thread(target=load, args=[until]) for until in (3, 4, 5, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = state.state_of(store, VIEW)
    assert held.until is not None
    minute = (held.until - NOON) // MINUTE
    assert len(failed) < 4
    assert answers(store, minute) == [(minute, minute - 1)]


def test_an_older_version_is_not_loaded_over_a_newer_one() -> None:
    store = open_store("memory://older")
    state.load(store, VIEW, happened(1, 2), version=7, until=NOON + 5 * MINUTE, history=0)
    with pytest.raises(StoreError, match="version 6 of its table is to be loaded, but version 7 is online"):
        state.load(store, VIEW, happened(1), version=6, until=NOON + 5 * MINUTE, history=0)
    assert answers(store, 5) == [(2, 2)]
    begin(store, VIEW, happened(1).schema, version=8, until=NOON + 5 * MINUTE, history=0, parts=1)
    with pytest.raises(StoreError, match="version 7 of its table is to be loaded, but version 8 is online or on its"):
        state.load(store, VIEW, happened(1), version=7, until=NOON + 5 * MINUTE, history=0)


def test_a_load_up_to_an_earlier_instant_drops_nothing_that_is_newer() -> None:
    store = open_store("memory://earlier")
    for until in (9, 5):
        state.load(store, VIEW, happened(1, 9), version=0, until=NOON + until * MINUTE, history=0)
        assert (answers(store, 9), state.state_of(store, VIEW).watermark) == ([(9, 1)], NOON + 9 * MINUTE)


def test_a_load_removes_the_batches_that_it_holds_and_knows_of_those_that_are_online_already() -> None:
    #  commits 1 and 2 (minutes 2 and 9) were pushed; version 1 is loaded up to minute 5, then version 2, which holds 9
    store = open_store("memory://held")
    state.load(store, VIEW, happened(1), version=0, until=NOON + MINUTE, history=0)
    for version, minute in ((1, 2), (2, 9)):
        state.push(store, VIEW, happened(minute), version=version, whole=False)
    for version, minutes in ((1, (1, 2)), (2, (1, 2, 9))):
        state.load(store, VIEW, happened(*minutes), version=version, until=NOON + 5 * MINUTE, history=0)
        held = state.state_of(store, VIEW)
        assert (held.applied, held.gap, held.watermark, answers(store, 9)) == (2, False, NOON + 9 * MINUTE, [(9, 2)])
        assert store.stats(state.space(VIEW)).cells == 2 * KEYS  # of each the base and the batch of minute 9


def test_a_commit_that_only_a_load_can_follow_is_looked_at_once() -> None:
    store = open_store("memory://gap")
    state.load(store, VIEW, happened(1), version=0, until=NOON + MINUTE, history=0)
    state.leave_gap(store, VIEW, 1)
    state.push(store, VIEW, happened(2), version=2, whole=False)
    held = state.state_of(store, VIEW)
    assert (held.applied, held.gap, held.watermark, answers(store, 3)) == (2, True, NOON + MINUTE, [(2, 2)])


def test_a_batch_that_comes_during_a_load_counts_once() -> None:
    #  commit 1 (minute 2) is in the load of version 1, commit 2 (minute 3) is not; both are pushed between its parts
    store = open_store("memory://during")
    state.load(store, VIEW, happened(1), version=0, until=NOON + MINUTE, history=0)
    load = begin(store, VIEW, happened(1).schema, version=1, until=NOON + 2 * MINUTE, history=0, parts=2)
    load.part(happened(1, 2).slice(0, 0))
    state.push(store, VIEW, happened(2), version=1, whole=False, fold=1)
    load.part(happened(1, 2))
    state.push(store, VIEW, happened(3), version=2, whole=False, fold=1)
    assert answers(store, 3) == [(3, 2)]
    load.finish()
    assert answers(store, 3) == [(3, 2)]
    assert state.state_of(store, VIEW).watermark == NOON + 3 * MINUTE


def test_a_batch_alone_is_not_taken_for_all_that_ever_happened() -> None:
    store = open_store("memory://alone")
    state.push(store, VIEW, happened(1), version=1, whole=False)
    with pytest.raises(NotMaterialized):
        answers(store, 2)
    state.push(store, VIEW, happened(0), version=0, whole=True)
    assert answers(store, 2) == [(0, 1)]


def test_what_comes_late_during_a_load_that_reaches_further_back_is_not_folded_away() -> None:
    #  the old base answers from noon on, the new one from ten hours before; an event of five hours before comes between
    #  two parts, then one of ten hours after, as of which the late one would have had its day
    store = open_store("memory://late")
    state.load(store, VIEW, happened(0), version=0, until=NOON, history=0)
    load = begin(store, VIEW, happened(0).schema, version=0, until=NOON, history=600 * MINUTE, parts=2)
    load.part(happened(0))
    state.push(store, VIEW, happened(-300), version=1, whole=False, fold=1)
    state.push(store, VIEW, happened(600), version=2, whole=False, fold=1)
    load.part(happened(0).slice(0, 0))
    load.finish()
    assert answers(store, -290) == [(-300, 1)]


@pytest.mark.parametrize(("history", "parts"), [(60, 2), (0, 3)])
def test_a_load_that_asks_for_more_history_or_other_parts_begins_anew(history: int, parts: int) -> None:
    store, until = open_store(f"memory://anew-{history}-{parts}"), NOON + 5 * MINUTE
    begin(store, VIEW, happened(1).schema, version=0, until=until, history=0, parts=2).part(happened(1))
    again = begin(store, VIEW, happened(1).schema, version=0, until=until, history=history * MINUTE, parts=parts)
    assert again.loading == Loading(0, until, until - history * MINUTE, parts)


def test_pushes_and_loads_in_threads_lose_nothing(tmp_path: Path) -> None:
    store = open_store(f"lmdb://{tmp_path}/online")
    state.load(store, VIEW, happened(0), version=0, until=NOON, history=0)

    def push(versions: range) -> None:
        for version in versions:
            state.push(store, VIEW, happened(version), version=version, whole=False, fold=2)

    pushing = [Thread(target=push, args=[range(1 + i, 31, 2)]) for i in (0, 1)]
    for thread in pushing:
        thread.start()
    while any(thread.is_alive() for thread in pushing):
        seen = state.state_of(store, VIEW).applied
        held = happened(*range(seen + 1))
        state.load(store, VIEW, held, version=seen, until=NOON + seen * MINUTE, history=60 * MINUTE)
    assert answers(store, 31) == [(30, 31)]
    store.close()


def test_a_column_that_changes_its_type_changes_with_all_cells_at_once() -> None:
    store = open_store("memory://retyped")
    state.load(store, VIEW, happened(1), version=0, until=NOON + MINUTE, history=0)
    state.push(store, VIEW, happened(2), version=1, whole=False)
    table = rows(1, 1).set_column(2, "n", pa.array([1.5] * KEYS))
    load = begin(store, VIEW, events(VIEW, table).schema, version=2, until=NOON + MINUTE, history=0, parts=1)
    load.part(events(VIEW, table))
    assert answers(store, 2) == [(2, 1)]
    state.push(store, VIEW, happened(3), version=3, whole=False)  # of the old type, not in the load
    load.finish()
    assert answers(store, 4) == [(3.0, 3)]


def test_a_record_that_is_damaged_or_newer_is_told() -> None:
    store = open_store("memory://record")
    state.load(store, VIEW, happened(1), version=0, until=NOON + MINUTE, history=0)
    whole = store.state(state.space(VIEW)) or b""
    for raw in (whole[:-3], b"[]", b"\xff", whole.replace(b'"gap"', b'"gulf"')):
        store.write(state.space(VIEW), (), state=raw)
        with pytest.raises(SchemaError, match="damaged, or of a newer mlray"):
            answers(store, 2)


class Measured(MemoryStore):
    """A store that notes how many cells each write brings."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.writes: list[int] = []

    def write(self, space: str, cells: Iterable[Cell], **named: Any) -> int:
        held = list(cells)
        self.writes.append(len(held))
        return super().write(space, held, **named)


@pytest.mark.parametrize(("bound", "value"), [
    ("_BYTES_PER_WRITE", 7 * 56), ("_CELLS_PER_WRITE", 7), ("_ROWS_PER_WRITE", 14),
])
def test_a_write_of_a_load_is_bounded_in_bytes_cells_and_rows(
    bound: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    #  40 keys of two rows, a cell of 56 bytes each
    monkeypatch.setattr(loading, bound, value)
    store = Measured(f"measured-{bound}")
    state.load(store, VIEW, happened(1, 2), version=0, until=NOON + 5 * MINUTE, history=0)
    assert [cells for cells in store.writes if cells] == [7, 7, 7, 7, 7, 5]
    assert answers(store, 5) == [(2, 2)]


def test_a_load_in_parts_holds_a_part_in_memory_at_a_time(tmp_path: Path) -> None:
    #  8 files of 40,000 rows: of 2,000 keys 20 each
    for i in range(8):
        keys = np.arange(40_000) % 2_000
        at = pa.array(np.full(40_000, NOON + i), INSTANT)
        write_deltalake(f"{tmp_path}/e", pa.table({"k": keys, "at": at, "n": keys}), mode="append")
    peaks = []
    for part_rows in (1_000_000, 40_000):
        before, peak = pa.total_allocated_bytes(), [0]
        pool = pa.default_memory_pool()
        measure = lambda _, peak=peak, pool=pool: peak.append(pool.bytes_allocated())  # noqa: E731
        tracemalloc.start()
        store = open_store(f"memory://memory-{part_rows}")
        list(materialize(store, SERVICE, str(tmp_path), until=NOON + MINUTE, part_rows=part_rows, note=measure))
        peaks.append(tracemalloc.get_traced_memory()[1] + max(peak) - before)
        tracemalloc.stop()
    assert peaks[1] < peaks[0] / 2
