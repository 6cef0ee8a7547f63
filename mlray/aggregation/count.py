"""How many events."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mlray.aggregation.aggregate import Aggregate, Partial, Plain, Ranges, Result, ResultType, Spans, Values, register


@register
@dataclass(frozen=True)
class Count(Aggregate):
    """The number of events, or of usable values where a column is given: int64, 0 for none."""

    kind: ClassVar[str] = "count"
    result: ClassVar[ResultType] = "int64"
    needs_column: ClassVar[bool] = False
    invertible: ClassVar[bool] = True
    commutative: ClassVar[bool] = True

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:  # noqa: ARG002
        return Result(hi - lo, np.ones(len(lo), dtype=np.bool_))

    def each(self, values: Plain, ranges: Spans) -> list[Any]:  # noqa: ARG002
        return [hi - lo for lo, hi in ranges]

    def partial(self, values: Values) -> Partial:
        return len(values.array)

    def merge(self, left: Partial, right: Partial) -> Partial:
        return left + right

    def revert(self, whole: Partial, left: Partial) -> Partial:
        return whole - left

    def finalize(self, partial: Partial, values: Values) -> Any:  # noqa: ARG002
        return partial
