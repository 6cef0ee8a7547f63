"""How many different values."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mlray.aggregation.aggregate import Aggregate, Ranges, Result, ResultType, Values, register
from mlray.aggregation.ranges import count_below


@register
@dataclass(frozen=True)
class CountDistinct(Aggregate):
    """The exact number of different usable values: int64, 0 for none."""

    kind: ClassVar[str] = "count_distinct"
    result: ClassVar[ResultType] = "int64"

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:
        """A value counts where it occurs first in the range: where its previous occurrence lies before lo."""
        return Result(count_below(_previous(values.array), lo, hi, lo + 1), np.ones(len(lo), dtype=np.bool_))


def _previous(array: Ranges) -> Ranges:
    """Per position one more than the position of the same value before it, 0 for none."""
    order = np.argsort(array, kind="stable")
    same = np.concatenate(([False], array[order[1:]] == array[order[:-1]])) if len(order) else np.zeros(0, bool)
    before = np.zeros(len(array), dtype=np.int64)
    before[order[same]] = order[np.flatnonzero(same) - 1] + 1
    return before
