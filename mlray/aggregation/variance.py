"""Var and Std of a sample: (n sum(x^2) - sum(x)^2) / (n (n - 1)), the exact rational rounded once.

Method. Both sums are exact digits (see `exact`), of one width, and the places of the squares count from twice the power
of two of the sums. A sum is cut into half digits; their products fit int64 and make the digits of its square; those are
taken from n times the digits of the squares, place by place. So the difference that cancels is taken between integers,
and only the quotient is rounded. All this is done for whole columns of ranges whose places lie close together (four of
them: 160 bits); the few others are computed one by one in unbounded integers.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mlray.aggregation.aggregate import Partial, Plain, Ranges, Result, ResultType, Spans, Values, register
from mlray.aggregation.algebra import OfMoments
from mlray.aggregation.exact import DigitSums, Floats, blocks, sum_integers, sum_squares
from mlray.aggregation.integers import integers, squares, sums
from mlray.aggregation.rounding import carried, ratio, ratios
from mlray.aggregation.total import exact_sums, finite, once_per_ranges, over_two

_PLACES = 4
_SQUARE_PLACES = 2 * _PLACES + 1


@register
@dataclass(frozen=True)
class Var(OfMoments):
    """The sample variance, float64; null below two values or with an infinity; +inf beyond the largest double."""

    kind: ClassVar[str] = "var"
    result: ClassVar[ResultType] = "float64"

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:
        var = variance(values, lo, hi)
        return Result(var.array, var.valid.copy())

    def each(self, values: Plain, ranges: Spans) -> list[Any]:
        return [_variance_within(values, lo, hi) for lo, hi in ranges]

    def finalize(self, partial: Partial, values: Values) -> Any:  # noqa: ARG002
        return partial.variance()


@register
@dataclass(frozen=True)
class Std(OfMoments):
    """The square root of the sample variance, float64; null where that is null."""

    kind: ClassVar[str] = "std"
    result: ClassVar[ResultType] = "float64"

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:
        var = variance(values, lo, hi)
        return Result(np.sqrt(var.array), var.valid.copy())

    def each(self, values: Plain, ranges: Spans) -> list[Any]:
        variances = (_variance_within(values, lo, hi) for lo, hi in ranges)
        return [None if var is None else sqrt(var) for var in variances]

    def finalize(self, partial: Partial, values: Values) -> Any:  # noqa: ARG002
        var = partial.variance()
        return None if var is None else sqrt(var)


def variance(values: Values, lo: Ranges, hi: Ranges) -> Result:
    """The sample variance; shared, not to be written to."""
    return once_per_ranges("variance", values, lo, hi, _variance)


def _variance(values: Values, lo: Ranges, hi: Ranges) -> Result:
    valid = hi - lo >= 2
    if values.kind == "float" and (infinities := finite(values).infinities):
        for prefix in infinities:
            valid &= prefix[hi] == prefix[lo]
    pick = np.flatnonzero(valid)
    out = np.zeros(len(lo))
    sums = exact_sums(values, lo, hi).part(pick)
    squares = _squares(values, lo[pick], hi[pick], sums.shift)
    for block in blocks(len(pick)):
        here = pick[block]
        out[here] = _variances(sums.part(block), squares.part(block), (hi - lo)[here], values.scale)
    return Result(out, valid)


def _squares(values: Values, lo: Ranges, hi: Ranges, shift: int) -> DigitSums:
    """The exact sums of the squares, over twice the power of two of the sums."""
    if values.kind == "float":
        part = finite(values)
        return sum_squares(part.array, lo, hi, part.least, part.greatest, 2 * shift)
    array = values.array
    greatest = max(int(array.max(initial=0)), -int(array.min(initial=0)))
    if greatest < 1 << 31:
        return sum_integers(array * array, lo, hi)
    if greatest <= 1 << 53:
        return sum_squares(array.astype(np.float64), lo, hi, 1.0, float(greatest), 0)
    array = array.astype(object)
    return sum_integers(array * array, lo, hi)


def _variances(sums: DigitSums, squares: DigitSums, n: Ranges, scale: int) -> Floats:
    """Of ranges of n >= 2 values: those whose places begin alike in whole columns, those that spread one by one."""
    sums, squares = carried(sums), carried(squares)
    base, near = _base(sums, squares)
    out = np.zeros(len(n))
    for first in np.unique(base[near]).tolist():
        pick = np.flatnonzero(near & (base == first))
        numerator = _numerators(sums.part(pick), squares.part(pick), n[pick], first)
        out[pick] = ratios(over_two(numerator, 2 * scale), n[pick] * (n[pick] - 1), 25**scale)
    far = np.flatnonzero(~near)
    out[far] = _one_by_one(sums.part(far), squares.part(far), n[far].tolist(), scale)
    return out


def _base(sums: DigitSums, squares: DigitSums) -> tuple[Ranges, NDArray[np.bool_]]:
    """Per range the place that `_numerators` can begin with, and whether it reaches all digits from there."""
    first = min([*sums.rows, *(place // 2 for place in squares.rows)], default=0)
    (low, high), (square_low, square_high) = _span(sums, first), _span(squares, 2 * first)
    own = np.minimum(low, square_low // 2)
    # Where possible the same for all, so that they are computed together.
    base = np.where((high < first + _PLACES) & (square_high < 2 * first + _SQUARE_PLACES), first, own)
    return base, (high < base + _PLACES) & (square_high < 2 * base + _SQUARE_PLACES)


def _span(sums: DigitSums, none: int) -> tuple[Ranges, Ranges]:
    """Per range the lowest and the highest place with a digit that is not zero, `none` without such."""
    low, high = np.full(sums.count, none), np.full(sums.count, none)
    for place in sorted(sums.rows):
        high[sums.rows[place] != 0] = place
    for place in sorted(sums.rows, reverse=True):
        low[sums.rows[place] != 0] = place
    return low, high


def _numerators(sums: DigitSums, squares: DigitSums, n: Ranges, base: int) -> DigitSums:
    """n sum(x^2) - sum(x)^2, from carried digits at _PLACES places from `base` on, those of the squares from 2 base on.

    No overflow: with h = width / 2 <= 20, half digits lie in [-2^(h - 1), 2^(h - 1)], so up to 8 products of two, moved
    up by h, stay below 2^61; n 2^(width - 1) < 2^60 since n is at most the number of rows.
    """
    half = sums.width // 2
    halves = _half_digits(sums, base)
    rows = {}
    for place in range(_SQUARE_PLACES):
        digit = n * squares.rows[2 * base + place] if 2 * base + place in squares.rows else None
        for i, up in ((2 * place, 0), (2 * place + 1, half)):
            if (square := _square_digit(halves, i)) is not None:
                digit = (0 if digit is None else digit) - (square << up)
        if digit is not None:
            rows[2 * base + place] = digit
    return DigitSums(rows, sums.width, 2 * sums.shift, sums.count)


def _half_digits(sums: DigitSums, base: int) -> dict[int, NDArray[np.int64]]:
    """Digits of base 2^(width / 2), counted from `base`; absent where zero."""
    half, out = sums.width // 2, {}
    for place in range(_PLACES):
        if base + place in sums.rows:
            row = sums.rows[base + place]
            high = (row + (1 << (half - 1))) >> half
            out[2 * place], out[2 * place + 1] = row - (high << half), high
    return out


def _square_digit(halves: dict[int, NDArray[np.int64]], place: int) -> NDArray[np.int64] | None:
    """The digit of the square, not carried: the products of those whose places add up to this one; None for zero."""
    total = None
    for i in halves:
        j = place - i
        if i <= j and j in halves:
            product = halves[i] * halves[j] if i == j else 2 * halves[i] * halves[j]
            total = product if total is None else total + product
    return total


def _one_by_one(sums: DigitSums, squares: DigitSums, n: list[int], scale: int) -> list[float]:
    (total, at), (square, square_at) = sums.integers(), squares.integers()
    shift = min(2 * at, square_at)
    up, square_up = 2 * at - shift, square_at - shift
    numerators = [m * (s << square_up) - (t * t << up) for t, s, m in zip(total, square, n, strict=True)]
    divisors = [m * (m - 1) * 25**scale for m in n]
    return [ratio(a, d, shift - 2 * scale) for a, d in zip(numerators, divisors, strict=True)]


def _variance_within(values: Plain, lo: int, hi: int) -> float | None:
    """The sample variance of one range, from prefix sums in unbounded integers."""
    n, numbers = hi - lo, integers(values)
    if n < 2 or (numbers.infinite and numbers.infinite[hi] > numbers.infinite[lo]):
        return None
    total, square = (prefix[hi] - prefix[lo] for prefix in (sums(values), squares(values)))
    return ratio(n * square - total * total, n * (n - 1) * 100**values.scale, 2 * numbers.exponent)
