"""Training sets built by Ray Data over Delta tables equal the naive oracle, to the bit, on every path."""

from pathlib import Path
from random import Random
from typing import Any

import declared
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import ray
from deltalake import write_deltalake
from generated import World, differences, every_window, expected, world

import mlray as ml
from mlray.offline.training_set import TrainingSet

pytestmark = pytest.mark.usefixtures("ray_cluster")


def service(asked: World) -> ml.FeatureService:
    return ml.FeatureService("service", features=[declared.view(asked).prefixed("v_")])


def built(asked: World, lake: Path, spine: Any = None, **options: Any) -> TrainingSet:
    """The training set of a world whose events lie in the lake."""
    platform = ml.connect(ml.Settings(lake=str(lake), online="memory://unused"))
    platform.apply(service(asked))
    return platform.build_training_set("service", asked.spine if spine is None else spine, label="label", **options)


@pytest.mark.parametrize("seed", range(20))
def test_a_training_set_equals_the_oracle(seed: int, tmp_path: Path) -> None:
    asked = world(seed, 150, timeless=seed % 10 == 9)
    rng = Random(seed)
    declared.write_events(asked, tmp_path, rng, files=rng.choice([1, 3, 6]), partition=seed % 2 == 1)
    join = ["shuffle", "broadcast", "co-partitioned"][seed % 3]
    table = built(asked, tmp_path, join=join).to_arrow()
    assert differences(asked, table, expected(asked), "v_") == []
    assert table.select(asked.spine.column_names).to_pydict() == asked.spine.to_pydict()


@pytest.mark.parametrize("join", ["broadcast", "shuffle", "co-partitioned"])
def test_every_aggregate_over_every_window_equals_the_oracle_on_every_path(join: str, tmp_path: Path) -> None:
    asked = world(11, 100, timeless=False, features=every_window())
    declared.write_events(asked, tmp_path, Random(1), files=3)
    assert differences(asked, built(asked, tmp_path, join=join).to_arrow(), expected(asked), "v_") == []


@pytest.mark.parametrize("form", ["arrow", "pandas", "polars", "dataset", "delta"])
@pytest.mark.parametrize("join", ["broadcast", "shuffle", "co-partitioned"])
def test_every_form_of_spine_gives_the_same_rows(form: str, join: str, tmp_path: Path) -> None:
    asked = next(w for w in (world(seed, 80) for seed in range(3, 99)) if w.spine["timestamp"].type.unit == "us")
    declared.write_events(asked, tmp_path, Random(1), files=3)
    if form == "delta":
        write_deltalake(str(tmp_path / "spine"), asked.spine)
    spine = {
        "arrow": lambda: asked.spine,
        "pandas": lambda: asked.spine.to_pandas(types_mapper=pd.ArrowDtype),
        "polars": lambda: pl.from_arrow(asked.spine),
        "dataset": lambda: ray.data.from_arrow([asked.spine.slice(i, 7) for i in range(0, asked.spine.num_rows, 7)]),
        "delta": lambda: "spine",
    }[form]()
    table = built(asked, tmp_path, spine, join=join).to_arrow()
    assert differences(asked, table, expected(asked), "v_") == []


@pytest.mark.parametrize("join", ["broadcast", "shuffle", "co-partitioned"])
def test_an_empty_table_is_an_empty_history(join: str, tmp_path: Path) -> None:
    asked = world(1, 40)
    write_deltalake(str(tmp_path / "events"), asked.table.slice(0, 0))
    empty = World(**{**vars(asked), "rows": []})
    assert differences(empty, built(asked, tmp_path, join=join).to_arrow(), expected(empty), "v_") == []


@pytest.mark.parametrize("join", ["broadcast", "shuffle", "co-partitioned"])
def test_an_empty_spine_gives_the_columns_and_no_rows(join: str, tmp_path: Path) -> None:
    asked = world(1, 40)
    declared.write_events(asked, tmp_path, Random(1), files=2)
    full = built(asked, tmp_path, join=join).to_arrow()
    none = built(asked, tmp_path, asked.spine.slice(0, 0), join=join).to_arrow()
    assert none.num_rows == 0
    assert none.schema == full.schema


def test_the_dataset_streams_the_promised_columns(tmp_path: Path) -> None:
    asked = world(5, 60)
    declared.write_events(asked, tmp_path, Random(1), files=2)
    ts = built(asked, tmp_path)
    names = [*asked.spine.column_names, *(f"v_{name}" for name in asked.view.features)]
    assert ts.schema.names == names
    assert ts.dataset.schema().names == names
    assert ts.dataset.count() == ts.count() == asked.spine.num_rows
    assert (ts.features, ts.label, ts.timestamp) == (names[len(asked.spine.column_names) :], "label", "timestamp")


def test_a_training_set_stays_at_the_versions_it_was_planned_on(tmp_path: Path) -> None:
    asked = world(5, 60)
    declared.write_events(asked, tmp_path, Random(1), files=1)
    ts = built(asked, tmp_path)
    write_deltalake(str(tmp_path / "events"), asked.table, mode="append")
    later = built(asked, tmp_path)
    assert differences(asked, ts.to_arrow(), expected(asked), "v_") == []
    assert (ts.sources, later.sources) == ({"events": 0}, {"events": 1})
    assert differences(asked, built(asked, tmp_path, versions=ts.sources).to_arrow(), expected(asked), "v_") == []


def test_the_fingerprint_names_definitions_versions_and_spine(tmp_path: Path) -> None:
    asked, other = world(5, 60), world(6, 60)
    declared.write_events(asked, tmp_path, Random(1), files=1)
    first = built(asked, tmp_path)
    blocks = ray.data.from_arrow([asked.spine.slice(i, 9) for i in range(0, asked.spine.num_rows, 9)])
    assert built(asked, tmp_path).fingerprint == first.fingerprint
    assert built(asked, tmp_path, blocks).fingerprint == first.fingerprint
    assert built(asked, tmp_path, asked.spine.slice(1)).fingerprint != first.fingerprint
    write_deltalake(str(tmp_path / "events"), asked.table.slice(0, 1), mode="append")
    assert built(asked, tmp_path).fingerprint != first.fingerprint
    assert built(asked, tmp_path, versions=first.sources).fingerprint == first.fingerprint
    assert service(asked) != service(other)


@ml.on_demand(
    ml.FeatureView(
        "weather",
        entity=ml.Entity("airport", keys=["airport"]),
        source=ml.DeltaSource("weather", path="weather", timestamp="at"),
        features=["wind"],
        ttl=ml.hours(1),
    ).on(airport="origin").prefixed("origin_"),
    ml.RequestSource("request", schema={"speed": float, "kind": str}),
)
def headwind(origin_wind, speed, kind, at):  # type: ignore[no-untyped-def]
    late = at >= np.datetime64("2026-01-01T02:00")
    return np.where(late, np.nan, origin_wind / speed) + np.array([0.0 if k is None else len(k) for k in kind])


def test_views_by_other_columns_prefixes_requests_and_on_demand(tmp_path: Path) -> None:
    #  weather   JFK: 00:00 wind 10,  01:00 wind null          LGA: 00:30 wind 30
    #  global    00:00 n=1, 01:00 n=2                          ttl 1h, both ends in
    hour = [pd.Timestamp(f"2026-01-01T{t}Z") for t in ("00:00", "01:00", "00:30")]
    weather = pa.table({"airport": ["JFK", "JFK", "LGA"], "at": hour, "wind": pa.array([10.0, None, 30.0])})
    write_deltalake(str(tmp_path / "weather"), weather)
    view = headwind.inputs[0].view
    everyone = ml.FeatureView("all", entity=None, source=view.source, features=[ml.Count(windows=[ml.lifetime])])
    asked = ml.FeatureService("s", features=[
        view.on(airport="origin").prefixed("origin_"), view.on(airport="dest").prefixed("dest_"), everyone,
        headwind.inputs[1]["speed"], headwind,
    ])
    spine = pa.table({
        "origin": ["JFK", "JFK", "JFK", None, "LGA"],
        "dest": ["LGA", "LGA", "LGA", "JFK", "SFO"],
        "timestamp": [pd.Timestamp(f"2026-01-01T{t}Z") for t in ("00:30", "01:00", "02:01", "00:59", "01:30")],
        "speed": pa.array([4, 5, 5, 5, 5], pa.int32()),
        "kind": ["x", None, "x", "x", "xx"],
    })
    table = ml.connect(ml.Settings(lake=str(tmp_path))).build_training_set(asked, spine).to_arrow()
    assert table.schema.field("speed").type == pa.float64()
    assert table.select(asked.names).to_pydict() == {
        "origin_wind": [10.0, None, None, None, 30.0],
        "dest_wind": [30.0, 30.0, None, 10.0, None],
        "count_lifetime": [1, 2, 3, 2, 3],
        "speed": [4.0, 5.0, 5.0, 5.0, 5.0],
        "headwind": [3.5, None, None, None, 8.0],
    }
