"""Answers from events in several places, in slices of keys and of time, equal the naive oracle; no Ray."""

from functools import partial
from itertools import pairwise
from random import Random
from typing import Any

import declared
import numpy as np
import pyarrow as pa
from generated import World, differences, everywhere, expected, lean, world
from hypothesis import given, settings
from hypothesis import strategies as st

import mlray as ml
from mlray.features.rows import events
from mlray.features.service import FeatureService
from mlray.offline.sliced import Pieces, answer_part, runs, slices

seeds, limits = st.integers(0, 2**32), st.integers(1, 12)
MINUTE = 60_000_000


def asked_of(view: ml.FeatureView) -> Any:
    return FeatureService("s", features=[view]).reads[0]


def sliced(asked: World, seed: int, limit: int) -> pa.Table:
    """The world's answers from its events in one to five places, of which some have none."""
    rng, view = Random(seed), declared.view(asked)
    found = events(view, asked.table)
    cuts = sorted(rng.choices(range(found.num_rows + 1), k=rng.randrange(5)))
    each = tuple(partial(found.slice, a, b - a) for a, b in pairwise([0, *cuts, found.num_rows]))
    rows = rng.choice([None, found.num_rows])
    return answer_part(asked_of(view), Pieces(found.schema, rows, each), asked.spine, "timestamp", limit)


@settings(max_examples=150, deadline=None)
@given(seed=seeds, limit=limits)
def test_slices_change_no_bit(seed: int, limit: int) -> None:
    asked = world(seed, 40)
    assert differences(asked, sliced(asked, seed, limit), expected(asked)) == []


@settings(max_examples=100, deadline=None)
@given(seed=seeds, limit=limits)
def test_a_hot_key_is_cut_by_time_and_changes_no_bit(seed: int, limit: int) -> None:
    asked = world(seed, 40, timeless=False, features=lean(seed))
    assert differences(asked, sliced(asked, seed, limit), expected(asked)) == []


@settings(max_examples=100, deadline=None)
@given(seed=seeds, limit=limits)
def test_one_global_row_is_cut_by_time_and_changes_no_bit(seed: int, limit: int) -> None:
    asked = everywhere(world(seed, 40))
    assert differences(asked, sliced(asked, seed, limit), expected(asked)) == []


def history(count: int) -> tuple[ml.FeatureView, pa.Table, pa.Table]:
    """A view of ten minutes of key 7, its events, one a minute, and a question at the instant of each."""
    times = pa.array(np.arange(count) * MINUTE, pa.timestamp("us", tz="UTC"))
    rows = pa.table({"k": pa.array([7] * count), "ts": times, "v": np.arange(float(count))})
    source = ml.DeltaSource("s", path="s", timestamp="ts")
    view = ml.FeatureView("v", entity=ml.Entity("k", keys=["k"]), source=source, features=[
        "v", ml.Sum("v", windows=[ml.minutes(10)]),
    ])
    return view, events(view, rows), rows.select(["k", "ts"]).rename_columns(["k", "timestamp"])


def test_a_slice_of_a_hot_key_holds_little_more_than_its_limit() -> None:
    view, found, spine = history(1000)
    pieces = Pieces(found.schema, None, tuple(partial(found.slice, i, 250) for i in range(0, 1000, 250)))
    parts = list(slices(asked_of(view), pieces, spine, "timestamp", 100))
    assert sorted(np.concatenate([mine for mine, _ in parts]).tolist()) == list(range(1000))
    # of each batch of older events the newest comes along: no other batch can tell that it is of no use
    assert max(rows.num_rows for _, rows in parts) <= 100 + 12 + 10


def test_with_a_lag_an_event_at_the_end_of_time_is_never_seen_and_no_question_is_answered_twice() -> None:
    never = np.iinfo(np.int64).max
    times = pa.array([1, 2, 3, never, never], pa.timestamp("us", tz="UTC"))
    rows = pa.table({"k": [7] * 5, "ts": times, "v": [1, 2, 3, 4, 5]})
    source = ml.DeltaSource("s", path="s", timestamp="ts", lag=ml.minutes(1))
    view = ml.FeatureView("v", entity=ml.Entity("k", keys=["k"]), source=source, features=["v"])
    spine = pa.table({"k": [7, 7], "timestamp": pa.array([MINUTE + 2, 0], times.type)})
    answers = answer_part(asked_of(view), Pieces.of(events(view, rows)), spine, "timestamp", 2)
    assert answers["v"].to_pylist() == [2, None]


def test_events_that_nobody_asks_for_are_not_held() -> None:
    view, found, spine = history(1000)
    others = spine.set_column(0, "k", pa.array([8, None] * 500))
    parts = list(slices(asked_of(view), Pieces.of(found), others, "timestamp", 100))
    assert [(len(mine), rows.num_rows) for mine, rows in parts] == [(500, 0), (500, 0)]


def test_runs_of_codes_stay_within_the_limit_where_one_code_does() -> None:
    assert list(runs(np.array([3, 3, 3, 9, 1, 1]), 6)) == [(0, 2), (2, 3), (3, 4), (4, 6)]
