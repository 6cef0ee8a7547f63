"""From the digits of exact sums to numbers: each result is the exact number, rounded once, half to even.

Method. A range whose digits fill one or two places needs no more than the processor's own rounding: an int64 turned
into a double, or one addition of two exact doubles, is correctly rounded. Otherwise digits are carried until all lie in
[-2^(width - 1), 2^(width - 1)), where nothing can cancel any more: the leading digit other than zero settles sign and
size, and the two places below it with a sticky bit for the rest settle the rounding. Those three are added by rounding
to odd (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).

A sum divided by an integer is estimated to about 97 bits; where the estimate is so near to the border of two doubles
that its error could matter, the caller computes that range in unbounded integers (Ziv's test).
"""

import numpy as np
from numpy.typing import NDArray

from mlray.aggregation.aggregate import Ranges
from mlray.aggregation.exact import DigitSums, Floats, blocks, two_product

_EXACT = 1 << 53
_NEAR = 8
"""Places that lie this close can be added as doubles over the lowest of them, without overflow."""
_FAR = 16
"""The same where a product of two is taken."""


def to_float64(sums: DigitSums) -> Floats:
    """The numbers rounded once; beyond the largest double +-inf; zero is +0.0."""
    out = np.empty(sums.count)
    for block in blocks(sums.count):
        out[block] = _rounded(sums.part(block))
    return out


def to_int64(sums: DigitSums) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Sums of int64 values and whether each lies in int64; where not, the value is undefined."""
    low = sums.rows[0]
    if len(sums.rows) == 1:
        return low, np.ones(sums.count, dtype=np.bool_)
    high = sums.rows[1] + (low >> sums.width)
    bound = 1 << (63 - sums.width)
    fits = (high >= -bound) & (high < bound)
    return (np.where(fits, high, 0) << sums.width) + (low & ((1 << sums.width) - 1)), fits


def ratios(sums: DigitSums, divisor: NDArray[np.int64], factor: int = 1) -> Floats:
    """The numbers divided by divisor * factor, integers >= 1, each quotient rounded once; too large is +-inf."""
    out = np.empty(sums.count)
    for block in blocks(sums.count):
        out[block] = _ratios(sums.part(block), divisor[block], factor)
    return out


def ratio(numerator: int, divisor: int, shift: int) -> float:
    """numerator / divisor * 2^shift rounded once, as Python divides integers; too large is +-inf."""
    try:
        if shift < 0:
            return numerator / (divisor << -shift)
        return (numerator << shift) / divisor
    except OverflowError:
        return float("inf") if numerator > 0 else float("-inf")


def carried(sums: DigitSums) -> DigitSums:
    """The same numbers, every digit in [-2^(width - 1), 2^(width - 1)); rows in ascending order, none of zeros only."""
    half, rows, done = 1 << (sums.width - 1), dict(sums.rows), dict[int, NDArray[np.int64]]()
    while rows:
        place = min(rows)
        digits = rows.pop(place)
        carry = (digits + half) >> sums.width
        if carry.any():
            digits = digits - (carry << sums.width)
            rows[place + 1] = rows[place + 1] + carry if place + 1 in rows else carry
        if digits.any():
            done[place] = digits
    return DigitSums(done, sums.width, sums.shift, sums.count)


def _rounded(sums: DigitSums) -> Floats:
    if not _few(sums):
        sums = carried(sums)
    if not _few(sums):
        return _rounded_from_leading(sums)
    terms = _over_bottom(sums)
    total = _add_three(*terms) if len(terms) == 3 else sum(terms, start=np.zeros(sums.count))
    return _scaled(total, _bottom(sums))


def _few(sums: DigitSums) -> bool:
    """Whether the rows can be rounded as they are: one, or up to three that are exact as doubles."""
    near = len(sums.rows) <= 3 and max(sums.rows, default=0) - min(sums.rows, default=0) <= _NEAR
    return len(sums.rows) <= 1 or (near and all(_exact_as_double(row) for row in sums.rows.values()))


def _ratios(sums: DigitSums, divisor: NDArray[np.int64], factor: int) -> Floats:
    exact = divisor <= _EXACT // factor
    out, sure = np.zeros(sums.count), np.zeros(sums.count, dtype=np.bool_)
    carry = carried(sums)
    if exact.any() and max(carry.rows, default=0) - min(carry.rows, default=0) <= _FAR:
        out, sure = _quotient(carry, np.where(exact, divisor, 1) * float(factor))
    doubtful = np.flatnonzero(~(sure & exact))
    if len(doubtful):
        integers, shift = sums.part(doubtful).integers()
        under = divisor[doubtful].tolist()
        out[doubtful] = [ratio(i, int(d) * factor, shift) for i, d in zip(integers, under, strict=True)]
    return out


def _quotient(sums: DigitSums, divisor: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Carried numbers divided by exact integers, and whether each is proved to be rounded right.

    q = high / divisor leaves a remainder that a double holds exactly; with the low part of the number added and divided
    it corrects q. All that is rounded on the way is less than 2^-97 |q|: if 2^-90 |q|, added or taken away, does not
    change the sum, then the sum is the rounded quotient.
    """
    high, low = _double_double(sums)
    q = high / divisor
    product, error = two_product(q, divisor)
    correction = (((high - product) - error) + low) / divisor
    slack = np.abs(q) * 2.0**-90
    rounded = q + correction
    sure = (q + (correction - slack) == rounded) & (q + (correction + slack) == rounded)
    result = _scaled(rounded, _bottom(sums))
    # A subnormal result has fewer bits: it would be rounded twice.
    return result, sure & ((rounded == 0.0) | (np.abs(result) >= 2.0**-1000))


def _exact_as_double(row: NDArray[np.int64]) -> bool:
    return max(int(row.max(initial=0)), -int(row.min(initial=0))) <= _EXACT


def _over_bottom(sums: DigitSums) -> list[Floats]:
    """The rows as doubles over the value of the lowest place, highest place first."""
    bottom = min(sums.rows, default=0)
    return [sums.rows[p].astype(np.float64) * 2.0 ** (sums.width * (p - bottom)) for p in sorted(sums.rows)[::-1]]


def _bottom(sums: DigitSums) -> int:
    return sums.shift + sums.width * min(sums.rows, default=0)


def _scaled(x: Floats, exponent: int | Ranges) -> Floats:
    """x * 2^exponent: exact for a rounded sum, which is a multiple of the least double; too large is inf."""
    with np.errstate(over="ignore"):
        if isinstance(exponent, int) and abs(exponent) < 1000:
            return x * 2.0**exponent
        scaled: Floats = np.ldexp(x, exponent)
    return scaled


def _rounded_from_leading(sums: DigitSums) -> Floats:
    """Of carried digits at any places: the leading one, the two places below it, and the sign of the rest."""
    places = np.array(sorted(sums.rows))
    stack = np.stack([*(sums.rows[p] for p in places.tolist()), np.zeros(sums.count, dtype=np.int64)])
    nothing, column = len(places), np.arange(sums.count)
    lead = np.zeros(sums.count, dtype=np.int64)
    for i in range(nothing):
        lead[stack[i] != 0] = i
    row_of = np.full(places[-1] - places[0] + 3, nothing)
    row_of[places - places[0] + 2] = np.arange(nothing)
    top = places[lead]
    first, second, third = (stack[row_of[top - places[0] + i], column] for i in (2, 1, 0))
    rest = np.zeros(sums.count, dtype=np.int64)
    for place, digits in zip(places, stack, strict=False):
        rest = np.where((place < top - 2) & (digits != 0), np.sign(digits), rest)
    # Doubled, so that the sticky bit lies below the third digit; far below the last bit that rounding looks at.
    total = _add_three(
        first * 2.0 ** (2 * sums.width + 1), second * 2.0 ** (sums.width + 1), (2 * third + rest).astype(np.float64)
    )
    return _scaled(total, sums.width * (top - 2) + sums.shift - 1)


def _two_sum(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """(s, e) with a + b = s + e exactly and s the rounded sum (Knuth)."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def _add_three(a: Floats, b: Floats, c: Floats) -> Floats:
    """a + b + c rounded once."""
    upper, lower = _two_sum(b, c)
    high, low = _two_sum(a, upper)
    return high + _to_odd(low, lower)


def _to_odd(a: Floats, b: Floats) -> Floats:
    """a + b; where that is no double, the one of its two neighbours whose last bit is 1."""
    s, error = _two_sum(a, b)
    bits = s.view(np.int64)
    even = (error != 0.0) & (bits & 1 == 0)
    away = np.where((error > 0.0) == (s > 0.0), 1, -1)
    odd: Floats = np.where(even, bits + away, bits).view(np.float64)
    return odd


def _double_double(sums: DigitSums) -> tuple[Floats, Floats]:
    """Carried digits as high + low over the lowest place, to 2^-100 of the number; high is within an ulp of it."""
    high, low = np.zeros(sums.count), np.zeros(sums.count)
    for term in _over_bottom(sums):
        high, error = _two_sum(high, term)
        low += error
    return high, low
