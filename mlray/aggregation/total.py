"""Sum and Mean: exact, rounded once."""

from collections.abc import Callable
from dataclasses import dataclass
from math import fsum, inf
from typing import Any, ClassVar, TypeVar

import numpy as np

from mlray.aggregation.aggregate import Partial, Plain, Ranges, Result, ResultType, Spans, Values, register
from mlray.aggregation.algebra import OfTotal
from mlray.aggregation.exact import DigitSums, Floats, magnitudes, sum_floats, sum_integers
from mlray.aggregation.integers import integers, sums
from mlray.aggregation.ranges import prefix_counts
from mlray.aggregation.rounding import ratio, ratios, to_float64, to_int64
from mlray.errors import OverflowInSum

Made = TypeVar("Made")


@register
@dataclass(frozen=True)
class Sum(OfTotal):
    """The exact sum: int64 of integers and bool, else the rational sum rounded once to float64; null for none.

    Floats: beyond the largest double +-inf; an infinity is a value; inf - inf is null.
    Raises OverflowInSum where an integer sum leaves int64.
    """

    kind: ClassVar[str] = "sum"
    result: ClassVar[ResultType] = "sum"

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:
        if values.kind == "int":
            return _integer_sum(values, lo, hi)
        total = rounded_sum(values, lo, hi)
        return Result(total.array, total.valid.copy())

    def each(self, values: Plain, ranges: Spans) -> list[Any]:
        return _integer_totals(values, ranges) if values.kind == "int" else totals(values, ranges)

    def finalize(self, partial: Partial, values: Values) -> Any:
        if values.kind != "int" or not partial.count:
            return partial.rounded()
        if not _fits_int64(partial.sum):
            raise _overflow(values.name, 1)
        return int(partial.sum)


@register
@dataclass(frozen=True)
class Mean(OfTotal):
    """The exact sum rounded once to float64, divided by the number of usable values in float64; null for none."""

    kind: ClassVar[str] = "mean"
    result: ClassVar[ResultType] = "float64"

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:
        total = rounded_sum(values, lo, hi)
        return Result(total.array / np.maximum(hi - lo, 1), total.valid.copy())

    def each(self, values: Plain, ranges: Spans) -> list[Any]:
        found = zip(totals(values, ranges), ranges, strict=True)
        return [None if total is None else total / (hi - lo) for total, (lo, hi) in found]

    def finalize(self, partial: Partial, values: Values) -> Any:  # noqa: ARG002
        total = partial.rounded()
        return None if total is None else total / partial.count


def _integer_sum(values: Values, lo: Ranges, hi: Ranges) -> Result:
    total, fits = to_int64(exact_sums(values, lo, hi))
    if not fits.all():
        raise _overflow(values.name, int((~fits).sum()))
    return Result(total, hi > lo)


def totals(values: Plain, ranges: Spans) -> list[float | None]:
    """Per range the exact sum of any numbers, rounded once to float64; None for none, and for inf - inf."""
    known: dict[tuple[int, int], float | None] = values.once("totals", dict)
    for span in ranges:
        if span not in known:
            known[span] = _total(values, *span)
    return [known[span] for span in ranges]


def _total(values: Plain, lo: int, hi: int) -> float | None:
    if lo == hi:
        return None
    if values.kind == "float":
        return _float_total(values, lo, hi)
    return ratio(sums(values)[hi] - sums(values)[lo], 10**values.scale, 0)


def _float_total(values: Plain, lo: int, hi: int) -> float | None:
    """`fsum` rounds the exact sum once, but gives up where one on its way lies beyond the largest double."""
    cells = values.cells[lo:hi]
    try:
        return fsum(cells)
    except (OverflowError, ValueError):
        up, down = inf in cells, -inf in cells
    if up or down:
        return None if up and down else inf if up else -inf
    return ratio(sums(values)[hi] - sums(values)[lo], 1, integers(values).exponent)


def _integer_totals(values: Plain, ranges: Spans) -> list[Any]:
    before = sums(values)
    found = [before[hi] - before[lo] if hi > lo else None for lo, hi in ranges]
    beyond = sum(total is not None and not _fits_int64(total) for total in found)
    if beyond:
        raise _overflow(values.name, beyond)
    return found


def _fits_int64(total: int) -> bool:
    return -(1 << 63) <= total < 1 << 63


def _overflow(column: str, windows: int) -> OverflowInSum:
    return OverflowInSum(
        f"the sum of column '{column}' leaves int64 in {windows} windows; sum it as a float: "
        f"select={{'{column}': 'CAST({column} AS DOUBLE)'}}"
    )


@dataclass(frozen=True, slots=True)
class Finite:
    """Floats with infinities as zero; `infinities`: the prefix counts of +inf and of -inf where there are any.

    `least`, `greatest`: the bounds of the magnitudes other than zero.
    """

    array: Floats
    least: float
    greatest: float
    infinities: tuple[Ranges, Ranges] | None


def finite(values: Values) -> Finite:
    """The finite part of a float column; infinities are counted apart, since they have no inverse."""
    return values.once("finite", lambda: _finite(values.array))


def exact_sums(values: Values, lo: Ranges, hi: Ranges) -> DigitSums:
    """The exact sums, of a decimal's unscaled integers, of a float's finite values."""
    return once_per_ranges("exact sums", values, lo, hi, _exact_sums)


def rounded_sum(values: Values, lo: Ranges, hi: Ranges) -> Result:
    """The exact sum of any numbers, rounded once to float64; shared, not to be written to."""
    return once_per_ranges("rounded sum", values, lo, hi, _rounded_sum)


def once_per_ranges(
    name: str, values: Values, lo: Ranges, hi: Ranges, make: Callable[[Values, Ranges, Ranges], Made]
) -> Made:
    """Made once per pair of array objects. They are kept beside it, so that their ids cannot come to mean others."""
    made: Made = values.once(f"{name} {id(lo)} {id(hi)}", lambda: (make(values, lo, hi), lo, hi))[0]
    return made


def _exact_sums(values: Values, lo: Ranges, hi: Ranges) -> DigitSums:
    if values.kind != "float":
        return sum_integers(values.array, lo, hi)
    part = finite(values)
    return sum_floats(part.array, lo, hi, part.least, part.greatest)


def _rounded_sum(values: Values, lo: Ranges, hi: Ranges) -> Result:
    if values.kind == "decimal":
        return Result(_decimals(exact_sums(values, lo, hi), values.scale), hi > lo)
    total, valid = to_float64(exact_sums(values, lo, hi)), hi > lo
    if values.kind == "float" and (infinities := finite(values).infinities):
        up, down = (prefix[hi] > prefix[lo] for prefix in infinities)
        total = np.where(up, np.inf, np.where(down, -np.inf, total))
        valid &= ~(up & down)
    return Result(total, valid)


def _finite(values: Floats) -> Finite:
    least, greatest = magnitudes(values)
    if greatest < np.inf:
        return Finite(values, least, greatest, None)
    infinite = np.isinf(values)
    infinities = prefix_counts(infinite & (values > 0)), prefix_counts(infinite & (values < 0))
    rest = np.where(infinite, 0.0, values)
    return Finite(rest, *magnitudes(rest), infinities)


def _decimals(sums: DigitSums, scale: int) -> Floats:
    """The numbers over 10^scale, rounded once."""
    return ratios(over_two(sums, scale), np.ones(sums.count, dtype=np.int64), 5**scale)


def over_two(sums: DigitSums, power: int) -> DigitSums:
    """The numbers over 2^power; what is left of 10^power to divide by is 5^power."""
    return DigitSums(sums.rows, sums.width, sums.shift - power, sums.count)
