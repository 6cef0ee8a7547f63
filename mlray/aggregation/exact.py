"""Exact sums over ranges: the true rational sum, rounded once, so that no order or partitioning changes a bit.

Method. Every finite double is an integer times a power of two. The values of a column are therefore written as integers
over their one common power 2^shift and added as integers, which is associative and has an inverse: the sum of a range
is a difference of two prefix sums. Where largest value and row count prove that 62 bits hold every prefix, one int64
column does. Otherwise each integer is cut into signed 32-bit digits, one int64 column of prefix sums per digit position
that occurs (as many as the spread of exponents needs: 2 or 3 for money, 67 for 1e-300 beside 1e300); int64 holds 2^31
such digits. A range's digits are carried into canonical form, and the leading 64 bits with a sticky bit for the rest
are rounded half to even: a superaccumulator (Kulisch 1971; Neal, "Fast exact summation using small and large
superaccumulators", 2015) under a prefix sum.
"""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlray.aggregation.aggregate import Ranges
from mlray.aggregation.ranges import prefix_counts

_DIGIT = 32
_MASK = np.int64((1 << _DIGIT) - 1)
_SAFE_BITS = 62


@dataclass(frozen=True, slots=True)
class Digits:
    """Per query the number sum(array[j] * 2^(32 j + shift)); array (positions, queries) int64, not carried."""

    array: NDArray[np.int64]
    shift: int

    def integers(self) -> list[int]:
        """Per query the number over 2^shift, unbounded."""
        totals = [0] * self.array.shape[1]
        for j, digits in enumerate(self.array):
            totals = [t + (int(d) << (_DIGIT * j)) for t, d in zip(totals, digits.tolist(), strict=True)]
        return totals


def sum_integers(values: NDArray[np.int64], lo: Ranges, hi: Ranges) -> Digits:
    """The exact sums of int64 values over ranges."""
    largest = max(abs(int(values.max(initial=0))), abs(int(values.min(initial=0))))
    if largest.bit_length() + len(values).bit_length() <= _SAFE_BITS:
        return Digits(_over_ranges(values, lo, hi)[None], 0)
    return Digits(np.stack([_over_ranges(d, lo, hi) for d in (values & _MASK, values >> _DIGIT)]), 0)


def sum_floats(values: NDArray[np.float64], lo: Ranges, hi: Ranges) -> Digits:
    """The exact sums of finite float64 values over ranges."""
    mantissa, shift = _integers_over_two(values)
    if not len(values) or not mantissa.any():
        return Digits(np.zeros((1, len(lo)), dtype=np.int64), 0)
    low = int(shift[mantissa != 0].min())
    place = np.where(mantissa == 0, 0, shift - low)
    if _bits(mantissa, place) + len(values).bit_length() <= _SAFE_BITS:
        return Digits(_over_ranges(mantissa << place, lo, hi)[None], low)
    return Digits(_digits_over_ranges(mantissa, place, lo, hi), low)


def integers_of(values: NDArray[Any]) -> tuple[list[int], int]:
    """Finite values as unbounded integers over one 2^shift: (integers, shift)."""
    if values.dtype != np.float64:
        return values.tolist(), 0
    mantissa, shift = _integers_over_two(values)
    low = int(shift[mantissa != 0].min(initial=0))
    return [m << (s - low) if m else 0 for m, s in zip(mantissa.tolist(), shift.tolist(), strict=True)], low


def prefix_integers(integers: list[int]) -> NDArray[np.object_]:
    """Prefix sums of unbounded integers, one longer than the input."""
    return np.array(list(accumulate(integers, initial=0)), dtype=object)


def to_float64(total: Digits) -> NDArray[np.float64]:
    """The numbers rounded once, half to even; beyond the largest double +-inf; zero is +0.0."""
    carried = _carry(total.array)
    negative = carried[-1] < 0
    digits = _carry(np.where(negative, -total.array, total.array))
    top = np.zeros(digits.shape[1], dtype=np.int64)
    for j, row in enumerate(digits):
        top[row != 0] = j
    lead, second, third = (_at(digits, top - i) for i in range(3))
    width = np.frexp(lead.astype(np.float64))[1]
    rest = third & ((np.uint64(1) << width.astype(np.uint64)) - np.uint64(1))
    sticky = (rest != 0) | _any_below(digits, top - 2)
    head = _leading_bits(lead, second, third, width.astype(np.uint64))
    with np.errstate(over="ignore"):
        magnitude = np.ldexp(_round_to_53(head, sticky), _DIGIT * top + width - 53 + total.shift)
    return np.where(negative, -magnitude, magnitude)


def to_int64(total: Digits) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The numbers (shift 0) and whether each lies in int64; where not, the value is undefined."""
    if len(total.array) == 1:
        return total.array[0], np.ones(total.array.shape[1], dtype=np.bool_)
    low, high = total.array[0], total.array[1] + (total.array[0] >> _DIGIT)
    fits = (high >= -(1 << 31)) & (high < (1 << 31))
    return (np.where(fits, high, 0) << _DIGIT) + (low & _MASK), fits


def _integers_over_two(values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """values = mantissa * 2^shift, |mantissa| < 2^53 and odd or zero."""
    fraction, exponent = np.frexp(values)
    mantissa = np.ldexp(fraction, 53).astype(np.int64)
    lowest = np.where(mantissa == 0, 1, mantissa & -mantissa)
    trailing = np.frexp(lowest.astype(np.float64))[1].astype(np.int64) - 1
    return mantissa >> trailing, exponent.astype(np.int64) - 53 + trailing


def _bits(mantissa: NDArray[np.int64], place: NDArray[np.int64]) -> int:
    return int((np.frexp(mantissa.astype(np.float64))[1] + place).max())


def _over_ranges(column: NDArray[np.int64], lo: Ranges, hi: Ranges) -> NDArray[np.int64]:
    prefix = np.concatenate(([0], np.cumsum(column, dtype=np.int64)))
    return prefix[hi] - prefix[lo]


def _digits_over_ranges(
    mantissa: NDArray[np.int64], place: NDArray[np.int64], lo: Ranges, hi: Ranges
) -> NDArray[np.int64]:
    """Each mantissa shifted left by its place spans three neighbouring digits; one prefix sum per digit position."""
    sign, magnitude = np.sign(mantissa), np.abs(mantissa).astype(np.uint64)
    first, within = place // _DIGIT, (place % _DIGIT).astype(np.uint64)
    mask, digit = np.uint64(_MASK), np.uint64(_DIGIT)
    high = np.where(within == 0, 0, magnitude >> (np.uint64(64) - np.maximum(within, np.uint64(1))))
    parts = [(magnitude << within) & mask, (magnitude >> (digit - within)) & mask, high]
    signed = [sign * part.astype(np.int64) for part in parts]
    rows = []
    for j in range(int(first.max()) + 3):
        column = sum(np.where(first == j - i, part, 0) for i, part in enumerate(signed))
        rows.append(_over_ranges(np.asarray(column), lo, hi))
    return np.stack(rows)


def _carry(array: NDArray[np.int64]) -> NDArray[np.int64]:
    """Two positions longer; every digit but the last in [0, 2^32), the last one carries the sign."""
    out = np.zeros((len(array) + 2, array.shape[1]), dtype=np.int64)
    carry = np.zeros(array.shape[1], dtype=np.int64)
    for j, digits in enumerate(array):
        low = (digits & _MASK) + (carry & _MASK)
        out[j] = low & _MASK
        carry = (digits >> _DIGIT) + (carry >> _DIGIT) + (low >> _DIGIT)
    out[-2], out[-1] = carry & _MASK, carry >> _DIGIT
    return out


def _at(digits: NDArray[np.int64], position: NDArray[np.int64]) -> NDArray[np.uint64]:
    picked = digits[np.maximum(position, 0), np.arange(digits.shape[1])]
    return np.where(position < 0, 0, picked).astype(np.uint64)


def _any_below(digits: NDArray[np.int64], position: NDArray[np.int64]) -> NDArray[np.bool_]:
    below = np.zeros(digits.shape[1], dtype=np.bool_)
    for j, row in enumerate(digits):
        below |= (row != 0) & (j < position)
    return below


def _leading_bits(
    lead: NDArray[np.uint64], second: NDArray[np.uint64], third: NDArray[np.uint64], width: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """The 64 bits from the highest set bit of `lead` down; width is the number of bits of lead, 0 for zero."""
    up = np.where(width == 0, 0, np.uint64(64) - np.maximum(width, np.uint64(1)))
    return (lead << up) | (second << (np.uint64(_DIGIT) - width)) | (third >> width)


def _round_to_53(head: NDArray[np.uint64], sticky: NDArray[np.bool_]) -> NDArray[np.float64]:
    kept, rest = head >> np.uint64(11), head & np.uint64(0x7FF)
    half = np.uint64(0x400)
    up = (rest > half) | ((rest == half) & (sticky | (kept & np.uint64(1) == 1)))
    rounded: NDArray[np.float64] = (kept + up).astype(np.float64)
    return rounded


def finite_parts(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], Ranges, Ranges]:
    """The values with infinities as zero, and the prefix counts of +inf and of -inf."""
    infinite = np.isinf(values)
    finite = np.where(infinite, 0.0, values)
    return finite, prefix_counts(infinite & (values > 0)), prefix_counts(infinite & (values < 0))
