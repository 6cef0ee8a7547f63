"""Sum and Mean: exact, rounded once."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mlray.aggregation.aggregate import Aggregate, Ranges, Result, ResultType, Values, register
from mlray.aggregation.exact import finite_parts, sum_floats, sum_integers, to_float64, to_int64
from mlray.errors import OverflowInSum


@register
@dataclass(frozen=True)
class Sum(Aggregate):
    """The exact sum: int64 of integers and bool, else the rational sum rounded once to float64; null for none.

    Floats: beyond the largest double +-inf; an infinity is a value; inf - inf is null.
    Raises OverflowInSum where an integer sum leaves int64.
    """

    kind: ClassVar[str] = "sum"
    result: ClassVar[ResultType] = "sum"
    numeric: ClassVar[bool] = True

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:
        if values.kind == "float":
            return float_sum(values, lo, hi)
        total, fits = to_int64(sum_integers(values.array, lo, hi))
        if not fits.all():
            raise OverflowInSum(
                f"the sum of column '{values.name}' leaves int64 in {int((~fits).sum())} windows; sum it as a float: "
                f"select={{'{values.name}': 'CAST({values.name} AS DOUBLE)'}}"
            )
        return Result(total, hi > lo)


@register
@dataclass(frozen=True)
class Mean(Aggregate):
    """The exact sum rounded once to float64, divided by the number of usable values in float64; null for none."""

    kind: ClassVar[str] = "mean"
    result: ClassVar[ResultType] = "float64"
    numeric: ClassVar[bool] = True

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:
        total = rounded_sum(values, lo, hi)
        return Result(total.array / np.maximum(hi - lo, 1), total.valid)


def rounded_sum(values: Values, lo: Ranges, hi: Ranges) -> Result:
    """The exact sum of any numbers, rounded once to float64."""
    if values.kind == "float":
        return float_sum(values, lo, hi)
    return Result(to_float64(sum_integers(values.array, lo, hi)), hi > lo)


def float_sum(values: Values, lo: Ranges, hi: Ranges) -> Result:
    """The exact sum of float64 values; infinities are counted apart, since they have no inverse."""
    finite, positive, negative = finite_parts(values.array)
    up, down = _any(positive, lo, hi), _any(negative, lo, hi)
    total = to_float64(sum_floats(finite, lo, hi))
    total = np.where(up, np.inf, np.where(down, -np.inf, total))
    return Result(total, (hi > lo) & ~(up & down))


def _any(prefix: Ranges, lo: Ranges, hi: Ranges) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = prefix[hi] > prefix[lo]
    return found
