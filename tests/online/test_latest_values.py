"""Latest values of many keys at once: looked up together, the same as in columns."""

from random import Random
from typing import Any

import pyarrow as pa
import pytest

import mlray as ml
from mlray.features.rows import events
from mlray.features.types import INSTANT, instants
from mlray.online import state
from mlray.online.retrieval import Reader
from mlray.online.store import OnlineStore, open_store

NOON = 1_773_057_600_000_000
MINUTE = 60_000_000


def loaded(store: OnlineStore, rng: Random, **declared: Any) -> ml.FeatureService:
    """A view of bare columns with at most one event per key, on the minute, loaded up to noon."""
    source = ml.DeltaSource("s", path="s", timestamp="at", lag=ml.minutes(rng.choice([0, 2])))
    view = ml.FeatureView("v", entity=ml.Entity("k", keys=["k"]), source=source, features=["x", "n"], **declared)
    at = [NOON - rng.randrange(0, 9) * MINUTE for _ in range(30)]
    table = pa.table({"k": range(30), "at": pa.array(at, INSTANT), "x": [k / 3 for k in range(30)], "n": range(30)})
    state.load(store, view, events(view, table), version=0, until=NOON, history=0)
    return ml.FeatureService("f", features=[view])


@pytest.mark.parametrize("closed", ["left", "right"])
@pytest.mark.parametrize("ttl", [None, ml.minutes(4)])
@pytest.mark.parametrize("seed", range(4))
def test_they_are_what_columns_give(seed: int, ttl: Any, closed: Any) -> None:
    rng, store = Random(seed), open_store(f"memory://latest-{seed}-{ttl}-{closed}")
    service = loaded(store, rng, ttl=ttl, closed=closed)
    keys = pa.table({"k": pa.array([rng.choice([None, 99, *range(30)]) for _ in range(60)], pa.int64())})
    moments = [rng.choice([None, NOON, NOON + 1, NOON + 2 * MINUTE, NOON + 5 * MINUTE]) for _ in range(60)]
    at = instants(pa.array(moments, INSTANT), "at")
    together, columns = Reader(store, service), Reader(store, service, few=0)
    assert together.read(keys, at).to_arrow().equals(columns.read(keys, at).to_arrow())


def test_a_key_with_a_later_batch_is_answered_too() -> None:
    store = open_store("memory://latest-batch")
    service = loaded(store, Random(0))
    [view] = service.views
    table = pa.table({"k": [7], "at": pa.array([NOON + MINUTE], INSTANT), "x": [0.5], "n": [70]})
    state.push(store, view, events(view, table), version=1, whole=False)
    at = instants(pa.array([NOON + 9 * MINUTE] * 30, INSTANT), "at")
    assert Reader(store, service).read(pa.table({"k": range(30)}), at).to_pylist()[6:8] == [
        {"x": 2.0, "n": 6}, {"x": 0.5, "n": 70},
    ]  # fmt: skip
