"""Reads: each row by itself and all in columns say the same; a reader follows the record; statuses."""

from typing import Any

import pyarrow as pa
import pytest

import mlray as ml
from mlray.errors import MlrayError, NotMaterialized
from mlray.features.rows import events
from mlray.features.types import instants
from mlray.online import state
from mlray.online.retrieval import Reader, get_features
from mlray.online.store import OnlineStore, open_store

NOON = 1_773_057_600_000_000
MINUTE = 60_000_000
INSTANT, NANO = pa.timestamp("us", "UTC"), pa.timestamp("ns", "UTC")
SOURCE = ml.DeltaSource("e", path="e", timestamp="at")
VIEW = ml.FeatureView(
    "v",
    entity=ml.Entity("k", keys=["k"]),
    source=SOURCE,
    features=["n", "text", "many", ml.Sum("n", windows=[ml.hours(1)]), ml.Max("n", windows=[ml.hours(1)])],
    ttl=ml.minutes(30),
)
WHOLE = ml.FeatureView("all", entity=None, source=SOURCE, features=[ml.Count(windows=[ml.hours(1)])])
SERVICE = ml.FeatureService("s", features=[VIEW, WHOLE])
BOTH = (0, 1000)


def rows(*cells: tuple[Any, int, Any]) -> pa.Table:
    """(key, minutes after noon, n) each."""
    keys, minutes, n = zip(*cells, strict=True)
    return pa.table({
        "k": pa.array(keys, pa.int64()),
        "at": pa.array([NOON + minute * MINUTE for minute in minutes], INSTANT),
        "n": pa.array(n, pa.int64()),
        "text": ["é" * 3 if i % 2 else "" for i in range(len(keys))],
        "many": [[{"x": 0.1}], None][: len(keys)] + [[]] * (len(keys) - 2),
    })  # fmt: skip


def loaded(name: str, table: pa.Table, until: int, views: tuple[ml.FeatureView, ...] = (VIEW, WHOLE)) -> OnlineStore:
    store = open_store(f"memory://{name}")
    for view in views:
        moment = NOON + until * MINUTE
        state.load(store, view, events(view, table), version=0, until=moment, history=60 * MINUTE)
    return store


def outcome(reader: Reader, asked: pa.Table | list[dict[str, Any]], at: pa.Array) -> Any:
    try:
        found = reader.read(asked, instants(at, "at")).to_arrow()
    except MlrayError as error:
        return type(error), str(error)
    return found.schema, repr(found.to_pylist())


TABLE = rows((1, -50, 7), (1, -10, -(2**63)), (2, -5, 2**63 - 1), (2, -4, None), (3, 0, 5))
AT = [NOON, NOON + MINUTE, None, NOON - 10 * MINUTE, NOON + 25 * MINUTE]


@pytest.mark.parametrize(
    "keys",
    [
        pa.array([1, 2, 3, 4, 1], pa.int64()),
        pa.array([None, 2, None, 2, 2], pa.int64()),
        pa.array([1, 2, 3, 4, 5], pa.int16()),
        pa.array([2**63 - 1, -(2**63), 0, 1, 1], pa.int64()),
        pa.array([2**63, 1, 1, 1, 1], pa.uint64()),
        pa.array(["1", "2", "3", "4", "1"]),
        pa.nulls(5),
        pa.array([1.0, 2.0, 3.0, 4.0, 1.0]),
    ],
    ids=lambda keys: str(keys.type),
)
def test_both_ways_give_the_same_bits_types_and_errors(keys: pa.Array) -> None:
    store = loaded(f"ways-{keys}", TABLE, 0)
    for at in (pa.array(AT, INSTANT), pa.array([None if t is None else t * 1000 + 1 for t in AT], NANO)):
        one, other = (outcome(Reader(store, SERVICE, few=few), pa.table({"k": keys}), at) for few in BOTH)
        assert one == other


@pytest.mark.parametrize("key", [1, 4, None, "1", True, 1.0, 2**63, "\ud800", b"1", [1]], ids=repr)
def test_both_ways_take_rows_as_python_has_them(key: Any) -> None:
    store = loaded(f"rows-{key!r}", TABLE, 0)
    at = pa.array([NOON], INSTANT)

    def asked(few: int) -> Any:
        try:
            return outcome(Reader(store, SERVICE, few=few), [{"k": key}], at)
        except (pa.ArrowException, ValueError, OverflowError) as error:  # of the table made of the rows
            return type(error)

    assert asked(0) == asked(1000)


@pytest.mark.parametrize("few", BOTH)
def test_no_rows_are_no_vectors(few: int) -> None:
    store = loaded(f"none-{few}", TABLE, 0)
    found = Reader(store, SERVICE, few=few).read(
        pa.table({"k": pa.array([], pa.int64())}), instants(pa.array([], INSTANT), "at")
    )
    assert (found.to_arrow().num_rows, found.to_pylist()) == (0, [])
    assert found.to_arrow().column_names == ["n", "text", "many", "n_sum_1h", "n_max_1h", "count_1h"]


@pytest.mark.parametrize("few", BOTH)
def test_before_what_the_state_reaches_a_read_is_refused_for_a_known_key_only(few: int) -> None:
    reader = Reader(loaded(f"reach-{few}", TABLE, 0, (VIEW,)), ml.FeatureService("s", features=[VIEW]), few=few)
    early = pa.array([NOON - 60 * MINUTE - 1], INSTANT)
    assert "answers exactly only from" in outcome(reader, pa.table({"k": [1]}), early)[1]
    assert "None" in outcome(reader, pa.table({"k": pa.array([None], pa.int64())}), early)[1]
    assert "answers exactly" not in outcome(reader, pa.table({"k": [1]}), pa.array([NOON - 60 * MINUTE], INSTANT))[1]


@pytest.mark.parametrize("few", BOTH)
def test_a_reader_follows_the_record(few: int) -> None:
    store = loaded(f"follows-{few}", TABLE, 0)
    reader, at = Reader(store, SERVICE, few=few), instants(pa.array([NOON + 9 * MINUTE], INSTANT), "at")
    asked = pa.table({"k": pa.array([1], pa.int64())})
    assert reader.read(asked, at).to_pylist()[0]["count_1h"] == 5
    for view in (VIEW, WHOLE):
        state.push(store, view, events(view, rows((1, 1, 1), (1, 2, 2))), version=1, whole=False)
    assert reader.read(asked, at).to_pylist()[0]["count_1h"] == 7
    table = TABLE.set_column(2, "n", pa.array([0.5] * 5))
    state.load(store, VIEW, events(VIEW, table), version=2, until=NOON, history=0)
    assert reader.read(asked, at).to_arrow()["n"].to_pylist() == [2.0]
    store.drop(state.space(WHOLE))
    with pytest.raises(NotMaterialized, match="feature view all"):
        reader.read(asked, at)
    state.load(store, WHOLE, events(WHOLE, TABLE), version=3, until=NOON, history=0)
    assert reader.read(asked, at).to_pylist()[0]["count_1h"] == 5


def test_statuses_and_event_times() -> None:
    #  key 1: minute -10; 2: minute -4, n null; 3: minute -45, older than the ttl; 4: nothing; complete up to noon
    store = loaded("status", rows((1, -10, 7), (2, -4, None), (3, -45, 5)), 0, (VIEW,))
    asked = pa.table({"k": pa.array([1, 2, 3, 4, None, 1], pa.int64())})
    at = instants(pa.array([NOON] * 5 + [NOON + 1], INSTANT), "at")
    found = get_features(store, ml.FeatureService("s", features=[VIEW]), asked, at, status="values")
    columns = found.to_pydict()
    assert columns["v__status"] == ["present", "present", "expired", "missing", "missing", "stale"]
    assert columns["n__status"] == ["present", "missing", "expired", "missing", "missing", "stale"]
    assert columns["n_sum_1h__status"] == ["present", "missing", "present", "missing", "missing", "stale"]
    minutes = [None if t is None else (t.timestamp() * 1_000_000 - NOON) / MINUTE for t in columns["v__event_time"]]
    assert minutes == [-10, -4, -45, None, None, -10]
    plain = get_features(store, ml.FeatureService("s", features=[VIEW]), asked, at)
    assert found.select(plain.column_names).equals(plain)


def test_keys_without_events_beside_one_of_all_years_meet_none_of_its_events() -> None:
    #  key 0   year 1 |--x---------x-----------x--| 9999      keys 1 to 299: nothing
    #  asked                          noon
    year_1, year_9999 = -62_135_596_800_000_000, 253_402_214_400_000_000
    table = pa.table({
        "k": [0, 0, 0],
        "at": pa.array([year_1, NOON - 1, year_9999], INSTANT),
        "n": [1, 2, 3],
    })  # fmt: skip
    view = ml.FeatureView("w", entity=VIEW.entity, source=SOURCE, features=["n", ml.Count(windows=[ml.days(300_000)])])
    store = open_store("memory://all-years")
    state.load(store, view, events(view, table), version=0, until=NOON, history=3000 * 365 * 24 * 60 * MINUTE)
    keys = pa.table({"k": pa.array(range(300), pa.int64())})
    reader = Reader(store, ml.FeatureService("w", features=[view]))
    found = reader.read(keys, instants(pa.array([NOON] * 300, INSTANT), "at")).to_arrow()
    assert found["n"].to_pylist() == [2] + [None] * 299
    assert found[view.names[1]].to_pylist() == [1] + [0] * 299
