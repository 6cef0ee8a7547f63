"""The least and the greatest value."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mlray.aggregation.aggregate import Aggregate, Partial, Plain, Ranges, Result, ResultType, Spans, Values, register
from mlray.aggregation.growing import growing
from mlray.aggregation.ranges import extreme


@register
@dataclass(frozen=True)
class Min(Aggregate):
    """The least usable value, in the column's type; text compares bytewise; null for none."""

    kind: ClassVar[str] = "min"
    result: ClassVar[ResultType] = "column"
    commutative: ClassVar[bool] = True

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:
        return Result(extreme(np.minimum, values.array, lo, hi), hi > lo)

    def each(self, values: Plain, ranges: Spans) -> list[Any]:
        return _chosen(min, values, ranges)

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
    commutative: ClassVar[bool] = True

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:
        return Result(extreme(np.maximum, values.array, lo, hi), hi > lo)

    def each(self, values: Plain, ranges: Spans) -> list[Any]:
        return _chosen(max, values, ranges)

    def partial(self, values: Values) -> Partial:
        return (max(values.array.tolist()),) if len(values.array) else ()

    def merge(self, left: Partial, right: Partial) -> Partial:
        return (max(left + right),) if left or right else ()

    def finalize(self, partial: Partial, values: Values) -> Any:  # noqa: ARG002
        return partial[0] if partial else None


def _chosen(choose: Callable[[list[Any]], Any], values: Plain, ranges: Spans) -> list[Any]:
    """Of each range the least or the greatest; a range that holds another one takes the one of that."""
    out: list[Any] = [None] * len(ranges)
    best: list[Any] = []
    for which, piece, anew in growing(values, ranges):
        pool = piece if anew else best + piece
        best = [choose(pool)] if pool else []
        out[which] = best[0] if best else None
    return out
