"""What every online store promises; the dict-backed one is the reference."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from mlray.errors import ConfigError, Conflict, InvalidName, StoreError
from mlray.online.store import VERSION, Cell, Held, OnlineStore, Stats, open_store
from tests.redis_server import redis_call
from tests.soak import rounds

Delete: TypeAlias = tuple[bytes, bytes, int]


@pytest.fixture(params=["memory", "lmdb", "redis", "redis_cluster"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param in ("memory", "lmdb"):
        return f"{request.param}://{tmp_path}/store"
    url = str(request.getfixturevalue(f"{request.param}_url"))
    redis_call(url, "FLUSHALL")
    return url


@pytest.fixture
def store(url: str) -> Iterator[OnlineStore]:
    opened = open_store(url)
    yield opened
    opened.close()


def cell(key: bytes, value: bytes = b"", *, slot: bytes = b"", version: int = 1) -> Cell:
    return Cell(key, slot, version, value)


def values(store: OnlineStore, key: bytes, space: str = "s") -> list[bytes]:
    return [found.value for found in store.read([(space, [key])])[0].cells[0]]


def found(store: OnlineStore, *requests: tuple[str, list[bytes]]) -> list[list[list[Cell]]]:
    return [held.cells for held in store.read(requests)]


# Reads


def test_an_unknown_key_and_an_unknown_space_have_no_cells(store: OnlineStore) -> None:
    store.write("s", [cell(b"a", b"1")])
    assert store.read([("s", [b"b"]), ("none", [b"a", b"b"]), ("s", [])]) == [
        Held(None, [[]]), Held(None, [[], []]), Held(None, [])
    ]


def test_answers_come_in_request_order_with_repeated_keys_and_spaces(store: OnlineStore) -> None:
    a, b, other = cell(b"a", b"1"), cell(b"b", b"2"), cell(b"a", b"3")
    store.write("s", [a, b])
    store.write("t", [other])
    assert found(store, ("s", [b"b", b"a", b"b"]), ("t", [b"a"]), ("s", [b"a"])) == [[[b], [a], [b]], [[other]], [[a]]]


def test_a_read_tells_the_state_of_every_space_it_asks_of(store: OnlineStore) -> None:
    store.write("s", [cell(b"a")], state=b"one")
    store.write("t", [cell(b"a")])
    store.write("u", [], state=b"")
    held = store.read([("s", []), ("t", [b"a"]), ("u", []), ("s", [b"a"]), ("none", [])])
    assert [each.state for each in held] == [b"one", None, b"", b"one", None]


def test_a_key_has_its_cells_in_slot_order(store: OnlineStore) -> None:
    slots = [b"", b"\0", b"\0\0", b"\0\xff", b"a", b"a\0", b"ab", b"b", b"\xff", b"\xff" * 200]
    store.write("s", [cell(b"k", slot, slot=slot) for slot in reversed(slots)])
    assert values(store, b"k") == slots


def test_the_only_cell_of_a_key_is_told_as_it_lies(store: OnlineStore) -> None:
    store.write("s", [cell(b"a", b"1"), cell(b"b"), cell(b"b", slot=b"x"), cell(b"c", slot=b"x"), cell(b"d", b"4")])
    some, all_alone, none = store.read([("s", [b"a", b"b", b"c", b"e"]), ("s", [b"d", b"a", b"d"]), ("none", [b"a"])])
    one, four = (VERSION.pack(1) + value for value in (b"1", b"4"))
    assert some.cells.alone(b"") == [one, b"", b"", b""]
    assert (all_alone.cells.alone(b""), none.cells.alone(b"")) == ([four, one, four], [b""])


# Versions


@pytest.mark.parametrize("versions", [(1, 2), (2, 1), (-5, -4), (-1, 0), (2**63 - 1, -(2**63))])
def test_an_older_version_never_wins_in_any_order(store: OnlineStore, versions: tuple[int, int]) -> None:
    for version in versions:
        store.write("s", [cell(b"k", b"%d" % version, version=version)])
    assert values(store, b"k") == [b"%d" % max(versions)]


def test_an_older_version_never_wins_within_one_write(store: OnlineStore) -> None:
    cells = [cell(b"k", b"old", version=1), cell(b"k", b"new", version=3), cell(b"k", b"middle", version=2)]
    assert store.write("s", cells) == 2
    assert values(store, b"k") == [b"new"]


def test_an_equal_version_overwrites_and_the_last_one_of_a_write_stays(store: OnlineStore) -> None:
    assert store.write("s", [cell(b"k", b"first"), cell(b"k", b"second")]) == 2
    assert store.write("s", [cell(b"k", b"third")]) == 1
    assert values(store, b"k") == [b"third"]


def test_the_count_is_of_cells_written_not_of_cells_given(store: OnlineStore) -> None:
    store.write("s", [cell(b"a", version=5), cell(b"b", version=5)])
    assert store.write("s", [cell(b"a", version=4), cell(b"b", version=6), cell(b"c", version=1)]) == 2


@pytest.mark.parametrize(("version", "left"), [(1, [b"x"]), (2, []), (3, [])])
def test_a_delete_removes_only_its_version_or_an_older_one(store: OnlineStore, version: int, left: list[bytes]) -> None:
    store.write("s", [cell(b"k", b"x", version=2)])
    store.write("s", [], deletes=[(b"k", b"", version), (b"k", b"other slot", 9), (b"unknown", b"", 9)])
    assert values(store, b"k") == left


def test_deletes_of_a_write_come_before_its_cells(store: OnlineStore) -> None:
    store.write("s", [cell(b"k", b"old", slot=b"0"), cell(b"k", b"old", slot=b"1")])
    store.write("s", [cell(b"k", b"new", slot=b"0")], deletes=[(b"k", b"0", 1), (b"k", b"1", 1)])
    assert values(store, b"k") == [b"new"]


def test_a_delete_is_not_remembered(store: OnlineStore) -> None:
    store.write("s", [cell(b"k", b"x", version=2)])
    store.write("s", [], deletes=[(b"k", b"", 2)])
    store.write("s", [cell(b"k", b"back", version=1)])
    assert values(store, b"k") == [b"back"]


# Transactions


@pytest.mark.parametrize("argument", ["cells", "deletes"])
def test_an_iterable_that_raises_half_way_leaves_nothing(store: OnlineStore, argument: str) -> None:
    def half() -> Iterator[object]:
        yield cell(b"k", b"half", version=2) if argument == "cells" else (b"k", b"", 9)
        raise RuntimeError("the source broke off")

    store.write("s", [cell(b"k", b"whole")], state=b"before")
    with pytest.raises(RuntimeError, match="broke off"):
        store.write("s", **({"cells": []} | {argument: half()}), state=b"after")  # type: ignore[arg-type]
    assert (values(store, b"k"), store.state("s")) == ([b"whole"], b"before")


@pytest.mark.parametrize("wrong", [cell(b"k", slot=b"s" * 201), cell(b"k", version=2**63)])
def test_a_cell_that_cannot_be_held_leaves_nothing(store: OnlineStore, wrong: Cell) -> None:
    with pytest.raises(StoreError, match=r"key b'k'.* (201|9223372036854775808)"):
        store.write("s", [cell(b"a", b"1"), wrong], state=b"x")
    assert (store.spaces(), store.state("s")) == ([], None)


def test_the_state_of_a_space_is_its_own_and_stays_until_replaced(store: OnlineStore) -> None:
    assert store.state("s") is None
    store.write("s", [cell(b"k")])
    assert store.state("s") is None
    store.write("s", [], state=b"")
    store.write("t", [], state=b"\0 other")
    store.write("s", [cell(b"k")])
    assert (store.state("s"), store.state("t")) == (b"", b"\0 other")


@pytest.mark.parametrize("before", [None, b"", b"one"])
def test_a_write_over_a_state_happens_only_onto_exactly_that_state(store: OnlineStore, before: bytes | None) -> None:
    if before is not None:
        store.write("s", [], state=before)
    for over in {None, b"", b"one", b"on", b"other"} - {before}:
        with pytest.raises(Conflict, match="online space s: its state is not the one this write builds upon"):
            store.write("s", [cell(b"k", b"wrong", version=9)], deletes=[(b"k", b"", 9)], state=b"wrong", over=over)
    assert store.read([("s", [b"k"])]) == [Held(before, [[]])]
    assert store.write("s", [cell(b"k", b"1")], state=b"new", over=before) == 1
    assert store.write("s", [cell(b"k", b"2")], over=b"new") == 1
    assert store.read([("s", [b"k"])]) == [Held(b"new", [[cell(b"k", b"2")]])]


def test_a_conflict_brings_no_space_into_being(store: OnlineStore) -> None:
    with pytest.raises(Conflict):
        store.write("s", [cell(b"k")], over=b"other")
    assert store.spaces() == []


def test_of_many_who_build_upon_one_state_one_writes(store: OnlineStore) -> None:
    def add(_: int) -> None:
        while True:
            state = store.state("s")
            count = int(state or 0)
            try:
                store.write("s", [cell(b"k", slot=b"%04d" % count)], state=b"%d" % (count + 1), over=state)
            except Conflict:
                continue
            return

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, range(100)))
    assert (store.state("s"), store.stats("s").cells) == (b"100", 100)


def test_a_reader_in_another_thread_sees_all_of_a_write_or_nothing(store: OnlineStore) -> None:
    keys = [b"%d" % i for i in range(50)]
    done = threading.Event()

    def write() -> None:
        for version in range(40):
            store.write("s", [cell(key, b"%d" % version, version=version) for key in keys])
            store.write("t", [cell(key, b"%d" % version, version=version) for key in keys], state=b"%d" % version)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    mixed = 0
    while not done.is_set():
        first, second = store.read([("s", keys), ("t", keys)])
        seen = [{cells[0].value if cells else None for cells in held.cells} for held in (first, second)]
        mixed += len(seen[0]) != 1 or seen[1] != {second.state}
    writer.join()
    assert mixed == 0
    assert values(store, b"7") == [b"39"]


@pytest.mark.parametrize("url", ["memory", "lmdb", "redis"], indirect=True)
def test_spaces_are_read_on_one_snapshot_where_the_store_is_one(store: OnlineStore) -> None:
    keys = [b"%09d" % i for i in range(3000)]

    def write() -> None:
        for version in range(200):
            store.write("s", [], state=b"%03d" % version)
            store.write("t", [], state=b"%03d" % version)

    with ThreadPoolExecutor() as threads:
        writer, mixed = threads.submit(write), []
        while not writer.done():
            first, second = (int(held.state or 0) for held in store.read([("s", keys), ("t", keys)]))
            mixed += [(first, second)] * (first - second not in (0, 1))
    assert mixed == []


def test_many_threads_write_and_none_is_lost(store: OnlineStore) -> None:
    def write(name: int) -> None:
        for i in range(20):
            store.write("s", [cell(b"%d" % name, slot=b"%02d" % i), cell(b"shared", b"%d" % name, version=i)])

    threads = [threading.Thread(target=write, args=[name]) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.stats("s").cells == 4 * 20 + 1


# Keys and values


AWKWARD = [b"", b"\0", b"\0\0", b"\0\xff", b"\0\1", b"\1", b"a", b"a\0", b"a\0\0b", b"aa", b"ab", b"\xff", b"\xff\xff"]


@pytest.mark.parametrize("length", [0, 127, 128, 129, 511, 512, 70_000, 1_000_000])
def test_a_key_has_any_length_and_keeps_its_bytes(store: OnlineStore, length: int) -> None:
    key = bytes(range(256)) * (length // 256) + bytes(length % 256)
    twin = key + b"\0"
    store.write("s", [cell(key, b"1", slot=b"x"), cell(twin, b"2", slot=b"x")])
    assert found(store, ("s", [twin, key])) == [[[cell(twin, b"2", slot=b"x")], [cell(key, b"1", slot=b"x")]]]
    assert {found.key for found in store.scan("s")} == {key, twin}


def test_keys_that_begin_with_one_another_stay_apart(store: OnlineStore) -> None:
    slots = [b"", b"\0", b"a", b"\xff"]
    store.write("s", [cell(key, key + b"|" + slot, slot=slot) for key in AWKWARD for slot in slots])
    for key in AWKWARD:
        assert values(store, key) == [key + b"|" + slot for slot in slots]


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_a_value_has_any_size(store: OnlineStore, size: int) -> None:
    value = b"\0v" * (size // 2) + b"x" * (size % 2)
    store.write("s", [cell(b"k", value), cell(b"l", b"next")], state=value)
    assert (values(store, b"k"), values(store, b"l"), store.state("s")) == ([value], [b"next"], value)


# Spaces


def test_scan_gives_keys_in_order_and_their_slots_in_order(store: OnlineStore) -> None:
    cells = [cell(key, b"v", slot=slot, version=7) for key in AWKWARD for slot in (b"", b"\0", b"b")]
    store.write("s", reversed(cells))
    assert list(store.scan("s")) == sorted(cells, key=lambda found: (found.key, found.slot))


def test_scan_keeps_the_cells_of_long_keys_together_after_their_beginning(store: OnlineStore) -> None:
    start = b"\0" * 128
    long = [start + b"%d" % i for i in range(20)]
    store.write("s", [cell(key, slot=slot) for slot in (b"b", b"a") for key in [start, *long, b"\0" * 127, b"\1"]])
    found = [(found.key, found.slot) for found in store.scan("s")]
    assert found[:4] == [(b"\0" * 127, b"a"), (b"\0" * 127, b"b"), (start, b"a"), (start, b"b")]
    assert found[-2:] == [(b"\1", b"a"), (b"\1", b"b")]
    assert {(key, key) for key in long} == {(found[i][0], found[i + 1][0]) for i in range(4, 44, 2)}


def test_scan_goes_on_over_writes_and_drops_of_the_same_space(store: OnlineStore) -> None:
    store.write("s", [cell(b"%05d" % i) for i in range(3000)])
    scan = store.scan("s")
    first = next(scan)
    store.write("s", [cell(b"%05d" % 3000)])
    store.drop("s")
    rest = list(scan)
    assert first == cell(b"00000")
    assert rest == sorted(set(rest), key=lambda found: found.key)


def test_spaces_are_told_apart_when_one_name_begins_another(store: OnlineStore) -> None:
    names = ["spend", "spending", "spending-3f", "s", "Ünïcødé \0 ☕", "x" * 200]
    for name in names:
        store.write(name, [cell(b"k", name.encode())], state=name.encode())
    store.drop("spending")
    left = sorted(set(names) - {"spending"})
    assert store.spaces() == left
    assert [values(store, b"k", name) for name in left] == [[name.encode()] for name in left]
    assert (values(store, b"k", "spending"), store.state("spending")) == ([], None)


def test_stats_count_keys_cells_and_bytes(store: OnlineStore) -> None:
    long = b"k" * 1000
    store.write("s", [cell(b"a", b"12", slot=b"x"), cell(b"a", b"3", slot=b"y"), cell(long, b"4", slot=b"x")])
    assert store.stats("s") == Stats(keys=2, cells=3, bytes=1 + 1 + 1000 + 3 + 4)
    store.write("s", [], deletes=[(long, b"x", 1), (b"a", b"y", 1)])
    assert store.stats("s") == Stats(keys=1, cells=1, bytes=1 + 1 + 2)
    assert store.stats("none") == Stats(keys=0, cells=0, bytes=0)


def test_a_dropped_space_begins_anew(store: OnlineStore) -> None:
    store.write("s", [cell(b"k", b"old", version=9), cell(b"l" * 500, b"old", version=9)], state=b"old")
    store.drop("s")
    store.drop("s")
    store.write("s", [cell(b"k", b"new", version=1)])
    assert (list(store.scan("s")), store.state("s")) == ([cell(b"k", b"new")], None)


def test_hundreds_of_spaces_live_side_by_side(store: OnlineStore) -> None:
    names = [f"view-{i:03}" for i in range(300)]
    for name in names:
        store.write(name, [cell(b"k", name.encode())])
    assert store.spaces() == names
    assert found(store, *((name, [b"k"]) for name in names)) == [[[cell(b"k", name.encode())]] for name in names]


@pytest.mark.parametrize("name", ["", "x" * 201])
def test_a_space_needs_a_name_of_at_most_200_characters(store: OnlineStore, name: str) -> None:
    with pytest.raises(InvalidName, match=f"1 to 200 characters, not of {len(name)}"):
        store.write(name, [])


# Handles


def test_one_url_is_one_store_and_outlives_each_handle(store: OnlineStore, url: str) -> None:
    other = open_store(url)
    other.write("s", [cell(b"k", b"1")])
    assert values(store, b"k") == [b"1"]
    other.close()
    other.close()
    assert values(store, b"k") == [b"1"]
    store.close()
    again = open_store(url)
    assert values(again, b"k") == [b"1"]
    again.close()


@pytest.mark.parametrize("call", [
    lambda s: s.read([]), lambda s: s.write("s", []), lambda s: s.state("s"), lambda s: list(s.scan("s")),
    lambda s: s.spaces(), lambda s: s.stats("s"), lambda s: s.drop("s"),
])
def test_a_closed_handle_says_so(store: OnlineStore, call: Callable[[OnlineStore], object]) -> None:
    store.close()
    with pytest.raises(StoreError, match="is closed; open it again"):
        call(store)


@pytest.mark.parametrize(("url", "message"), [
    ("lmbd:///data/online", "no store 'lmbd'; known are lmdb, memory, redis, rediss; did you mean 'lmdb'"),
    ("/data/online", "for a folder write lmdb:///data/online"),
    ("lmdb://", "the path is missing"),
    ("", "named by a URL"),
])
def test_a_url_of_no_store_says_what_to_write(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_store(url)


# All at once, against a dictionary


KEYS = st.sampled_from([b"", b"\0", b"a", b"a\0", b"k" * 129, b"k" * 128 + b"\0", b"k" * 600])
SPACES = st.sampled_from(["s", "s2", "t"])
SLOTS = st.sampled_from([b"", b"\0", b"x", b"xy"])
VERSIONS = st.integers(-2, 2)
CELLS = st.lists(st.builds(Cell, KEYS, SLOTS, VERSIONS, st.binary(max_size=3)), max_size=6)
DELETES = st.lists(st.tuples(KEYS, SLOTS, VERSIONS), max_size=3)


class Schedule(RuleBasedStateMachine):
    """Writes, drops and new handles in any order; the model is a dictionary {space: {(key, slot): cell}}."""

    url: str

    @initialize()
    def begin(self) -> None:
        self.store = open_store(self.url)
        for space in self.store.spaces():
            self.store.drop(space)
        self.model: dict[str, dict[tuple[bytes, bytes], Cell]] = {}
        self.states: dict[str, bytes | None] = {}

    @rule(space=SPACES, cells=CELLS, deletes=DELETES, state=st.none() | st.binary(max_size=2))
    def write(self, space: str, cells: list[Cell], deletes: list[Delete], state: bytes | None) -> None:
        held, written = self.model.setdefault(space, {}), 0
        for key, slot, version in deletes:
            if (key, slot) in held and held[key, slot].version <= version:
                del held[key, slot]
        for new in cells:
            if (new.key, new.slot) not in held or held[new.key, new.slot].version <= new.version:
                held[new.key, new.slot] = new
                written += 1
        self.states[space] = self.states.get(space) if state is None else state
        assert self.store.write(space, iter(cells), deletes=iter(deletes), state=state) == written

    @rule(space=SPACES)
    def drop(self, space: str) -> None:
        self.model.pop(space, None)
        self.states.pop(space, None)
        self.store.drop(space)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = open_store(self.url)

    @rule(space=SPACES, keys=st.lists(KEYS))
    def read(self, space: str, keys: list[bytes]) -> None:
        held = sorted(self.model.get(space, {}).items())
        cells = [[found for (k, _), found in held if k == key] for key in keys]
        assert self.store.read([(space, keys)]) == [Held(self.states.get(space), cells)]

    @invariant()
    def equal(self) -> None:
        assert self.store.spaces() == sorted(self.model)
        for space, held in self.model.items():
            assert sorted(self.store.scan(space), key=lambda c: (c.key, c.slot)) == [c for _, c in sorted(held.items())]
            assert self.store.state(space) == self.states[space]

    def teardown(self) -> None:
        self.store.close()


def test_any_schedule_agrees_with_a_dictionary(url: str) -> None:
    schedule = type("Schedule", (Schedule,), {"url": url})
    count, every = rounds(test=25, soak=1000), list(HealthCheck)
    bounds = settings(max_examples=count, stateful_step_count=20, deadline=None, suppress_health_check=every)
    run_state_machine_as_test(schedule, settings=bounds)
