"""The least and the greatest value."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mlray.aggregation.aggregate import Aggregate, Partial, Ranges, Result, ResultType, Values, register
from mlray.aggregation.ranges import extreme


@register
@dataclass(frozen=True)
class Min(Aggregate):
    """The least usable value, in the column's type; text compares bytewise; null for none."""

    kind: ClassVar[str] = "min"
    result: ClassVar[ResultType] = "column"

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:
        return Result(extreme(np.minimum, values.array, lo, hi), hi > lo)

    def partial(self, values: Values) -> Partial:
        return (min(values.array.tolist()),) if len(values.array) else ()

    def merge(self, left: Partial, right: Partial) -> Partial:
        return (min(left + right),) if left or right else ()

    def finalize(self, partial: Partial, values: Values) -> Any:  # noqa: ARG002
        return partial[0] if partial else None


@register
@dataclass(frozen=True)
class Max(Aggregate):
    """The greatest usable value, in the column's type; text compares bytewise; null for none."""

    kind: ClassVar[str] = "max"
    result: ClassVar[ResultType] = "column"

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:
        return Result(extreme(np.maximum, values.array, lo, hi), hi > lo)

    def partial(self, values: Values) -> Partial:
        return (max(values.array.tolist()),) if len(values.array) else ()

    def merge(self, left: Partial, right: Partial) -> Partial:
        return (max(left + right),) if left or right else ()

    def finalize(self, partial: Partial, values: Values) -> Any:  # noqa: ARG002
        return partial[0] if partial else None
