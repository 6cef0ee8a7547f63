"""How verify reads: of tables of any size what it compares, a stretch at a time; and which event it names."""

from pathlib import Path

import declared
import numpy as np
import pyarrow as pa
import pytest
from deltalake import WriterProperties, write_deltalake
from generated import World, world

import mlray as ml
from mlray.features.rows import KNOWN, SEQ, TS, events, raw_columns
from mlray.features.types import INSTANT, instants
from mlray.offline import delta
from mlray.verify import history, sample
from mlray.verify.evidence import Side, first_difference
from mlray.verify.result import Event

GROUPS = WriterProperties(max_row_group_size=4)


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_STRETCH", 4)


def written(asked: World, lake: Path) -> delta.Table:
    """The world's rows in two files of short row groups."""
    half = asked.table.num_rows // 2
    for part in (asked.table.slice(0, half), asked.table.slice(half)):
        write_deltalake(f"{lake}/events", part, mode="append", writer_properties=GROUPS)
    return delta.table_at(f"{lake}/events", "events")


def rows_as_text(table: pa.Table) -> list[str]:
    return sorted(map(repr, table.to_pylist()))


@pytest.mark.parametrize("seed", range(12))
def test_the_events_of_asked_keys_are_those_of_the_whole_table(seed: int, tmp_path: Path) -> None:
    asked = world(seed, 40)
    view, table = declared.view(asked), written(asked, tmp_path)
    whole = events(view, delta.read(table.path, table.version, raw_columns(view)))
    service = ml.FeatureService("service", features=[view])
    keys = history.asked_keys(service, view, asked.spine.slice(0, 5), history.key_schema(view, table.schema))
    found = history.events_of(view, table, keys)
    for key in (keys.slice(i, 1) for i in range(keys.num_rows)):
        mine = [row for row in whole.to_pylist() if [row[k] for k in view.keys] == list(key.to_pylist()[0].values())]
        assert rows_as_text(found.of(key)) == sorted(map(repr, mine))


@pytest.mark.parametrize("seed", range(12))
def test_rows_for_a_replay_come_in_the_order_in_which_they_became_known(seed: int, tmp_path: Path) -> None:
    asked = world(seed, 40)
    view, table = declared.view(asked), written(asked, tmp_path)
    service = ml.FeatureService("service", features=[view])
    keys = history.asked_keys(service, view, asked.spine, history.key_schema(view, table.schema))
    until = 1_772_946_000_000_000 + 8 * 600_000_000
    rows, known = history.rows_of(table, raw_columns(view), [(view, keys)], until)
    assert (np.diff(known) >= 0).all()
    assert known.max(initial=until) <= until
    found = events(view, rows)
    wanted = history.events_of(view, table, keys).events
    early = wanted.filter(pa.array(history.arrival(view, wanted) <= until))
    assert rows_as_text(found) == rows_as_text(early)


def test_files_and_row_groups_without_an_asked_key_are_not_read(tmp_path: Path) -> None:
    table = pa.table({"user": np.repeat(np.arange(10), 4), "at": pa.array(range(40), INSTANT)})
    for part in (table.slice(0, 20), table.slice(20)):
        write_deltalake(f"{tmp_path}/t", part, mode="append", writer_properties=GROUPS)
    source = ml.DeltaSource("t", path="t", timestamp="at")
    view = ml.FeatureView("v", entity=ml.Entity("user", keys=["user"]), source=source, features=[
        ml.Count(windows=[ml.days(1)]),
    ])
    keys = pa.table({"user": [2, 3]})
    parts = list(history.stretches(delta.table_at(f"{tmp_path}/t", "t"), ["user", "at"], [(view, keys)]))
    assert [part["user"].to_pylist() for part in parts if part.num_rows] == [[2] * 4, [3] * 4]
    assert len(parts) == 5  # of the second file nothing is looked at


def test_a_spine_on_disk_gives_the_rows_that_it_would_in_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    times = [None if i % 9 == 0 else int(rng.integers(0, 10**6)) for i in range(50)]
    spine = pa.table({"user": list(range(50)), "timestamp": pa.array(times, INSTANT)})
    for start in range(0, 50, 10):
        write_deltalake(f"{tmp_path}/spine", spine.slice(start, 10), mode="append", writer_properties=GROUPS)
    for rows in (1, 7, 44, 100):
        assert sample.chosen("spine", str(tmp_path), "timestamp", rows) == sample.evenly(spine, "timestamp", rows)


def test_sampled_rows_ask_for_real_keys_when_events_come_and_go(tmp_path: Path) -> None:
    table = pa.table({"user": [1, 2, 3], "at": pa.array([100, 200, 300], INSTANT)})
    write_deltalake(f"{tmp_path}/t", table)
    source = ml.DeltaSource("t", path="t", timestamp="at")
    view = ml.FeatureView("v", entity=ml.Entity("user", keys=["user"]), source=source, features=[
        ml.Count(windows=[ml.minutes(1)]),
    ])
    service = ml.FeatureService("s", features=[view])
    first, again, other = (sample.sampled_spine(service, str(tmp_path), "q", 50, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    pairs = set(zip(first["user"].to_pylist(), first["q"].cast(pa.int64()).to_pylist(), strict=True))
    assert pairs == {(user, user * 100 + later) for user in (1, 2, 3) for later in (0, 60_000_000)}


# What differs


seen = ml.FeatureView(
    "seen",
    entity=ml.Entity("user", keys=["user"]),
    source=ml.DeltaSource("t", path="t", timestamp="at", known_at="known", sequence="seq"),
    features=["v", ml.Sum("v", windows=[ml.minutes(1)])],
)


def side(*rows: tuple[int, int, int, float]) -> pa.Table:
    """Events as (second, known, seq, v)."""
    ts, known, seq, v = zip(*rows, strict=True) if rows else ((), (), (), ())
    second = 1_000_000
    return pa.table({
        TS: pa.array([t * second for t in ts], pa.int64()),
        KNOWN: pa.array([k * second for k in known], pa.int64()),
        SEQ: pa.array(seq, pa.int64()),
        "v": pa.array(v, pa.float64()),
    })


@pytest.mark.parametrize(
    ("feature", "offline", "online", "told"),
    [  # as of 100 s: the window is [40, 100)
        ("v_sum_1m", [(50, 50, 1, 1.0)], [(50, 50, 1, 1.0)], None),
        ("v_sum_1m", [(50, 50, 1, 1.0)], [(50, 50, 1, 2.0)], ("offline", 50, 50, 1.0)),
        ("v_sum_1m", [(50, 50, 1, -0.0)], [(50, 50, 1, 0.0)], ("offline", 50, 50, -0.0)),
        ("v_sum_1m", [(50, 50, 1, 1.0), (60, 60, 2, 1.0)], [(60, 60, 2, 1.0)], ("offline", 50, 50, 1.0)),
        ("v_sum_1m", [(60, 60, 2, 1.0)], [(50, 50, 1, 1.0), (60, 60, 2, 1.0)], ("online", 50, 50, 1.0)),
        ("v_sum_1m", [(39, 39, 1, 1.0), (100, 100, 2, 1.0)], [], None),  # out of reach
        ("v_sum_1m", [(50, 101, 1, 1.0)], [], None),  # not yet known
        ("v_sum_1m", [(50, 50, 1, 1.0), (50, 60, 1, 2.0)], [(50, 60, 1, 2.0)], None),  # corrected on both sides
        ("v_sum_1m", [(50, 60, 1, 2.0)], [(50, 50, 1, 1.0)], ("offline", 50, 60, 2.0)),  # corrected on one
        ("v", [(5, 5, 1, 1.0), (50, 50, 2, 2.0)], [(50, 50, 2, 2.0)], None),  # online forgets what lies behind
        ("v", [(5, 5, 1, 1.0), (50, 50, 2, 2.0)], [(5, 5, 1, 1.0)], ("offline", 50, 50, 2.0)),
        ("v", [(5, 5, 1, 1.0)], [], ("offline", 5, 5, 1.0)),
    ],
)
def test_the_first_event_that_one_side_has_is_told(
    feature: str, offline: list[tuple[int, int, int, float]], online: list[tuple[int, int, int, float]],
    told: tuple[str, int, int, float] | None,
) -> None:
    at = instants(pa.array([100_000_000], INSTANT), "at")
    found = first_difference(seen, feature, Side(side(*offline)), Side(side(*online)), at)
    shown = found and (found.side, found.at // 10**6, (found.known_at or 0) // 10**6, found.columns["v"])
    assert repr(shown) == repr(told)


def test_what_online_has_condensed_is_no_difference() -> None:
    at = instants(pa.array([100_000_000], INSTANT), "at")
    whole, rest = side((45, 45, 1, 1.0), (50, 50, 2, 1.0)), side((50, 50, 2, 1.0))
    assert first_difference(seen, "v_sum_1m", Side(whole), Side(rest, since=50_000_000), at) is None
    assert first_difference(seen, "v_sum_1m", Side(whole), Side(side(), since=45_000_000), at) is not None


def test_an_event_reads_as_a_sentence() -> None:
    event = Event("offline", 1_772_946_000_000_000, 3, None, {"amount": 1.5})
    assert str(event) == (
        "only offline has the event of 2026-03-08T05:00:00.000000Z, sequence 3: {'amount': 1.5}; online does not"
    )
