"""THE LAW: a training row as of time t equals, bit for bit, what online serving would have answered at t."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import declared
import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from generated import SLOTS, START, STEP, World, differences, every_window, expected, plain, world

import mlray as ml
from mlray.features.types import instants
from mlray.ingest import ingest
from mlray.materialize import materialize
from mlray.offline.training_set import build
from mlray.online.retrieval import get_features
from mlray.online.store import OnlineStore, open_store

NEVER = START + 1000 * SLOTS * STEP
STORES = ("memory", "lmdb")


def store_at(kind: str, path: Path) -> OnlineStore:
    return open_store(f"memory://{path.name}" if kind == "memory" else f"lmdb://{path}/online")


def service_of(asked: World) -> ml.FeatureService:
    return ml.FeatureService("service", features=[declared.view(asked)])


def live_through(asked: World, store: OnlineStore, lake: Path, rng: Random) -> Iterator[tuple[list[int], pa.Table]]:
    """History in the order in which it may arrive: what is online at the first cut is materialised, all else ingested.

    Late knowledge arrives late or early, batches are shuffled, cut anywhere and repeated. Yields the positions of the
    queries that can be asked by then, and the online answers.
    """
    cuts = [*sorted(START + slot * STEP for slot in rng.sample(range(2, SLOTS), 3)), NEVER]
    stages = [_stage(asked, row, cuts, rng) for row in range(asked.table.num_rows)]
    service, view, source = service_of(asked), declared.view(asked), declared.source(asked)
    write_deltalake(str(lake / "events"), _rows(asked, stages, 0, rng))
    history = rng.choice([0, 5 * STEP])
    for stage in range(1, len(cuts)):
        if stage == 1 or rng.random() < 0.4:
            list(materialize(store, service, str(lake), until=cuts[stage - 1], history=history))
        for batch in _batches(asked, _rows(asked, stages, stage, rng), rng):
            name = str(rng.random())
            for _ in range(rng.choice([1, 1, 2])):
                ingest(store, source, [view], batch, str(lake), now=0, idempotency_key=name)
        since = cuts[stage - 1] - (history if stage == 1 else 0)
        due = [i for i, (_, q) in enumerate(asked.queries) if q is not None and since <= q // 1000 < cuts[stage]]
        rows = asked.spine.take(pa.array(due, pa.int64()))
        yield due, get_features(store, service, rows, instants(rows["timestamp"], "timestamp"))


def _stage(asked: World, row: int, cuts: Sequence[int], rng: Random) -> int:
    """By when a row has to be there; where it is known late, it may also come late."""
    source, cells = asked.view.source, asked.rows[row]
    times = [cells[source.timestamp]] if source.timestamp else [START]
    if source.known_at and rng.random() < 0.5:
        times.append(cells[source.known_at])
    due = max(NEVER if time is None else time for time in times)
    return next(stage for stage, cut in enumerate(cuts) if due <= cut)


def _rows(asked: World, stages: Sequence[int], stage: int, rng: Random) -> pa.Table:
    picked = [row for row, due in enumerate(stages) if due == stage]
    return asked.table.take(pa.array(rng.sample(picked, len(picked)), pa.int64()))


def _batches(asked: World, rows: pa.Table, rng: Random) -> Iterator[pa.Table]:
    """Some batches; where a sequence names the events, some of them once more."""
    cut = rng.randint(0, rows.num_rows)
    yield from (part for part in (rows.slice(0, cut), rows.slice(cut)) if part.num_rows)
    if asked.view.source.sequence and rng.random() < 0.5:
        yield rows.filter(rows["seq"].is_valid())


@pytest.mark.parametrize("seed", range(40))
def test_online_answers_equal_the_oracle(seed: int, tmp_path: Path) -> None:
    asked = world(seed, 60)
    store = store_at("memory", tmp_path)
    wanted = expected(asked)
    for due, found in live_through(asked, store, tmp_path, Random(seed)):
        part = replace(asked, queries=[asked.queries[i] for i in due])
        assert differences(part, found, [wanted[i] for i in due]) == []


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("seed", range(6))
def test_a_training_row_equals_the_online_answer(seed: int, kind: str, tmp_path: Path) -> None:
    asked = world(seed, 100, timeless=False, features=every_window())
    store = store_at(kind, tmp_path)
    answers = list(live_through(asked, store, tmp_path, Random(seed)))
    ts = build(service_of(asked), asked.spine, lake=str(tmp_path), label=None, timestamp="timestamp")
    columns = {name: plain(column) for name, column in zip(ts.features, ts.to_arrow().select(ts.features), strict=True)}
    training = [{name: columns[name][i] for name in ts.features} for i in range(ts.count())]
    assert sum(len(due) for due, _ in answers) > 30
    for due, found in answers:
        part = replace(asked, queries=[asked.queries[i] for i in due])
        assert differences(part, found, [training[i] for i in due]) == []
        assert found.schema == ts.to_arrow().select(ts.features).schema
    assert np.unique([i for due, _ in answers for i in due]).size == sum(len(due) for due, _ in answers)
