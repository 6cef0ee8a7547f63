"""Queries over half-open ranges [lo, hi) of an array, for all queries at once; memory O(rows + queries)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlray.aggregation.aggregate import Ranges


def prefix_counts(mask: NDArray[np.bool_]) -> Ranges:
    """p of length n + 1 with p[i] = the number of true cells before i."""
    return np.concatenate(([0], np.cumsum(mask, dtype=np.int64)))


def extreme(ufunc: np.ufunc, array: NDArray[Any], lo: Ranges, hi: Ranges) -> NDArray[Any]:
    """ufunc.reduce(array[lo:hi]) for an idempotent ufunc (minimum, maximum); undefined where the range is empty.

    A sparse table, level by level: the level of spans of 2^k answers the queries whose length has its top bit at k.
    """
    top = _top_bit(hi - lo)
    out = np.zeros(len(lo), dtype=array.dtype)
    level, spare, other = array, np.empty_like(array), np.empty_like(array)
    last = int(top.max(initial=-1))
    for k in range(last + 1):
        pick = np.flatnonzero(top == k)
        out[pick] = ufunc(level[lo[pick]], level[hi[pick] - (1 << k)])
        if k < last:
            level = ufunc(level[: -(1 << k)], level[1 << k :], out=spare[: len(level) - (1 << k)])
            spare, other = other, spare
    return out


def _top_bit(length: Ranges) -> NDArray[np.int16]:
    """The place of the highest bit of each length, -1023 for 0: the exponent of the double, exact below 2^53."""
    return ((length.astype(np.float64).view(np.int64) >> 52) - 1023).astype(np.int16)


def count_below(array: Ranges, lo: Ranges, hi: Ranges, bound: Ranges) -> Ranges:
    """The number of i in [lo, hi) with array[i] < bound; array >= 0. O((rows + queries) * bits).

    A wavelet matrix that is walked while it is built: from the highest bit down, rows part stably into zeros and
    ones, and each query follows the bit of its bound, counting the zeros that it leaves below.
    """
    bits = int(array.max(initial=0)).bit_length()
    everything, length = bound >= (1 << bits), hi - lo
    count = np.zeros(len(lo), dtype=np.int64)
    for bit in range(bits - 1, -1, -1):
        one = (array >> bit) & 1 == 1
        zeros = prefix_counts(~one)
        lo0, hi0 = zeros[lo], zeros[hi]
        up = (bound >> bit) & 1 == 1
        count += np.where(up, hi0 - lo0, 0)
        lo = np.where(up, zeros[-1] + lo - lo0, lo0)
        hi = np.where(up, zeros[-1] + hi - hi0, hi0)
        array = np.concatenate((np.compress(~one, array), np.compress(one, array)))  # no branch to guess wrongly
    return np.where(everything, length, count)


def expand(lo: Ranges, hi: Ranges) -> tuple[Ranges, Ranges]:
    """All members of the ranges one after another, and each one's query: (index, query)."""
    length = hi - lo
    query = np.repeat(np.arange(len(lo)), length)
    first = np.cumsum(length) - length
    return np.arange(len(query)) - np.repeat(first, length) + np.repeat(lo, length), query
