"""How often a condition holds."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar

import numpy as np

from mlray.aggregation.aggregate import Aggregate, Partial, Plain, Ranges, Result, ResultType, Spans, Values, register
from mlray.aggregation.ranges import prefix_counts
from mlray.errors import DefinitionError


@register
@dataclass(frozen=True)
class Share(Aggregate):
    """The share of the window's rows for which `where` is true, float64 in [0, 1]; null where there is no row.

    The number of rows for which it is true, divided by the number of all in float64. Every visible row of the window
    is one of all; a condition that is null is not true.
    """

    kind: ClassVar[str] = "share"
    result: ClassVar[ResultType] = "float64"
    needs_column: ClassVar[bool] = False
    of_condition: ClassVar[bool] = True
    invertible: ClassVar[bool] = True
    commutative: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.column or self.where is None:
            raise DefinitionError(
                f"Share({self.column!r}, where={self.where!r}): a share is of a condition and takes no column; write "
                "Share(where=\"status = 'declined'\", windows=[days(7)])"
            )

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:
        true = prefix_counts(values.array == 1)
        return Result((true[hi] - true[lo]) / np.maximum(hi - lo, 1), hi > lo)

    def each(self, values: Plain, ranges: Spans) -> list[Any]:
        true = values.once("true", lambda: list(accumulate(values.cells, initial=0)))
        return [(true[hi] - true[lo]) / (hi - lo) if hi > lo else None for lo, hi in ranges]

    def partial(self, values: Values) -> Partial:
        return int(np.count_nonzero(values.array)), len(values.array)

    def merge(self, left: Partial, right: Partial) -> Partial:
        return left[0] + right[0], left[1] + right[1]

    def revert(self, whole: Partial, left: Partial) -> Partial:
        return whole[0] - left[0], whole[1] - left[1]

    def finalize(self, partial: Partial, values: Values) -> Any:  # noqa: ARG002
        return partial[0] / partial[1] if partial[1] else None
