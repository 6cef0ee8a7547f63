"""Events as bytes: whatever goes in comes out, in columns and in plain Python; what is damaged is told, not read."""

import math
from contextlib import suppress
from decimal import Decimal
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlray.errors import SchemaError
from mlray.features.single import to_arrow
from mlray.online.codec import Layout
from mlray.online.encoding import key_bytes

VALUES: list[tuple[pa.DataType, list[Any]]] = [
    (pa.bool_(), [True, False]),
    (pa.int8(), [-128, 127]),
    (pa.int16(), [-(2**15), 2**15 - 1]),
    (pa.int32(), [-(2**31), 2**31 - 1]),
    (pa.int64(), [-(2**63), 2**63 - 1]),
    (pa.uint8(), [0, 255]),
    (pa.uint16(), [0, 2**16 - 1]),
    (pa.uint32(), [0, 2**32 - 1]),
    (pa.uint64(), [0, 2**64 - 1]),
    (pa.float16(), [0.5, -0.0, math.inf]),
    (pa.float32(), [0.10000000149011612, -0.0, math.nan]),
    (pa.float64(), [0.1, -0.0, 5e-324, -math.inf, math.nan]),
    (pa.decimal128(38, 2), [Decimal("-0.01"), Decimal(10**36 - 1)]),
    (pa.decimal256(76, 0), [Decimal(1 - 10**75), Decimal(3)]),
    (pa.string(), ["", "é", "\U0001f600", "x" * 1_000_000]),
    (pa.binary(), [b"", b"\x00", b"\xff"]),
    (pa.binary(3), [b"abc", b"\x00\x00\x00"]),
    (pa.date32(), [0, -1, 2**31 - 1]),
    (pa.date64(), [0, 86_400_000]),
    (pa.time32("ms"), [0, 86_399_999]),
    (pa.time64("ns"), [0, 86_399_999_999_999]),
    (pa.timestamp("us", "UTC"), [-(2**63), 2**63 - 1, 0]),
    (pa.timestamp("ns"), [1, -1]),
    (pa.duration("s"), [-1, 2**62]),
    (pa.null(), [None]),
    (pa.list_(pa.string()), [[], ["a", None, ""], ["é"]]),
    (pa.struct([("x", pa.int8()), ("y", pa.list_(pa.float64()))]), [{"x": 1, "y": [0.1]}, {"x": None, "y": None}]),
    (pa.map_(pa.string(), pa.int64()), [[("a", 1)], []]),
]


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Some columns of some types with nulls, cut out of a longer table."""
    rng = Random(draw(st.integers(0, 2**32)))
    length, kinds = draw(st.integers(0, 12)), rng.sample(VALUES, draw(st.integers(1, 10)))
    columns = [pa.array([rng.choice([None, *some]) for _ in range(length)], kind) for kind, some in kinds]
    lo = rng.randint(0, length)
    return pa.table(columns, names=[str(i) for i in range(len(kinds))]).slice(lo, rng.randint(0, length - lo))


def cut(layout: Layout, rows: pa.Table, rng: Random) -> list[bytes]:
    """The rows as some values, with headers that differ."""
    encoded, bounds = layout.encode(rows), sorted([0, rows.num_rows, *rng.choices(range(rows.num_rows + 1), k=2)])
    return [encoded.cut(lo, hi, lo - 7, lo % 2, b"tail"[:lo]) for lo, hi in pairwise(bounds)]


def told(column: pa.Array | pa.ChunkedArray) -> str:
    """A column as text, in which -0.0 and NaN can be told apart and dates reach far."""
    if pa.types.is_temporal(column.type):
        column = column.cast(pa.int32() if column.type.bit_width == 32 else pa.int64())
    return repr(column.to_pylist())


@settings(max_examples=150, deadline=None)
@given(tables(), st.randoms(use_true_random=False))
def test_what_goes_in_comes_out(rows: pa.Table, rng: Random) -> None:
    layout = Layout(rows.schema)
    values = cut(layout, rows, rng)
    found, headers = layout.decode(values)
    assert found.schema == rows.schema
    assert list(map(told, found.columns)) == list(map(told, rows.columns))
    assert list(headers) == [layout.header(value) for value in values]
    found.validate(full=True)


@settings(max_examples=150, deadline=None)
@given(tables(), st.randoms(use_true_random=False))
def test_plain_python_says_what_columns_say(rows: pa.Table, rng: Random) -> None:
    layout = Layout(rows.schema)
    for value in cut(layout, rows, rng):
        columns, [header] = layout.decode([value])
        found, plain = layout.plain(value)
        assert found == header
        made = [to_arrow(cells, kind) for cells, kind in zip(plain, rows.schema.types, strict=True)]
        assert list(map(told, made)) == list(map(told, columns.columns))


def test_equal_rows_are_equal_bytes_whatever_lies_under_a_null() -> None:
    one = pa.array([5, 7], pa.int64(), mask=np.array([False, True]))
    other = pa.array([5, None], pa.int64())
    layout = Layout(pa.schema([("n", pa.int64())]))
    assert len({layout.encode(pa.table({"n": n})).cut(0, 2, 0) for n in (one, other)}) == 1


ROWS = pa.table({
    "n": pa.array([1, None, 3], pa.int64()),
    "s": ["a", None, "é"],
    "l": [["x"], None, []],
    "d": pa.array([Decimal("0.10"), None, Decimal("-1.00")], pa.decimal128(9, 2)),
})  # fmt: skip
LAYOUT = Layout(ROWS.schema)
VALUE = LAYOUT.encode(ROWS).cut(0, 3, 5)


def refused(value: bytes) -> bool:
    """Whether both ways to read it say so."""
    for read in (lambda: LAYOUT.decode([value]), lambda: LAYOUT.plain(value)):
        with pytest.raises(SchemaError, match="materialize the view again"):
            read()
    return True


def test_a_value_that_was_cut_short_or_goes_on_is_refused() -> None:
    assert all(refused(VALUE[:end]) for end in range(len(VALUE)))
    assert refused(VALUE + b"\x00")


def test_a_value_of_another_schema_is_refused() -> None:
    other = ROWS.set_column(0, "n", ROWS["n"].cast(pa.uint64()))
    assert refused(Layout(other.schema).encode(other).cut(0, 3, 5))


def test_text_that_is_none_and_lengths_that_lie_are_refused() -> None:
    assert refused(VALUE.replace("é".encode(), b"\xc3\xc3"))
    first = VALUE.index((1).to_bytes(4, "little"), LAYOUT._head + 9)  # the length of "a"
    assert refused(VALUE[:first] + (2**31).to_bytes(4, "little") + VALUE[first + 4 :])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(VALUE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_garbage_is_refused_or_read_but_never_ends_the_process(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(VALUE)
    for place, byte in changes:
        damaged[place] = byte
    with suppress(SchemaError):
        LAYOUT.decode([bytes(damaged)])[0].to_pylist()
    with suppress(SchemaError):
        LAYOUT.plain(bytes(damaged))


SOME = st.lists(st.tuples(st.none() | st.integers(-9, 9), st.floats(), st.booleans()), min_size=1)


@given(SOME, st.integers(0, 2**62))
def test_a_row_alone_is_the_same_bytes_whichever_way_it_is_cut(rows: list[tuple[Any, ...]], until: int) -> None:
    n, x, ordered = zip(*rows, strict=True)
    table = pa.table({"n": pa.array(n, pa.int64()), "x": pa.array(x, pa.float64())})
    encoded = Layout(table.schema).encode(table)
    some, flags = np.arange(0, len(rows), 2), np.array(ordered).astype(np.uint8)
    assert encoded.alone(some, until, flags[some]) == {i: encoded.cut(i, i + 1, until, int(flags[i])) for i in some}


def test_rows_with_texts_are_cut_one_by_one() -> None:
    table = pa.table({"s": ["a", "bcd"]})
    assert Layout(table.schema).encode(table).alone(np.arange(2), 0, np.zeros(2, np.uint8)) == {}


def test_keys_of_38_digits_differ_in_the_last_one() -> None:
    keys = pa.array([Decimal(10**37 + 1), Decimal(10**37 + 2), Decimal("1.0"), Decimal("1.00")], pa.decimal256(50, 2))
    one, other, *same = key_bytes(pa.table({"k": keys}))
    assert one != other
    assert same[0] == same[1]
