"""Folding: many batches of a key become one, and no read can tell; a batch that comes again counts once."""

from itertools import pairwise
from random import Random
from threading import Thread

import pyarrow as pa
import pytest

import mlray as ml
from mlray.errors import SchemaError, TimeError
from mlray.features.rows import events
from mlray.features.types import INSTANT, instants
from mlray.online import state
from mlray.online.cells import BASE
from mlray.online.retrieval import Reader
from mlray.online.store import OnlineStore, open_store

NOON = 1_773_057_600_000_000
MINUTE, HOUR = 60_000_000, 3_600_000_000
KEYS = list("abcdefgh")
VIEW = ml.FeatureView(
    "v",
    entity=ml.Entity("k", keys=["k"]),
    source=ml.DeltaSource("e", path="e", timestamp="at"),
    features=["n", ml.Sum("n", windows=[ml.hours(2)]), ml.Count(windows=[ml.hours(2)])],
)
SERVICE = ml.FeatureService("s", features=[VIEW])


def happened(minute: int, n: int, kind: str = "int64") -> pa.Table:
    """An event of every key so long after noon."""
    at = pa.array([NOON + minute * MINUTE] * len(KEYS), INSTANT)
    return events(VIEW, pa.table({"k": KEYS, "at": at, "n": pa.array([n] * len(KEYS), kind)}))


def fed(name: str, versions: list[int], fold: int) -> OnlineStore:
    """Nothing at noon, then commit v, v minutes later, of n = 2 ** v."""
    store = open_store(f"memory://{name}-{fold}")
    state.load(store, VIEW, happened(0, 1), version=0, until=NOON, history=0)
    for v in versions:
        state.push(store, VIEW, happened(v, 2**v), version=v, whole=False, fold=fold)
    return store


def read(store: OnlineStore, minute: int, few: int = 16) -> list[dict[str, object]]:
    at = instants(pa.array([NOON + minute * MINUTE] * len(KEYS), INSTANT), "at")
    return Reader(store, SERVICE, few=few).read(pa.table({"k": KEYS}), at).to_pylist()


def batches(store: OnlineStore) -> list[int]:
    """How many each key has."""
    slots = [(cell.key, cell.slot) for cell in store.scan(state.space(VIEW))]
    return [sum(key == of and slot != BASE for of, slot in slots) for key in sorted({key for key, _ in slots})]


@pytest.mark.parametrize("few", [0, 16])
@pytest.mark.parametrize("fold", [1, 2, 3, 8])
def test_every_event_counts_once_however_many_batches_are_folded(fold: int, few: int) -> None:
    store = fed("once", list(range(1, 20)), fold)
    assert read(store, 30, few) == [{"n": 2**19, "n_sum_2h": 2**20 - 1, "count_2h": 20}] * len(KEYS)
    assert max(batches(store)) <= 2 * fold


@pytest.mark.parametrize("fold", [1, 2, 3, 8])
def test_a_batch_that_is_pushed_twice_at_once_counts_once(fold: int) -> None:
    store = fed("twice", [v for v in range(1, 20) for _ in range(2)], fold)
    assert read(store, 30) == [{"n": 2**19, "n_sum_2h": 2**20 - 1, "count_2h": 20}] * len(KEYS)


@pytest.mark.parametrize("seed", range(8))
def test_batches_in_any_order_and_again_count_once(seed: int) -> None:
    rng, fold = Random(seed), seed % 3 + 1
    versions = list(range(1, 16)) * 2
    versions = [v for _, v in sorted((v + rng.choice([0, 0, 1, 4, 20]), v) for v in versions)]
    store = fed(f"order-{seed}", versions, fold)
    assert read(store, 30) == [{"n": 2**15, "n_sum_2h": 2**16 - 1, "count_2h": 16}] * len(KEYS)


def test_nothing_is_folded_while_a_commit_is_missing() -> None:
    #  commit 1 is still on its way, so no later one is known to be the last before a gap
    store = fed("missing", list(range(2, 12)), 2)
    assert batches(store) == [10] * len(KEYS)
    state.push(store, VIEW, happened(1, 2), version=1, whole=False, fold=2)
    assert read(store, 30)[0] == {"n": 2**11, "n_sum_2h": 2**12 - 1, "count_2h": 12}


def test_a_load_in_the_middle_changes_nothing() -> None:
    store = fed("load", list(range(1, 10)), 2)
    table = pa.concat_tables([happened(v, 2**v) for v in range(10)])
    state.load(store, VIEW, table, version=9, until=NOON + 5 * MINUTE, history=0)
    for v in range(10, 15):
        state.push(store, VIEW, happened(v, 2**v), version=v, whole=False, fold=2)
    assert read(store, 30) == [{"n": 2**14, "n_sum_2h": 2**15 - 1, "count_2h": 15}] * len(KEYS)


def test_what_no_read_can_meet_goes_and_a_read_before_it_is_refused() -> None:
    #  a batch an hour for two days; the window is 2 h, late reads are answered for 1 h
    store = open_store("memory://gone")
    state.load(store, VIEW, happened(0, 1), version=0, until=NOON, history=0)
    for v in range(1, 49):
        state.push(store, VIEW, happened(60 * v, v), version=v, whole=False, fold=2)
    since = state.state_of(store, VIEW).reach or 0
    assert NOON + 40 * HOUR < since <= NOON + 47 * HOUR
    minute = (since - NOON) // MINUTE
    for q in range(minute, 48 * 60 + 90, 20):
        there = [v for v in range(1, 49) if 60 * v <= q]
        held = [v for v in range(1, 49) if q - 120 <= 60 * v < q]
        assert read(store, q)[3] == {"n": there[-1], "n_sum_2h": sum(held) or None, "count_2h": len(held)}
    with pytest.raises(TimeError, match="answers exactly only from"):
        read(store, minute - 1)
    times = state.event_bounds(store, VIEW)
    assert times is not None
    assert times[0] >= NOON + 37 * HOUR


def test_a_fold_does_not_promise_more_of_the_past_than_the_load_did() -> None:
    #  loaded from noon on; the newest event is at 12:03, and late reads of an hour would reach back to 11:03
    store = fed("promise", [1, 2, 3], 1)
    assert state.state_of(store, VIEW).reach == NOON
    with pytest.raises(TimeError, match="answers exactly only from"):
        read(store, -1)


def test_a_fold_keeps_as_much_of_the_past_as_the_load_was_asked_for() -> None:
    #  3 h of history, an hour for late reads; events of 14:01 and 14:02, the first of which is folded
    store = open_store("memory://history")
    state.load(store, VIEW, happened(0, 1), version=0, until=NOON, history=3 * HOUR)
    for v in (1, 2):
        state.push(store, VIEW, happened(120 + v, v), version=v, whole=False, fold=1)
    assert state.state_of(store, VIEW).reach == NOON + 122 * MINUTE - 4 * HOUR


def test_a_batch_of_another_type_is_refused_and_leaves_what_is_there() -> None:
    store = fed("retyped", [1, 2, 3], 2)
    with pytest.raises(SchemaError, match="column 'n' is double in the table now and was int64"):
        state.push(store, VIEW, happened(4, 16, "float64"), version=4, whole=False)
    assert read(store, 30)[0] == {"n": 8, "n_sum_2h": 15, "count_2h": 4}


def test_reads_between_pushes_never_go_back() -> None:
    store = fed("meanwhile", [1], 2)
    reader, at = Reader(store, SERVICE), instants(pa.array([NOON + HOUR] * len(KEYS), INSTANT), "at")

    def push() -> None:
        for v in range(2, 40):
            state.push(store, VIEW, happened(v, 2**v), version=v, whole=False, fold=2)

    pushing, seen = Thread(target=push), []
    pushing.start()
    while pushing.is_alive():
        seen.append([row["count_2h"] for row in reader.read(pa.table({"k": KEYS}), at).to_pylist()])
    seen.append([row["count_2h"] for row in reader.read(pa.table({"k": KEYS}), at).to_pylist()])
    assert all(len(set(counts)) == 1 for counts in seen)
    assert all(one[0] <= other[0] for one, other in pairwise(seen))
    assert seen[-1] == [40] * len(KEYS)
