"""Events in order, and which of them a query may see.

Rows are sorted by (entity code, event time, sequence, known_at, tie order). A row counts for a query at q if it is
known by then and not yet replaced by a later version of its event: `known <= q < replaced`. Almost always every row in
a window is; then a window is a range [lo, hi) of rows, and kernels take ranges. The few queries that meet a hidden row
get a copy of the rows they see, behind the others, and so become ranges too.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlray.aggregation.aggregate import Ranges
from mlray.aggregation.ranges import expand, extreme
from mlray.aggregation.window import EARLIEST, LATEST, Instants, Times

NOWHERE = -1
"""The code of a key that no event carries."""

_SAFE = 1 << 62
_AT_ONCE = 1 << 22
"""Rows looked at in one step back."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Entity codes and times on one int64 axis: code * stride + time since `first`.

    Where that would not fit, a time is its rank among the distinct `instants` instead.
    """

    first: int
    stride: int
    instants: Times | None
    top: int
    """The greatest code. One beyond it, however great, has no rows and lies at the end; it does not wrap around."""

    @classmethod
    def of(cls, codes: Ranges, times: Times) -> "Axis":
        """The axis on which these rows find room."""
        if not len(times):
            return cls(0, 2, None, NOWHERE)
        first, last, top = int(times.min()), int(times.max()), int(codes.max())
        if (top + 1) * (last - first + 2) <= _SAFE:
            return cls(first, last - first + 2, None, top)
        instants = np.unique(times)
        return cls(first, len(instants) + 1, instants, top)

    def places(self, codes: Ranges, times: Times) -> Times:
        """Where on the axis the rows of which it was made lie."""
        if self.instants is not None:
            return self.marks(codes, times)
        offsets = times - self.first
        offsets += codes * self.stride
        return offsets

    def marks(self, codes: Ranges, bound: Times) -> Times:
        """Where on the axis the first time >= bound of each code lies."""
        codes = np.minimum(codes, self.top + 1)
        if self.instants is not None:
            return codes * self.stride + np.searchsorted(self.instants, bound)
        offsets = np.clip(bound, self.first, self.first + self.stride - 1)
        offsets -= self.first
        offsets += codes * self.stride
        return offsets


@dataclass(frozen=True, slots=True)
class Timeline:
    """Sorted events: their marks on the axis, and the half-open [known, replaced) in which each is current."""

    axis: Axis
    marks: Times
    known: Times | None = None
    replaced: Times | None = None

    def __len__(self) -> int:
        return len(self.marks)

    def positions(self, codes: Ranges, start: Times, end: Times) -> tuple[Ranges, Ranges]:
        """The range of rows with the query's code and start <= time < end; empty where start >= end or no such key."""
        from_all = self.axis.top + 1 < len(codes) and bool((start <= self.axis.first).all())
        lo = self._begin(codes) if from_all else self.first(codes, start)
        return lo, np.maximum(lo, self.first(codes, end))

    def first(self, codes: Ranges, bound: Times) -> Ranges:
        """The first row of the code with time >= bound, or the end of the code's rows; 0 for the code NOWHERE."""
        found = np.searchsorted(self.marks, self.axis.marks(codes, bound))
        found[codes == NOWHERE] = 0
        return found

    def _begin(self, codes: Ranges) -> Ranges:
        """As `first` for a bound before all rows, by a look at each code there is, not at each question."""
        beyond = self.axis.top + 1
        begin = np.searchsorted(self.marks, np.arange(beyond + 2) * self.axis.stride)
        begin[-1] = 0  # where NOWHERE looks
        return begin[np.minimum(codes, beyond)]

    def current(self, rows: Ranges, q: Times) -> NDArray[np.bool_]:
        """Whether each row is current at its q."""
        seen = np.ones(len(rows), dtype=np.bool_)
        if self.known is not None:
            seen &= self.known[rows] <= q
        if self.replaced is not None:
            seen &= q < self.replaced[rows]
        return seen

    def newest(self, lo: Ranges, hi: Ranges, q: Times) -> Ranges:
        """The last current row of each range, NOWHERE for none; looks back over hidden rows in steps that double."""
        row = np.where(hi > lo, hi - 1, NOWHERE)
        if self.known is None and self.replaced is None:
            return row
        row[:] = NOWHERE
        open_, end, width = np.flatnonzero(hi > lo), hi.copy(), 1
        while len(open_):
            start = np.maximum(lo[open_], end[open_] - width)
            index, query = expand(start, end[open_])
            seen = self.current(index, q[open_][query])
            np.maximum.at(row, open_[query[seen]], index[seen])
            end[open_] = start
            open_ = open_[(row[open_] == NOWHERE) & (start > lo[open_])]
            width = min(2 * width, max(_AT_ONCE // max(len(open_), 1), 1))
        return row

    def hidden(self, lo: Ranges, hi: Ranges, q: Times) -> Ranges:
        """The queries whose range holds a row that they may not see."""
        return np.flatnonzero(self._meets_hidden(lo, hi, q))

    def visible(
        self, lo: Ranges, hi: Ranges, q: Times, hidden: Ranges
    ) -> tuple[Ranges | None, Ranges, Ranges]:
        """(rows, lo, hi): the ranges over `rows` (None: over all events) that hold only what each query may see.

        The ranges of the queries `hidden` are copied, so memory grows with their lengths.
        """
        if not len(hidden):
            return None, lo, hi
        index, query = expand(lo[hidden], hi[hidden])
        keep = self.current(index, q[hidden][query])
        index, length = index[keep], np.bincount(query[keep], minlength=len(hidden))
        lo, hi = lo.copy(), hi.copy()
        hi[hidden] = len(self) + np.cumsum(length)
        lo[hidden] = hi[hidden] - length
        return np.concatenate((np.arange(len(self)), index)), lo, hi

    def _meets_hidden(self, lo: Ranges, hi: Ranges, q: Times) -> NDArray[np.bool_]:
        met = np.zeros(len(lo), dtype=np.bool_)
        if self.known is not None:
            met |= extreme(np.maximum, self.known, lo, hi) > q
        if self.replaced is not None:
            met |= extreme(np.minimum, self.replaced, lo, hi) <= q
        return met & (hi > lo)


def replaced_at(same_event: NDArray[np.bool_], known: Times) -> Times:
    """Per sorted row the instant from which the next version of its event counts; `same_event[i]`: row i + 1 is one."""
    out = np.full(len(known), LATEST)
    out[:-1][same_event] = known[1:][same_event]
    return out


def always(length: int) -> Times:
    """known_at of rows that were known from the beginning."""
    return np.full(length, EARLIEST)


def at_query(q: Instants) -> Times:
    """The instant that known_at is compared with: q, rounded down."""
    return q.floor
