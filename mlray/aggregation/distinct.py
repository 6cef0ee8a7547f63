"""Which different values there are, and how many."""

from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mlray.aggregation.aggregate import Aggregate, Partial, Plain, Ranges, Result, ResultType, Spans, Values, register
from mlray.aggregation.growing import growing
from mlray.aggregation.position import SomeOf
from mlray.aggregation.ranges import count_below, expand, prefix_counts
from mlray.aggregation.selection import select


@register
@dataclass(frozen=True)
class CountDistinct(Aggregate):
    """The exact number of different usable values: int64, 0 for none."""

    kind: ClassVar[str] = "count_distinct"
    result: ClassVar[ResultType] = "int64"
    commutative: ClassVar[bool] = True

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:
        """A value counts where it occurs first in the range: where its previous occurrence lies before lo."""
        previous = values.once("previous", lambda: _previous(values.array))
        return Result(count_below(previous, lo, hi, lo + 1), np.ones(len(lo), dtype=np.bool_))

    def each(self, values: Plain, ranges: Spans) -> list[Any]:
        out, seen = [0] * len(ranges), set[Any]()
        for which, piece, anew in growing(values, ranges):
            if anew:
                seen = set()
            seen.update(piece)
            out[which] = len(seen)
        return out

    def partial(self, values: Values) -> Partial:
        return frozenset(values.array.tolist())

    def merge(self, left: Partial, right: Partial) -> Partial:
        return left | right

    def finalize(self, partial: Partial, values: Values) -> Any:  # noqa: ARG002
        return len(partial)


@register
@dataclass(frozen=True)
class LastDistinctN(SomeOf):
    """The `n` different usable values that occurred last, as a list, the most recent first; null for none.

    A value stands where its latest occurrence puts it.
    """

    kind: ClassVar[str] = "last_distinct_n"

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:
        """A value counts where it occurs last in the range: where its next occurrence does not lie before hi.

        Of all positions ordered by that of their next occurrence, those whose next one is hi or later are an end
        piece. It also holds the positions from hi on; the greatest positions of the rest are the answer.
        """
        rows, (ordered, ended) = len(values.array), values.once("by next", lambda: _by_next(values.array))
        offset, query = expand(np.zeros_like(lo), np.minimum(hi - ended[hi], np.minimum(hi - lo, self.n)))
        start = ended[hi][query]
        place = select(ordered, start, np.full_like(start, rows), hi[query] - start - 1 - offset)
        inside = place >= lo[query]
        length = np.bincount(query[inside], minlength=len(lo))
        return Result(values.array[place[inside]], hi > lo, np.concatenate(([0], np.cumsum(length))))

    def each(self, values: Plain, ranges: Spans) -> list[Any]:
        out: list[Any] = [None] * len(ranges)
        seen: dict[Any, None] = {}
        for which, piece, anew in growing(values, ranges):
            if anew:
                seen = {}
            if len(seen) < self.n:
                seen.update(dict.fromkeys(reversed(piece)))
            out[which] = list(islice(seen, self.n)) or None
        return out

    def partial(self, values: Values) -> Partial:
        return tuple(dict.fromkeys(values.array[::-1].tolist()))[: self.n]

    def merge(self, left: Partial, right: Partial) -> Partial:
        return tuple(dict.fromkeys(right + left))[: self.n]


def _previous(array: NDArray[Any]) -> Ranges:
    """Per position one more than the position of the same value before it, 0 for none."""
    order = np.argsort(array, kind="stable")
    same = _repeats(array, order)
    before = np.zeros(len(array), dtype=np.int64)
    before[order[1:][same]] = order[:-1][same] + 1
    return before


def _by_next(array: NDArray[Any]) -> tuple[Ranges, Ranges]:
    """(positions by the position of the same value after them, those of none last; per hi how many have one < hi)."""
    order = np.argsort(array, kind="stable")
    same = _repeats(array, order)
    after = np.full(len(array), len(array), dtype=np.int64)
    after[order[:-1][same]] = order[1:][same]
    has_earlier = np.zeros(len(array), dtype=np.bool_)
    has_earlier[order[1:][same]] = True
    return np.argsort(after, kind="stable"), prefix_counts(has_earlier)


def _repeats(array: NDArray[Any], order: Ranges) -> NDArray[np.bool_]:
    """Per neighbouring pair of the order whether it is one value."""
    same: NDArray[np.bool_] = array[order[1:]] == array[order[:-1]]
    return same
