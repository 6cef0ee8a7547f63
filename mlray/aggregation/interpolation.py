"""Between two numbers: the exact rational, rounded once to float64.

Method (Ziv's). The number is computed in double-double arithmetic, as an unevaluated sum of two doubles that is right
to 2^-100 (Dekker 1971; Joldes, Muller, Popescu, "Tight and rigorous error bounds for basic building blocks of
double-word arithmetic", 2017). Where nothing was lost on the way, as for most numbers halfway between two doubles, or
where every number that near rounds to the same double, that double is the answer. The few others, and operands whose
products might leave the range, are computed in Python's integers, whose quotient is rounded once.
"""

from math import isinf
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_ERROR = 2.0**-98
_SMALL, _LARGE = 2.0**-700, 2.0**700
_INTEGERS = 1 << 53
_EXACT_POWERS = 10**22


def between(low: NDArray[Any], high: NDArray[Any], weight: NDArray[np.int64], whole: int, scale: int = 0) -> Floats:
    """(low * (whole - weight) + high * weight) / whole * 10^-scale, 0 <= weight < whole < 2^53.

    low, high: float64, or integers of any size. An infinity counts where its weight is above 0; NaN where two of
    opposite sign do.
    """
    divisor, wide = whole * 10**scale, (low.astype(np.float64), high.astype(np.float64))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        out, certain = _quotient(*wide, weight, whole, float(divisor))
    certain &= _tame(low) & _tame(high) & (divisor <= _EXACT_POWERS)
    for i in np.flatnonzero(~certain):
        (a,), (b,) = low[i : i + 1].tolist(), high[i : i + 1].tolist()
        out[i] = _exact(a, b, int(weight[i]), whole, divisor)
    return out


def exactly(low: Any, high: Any, weight: int, whole: int, scale: int = 0) -> float:
    """The same for two numbers."""
    return _exact(low, high, weight, whole, whole * 10**scale)


def _quotient(
    low: Floats, high: Floats, weight: NDArray[np.int64], whole: int, divisor: float
) -> tuple[Floats, NDArray[np.bool_]]:
    """The number, and where it is certain to be the nearest."""
    left, left_rest = _product(low, (whole - weight).astype(np.float64))
    right, right_rest = _product(high, weight.astype(np.float64))
    total, rest = _sum(left, right)
    small, smaller = _sum(left_rest, right_rest)
    rest, lost = _sum(rest, small)
    total, rest = _quick_sum(total, rest)
    rest, lost_too = _sum(rest, smaller)
    total, rest = _quick_sum(total, rest)
    guess = total / divisor
    back, back_rest = _product(guess, divisor)
    over, dropped = _sum(total - back, -back_rest)
    over, dropped_too = _sum(over, rest)
    more = over / divisor
    again, again_rest = _product(more, divisor)
    complete = (again == over) & ~np.any([lost, lost_too, dropped, dropped_too, again_rest], axis=0)
    head, tail = _quick_sum(guess, more)
    error = np.abs(head) * _ERROR
    return head + 0.0, complete | ((head + (tail + error) == head) & (head + (tail - error) == head))


def _exact(low: Any, high: Any, weight: int, whole: int, divisor: int) -> float:
    if not weight:
        high = low
    if low == high and isinstance(low, float):
        return low
    if isinf(low) or isinf(high):
        return float(low + high)
    (a, b), (c, d) = low.as_integer_ratio(), high.as_integer_ratio()
    rounded: float = (a * d * (whole - weight) + c * b * weight) / (b * d * divisor)
    return rounded


def _tame(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a value is a double whose products neither overflow nor lose bits."""
    if values.dtype != np.float64:
        return np.asarray((values >= -_INTEGERS) & (values <= _INTEGERS), dtype=np.bool_)
    size = np.abs(values)
    return np.asarray((size == 0) | ((size >= _SMALL) & (size <= _LARGE)))


def _sum(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """a + b as a double and what it lacks, exactly."""
    total = a + b
    other = total - a
    return total, (a - (total - other)) + (b - other)


def _quick_sum(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """The same where |a| >= |b| or a is 0."""
    total = a + b
    return total, b - (total - a)


def _product(a: Floats, b: Floats | float) -> tuple[Floats, Floats]:
    """a * b as a double and what it lacks, exactly."""
    product = a * b
    (a1, a2), (b1, b2) = _halves(a), _halves(b)
    return product, ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2


def _halves(a: Any) -> tuple[Any, Any]:
    """Two doubles of 26 bits that sum to a."""
    scaled = a * 134217729.0
    high = scaled - (scaled - a)
    return high, a - high
