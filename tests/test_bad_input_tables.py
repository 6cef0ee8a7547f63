"""Bad rows in tables and spines: each works by the contract, or gives one error with view or source and column."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import permutations
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from delta_log import PLAIN, add, entry, metadata
from deltalake import DeltaTable, write_deltalake

import mlray as ml

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
UTC_US = pa.timestamp("us", tz="UTC")
COUNT = ml.Count(windows=[ml.lifetime])
EVERY_WAY = pytest.mark.parametrize("join", ["broadcast", "shuffle", "co-partitioned"])


def view(*features: Any, **source: Any) -> ml.FeatureView:
    """`features` of user `k` over the source `events`."""
    options = {"path": "events", "timestamp": "at", **source}
    return ml.FeatureView("spending", entity=ml.Entity("user", keys=["k"]), source=ml.DeltaSource("events", **options),
                          features=list(features))


def spine(**columns: Any) -> pa.Table:
    """Key 7 at noon, where the columns do not say otherwise."""
    return pa.table({"k": [7], "timestamp": pa.array([NOON], UTC_US)} | columns)


Ask = Callable[..., dict[str, list[Any]]]


@pytest.fixture
def ask(ray_cluster: str, tmp_path: Path) -> Ask:
    """What the features give for a spine over a table of the given rows."""

    def answer(rows: pa.Table | None, asked: Any, *features: Any, source: Any = (), **options: Any) -> Any:
        if rows is not None:
            write_deltalake(str(tmp_path / "events"), rows)
        platform = ml.connect(ml.Settings(lake=str(tmp_path), online=f"memory://{tmp_path.name}", ray=ray_cluster))
        service = ml.FeatureService("fraud", features=[view(*features, **dict(source))])
        table = platform.build_training_set(service, asked, **options).to_arrow()
        return table.select(service.names).to_pydict()

    return answer


def events(at: Any, **columns: Any) -> pa.Table:
    """Events of key 7, x = 0, 1, 2, ..."""
    at = at if isinstance(at, pa.Array) else pa.array(at, UTC_US)
    return pa.table({"k": [7] * len(at), "at": at, "x": np.arange(len(at))} | columns)


@EVERY_WAY
def test_events_without_time_are_never_read(ask: Ask, join: str) -> None:
    rows = events(pa.array(pd.Series([NOON - HOUR, pd.NaT, NOON - 2 * HOUR])).cast(UTC_US))
    assert ask(rows, spine(), "x", COUNT, join=join) == {"x": [0], "count_lifetime": [2]}


@pytest.mark.parametrize("cells", [[1.0], [float("nan")], [float("inf")], ["2026-01-01"], [1]])
def test_a_time_is_a_timestamp(ask: Ask, cells: list[Any], tmp_path: Path) -> None:
    with pytest.raises(ml.MlrayError, match=r"feature view spending: column 'at' is (double|string|int64).*timestamp"):
        ask(events(pa.array(cells)), spine(), "x")
    write_deltalake(str(tmp_path / "good"), events([NOON]))
    with pytest.raises(ml.MlrayError, match=r"spine column 'timestamp' is (double|string|int64).*timestamp"):
        ask(None, spine(timestamp=cells), "x", source={"path": "good"})


@EVERY_WAY
def test_times_from_year_1_to_9999_are_times(ask: Ask, join: str) -> None:
    #  event    year 1         noon - 1h       9999-12-31
    #  asked         year 1 + 1 us     noon        9999-12-31 + 1us
    first, last = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
    step = timedelta(microseconds=1)
    asked = spine(k=[7] * 4, timestamp=pa.array([first, first + step, NOON, last + step], UTC_US))
    found = ask(events([first, NOON - HOUR, last]), asked, COUNT, ml.Sum("x", windows=[ml.hours(1)]), join=join)
    assert found == {"count_lifetime": [0, 1, 2, 3], "x_sum_1h": [None, 0, 1, 2]}


@EVERY_WAY
def test_times_at_the_ends_of_64_bits_do_not_wrap(ask: Ask, join: str) -> None:
    ends = [1 - 2**63, 2**63 - 2]
    rows = events(pa.array([*ends, 0]).cast(UTC_US))
    asked = spine(k=[7] * 3, timestamp=pa.array([*ends, 1]).cast(UTC_US))
    found = ask(rows, asked, "x", ml.Count(windows=[ml.days(1), ml.lifetime], closed="right"), join=join)
    assert found["x"] == [0, 1, 2]
    assert found["count_lifetime"] == [1, 3, 2]
    assert found["count_1d"] == [1, 1, 1]


def test_a_spine_time_beyond_microseconds_is_refused_by_name(ask: Ask) -> None:
    asked = spine(timestamp=pa.array([2**62], pa.timestamp("s")))
    with pytest.raises(ml.MlrayError, match=r"spine column 'timestamp'.*timestamp\[s\]"):
        ask(events([NOON]), asked, "x")


def test_a_spine_of_nanoseconds_never_sees_the_future(ask: Ask) -> None:
    noon = pd.Timestamp(NOON).value
    asked = spine(k=[7] * 3, timestamp=pa.array([noon, noon + 1, noon - 1]).cast(pa.timestamp("ns", tz="UTC")))
    assert ask(events([NOON]), asked, "x", COUNT) == {"x": [0, 0, None], "count_lifetime": [0, 1, 0]}


@EVERY_WAY
@pytest.mark.parametrize("kind", [pa.timestamp("us"), pa.timestamp("ms"), pa.timestamp("us", tz="Asia/Tokyo")])
def test_times_with_and_without_zone_meet_in_utc(ask: Ask, kind: pa.DataType, join: str) -> None:
    rows = events(pa.array([NOON - HOUR], UTC_US).cast(kind))
    asked = spine(k=[7, 7], timestamp=pa.array([NOON, NOON - 2 * HOUR], UTC_US).cast(kind))
    assert ask(rows, asked, "x", join=join) == {"x": [0, None]}


@EVERY_WAY
def test_dates_are_midnights(ask: Ask, join: str) -> None:
    rows = events(pa.array([date(2026, 1, 1), date(2026, 1, 2)]))
    assert ask(rows, spine(timestamp=[NOON]), "x", COUNT, join=join) == {"x": [0], "count_lifetime": [1]}


KEYS: dict[str, pa.Array] = {
    "int64": pa.array([7]),
    "string": pa.array(["7"]),
    "bool": pa.array([True]),
    "date32": pa.array([date(2026, 1, 1)]),
    "timestamp": pa.array([NOON], UTC_US),
    "decimal": pa.array([Decimal("7.00")]),
    "binary": pa.array([b"7"]),
}


@pytest.mark.parametrize(("ours", "theirs"), list(permutations(KEYS, 2)))
def test_keys_of_two_families_never_meet(ask: Ask, ours: str, theirs: str) -> None:
    with pytest.raises(ml.MlrayError, match=rf"feature view spending: spine column 'k'.* {ours}.* {theirs}"):
        ask(events([NOON], k=KEYS[theirs]), spine(k=KEYS[ours]), "x")


SAME_KEYS: list[tuple[pa.Array, pa.Array]] = [
    *((key, key) for key in KEYS.values()),
    (pa.array([7], pa.int8()), pa.array([7])),
    (pa.array([7], pa.uint64()), pa.array([7])),
    (pa.array(["7"], pa.large_string()), pa.array(["7"])),
    (pa.array(["7"], pa.string_view()), pa.array(["7"])),
    (pa.array(["7"]).dictionary_encode(), pa.array(["7"])),
    (pa.array([7]).dictionary_encode(), pa.array([7])),
    (pa.array([b"7"], pa.large_binary()), pa.array([b"7"])),
    (pa.array([b"7"], pa.binary(1)), pa.array([b"7"])),
    (pa.array([Decimal("7.0")]), pa.array([Decimal("7.000")])),
    (pa.array([Decimal("7.000")]), pa.array([Decimal("7.0")])),
    (pa.array([NOON.replace(tzinfo=None)], pa.timestamp("ns")), pa.array([NOON], UTC_US)),
    (pa.array([date(2026, 1, 1)]).cast(pa.date64()), pa.array([date(2026, 1, 1)])),
]


@EVERY_WAY
@pytest.mark.parametrize(("ours", "theirs"), SAME_KEYS, ids=lambda key: str(key.type))
def test_keys_of_one_family_meet_by_value(ask: Ask, ours: pa.Array, theirs: pa.Array, join: str) -> None:
    assert ask(events([NOON], k=theirs), spine(k=ours), "x", join=join) == {"x": [0]}


@pytest.mark.parametrize(("ours", "theirs", "message"), [
    (pa.array([2**63], pa.uint64()), pa.array([7]), r"spending: spine column 'k' is uint64.*int64"),
    (pa.array([float("nan")]), pa.array([7]), r"spending: spine column 'k' is a key of type double"),
    (pa.array([7]), pa.array([7.0]), r"spending: column 'k' is a key of type double"),
    (pa.array([Decimal("7.01")]), pa.array([Decimal("7.0")]), r"spending: spine column 'k' is decimal.*decimal.*loss"),
    (pa.array([1], pa.timestamp("ns")), pa.array([NOON], UTC_US), r"spending: spine column 'k' is timestamp.ns.*lose"),
    (pa.array([[7]]), pa.array([7]), r"spending: spine column 'k' is a key of type list"),
])
def test_keys_that_cannot_be_compared_are_refused(ask: Ask, ours: Any, theirs: Any, message: str) -> None:
    with pytest.raises(ml.MlrayError, match=message):
        ask(events([NOON], k=theirs), spine(k=ours), "x")


@EVERY_WAY
def test_null_keys_and_times_in_the_spine_give_nulls_and_duplicates_the_same(ask: Ask, join: str) -> None:
    at = pa.array([NOON, None, NOON, NOON, None], UTC_US)
    asked = spine(k=pa.array([7, 7, None, 7, None], pa.int64()), timestamp=at)
    found = ask(events([NOON - HOUR, NOON - HOUR], k=pa.array([7, None], pa.int64())), asked, "x", COUNT, join=join)
    assert found == {"x": [0, None, None, 0, None], "count_lifetime": [1, None, None, 1, None]}


@EVERY_WAY
def test_a_key_column_of_nulls_only_fits_any(ask: Ask, join: str) -> None:
    assert ask(events([NOON]), spine(k=pa.nulls(1)), "x", COUNT, join=join) == {"x": [None], "count_lifetime": [None]}


@EVERY_WAY
def test_an_empty_table_and_an_empty_spine(ask: Ask, join: str, tmp_path: Path) -> None:
    DeltaTable.create(str(tmp_path / "none"), events([NOON]).schema)
    none = ask(events([NOON]), spine(), "x", COUNT, source={"path": "none"}, join=join)
    assert none == {"x": [None], "count_lifetime": [0]}
    assert ask(None, spine().slice(0, 0), "x", COUNT, join=join) == {"x": [], "count_lifetime": []}


@EVERY_WAY
def test_a_window_longer_than_history_is_all_of_it(ask: Ask, join: str) -> None:
    long = ml.Count(windows=[ml.days(365 * 30_000)], offset=ml.hours(1), closed="right")
    found = ask(events([NOON - HOUR, datetime(1, 1, 1, tzinfo=UTC)]), spine(), long, join=join)
    assert list(found.values()) == [[2]]


@pytest.mark.parametrize("build", [
    lambda: ml.Count(windows=[timedelta.max]).spans,
    lambda: view("x", lag=timedelta.max).source.lag_us,
])
def test_a_duration_longer_than_time_is_refused(build: Callable[[], Any]) -> None:
    with pytest.raises(ml.MlrayError, match=r"999,999,999 days.*ml\.lifetime"):
        build()


@EVERY_WAY
def test_a_million_rows_of_one_key(ask: Ask, join: str) -> None:
    n = 1_000_000
    start = int(NOON.timestamp() * 1_000_000)
    rows = events(pa.array(np.arange(start, start + n)).cast(UTC_US))
    asked = spine(k=[7, 7], timestamp=pa.array([start + n, start + n // 2]).cast(UTC_US))
    began = perf_counter()
    found = ask(rows, asked, COUNT, ml.Sum("x", windows=[ml.lifetime]), join=join)
    assert found == {"count_lifetime": [n, n // 2], "x_sum_lifetime": [n * (n - 1) // 2, (n // 2) * (n // 2 - 1) // 2]}
    assert perf_counter() - began < 60


def test_a_column_that_changes_type_between_files(ask: Ask, tmp_path: Path) -> None:
    table = tmp_path / "events"
    kinds = {"k": "long", "at": "timestamp", "x": "long"}
    files = [add(table, "a.parquet", events([NOON - 2 * HOUR], x=pa.array([1], pa.int32()))),
             add(table, "b.parquet", events([NOON - HOUR], x=pa.array([2], pa.int64())))]
    entry(table, 0, PLAIN, metadata(kinds), *files)
    assert ask(None, spine(), ml.Sum("x", windows=[ml.lifetime])) == {"x_sum_lifetime": [3]}
    entry(table, 1, add(table, "c.parquet", events([NOON - HOUR], x=["3"])))
    for join in ("broadcast", "shuffle", "co-partitioned"):
        with pytest.raises(ml.MlrayError, match=r"source events.*'x' is string in .*c\.parquet.*int64"):
            ask(None, spine(), "x", join=join)


def test_a_view_reads_only_what_it_needs_of_a_broken_table(ask: Ask, tmp_path: Path) -> None:
    table = tmp_path / "events"
    entry(table, 0, PLAIN, metadata({"k": "long", "at": "timestamp", "x": "long", "other": "long"}),
          add(table, "a.parquet", events([NOON - HOUR], other=["no number"])))
    assert ask(None, spine(), "x") == {"x": [0]}


@pytest.mark.parametrize("source", [{"where": "CAST(s AS INT) > 1"}, {"select": {"x": "CAST(s AS INT)"}}])
@EVERY_WAY
def test_an_expression_that_fails_on_a_row_fails_the_build(ask: Ask, source: Any, join: str) -> None:
    with pytest.raises(ml.MlrayError, match=r"source events: .*CAST\(s AS INT\).*'?no number"):
        ask(events([NOON - HOUR] * 2, s=["5", "no number"]), spine(), "x", source=source, join=join)


@EVERY_WAY
def test_an_aggregate_whose_condition_fails_on_a_row_fails_the_build(ask: Ask, join: str) -> None:
    feature = ml.Count(windows=[ml.lifetime], where="CAST(s AS INT) > 1")
    with pytest.raises(ml.MlrayError, match=r"spending: where of count, source events.*CAST\(s AS INT\).*no number"):
        ask(events([NOON - HOUR] * 2, s=["5", "no number"]), spine(), feature, join=join)


@EVERY_WAY
def test_columns_named_like_our_own_do_not_collide(ask: Ask, join: str) -> None:
    rows = events([NOON - HOUR], __ts=[1], __row=[2], __known=[3], timestamp=["t"], __keep=[False])
    found = ask(rows, spine(), "x", COUNT, join=join)
    assert found == {"x": [0], "count_lifetime": [1]}


@pytest.mark.parametrize(("names", "message"), [
    (["k", "timestamp", "k"], r"spine.*'k'.*twice"),
    (["k", "timestamp", "x"], r"'x' is named like a spine column"),
    (["k", "timestamp", "__row"], r"'__row'.*reserved"),
])
def test_columns_of_the_spine_that_collide_are_refused(ask: Ask, names: list[str], message: str) -> None:
    asked = pa.Table.from_arrays([pa.array([7]), pa.array([NOON], UTC_US), pa.array([7])], names=names)
    with pytest.raises(ml.MlrayError, match=message):
        ask(events([NOON]), asked, "x")


def test_a_feature_named_like_the_time_of_the_spine_is_refused(ask: Ask) -> None:
    with pytest.raises(ml.MlrayError, match=r"'timestamp' is named like a spine column"):
        ask(events([NOON], timestamp=[1]), spine(), "timestamp")


@EVERY_WAY
def test_dictionaries_and_views_from_other_libraries_are_plain_columns(ask: Ask, join: str) -> None:
    asked = pl.DataFrame({"k": pl.Series(["a", "b"], dtype=pl.Categorical), "timestamp": [NOON, NOON]})
    rows = events([NOON - HOUR, NOON - HOUR], k=["a", "b"], s=pa.array(["u", "v"]).dictionary_encode())
    assert ask(rows, asked, "s", join=join) == {"s": ["u", "v"]}
    assert ask(None, asked.to_pandas(), "s", join=join) == {"s": ["u", "v"]}


def test_a_table_is_read_as_of_a_version_or_a_time(ray_cluster: str, tmp_path: Path) -> None:
    for version in range(3):
        write_deltalake(str(tmp_path / "events"), events([NOON - (3 - version) * HOUR], x=[version]), mode="append")
    platform = ml.connect(ml.Settings(lake=str(tmp_path), online=f"memory://{tmp_path.name}", ray=ray_cluster))
    service = ml.FeatureService("fraud", features=[view("x")])

    def read(version: Any) -> tuple[Any, Any]:
        built = platform.build_training_set(service, spine(), versions={"events": version})
        return built.sources, built.to_arrow().column("x").to_pylist()

    assert read(1) == ({"events": 1}, [1])
    assert read(datetime.now(UTC)) == ({"events": 2}, [2])
    with pytest.raises(ml.MlrayError, match=r"source events.*no version as of 2000.*version 0"):
        read(datetime(2000, 1, 1, tzinfo=UTC))
    with pytest.raises(ml.MlrayError, match=r"timezone\.utc"):
        read(datetime(2000, 1, 1))
    with pytest.raises(ml.MlrayError, match=r"no source of feature service fraud 'evnts'.*did you mean 'events'"):
        platform.build_training_set(service, spine(), versions={"evnts": 1})
