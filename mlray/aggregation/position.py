"""The first and the last usable value in event order: event time, then sequence, known_at and the tie order."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mlray.aggregation.aggregate import Aggregate, Ranges, Result, ResultType, Values, register


@register
@dataclass(frozen=True)
class First(Aggregate):
    """The earliest usable value of the window, in the column's type; null for none."""

    kind: ClassVar[str] = "first"
    result: ClassVar[ResultType] = "column"

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:
        return _at(values, lo, hi > lo)


@register
@dataclass(frozen=True)
class Last(Aggregate):
    """The latest usable value of the window, in the column's type; null for none."""

    kind: ClassVar[str] = "last"
    result: ClassVar[ResultType] = "column"

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:
        return _at(values, hi - 1, hi > lo)


def _at(values: Values, index: Ranges, valid: "np.typing.NDArray[np.bool_]") -> Result:
    out = np.zeros(len(index), dtype=values.array.dtype)
    out[valid] = values.array[index[valid]]
    return Result(out, valid)
