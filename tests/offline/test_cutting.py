"""Rows cut by group, of every type, whether they stay here or go through the object store."""

import mmap
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray

from mlray.offline import cutting
from mlray.offline.cutting import cut
from mlray.offline.exchange import returned
from mlray.offline.tasks import task

COLUMNS = {
    "number": pa.array([1, None, 3] * 40, pa.int64()),
    "flag": pa.array([True, None, False, True, True] * 24),
    "text": pa.array(["a", "", None, "long " * 9] * 30),
    "bytes": pa.array([b"a", None, b""] * 40),
    "digits": pa.array([Decimal("1.50"), None] * 60, pa.decimal128(38, 2)),
    "day": pa.array([1, 2, None] * 40, pa.date32()),
    "instant": pa.array([None, 2, 3, 4] * 30, pa.timestamp("us", tz="UTC")),
    "numbers": pa.array([[1, 2], [], None, [None, 3]] * 30, pa.list_(pa.int32())),
    "pair": pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}] * 40),
    "kind": pa.array(["x", "y", None] * 40).dictionary_encode(),
    "nothing": pa.nulls(120),
}
WHOLE = pa.table(COLUMNS)
ROWS = pa.concat_tables([WHOLE.slice(0, 7), WHOLE.slice(7, 0), WHOLE.slice(7, 110), WHOLE.slice(117)])
"""In chunks, one of them empty, that begin within a byte of flags."""
GROUPS = np.random.default_rng(0).integers(0, 5, 120)


def test_a_cut_holds_every_row_once_in_its_order() -> None:
    rows = pa.table({"a": range(6)})
    assert [c["a"].to_pylist() for c in cut(rows, np.array([2, 0, 2, 1, 0, 2]), 4)] == [[1, 4], [3], [0, 2, 5], []]


@pytest.mark.parametrize("rows", [WHOLE, ROWS, WHOLE.slice(0, 0), ROWS.slice(3, 50)])
def test_each_group_of_a_cut_is_what_taking_its_rows_gives(rows: pa.Table) -> None:
    of = GROUPS[: rows.num_rows]
    pieces = list(cut(rows, of, 6))
    assert pieces == [rows.take(pa.array(np.flatnonzero(of == group))) for group in range(6)]
    assert all(piece.schema == rows.schema for piece in pieces)


def test_only_the_rows_that_are_kept_are_cut() -> None:
    kept = np.array([5, 2, 90, 7])
    first, second = cut(ROWS, np.array([1, 0, 1, 1]), 2, kept)
    assert (first, second) == (ROWS.take(pa.array([2])), ROWS.take(pa.array([5, 90, 7])))


@pytest.mark.usefixtures("ray_cluster")
def test_a_group_is_the_same_after_the_object_store_which_holds_its_own_rows_only() -> None:
    rows = pa.concat_tables([ROWS] * 50)
    of = np.tile(GROUPS, 50)

    @task
    def pieces() -> Any:
        return returned(cut(rows, of, 5))

    *found, counts = ray.get(pieces.options(num_returns=6).remote())
    assert found == [rows.take(pa.array(np.flatnonzero(of == group))) for group in range(5)]
    assert counts.tolist() == np.bincount(of).tolist()
    assert max(piece.get_total_buffer_size() for piece in found) < rows.nbytes / 3


def test_a_slice_of_text_that_ends_beyond_32_bits_is_text_of_32_bits_again() -> None:
    ends = pa.py_buffer(np.array([0, 5, 2**31 + 5, 2**31 + 10], np.int64))
    nothing = pa.py_buffer(mmap.mmap(-1, 2**31 + 16))  # no page of it is touched but the last
    text = pa.table({"k": pa.LargeStringArray.from_buffers(3, ends, nothing)})
    assert cutting.retyped(text.slice(2), pa.schema([("k", pa.string())]))["k"].to_pylist() == ["\0" * 5]


def test_text_that_is_too_long_for_a_column_in_one_piece_is_plain_text_again_in_its_bucket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cutting, "_LONG", 60)
    rows = pa.table({"k": ["a" * 10, "b" * 10, "c" * 60]})
    pieces = list(cut(rows, np.array([0, 0, 1]), 2))
    assert [piece.schema.field("k").type for piece in pieces] == [pa.string(), pa.large_string()]
    assert [piece["k"].to_pylist() for piece in pieces] == [rows["k"].to_pylist()[:2], rows["k"].to_pylist()[2:]]


def test_rows_whose_texts_are_too_long_for_one_column_are_taken_and_cast_in_several_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cutting, "_LONG", 60)
    rows = pa.table({"k": [chr(97 + i) * 10 for i in range(10)]})
    back = cutting.taken(rows, np.arange(10)[::-1])
    assert back["k"].to_pylist() == rows["k"].to_pylist()[::-1]
    again = cutting.retyped(cutting.wide(rows), rows.schema)
    assert again == rows
    assert back.schema == again.schema == rows.schema
    assert max(chunk.nbytes for column in (back["k"], again["k"]) for chunk in column.chunks) < 60
