"""The bucket of a key: a fixed function, which files on disk depend on; its test vectors never change.

All arithmetic is modulo 2^64; G = 0x9E3779B97F4A7C15.

    mix(z):  z ^= z >> 30;  z *= 0xBF58476D1CE4E5B9;  z ^= z >> 27;  z *= 0x94D049BB133111EB;  z ^= z >> 31
    cell:    integers, bool, dates (days) and times (microseconds) are their value as 64 bits;
             text (UTF-8), binary and decimals (the unscaled value, 16 bytes, little-endian) are
             the number of bytes + the sum over k of mix(word[k] + (k + 1) * G), where word[k] are the bytes
             8k to 8k + 8, little-endian, the last padded with zeros; no bytes are one word, 0
    row:     h = 0; for every key column in order: h = mix(h + G + cell)
    bucket:  h mod count

    >>> buckets(pa.table({"user": [1, 2, 3]}), 8).tolist()
    [1, 6, 5]

A word's hash is the end of SplitMix64. With twice as many buckets, bucket b splits into b and b + count.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Words = NDArray[np.uint64]

_G = np.uint64(0x9E3779B97F4A7C15)
_A = np.uint64(0xBF58476D1CE4E5B9)
_B = np.uint64(0x94D049BB133111EB)
_R27, _R30, _R31 = np.uint64(27), np.uint64(30), np.uint64(31)
_KEPT = np.array([(1 << 8 * length) - 1 for length in range(9)], dtype=np.uint64)
"""The bits of a word's first bytes, by their number."""
_STEPS = np.arange(1, 1025, dtype=np.uint64) * _G
_BLOCK = 16_384
"""Rows hashed at a time: their words stay in the processor's cache."""


def buckets(keys: pa.Table, count: int) -> NDArray[np.int64]:
    """The bucket of every row, 0 to count - 1. keys: columns in the types of `features.types.key_type`.

    A row with a null has some bucket. No columns: all rows are in bucket 0.
    """
    found = np.zeros(keys.num_rows, dtype=np.int64)
    if not keys.num_columns:
        return found
    start = 0
    for batch in keys.to_batches(max_chunksize=_BLOCK):
        rows = np.zeros(batch.num_rows, dtype=np.uint64)
        for column in batch.columns:
            rows += _cells(column)
            rows += _G
            _mix(rows)
        found[start : start + batch.num_rows] = _modulo(rows, count).view(np.int64)
        start += batch.num_rows
    return found


def _cells(column: pa.Array) -> Words:
    """64 bits for every cell."""
    kind = column.type
    if pa.types.is_null(kind):
        return np.zeros(len(column), dtype=np.uint64)
    if pa.types.is_decimal(kind):
        return _of_bytes(column.cast(pa.decimal128(38, kind.scale)).view(pa.binary(16)).cast(pa.binary()))
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return _of_bytes(column)
    if pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    elif pa.types.is_date32(kind):
        column = column.view(pa.int32())
    elif pa.types.is_temporal(kind):
        column = column.view(pa.int64())
    return np.asarray(column.cast(pa.int64()).fill_null(0)).view(np.uint64)


def _of_bytes(column: pa.Array) -> Words:
    """Every cell's words, each hashed with its number, summed."""
    if not len(column):
        return np.zeros(0, dtype=np.uint64)
    ends, data = _ends(column)
    length = np.diff(ends)
    words = np.maximum((length + 7) >> 3, 1)
    first = np.cumsum(words) - words
    number = np.arange(first[-1] + words[-1]) - np.repeat(first, words)
    at = np.repeat(ends[:-1], words) + (number << 3)
    hashed = _eight_bytes(data, at)
    hashed &= _KEPT[np.minimum(np.repeat(ends[1:], words) - at, 8)]
    hashed += _STEPS[number] if number.max() < len(_STEPS) else (number + 1).astype(np.uint64) * _G
    _mix(hashed)
    sums = np.add.reduceat(hashed, first)
    sums += length.astype(np.uint64)
    return sums


def _ends(column: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Where each cell begins, and the last ends, in the bytes of all; and those bytes."""
    _, raw, text = column.buffers()
    ends = np.frombuffer(raw, dtype=np.int32, count=column.offset + len(column) + 1)[column.offset :].astype(np.int64)
    held = np.frombuffer(text, dtype=np.uint8)[ends[0] : ends[-1]] if text else np.zeros(0, dtype=np.uint8)
    return ends - ends[0], held


def _eight_bytes(data: NDArray[np.uint8], at: NDArray[np.int64]) -> Words:
    """The eight bytes from each position on, little-endian, zeros after the end."""
    padded = np.zeros(len(data) + 8, dtype=np.uint8)
    padded[: len(data)] = data
    found: Words = np.ndarray(len(data) + 1, dtype="<u8", buffer=padded, strides=(1,))[at]
    return found


def _mix(z: Words) -> None:
    """The end of SplitMix64, in place."""
    z ^= z >> _R30
    z *= _A
    z ^= z >> _R27
    z *= _B
    z ^= z >> _R31


def _modulo(rows: Words, count: int) -> Words:
    return rows & np.uint64(count - 1) if count & (count - 1) == 0 else rows % np.uint64(count)
