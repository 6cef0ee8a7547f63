"""Answers within bounds and by bucket equal the naive oracle; pure functions, no Ray."""

from pathlib import Path
from typing import Any

import declared
import numpy as np
import pyarrow as pa
import pytest
from generated import differences, expected, world
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

import mlray as ml
from mlray.features.rows import KNOWN, TS, events
from mlray.features.service import FeatureService
from mlray.offline import scan
from mlray.offline.answer import answer, held
from mlray.offline.cutting import cut, together
from mlray.offline.exchange import cut_events, spine_buckets, within
from mlray.offline.join import share_of
from mlray.offline.log import File
from mlray.offline.plan import Bounds, Group, Read, event_bounds
from mlray.offline.spine import ROW, facts
from mlray.verify import same_bits

seeds = st.integers(0, 2**32)


def asked_of(view: ml.FeatureView) -> Any:
    return FeatureService("s", features=[view]).reads[0]


def answered(view: ml.FeatureView, found: pa.Table, spine: pa.Table) -> pa.Table:
    return answer(asked_of(view), held(view, found), spine, "timestamp")


@settings(max_examples=150, deadline=None)
@given(seed=seeds, rows=st.integers(0, 6))
def test_events_beyond_the_bounds_of_a_spine_are_not_missed(seed: int, rows: int) -> None:
    asked = world(seed, 40)
    few = asked.spine.slice(rows, 5)
    view = declared.view(asked)
    span = facts(few, 0, "timestamp")[1]
    if span is None:
        return
    kept = within(events(view, asked.table), event_bounds(view, span))
    answers = answered(view, kept, few)
    whole = answered(view, events(view, asked.table), few)
    assert all(same_bits(answers.column(name), whole.column(name)).all() for name in whole.column_names)


def test_bounds_reach_back_as_far_as_the_longest_window_or_ttl() -> None:
    source = ml.DeltaSource("s", path="s", timestamp="ts", known_at="known", lag=ml.minutes(1))
    user = ml.Entity("user", keys=["user"])
    minute = 60_000_000
    span = (100 * minute, 200 * minute)

    def bounds(*features: Any, **options: Any) -> Bounds:
        return event_bounds(ml.FeatureView("v", entity=user, source=source, features=list(features), **options), span)

    windows = ml.Count(windows=[ml.minutes(3), ml.minutes(9)], offset=ml.minutes(2))
    assert bounds(windows) == Bounds(88 * minute, 199 * minute, 200 * minute)
    assert bounds(windows, "a", ttl=ml.minutes(30)) == Bounds(69 * minute, 199 * minute, 200 * minute)
    assert bounds(windows, "a") == Bounds(None, 199 * minute, 200 * minute)
    assert bounds(ml.Count(windows=[ml.lifetime])) == Bounds(None, 199 * minute, 200 * minute)


@pytest.mark.parametrize("seed", range(10))
def test_events_and_questions_of_a_key_meet_in_one_bucket(seed: int) -> None:
    asked = world(seed, 80, timeless=False)
    view = declared.view(asked)
    found = events(view, asked.table)
    types = found.select(list(view.keys)).schema
    read = Read(0, asked_of(view), None, "shuffle", "", Bounds(), ())  # type: ignore[arg-type]
    group = Group(view.keys, types, (read,), 4)
    spine = asked.spine.append_column(ROW, pa.array(range(asked.spine.num_rows)))
    asking = cut(spine, spine_buckets(spine, group, "timestamp"), 4)
    parts = zip(asking, cut_events(view, asked.table, Bounds(), types, 4), strict=True)
    answers = [(s, answered(view, found, s)) for s, found in parts]
    rows = np.concatenate([s.column(ROW).to_numpy() for s, _ in answers])
    together_ = pa.concat_tables([a for _, a in answers]).take(pa.array(np.argsort(rows)))
    assert differences(asked, together_, expected(asked)) == []


def test_a_key_whose_texts_are_too_long_for_one_column_is_the_same_key() -> None:
    asked = next(one for one in map(world, range(100)) if one.table["user"].type == pa.string())
    found = events(declared.view(asked), asked.table)
    user = found.column("user").cast(pa.large_string())
    found = found.set_column(found.schema.get_field_index("user"), "user", user)
    assert differences(asked, answered(declared.view(asked), found, asked.spine), expected(asked)) == []


def test_small_files_are_read_together_and_large_ones_in_runs_of_row_groups() -> None:
    files = [File(str(i), 1, size) for i, size in enumerate([4, 5, 20, 3, 3])]
    parts = [[(s.file.size, s.index, s.count) for s in part] for part in together(files, 10)]
    assert parts == [[(4, 0, 1), (5, 0, 1)], [(20, 0, 2)], [(20, 1, 2)], [(3, 0, 1), (3, 0, 1)]]


@pytest.mark.parametrize("keys", [[0, 1], [7], [40, 55, 99], [1000]])
@pytest.mark.parametrize("kind", [pa.int32(), pa.string()])
def test_only_row_groups_that_may_hold_a_key_are_read(kind: pa.DataType, keys: list[int], tmp_path: Path) -> None:
    #  row groups of ten keys each: 000-009, 010-019, ...
    rows = pa.table({"k": pa.array([f"{k:03}" for k in range(100)]).cast(kind)})
    parquet.write_table(rows, tmp_path / "f.parquet", row_group_size=10)
    file = File(str(tmp_path / "f.parquet"), 100, 1)
    wanted = [f"{k:03}".encode() if kind == pa.string() else k for k in keys]
    found = scan.read([file], rows.schema, ["k"], "test", scan.Among("k", wanted))
    groups = {k // 10 for k in keys if k < 100}
    assert found["k"].cast(pa.int64()).to_pylist() == [k for k in range(100) if k // 10 in groups]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_the_slices_of_a_file_hold_its_rows_once(count: int, tmp_path: Path) -> None:
    rows = pa.table({"k": range(95)})
    parquet.write_table(rows, tmp_path / "f.parquet", row_group_size=10)
    file = File(str(tmp_path / "f.parquet"), 95, 1)
    parts = [scan.read([scan.Slice(file, i, count)], rows.schema, ["k"], "test") for i in range(count)]
    assert pa.concat_tables(parts).equals(rows)


def test_what_is_known_too_late_for_every_question_is_left_behind() -> None:
    rows = pa.table({TS: pa.array([1, 2, 3]), KNOWN: pa.array([5, 9, 4])})
    assert within(rows, Bounds(2, 3, 8))[TS].to_pylist() == [3]


def test_the_shares_of_a_bucket_are_ranges_of_time_with_every_row_once() -> None:
    rows = pa.table({"timestamp": pa.array([3, 1, 2, 0, 4], pa.timestamp("us", "UTC")), "row": range(5)})
    assert [share_of(rows, (i, 2), "timestamp")["row"].to_pylist() for i in (0, 1)] == [[3, 1], [2, 0, 4]]
