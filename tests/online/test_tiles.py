"""Old events behind lifetimes and resolutions: partials stand for them, and no read can tell."""

from collections import Counter
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from random import Random

import pyarrow as pa
import pytest

import mlray as ml
from mlray.aggregation.algebra import Moments, Total
from mlray.aggregation.window import Closed
from mlray.errors import SchemaError, TimeError
from mlray.features.evaluate import Queries, evaluate
from mlray.features.keys import codes, distinct
from mlray.features.order import prepare
from mlray.features.rows import events
from mlray.features.types import INSTANT, instants
from mlray.online import state
from mlray.online.cells import shape_of, stored
from mlray.online.partials import partial_bytes, partial_of
from mlray.online.retrieval import get_features
from mlray.online.store import OnlineStore, open_store

HOUR = 3_600_000_000
START = 1_772_956_800_000_000
"""2026-03-08T08:00Z"""
USER = ml.Entity("user", keys=["user"])
SOURCE = ml.DeltaSource("paid", path="paid", timestamp="at")
COLUMNS = ["x", "n", "d", "flag", "when"]
KINDS = [ml.Count, ml.Sum, ml.Mean, ml.Var, ml.Std, ml.Min, ml.Max, ml.CountDistinct, ml.Median]


def aggregates(rng: Random) -> list[object]:
    """Of every kind whose merge is commutative, over lifetimes and coarse windows of every sort of number."""
    made: list[object] = []
    for i, kind in enumerate(KINDS):
        closed: Closed = rng.choice(["left", "right"])
        plain = kind in (ml.Min, ml.Max, ml.CountDistinct)
        column = rng.choice(["when", "x", "debt"] if plain else ["x", "n", "d", "flag"])
        where = rng.choice([None, "n > 0"])
        windows = rng.choice([[ml.lifetime], [ml.days(2)], [ml.lifetime, ml.days(3), ml.hours(30)]])
        step = rng.choice([ml.hours(1), ml.hours(6), ml.hours(4)])
        offset = ml.hours(rng.choice([0, 0, 5]))
        grid = {"closed": closed, "resolution": step, "offset": offset}
        made.append(kind(column, windows=windows, where=where, name=f"f{i}", **grid))
    share = ml.Share(where="flag", windows=[ml.lifetime, ml.days(1)], resolution=ml.hours(2))
    return [*made, share, ml.Sum("x", windows=[ml.hours(2)]), *rng.choice([[], ["x"]])]


def rows(rng: Random, count: int) -> pa.Table:
    at = [START + rng.randrange(0, 96) * HOUR + rng.choice([0, 0, 1, -1, 77]) for _ in range(count)]
    return pa.table({
        "user": [rng.choice("abc") for _ in at],
        "at": pa.array(at, INSTANT),
        "x": [rng.choice([0.1, 1e300, -1e300, 1e-300, 3.0, float("inf"), float("nan"), None]) for _ in at],
        "n": pa.array([rng.choice([-3, 0, 2, 7, None]) for _ in at], pa.int64()),
        "d": pa.array([rng.choice([Decimal("1.10"), Decimal("-0.07"), None]) for _ in at], pa.decimal128(9, 2)),
        "debt": pa.array([rng.choice([Decimal("1E+30"), Decimal("0.01"), None]) for _ in at], pa.decimal128(38, 4)),
        "flag": [rng.choice([True, False, None]) for _ in at],
        "when": pa.array([rng.choice([0, 86_400_000_000, 5, None]) for _ in at], pa.timestamp("us")),
    })  # fmt: skip


def wanted(view: ml.FeatureView, table: pa.Table, asked: pa.Table) -> pa.Table:
    """What all events give, none of them condensed."""
    found = events(view, table)
    dictionary, of_row = distinct(found.select(["user"]))
    at, known = instants(asked["timestamp"], "at"), asked["user"].is_valid().to_numpy()
    queries = Queries(codes(asked.select(["user"]), dictionary), at, known)
    return evaluate(view, prepare(view, found, of_row), queries)


def told(table: pa.Table) -> dict[str, list[str]]:
    """Every cell as text, which tells bits and types apart."""
    return {name: [repr(cell) for cell in table[name].to_pylist()] for name in table.column_names}


def tiles_of(store: OnlineStore, view: ml.FeatureView) -> int:
    shape = shape_of(view, state.state_of(store, view).events)
    held = stored(shape, [[cell] for cell in store.scan(state.space(view))])
    return len(held.tiles.found) if held.tiles else 0


@pytest.mark.parametrize("seed", range(40))
def test_a_read_equals_that_of_all_events(seed: int) -> None:
    #  events   |--------------- 96 h ---------------|     loaded up to 60 h or 80 h; the rest, some of it late, pushed
    rng = Random(seed)
    source = replace(SOURCE, lag=ml.hours(rng.choice([0, 3])))
    view = ml.FeatureView("v", entity=USER, source=source, features=aggregates(rng))
    store, first, late = open_store(f"memory://tiles-{seed}"), rows(rng, 80), rows(rng, 12)
    cut = START + rng.choice([60, 80]) * HOUR + rng.choice([0, 1])
    since = cut - rng.choice([0, 7 * HOUR])
    state.load(store, view, events(view, first), version=0, until=cut, history=cut - since)
    state.push(store, view, events(view, late), version=1, whole=False)
    known = pa.concat_tables([first.filter(pa.compute.less_equal(first["at"], pa.scalar(cut, INSTANT))), late])
    at = [since + rng.choice([0, 0, 1, 3, 8, 30]) * HOUR + rng.choice([0, 1]) for _ in range(24)]
    asked = pa.table({"user": ["a", "b", "c", "nobody"] * 6, "timestamp": pa.array(at, INSTANT)})
    answer = get_features(store, ml.FeatureService("s", features=[view]), asked, instants(asked["timestamp"], "at"))
    assert told(answer) == told(wanted(view, known, asked))
    assert tiles_of(store, view) > 0


@pytest.mark.parametrize(("kind", "of_all"), [(ml.Max, "1E+30"), (ml.Min, "-1E+30")])
def test_a_partial_of_more_digits_than_the_events_beside_it_is_told_whole(kind: type[ml.Max], of_all: str) -> None:
    #  a partial   1E+30, -1E+30, which 64 bits do not hold      an event   1, which they do
    view = ml.FeatureView("v", entity=USER, source=SOURCE, features=[
        kind("debt", windows=[ml.lifetime], offset=ml.hours(1), name="f"),
    ])
    at = pa.array([START, START + 1, START + 90 * HOUR], INSTANT)
    debt = pa.array([Decimal("1E+30"), Decimal("-1E+30"), Decimal(1)], pa.decimal128(38, 4))
    store = open_store(f"memory://digits-{kind.kind}")
    found = events(view, pa.table({"user": ["a"] * 3, "at": at, "debt": debt}))
    state.load(store, view, found, version=0, until=START + 91 * HOUR, history=0)
    assert tiles_of(store, view) > 0
    asked = pa.table({"user": ["a", "a"], "timestamp": pa.array([START + 95 * HOUR] * 2, INSTANT)})
    answer = get_features(store, ml.FeatureService("s", features=[view]), asked, instants(asked["timestamp"], "at"))
    assert told(answer) == told(pa.table({"f": pa.array([Decimal(of_all)] * 2, pa.decimal128(38, 4))}))


def test_what_a_lifetime_leaves_behind_does_not_grow_with_its_events() -> None:
    view = ml.FeatureView("v", entity=USER, source=SOURCE, features=[ml.Sum("n", windows=[ml.lifetime])])
    sizes = []
    for count in (100, 10_000):
        store = open_store(f"memory://grows-{count}")
        at = pa.array([START + i for i in range(count)], INSTANT)
        table = pa.table({"user": ["a"] * count, "at": at, "n": [1] * count})
        sizes.append(state.load(store, view, events(view, table), version=0, until=START + 2 * count, history=0).bytes)
        assert store.stats(state.space(view)).cells == 1
    assert sizes[1] - sizes[0] < 10


def test_a_read_before_what_was_condensed_is_refused() -> None:
    view = ml.FeatureView("v", entity=USER, source=SOURCE, features=[ml.Count(windows=[ml.lifetime])])
    store = open_store("memory://refused")
    table = pa.table({"user": ["a", "a"], "at": pa.array([START, START + HOUR], INSTANT)})
    state.load(store, view, events(view, table), version=0, until=START + 2 * HOUR, history=0)
    asked, service = pa.table({"user": ["a"]}), ml.FeatureService("s", features=[view])
    at = [instants(pa.array([START + hours * HOUR], INSTANT), "at") for hours in (1, 2)]
    with pytest.raises(TimeError, match="answers exactly only from"):
        get_features(store, service, asked, at[0])
    assert get_features(store, service, asked, at[1])["count_lifetime"].to_pylist() == [2]


@pytest.mark.parametrize(
    "features", [[ml.First("n", windows=[ml.lifetime])], [ml.Min("text", windows=[ml.lifetime])]], ids=["order", "text"]
)
def test_what_cannot_be_condensed_is_kept(features: list[object]) -> None:
    view = ml.FeatureView("v", entity=USER, source=SOURCE, features=features)
    store = open_store(f"memory://kept-{features}")
    at = pa.array([START + i for i in range(50)], INSTANT)
    table = pa.table({"user": ["a"] * 50, "at": at, "n": range(50), "text": ["t"] * 50})
    assert state.load(store, view, events(view, table), version=0, until=START + HOUR, history=0).rows == 50


@pytest.mark.parametrize("partial", [
    0, -1, 2**200, -(2**63), 0.5, float("-inf"), Fraction(-7, 2**1074), (), (1, (2.5, 3)), frozenset({3, 1, 2}),
    Total(3, Fraction(1, 3), 1, 0), Moments(2, Fraction(5), Fraction(25, 4), 1), Counter({0.5: 2, -1.0: 1}),
])  # fmt: skip
def test_a_partial_comes_back_as_it_was(partial: object) -> None:
    found, rest = partial_of(memoryview(partial_bytes(partial) + b"rest"))
    assert (found, type(found), bytes(rest)) == (partial, type(partial), b"rest")


def test_a_sum_overflows_only_as_a_whole() -> None:
    #  -2^62 two days ago, condensed; 2^62 and 2^62 an hour ago
    view = ml.FeatureView("v", entity=USER, source=SOURCE, features=[
        ml.Sum("n", windows=[ml.lifetime]), ml.Count(windows=[ml.hours(2)]),
    ])  # fmt: skip
    store, at = open_store("memory://whole"), [START, START + 47 * HOUR, START + 47 * HOUR + 1]
    table = pa.table({"user": ["a"] * 3, "at": pa.array(at, INSTANT), "n": [-(2**62), 2**62, 2**62]})
    state.load(store, view, events(view, table), version=0, until=START + 48 * HOUR, history=0)
    moment = instants(pa.array([START + 48 * HOUR], INSTANT), "at")
    answer = get_features(store, ml.FeatureService("s", features=[view]), pa.table({"user": ["a"]}), moment)
    assert answer.to_pylist() == [{"n_sum_lifetime": 2**62, "count_2h": 2}]
    assert tiles_of(store, view) == 1


@pytest.mark.parametrize(
    "tail", [b"", b"?", b"t\xff\xff\xff\xff", b"t" * 5000, partial_bytes((1,)), partial_bytes(((0, 0),))]
)
def test_damaged_partials_are_told(tail: bytes) -> None:
    view = ml.FeatureView("v", entity=USER, source=SOURCE, features=[ml.Count(windows=[ml.lifetime])])
    tiling = shape_of(view, events(view, rows(Random(0), 1)).schema).tiling
    assert tiling is not None
    with pytest.raises(SchemaError, match="materialize the view again"):
        tiling.read([(0, tail)])
