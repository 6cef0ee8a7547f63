"""Exact sums over ranges, so that no order, partitioning or merge changes a bit.

Method. A column of numbers is written in a positional system of base 2^width: every number becomes a few signed
digits, one int64 column per digit position ("place") that occurs. Integer addition is associative and has an inverse,
so the sum of any range is a difference of two prefix sums, place by place. The width follows from the number of rows,
n * 2^width < 2^61, so that no prefix sum can wrap. One place is worked on at a time and only its sums over the ranges
are kept: memory is a few columns, whatever the spread of exponents. `rounding` turns the places into one number.

Digits of doubles are peeled from the top. Adding and taking away C = 1.5 * 2^(52 + p) rounds x to a multiple of 2^p,
since in C's binade the last bit of a double is worth 2^p; the bits of x + C less those of C are the digit, an integer
(Rump, Ogita and Oishi's extraction). What is left, x - digit * 2^p, is exact and at most half of 2^p, and it is peeled
at the next place that it reaches. A remainder that is zero everywhere is the proof that nothing was lost: no range of
values has to be guarded. Ordinary doubles need two places, 1e-300 beside 1e300 four.

Squares of doubles are pairs of doubles, x * x = p + e without error (Dekker), peeled into the same places. Exponents
far from zero are brought near it first, in bands of 2^512, so that neither C nor a square over- or underflows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlray.aggregation.aggregate import Ranges

BLOCK = 1 << 14
"""Rows or ranges worked on at once: temporaries then stay in the cache, and no pass touches fresh memory."""

_WIDEST = 40
_SAFE_BITS = 62
_BAND = 512

Floats = NDArray[np.float64]
Index = slice | Ranges


@dataclass(frozen=True, slots=True)
class DigitSums:
    """Per range the number sum(rows[place] * 2^(width * place + shift)); a place without a row is zero everywhere.

    Rows are int64, one cell per range, |cell| < 2^62: digits that have not been carried.
    """

    rows: dict[int, NDArray[np.int64]]
    width: int
    shift: int
    count: int

    def part(self, index: Index) -> "DigitSums":
        """The sums of some of the ranges."""
        rows = {place: row[index] for place, row in self.rows.items()}
        count = len(index) if not isinstance(index, slice) else len(range(*index.indices(self.count)))
        return DigitSums(rows, self.width, self.shift, count)

    def integers(self) -> tuple[list[int], int]:
        """The numbers as unbounded integers over one 2^shift: (integers, shift)."""
        bottom = min(self.rows, default=0)
        totals = [0] * self.count
        for place, row in self.rows.items():
            up = self.width * (place - bottom)
            some = np.flatnonzero(row)
            for i, digit in zip(some.tolist(), row[some].tolist(), strict=True):
                totals[i] += digit << up
        return totals, self.shift + self.width * bottom

    def _add(self, place: int, prefix: NDArray[np.int64], lo: Ranges, hi: Ranges) -> None:
        row = prefix.take(hi)
        row -= prefix.take(lo)
        self.rows[place] = self.rows[place] + row if place in self.rows else row


def blocks(count: int) -> Iterator[slice]:
    """Slices of BLOCK cells that cover `count`."""
    return (slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))


def magnitudes(values: Floats) -> tuple[float, float]:
    """The least |x| that is not zero and the greatest; (inf, 0.0) where there is none."""
    least, greatest = np.inf, 0.0
    for block in blocks(len(values)):
        size = np.abs(values[block])
        greatest = max(greatest, float(size.max()))
        size[size == 0.0] = np.inf
        least = min(least, float(size.min()))
    return least, greatest


def sum_integers(values: NDArray[Any], lo: Ranges, hi: Ranges) -> DigitSums:
    """The exact sums over ranges of int64 values, or of Python integers in an array of objects."""
    width = _width(len(values))
    sums = DigitSums({}, width, 0, len(lo))
    place = 0
    while _bits(values) + len(values).bit_length() > _SAFE_BITS:
        sums._add(place, _prefix(values & ((1 << width) - 1)), lo, hi)
        values = values >> width
        place += 1
    sums._add(place, _prefix(values), lo, hi)
    return sums


def sum_floats(values: Floats, lo: Ranges, hi: Ranges, least: float, greatest: float) -> DigitSums:
    """The exact sums over ranges of finite values, whose `magnitudes` are known."""
    width = _width(len(values))
    sums = DigitSums({}, width, _exponent(greatest) - width, len(lo))
    for band, exponent in _bands(values, least, greatest):
        _peel([band.copy() if band is values else band], exponent, sums, lo, hi)
    return sums


def sum_squares(values: Floats, lo: Ranges, hi: Ranges, least: float, greatest: float, shift: int) -> DigitSums:
    """The exact sums over ranges of the squares of finite values, at places counted from 2^shift."""
    sums = DigitSums({}, _width(len(values)), shift, len(lo))
    for band, exponent in _bands(values, least, greatest):
        high, low = np.empty(len(values)), np.empty(len(values))
        for block in blocks(len(values)):
            high[block], low[block] = two_product(band[block], band[block])
        _peel([high, low], 2 * exponent, sums, lo, hi)
    return sums


def two_product(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """(p, e) with a * b = p + e exactly and p the rounded product (Dekker), short of over- and underflow."""
    p = a * b
    (a1, a0), (b1, b0) = _halves(a), _halves(b)
    return p, ((a1 * b1 - p) + a1 * b0 + a0 * b1) + a0 * b0


def _halves(a: Floats) -> tuple[Floats, Floats]:
    """a = high + low, of at most 26 significant bits each (Veltkamp)."""
    c = a * float((1 << 27) + 1)
    high = c - (c - a)
    return high, a - high


def _width(rows: int) -> int:
    """Bits of a digit, even: 2^width * rows < 2^61, and at most 40 so that `variance` can multiply half digits."""
    return min(_WIDEST, (_SAFE_BITS - 1 - rows.bit_length()) // 2 * 2)


def _bits(integers: NDArray[Any]) -> int:
    return max(int(integers.max(initial=0)), -int(integers.min(initial=0))).bit_length()


def _exponent(x: float) -> int:
    """|x| < 2^exponent."""
    return int(np.frexp(x)[1])


def _prefix(column: NDArray[Any]) -> NDArray[np.int64]:
    prefix = np.empty(len(column) + 1, dtype=np.int64)
    prefix[0] = 0
    np.cumsum(column.astype(np.int64, copy=False), out=prefix[1:])
    return prefix


def _bands(values: Floats, least: float, greatest: float) -> Iterator[tuple[Floats, int]]:
    """(band, exponent) with values = the sum of band * 2^exponent, and each band 0 or within 2^-257..2^256."""
    if greatest == 0.0:
        return
    first, last = ((_exponent(x) + _BAND // 2) // _BAND for x in (least, greatest))
    if first == last == 0:
        yield values, 0
        return
    number = (np.frexp(values)[1] + _BAND // 2) // _BAND
    for b in range(first, last + 1):
        yield np.ldexp(np.where(number == b, values, 0.0), -_BAND * b), _BAND * b


def _peel(parts: list[Floats], exponent: int, sums: DigitSums, lo: Ranges, hi: Ranges) -> None:
    """Adds the sums of parts * 2^exponent to `sums`, place by place from the top; the parts end as zero."""
    prefix = np.empty(len(parts[0]) + 1, dtype=np.int64)
    left = max(max(float(part.max()), -float(part.min())) for part in parts)
    while left:
        place = -((sums.shift - exponent - _exponent(left)) // sums.width) - 1
        left = _peel_place(parts, sums.width * place + sums.shift - exponent, prefix)
        sums._add(place, prefix, lo, hi)


def _peel_place(parts: list[Floats], p: int, prefix: NDArray[np.int64]) -> float:
    """Takes multiples of 2^p out of the parts; writes the prefix sums of their digits; returns the greatest rest."""
    c = np.array(1.5 * 2.0 ** (52 + p))
    zero, left, total = c.view(np.int64), 0.0, 0
    space = np.empty(BLOCK)
    prefix[0] = 0
    for block in blocks(len(prefix) - 1):
        digits = prefix[1:][block]
        digits[:] = 0
        for part in parts:
            rest = part[block]
            rounded = np.add(rest, c, out=space[: len(rest)])
            digits += rounded.view(np.int64) - zero
            rounded -= c
            rest -= rounded
            left = max(left, float(rest.max()), -float(rest.min()))
        digits[0] += total
        np.add.accumulate(digits, out=digits)
        total = int(digits[-1])
    return left
