"""The least and the greatest value."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mlray.aggregation.aggregate import Aggregate, Ranges, Result, ResultType, Values, register
from mlray.aggregation.ranges import extreme


@register
@dataclass(frozen=True)
class Min(Aggregate):
    """The least usable value, in the column's type; text compares bytewise; null for none."""

    kind: ClassVar[str] = "min"
    result: ClassVar[ResultType] = "column"

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:
        return Result(extreme(np.minimum, values.array, lo, hi), hi > lo)


@register
@dataclass(frozen=True)
class Max(Aggregate):
    """The greatest usable value, in the column's type; text compares bytewise; null for none."""

    kind: ClassVar[str] = "max"
    result: ClassVar[ResultType] = "column"

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:
        return Result(extreme(np.maximum, values.array, lo, hi), hi > lo)
