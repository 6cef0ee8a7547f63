"""Cells, compared to the bit."""

import struct
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def unequal(wanted: pa.Table, found: pa.Table) -> NDArray[np.bool_]:
    """Per row and column of `wanted` whether the other has another value there."""
    columns = [~same_bits(wanted.column(name), found.column(name)) for name in wanted.column_names]
    return np.stack(columns, 1) if columns else np.zeros((wanted.num_rows, 0), np.bool_)


def same_bits(left: pa.ChunkedArray, right: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Per cell whether both are null or carry the same bits; columns of different types are different throughout."""
    if left.type != right.type:
        return np.zeros(len(left), dtype=np.bool_)
    null = left.is_null().to_numpy(), right.is_null().to_numpy()
    if pa.types.is_floating(left.type):
        sides = [
            c.combine_chunks().cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False).view(np.int64)
            for c in (left, right)
        ]
        equal = sides[0] == sides[1]
    else:
        cells = zip(left.to_pylist(), right.to_pylist(), strict=True)
        equal = np.array([bits(a) == bits(b) for a, b in cells], dtype=np.bool_)
    same: NDArray[np.bool_] = (null[0] & null[1]) | (~null[0] & ~null[1] & equal)
    return same


def bits(value: Any) -> Any:
    """A value such that == compares bits, within lists and structs as well; one that can be hashed."""
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, dict):
        return tuple((name, bits(inner)) for name, inner in value.items())
    return tuple(bits(inner) for inner in value) if isinstance(value, list) else value
