"""A digest of rows that does not depend on how they are cut into blocks, nor on any library's version.

Each cell becomes 64 bits (numbers by their bits, text by BLAKE2b), a row mixes its cells and its position with
SplitMix64 (Steele, Lea, Flood 2014), and the rows' words are added modulo 2^64, in two lanes with different seeds.
"""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlray.errors import SchemaError

Words = NDArray[np.uint64]
_BLOCK = 16_384
"""Rows mixed at a time: their words stay in the processor's cache."""
_SEEDS = (0x9E3779B97F4A7C15, 0xD1B54A32D192ED03)


def digest(table: pa.Table, offset: int = 0) -> tuple[int, int]:
    """The digest of rows that begin at position `offset`; digests of consecutive parts add up to that of the whole."""
    cells = [_cells(name, table.column(name)) for name in table.column_names]
    lanes = [0, 0]
    for start in range(0, table.num_rows, _BLOCK):
        block = slice(start, min(start + _BLOCK, table.num_rows))
        positions = np.arange(offset + block.start, offset + block.stop, dtype=np.uint64)
        for lane, seed in enumerate(_SEEDS):
            lanes[lane] += _mixed(positions, [column[block] for column in cells], np.uint64(seed))
    return lanes[0] % (1 << 64), lanes[1] % (1 << 64)


def unordered(table: pa.Table) -> tuple[int, int]:
    """The same without positions: rows in another order have the same digest."""
    cells = [_cells(name, table.column(name)) for name in table.column_names]
    same = np.zeros(min(table.num_rows, _BLOCK), dtype=np.uint64)
    lanes = [0, 0]
    for start in range(0, table.num_rows, _BLOCK):
        parts = [column[start : start + _BLOCK] for column in cells]
        rows = min(_BLOCK, table.num_rows - start)
        for lane, seed in enumerate(_SEEDS):
            lanes[lane] += _mixed(same[:rows], parts, np.uint64(seed))
    return lanes[0] % (1 << 64), lanes[1] % (1 << 64)


def _mixed(positions: Words, cells: list[Words], seed: np.uint64) -> int:
    words = _mix(positions + seed)
    for column in cells:
        words = _mix(words ^ _mix(column + seed))
    return int(words.sum(dtype=np.uint64))


def combined(parts: list[tuple[int, int]], schema: pa.Schema) -> str:
    """One hexadecimal digest of the parts and of the columns' names and types."""
    lanes = [sum(part[lane] for part in parts) % (1 << 64) for lane in (0, 1)]
    names = ",".join(f"{field.name}:{field.type}" for field in schema)
    return hashlib.sha256(f"{lanes[0]:016x}{lanes[1]:016x}:{names}".encode()).hexdigest()


def _cells(name: str, column: pa.ChunkedArray) -> Words:
    array = column.combine_chunks()
    null = array.is_null().to_numpy(zero_copy_only=False)
    try:
        words: Words = np.where(null, np.uint64(0xA5A5A5A5A5A5A5A5), _bits(array))
    except (pa.ArrowException, OverflowError, ValueError) as error:
        raise SchemaError(
            f"column '{name}' is {column.type}, of which no fingerprint can be taken ({error}); cast it to a number, a "
            "text or a time, or leave it out"
        ) from error
    return words


def _bits(array: pa.Array) -> Any:
    kind = array.type
    if pa.types.is_floating(kind):
        floats = array.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False)
        return np.where(np.isnan(floats), np.nan, floats).view(np.uint64)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return array.cast(pa.int64(), safe=False).fill_null(0).to_numpy(zero_copy_only=False).view(np.uint64)
    if pa.types.is_timestamp(kind):
        return array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False).view(np.uint64)
    if pa.types.is_nested(kind):
        array = pa.array([None if cell is None else repr(cell) for cell in array.to_pylist()], pa.string())
    encoded = array.dictionary_encode() if not pa.types.is_dictionary(kind) else array
    texts = [str(word).encode() for word in encoded.dictionary.to_pylist()]
    words = [int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") for text in texts]
    return np.array([*words, 0], dtype=np.uint64)[encoded.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)]


def _mix(words: Words) -> Words:
    """In place, but for the first step."""
    words = words ^ (words >> np.uint64(30))
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words
