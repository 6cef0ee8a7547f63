"""Latest values: few and many at once, as they lie in one base of one row or otherwise, the same as in columns."""

from collections.abc import Sequence
from decimal import Decimal
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import mlray as ml
from mlray.errors import SchemaError
from mlray.features.rows import TS, events
from mlray.features.types import INSTANT, instants
from mlray.online import state
from mlray.online.codec import IN_ORDER, Layout
from mlray.online.latest import Latest
from mlray.online.retrieval import Reader
from mlray.online.store import VERSION, OnlineStore, open_store

NOON = 1_773_057_600_000_000
MINUTE = 60_000_000
DECIMALS = [None, Decimal("0.00"), Decimal("-0.01"), Decimal("1E+35")]


def loaded(store: OnlineStore, rng: Random, **declared: Any) -> ml.FeatureService:
    """A view of bare columns with at most one event per key, on the minute, loaded up to noon. Every seventh x is
    null.
    """
    source = ml.DeltaSource("s", path="s", timestamp="at", lag=ml.minutes(rng.choice([0, 2])))
    features = rng.choice([["x", "n"], ["x", "n", "t"], ["n", "d"], ["l", "d", "t"]])
    view = ml.FeatureView("v", entity=ml.Entity("k", keys=["k"]), source=source, features=features, **declared)
    state.load(store, view, happened(view, rng, range(30)), version=1, until=NOON, history=0)
    state.push(store, view, happened(view, rng, range(8, 12)), version=1, whole=False)  # which the load has already
    return ml.FeatureService("f", features=[view])


def happened(view: ml.FeatureView, rng: Random, keys: Sequence[int], last: int = 0) -> pa.Table:
    """An event of each key, up to `last` minutes after noon."""
    at = pa.array([NOON + rng.randrange(-8, last + 1) * MINUTE for _ in keys], INSTANT)
    xs = [rng.random() if k % 7 else None for k in keys]
    n, t = [rng.randrange(100) for _ in keys], [rng.choice([None, "", "é" * k]) for k in keys]
    columns = {"k": list(keys), "at": at, "x": pa.array(xs, pa.float64()), "n": n, "t": pa.array(t, pa.string())}
    d, lists = [rng.choice(DECIMALS) for _ in keys], [rng.choice([None, [], [1, None, k]]) for k in keys]
    columns |= {"d": pa.array(d, pa.decimal128(38, 2)), "l": pa.array(lists, pa.list_(pa.int64()))}
    return events(view, pa.table(columns))


@pytest.mark.parametrize("closed", ["left", "right"])
@pytest.mark.parametrize("ttl", [None, ml.minutes(4)])
@pytest.mark.parametrize("rows", [5, 60])
@pytest.mark.parametrize("batches", [0, 3])
@pytest.mark.parametrize("seed", range(4))
def test_they_are_what_columns_give(seed: int, rows: int, batches: int, ttl: Any, closed: Any) -> None:
    rng, store = Random(seed), open_store(f"memory://latest-{seed}-{rows}-{batches}-{ttl}-{closed}")
    service = loaded(store, rng, ttl=ttl, closed=closed)
    for batch in range(batches):  # some of them late, some of one time with an event before
        table = happened(service.views[0], rng, rng.sample(range(35), 12), last=4)
        state.push(store, service.views[0], table, version=2 + batch, whole=False)
    keys = pa.table({"k": pa.array([rng.choice([None, 99, *range(30)]) for _ in range(rows)], pa.int64())})
    moments = [NOON, NOON + 1, NOON + 2 * MINUTE, NOON + 5 * MINUTE]
    for many in (moments, [None, *moments], [rng.choice(moments)]):
        at = instants(pa.array([rng.choice(many) for _ in range(rows)], INSTANT), "at")
        together, columns = Reader(store, service), Reader(store, service, few=0)
        assert together.read(keys, at).to_arrow().equals(columns.read(keys, at).to_arrow())


def test_a_key_with_a_later_batch_is_answered_beside_the_others() -> None:
    store = open_store("memory://latest-batch")
    service = loaded(store, Random(0))
    keys, at = pa.table({"k": range(30)}), instants(pa.array([NOON + 9 * MINUTE] * 30, INSTANT), "at")
    before = Reader(store, service).read(keys, at).to_pylist()
    late = happened(service.views[0], Random(1), [9], last=9)
    late = late.set_column(late.schema.get_field_index(TS), TS, [[NOON + MINUTE]])
    state.push(store, service.views[0], late, version=2, whole=False)
    assert Reader(store, service).read(keys, at).to_pylist() == [
        *before[:9],
        late.select(service.names).to_pylist()[0],
        *before[10:],
    ]


# Records


ROWS = pa.table({"n": pa.array([1, None, 3], pa.int64()), TS: [10, 20, 30], "x": [0.1, 0.2, 0.3]})
LAYOUT = Layout(ROWS.schema)


def record(first: int, last: int, flags: int = IN_ORDER, tail: bytes = b"", rows: pa.Table = ROWS) -> bytes:
    return VERSION.pack(-7) + Layout(rows.schema).encode(rows).cut(first, last, 99, flags, tail)


@pytest.mark.parametrize("names", [["n", "x"], ["x", "n"], ["x"]])
def test_rows_are_read_as_they_lie_under_any_names(names: list[str]) -> None:
    latest = Latest(LAYOUT, names)
    one, three = ([{"n": n, "x": x}[name] for name in names] for n, x in ((1, 0.1), (3, 0.3)))
    assert list(map(list, latest.many([record(0, 1), record(2, 3)], 0, 31))) == [one, three]
    assert [list(latest.one(lying, 0, 31) or ()) for lying in (record(0, 1), record(2, 3))] == [one, three]


def test_a_null_is_none() -> None:
    rows = pa.table({"n": pa.array([None, 2], pa.int64()), TS: [10, 20], "x": pa.array([0.5, None])})
    lying, found = [record(0, 1, rows=rows), record(1, 2, rows=rows)], [(0.5, None), (None, 2)]
    latest = Latest(LAYOUT, ["x", "n"])
    assert [latest.one(each, 0, 31) for each in lying] == latest.many(lying, 0, 31) == found


def test_a_row_of_another_time_gives_nulls() -> None:
    latest, spans = Latest(LAYOUT, ["n", "x"]), [(10, 11), (11, 20), (0, 10)]
    found = [(1, 0.1), [None, None], [None, None]]
    assert [latest.one(record(0, 1), start, end) for start, end in spans] == found
    starts, ends = (np.array(bounds) for bounds in zip(*spans, strict=True))
    assert latest.many([record(0, 1)] * 3, starts, ends) == found


@pytest.mark.parametrize("other", ["two rows", "not in order", "a tail", "no time", "another schema", "nothing"])
def test_what_lies_otherwise_is_left_out_and_spoils_no_other(other: str) -> None:
    lying = {
        "two rows": record(0, 2),
        "not in order": record(0, 1, flags=0),
        "a tail": record(0, 1, tail=b"tail"),
        "no time": record(0, 1, rows=ROWS.set_column(1, TS, pa.nulls(3, pa.int64()))),
        "another schema": record(0, 1, rows=ROWS.rename_columns(["n", TS, "y"])),
        "nothing": b"",
    }[other]
    latest = Latest(LAYOUT, ["n", "x"])
    assert latest.one(lying, 0, 31) is None
    assert latest.many([record(2, 3), lying, record(0, 1)], 0, 31) == [(3, 0.3), None, (1, 0.1)]


def test_texts_and_bytes_are_cut_from_what_follows() -> None:
    rows = pa.table({"s": ["é", None], TS: [1, 2], "b": [b"\xff", b""], "n": [7, 8], "t": ["", "ab"]})
    lying = [record(0, 1, rows=rows), record(1, 2, rows=rows)]
    latest = Latest(Layout(rows.schema), ["t", "b", "s"])
    assert [latest.one(each, 0, 9) for each in lying] == [("", b"\xff", "é"), ("ab", b"", None)]
    assert Latest(Layout(rows.schema), ["n", "t"]).one(lying[1], 0, 9) == (8, "ab")
    assert latest.one(lying[0] + b"!", 0, 9) is None
    with pytest.raises(SchemaError, match="materialize the view again"):
        latest.one(lying[0].replace("é".encode(), b"\xff\xff"), 0, 9)


def test_decimals_are_their_digits_and_lists_are_lists() -> None:
    digits = pa.array([Decimal("-1.50"), None], pa.decimal128(9, 2))
    rows = pa.table({"d": digits, TS: [1, 2], "l": pa.array([[1, None], []], pa.list_(pa.int8()))})
    lying = [record(0, 1, rows=rows), record(1, 2, rows=rows)]
    latest = Latest(Layout(rows.schema), ["l", "d"])
    assert [latest.one(each, 0, 9) for each in lying] == [([1, None], -150), ([], None)]
    with pytest.raises(SchemaError, match="materialize the view again"):
        Latest(Layout(rows.schema), ["l"]).one(lying[0][:-1] + b"!", 0, 9)
    flat = rows.drop_columns(["l"])
    assert Latest(Layout(flat.schema), ["d"]).many([record(0, 1, rows=flat), record(1, 2, rows=flat)], 0, 9) == [
        (-150,),
        (None,),
    ]
