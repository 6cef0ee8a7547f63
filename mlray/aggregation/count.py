"""How many events."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mlray.aggregation.aggregate import Aggregate, Ranges, Result, ResultType, Values, register


@register
@dataclass(frozen=True)
class Count(Aggregate):
    """The number of events, or of usable values where a column is given: int64, 0 for none."""

    kind: ClassVar[str] = "count"
    result: ClassVar[ResultType] = "int64"
    needs_column: ClassVar[bool] = False

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:  # noqa: ARG002
        return Result(hi - lo, np.ones(len(lo), dtype=np.bool_))
