"""The k-th smallest of a range, for all ranges at once; memory O(rows + queries)."""

import numpy as np

from mlray.aggregation.aggregate import Ranges
from mlray.aggregation.ranges import prefix_counts


def select(array: Ranges, lo: Ranges, hi: Ranges, rank: Ranges) -> Ranges:
    """Per query the value of rank `rank` (0: the least) among array[lo:hi]; array >= 0, 0 <= rank < hi - lo.

    O((rows + queries) * bits). A wavelet matrix (Claude, Navarro, Ordonez 2015) that is walked while it is built: from
    the highest bit down, rows part stably into zeros and ones. A query whose rank lies below the number of its zeros
    follows them, else it follows the ones, past those zeros: so it learns the bits of its value.
    """
    found = np.zeros(len(rank), dtype=np.int64)
    for bit in range(int(array.max(initial=0)).bit_length() - 1, -1, -1):
        one = (array >> bit) & 1 == 1
        zeros = prefix_counts(~one)
        lo0, hi0 = zeros[lo], zeros[hi]
        up = rank >= hi0 - lo0
        rank = np.where(up, rank - (hi0 - lo0), rank)
        lo = np.where(up, zeros[-1] + lo - lo0, lo0)
        hi = np.where(up, zeros[-1] + hi - hi0, hi0)
        found |= up.astype(np.int64) << bit
        array = np.concatenate((np.compress(~one, array), np.compress(one, array)))  # no branch to guess wrongly
    return found
