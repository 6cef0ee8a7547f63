"""Var and Std of a sample: (n sum(x^2) - sum(x)^2) / (n (n - 1)), the exact rational rounded once."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mlray.aggregation.aggregate import Aggregate, Ranges, Result, ResultType, Values, register
from mlray.aggregation.exact import finite_parts, integers_of, prefix_integers


@register
@dataclass(frozen=True)
class Var(Aggregate):
    """The sample variance, float64; null below two values or with an infinity; +inf beyond the largest double."""

    kind: ClassVar[str] = "var"
    result: ClassVar[ResultType] = "float64"
    numeric: ClassVar[bool] = True

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:
        return variance(values, lo, hi)


@register
@dataclass(frozen=True)
class Std(Aggregate):
    """The square root of the sample variance, float64; null where that is null."""

    kind: ClassVar[str] = "std"
    result: ClassVar[ResultType] = "float64"
    numeric: ClassVar[bool] = True

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:
        var = variance(values, lo, hi)
        return Result(np.sqrt(var.array), var.valid)


def variance(values: Values, lo: Ranges, hi: Ranges) -> Result:
    """The sample variance; unbounded integers, because squares of doubles span 4,200 bits."""
    array, valid = values.array, hi - lo >= 2
    if values.kind == "float":
        array, positive, negative = finite_parts(array)
        infinite = positive + negative
        valid &= infinite[hi] == infinite[lo]
    integers, shift = integers_of(array)
    sums, squares = prefix_integers(integers), prefix_integers([i * i for i in integers])
    pick = np.flatnonzero(valid)
    n = (hi - lo)[pick].astype(object)
    total = sums[hi[pick]] - sums[lo[pick]]
    numerator = n * (squares[hi[pick]] - squares[lo[pick]]) - total * total
    out = np.zeros(len(lo))
    out[pick] = [_ratio(a, int(m) * (int(m) - 1), 2 * shift) for a, m in zip(numerator, n, strict=True)]
    return Result(out, valid)


def _ratio(numerator: int, denominator: int, shift: int) -> float:
    """numerator / denominator * 2^shift, rounded once: Python divides integers correctly rounded."""
    try:
        if shift < 0:
            return numerator / (denominator << -shift)
        return (numerator << shift) / denominator
    except OverflowError:
        return float("inf")
