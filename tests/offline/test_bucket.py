"""The bucket of a key never changes: test vectors, and the function written plainly from its documentation."""

from datetime import UTC, date, datetime
from decimal import Decimal
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mlray.offline.bucket import buckets

G, WRAP = 0x9E3779B97F4A7C15, (1 << 64) - 1
TIME = pa.timestamp("us", tz="UTC")


def mix(z: int) -> int:
    z &= WRAP
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & WRAP
    z = (z ^ z >> 27) * 0x94D049BB133111EB & WRAP
    return z ^ z >> 31


def cell(value: int | bytes) -> int:
    if isinstance(value, int):
        return value
    words = [int.from_bytes(value[i : i + 8], "little") for i in range(0, max(len(value), 1), 8)]
    return len(value) + sum(mix(word + (k + 1) * G) for k, word in enumerate(words))


def plain(row: tuple[int | bytes, ...], count: int) -> int:
    hashed = 0
    for value in row:
        hashed = mix(hashed + G + cell(value))
    return hashed % count


@pytest.mark.parametrize(
    ("values", "kind", "in_1024"),
    [
        ([0, 1, -1, 2**63 - 1, -(2**63)], pa.int64(), [431, 193, 32, 679, 987]),
        (["", "a", "user-7", "12345678", "123456789", "é" * 40], pa.string(), [623, 529, 207, 592, 1010, 365]),
        ([b"", b"\x00", b"\x00\x00"], pa.binary(), [623, 383, 908]),
        ([False, True], pa.bool_(), [431, 193]),
        ([date(1970, 1, 1), date(2026, 3, 1)], pa.date32(), [431, 838]),
        ([datetime(2026, 3, 1, 12, tzinfo=UTC)], TIME, [534]),
        ([Decimal("1.50"), Decimal("-1.50")], pa.decimal128(10, 2), [237, 813]),
    ],
)
def test_the_frozen_vectors(values: list[Any], kind: pa.DataType, in_1024: list[int]) -> None:
    assert buckets(pa.table({"key": pa.array(values, kind)}), 1024).tolist() == in_1024


def test_the_frozen_vector_of_two_columns() -> None:
    keys = pa.table({"user": [7, 7, 8], "shop": ["lisbon", "porto", "lisbon"]})
    assert buckets(keys, 1024).tolist() == [225, 539, 593]


@pytest.mark.parametrize("count", [1, 7, 16, 1024])
def test_a_bucket_is_what_the_documentation_says(count: int) -> None:
    rng = Random(count)
    rows = [
        (rng.randrange(-(2**63), 2**63), rng.randbytes(rng.choice([0, 1, 7, 8, 9, 64, 65, 9000]))) for _ in range(300)
    ]
    keys = pa.table({"a": [a for a, _ in rows], "b": pa.array([b for _, b in rows], pa.binary())})
    assert buckets(keys, count).tolist() == [plain((a & WRAP, b), count) for a, b in rows]


def test_chunks_and_slices_change_nothing() -> None:
    keys = pa.table({"a": [f"user {i}" for i in range(40_000)], "b": range(40_000)})
    pieces = pa.concat_tables([keys.slice(0, 3), keys.slice(3, 30_000), keys.slice(30_003)])
    assert buckets(pieces, 64).tolist() == buckets(keys, 64).tolist()
    assert buckets(keys.slice(17), 64).tolist() == buckets(keys, 64).tolist()[17:]


def test_the_precision_of_a_decimal_does_not_matter() -> None:
    narrow = pa.table({"key": pa.array([Decimal("1.50")], pa.decimal128(4, 2))})
    wide = pa.table({"key": pa.array([Decimal("1.50")], pa.decimal128(20, 2))})
    assert buckets(narrow, 1024).tolist() == buckets(wide, 1024).tolist()


def test_a_null_has_some_bucket_and_moves_no_other_row() -> None:
    holes = pa.table({"a": pa.array([1, None, 3]), "b": pa.array(["x", "y", None])})
    whole = pa.table({"a": [1, 2, 3], "b": ["x", "y", "z"]})
    found = buckets(holes, 1024)
    assert found[0] == buckets(whole, 1024)[0]
    assert ((found >= 0) & (found < 1024)).all()


def test_without_keys_all_rows_are_in_bucket_0() -> None:
    assert buckets(pa.table({"x": [1, 2]}).select([]), 8).tolist() == [0, 0]


@pytest.mark.parametrize("keys", [range(100_000), range(0, 100_000_000, 1000), [f"user-{i}" for i in range(100_000)]])
def test_regular_keys_spread_evenly(keys: Any) -> None:
    rows = np.bincount(buckets(pa.table({"key": list(keys)}), 64), minlength=64)
    assert rows.min() > 1562 * 0.9
    assert rows.max() < 1562 * 1.1
