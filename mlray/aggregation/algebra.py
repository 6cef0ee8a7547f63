"""Exact totals of segments of numbers: they add, and what was added can be taken away again.

A fraction holds the sum of any finite doubles, integers or decimals without rounding. Infinities are counted apart,
since they have no inverse.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mlray.aggregation.aggregate import Aggregate, Partial, Values


@dataclass(frozen=True, slots=True)
class Total:
    """count: of all values; sum: of the finite ones; up, down: how many are +inf, -inf."""

    count: int
    sum: Fraction
    up: int
    down: int

    @classmethod
    def of(cls, values: Values) -> "Total":
        integers, unit, up, down = _finite(values)
        return cls(len(values.array), sum(integers) * unit, up, down)

    def __add__(self, other: "Total") -> "Total":
        return Total(self.count + other.count, self.sum + other.sum, self.up + other.up, self.down + other.down)

    def __sub__(self, other: "Total") -> "Total":
        return Total(self.count - other.count, self.sum - other.sum, self.up - other.up, self.down - other.down)

    def rounded(self) -> float | None:
        """The sum of all values, rounded once to float64; None for no value and for infinities of both signs."""
        if not self.count or (self.up and self.down):
            return None
        if self.up or self.down:
            return float("inf") if self.up else float("-inf")
        return rounded(self.sum)


@dataclass(frozen=True, slots=True)
class Moments:
    """count: of all values; sum, squares: of the finite ones and of their squares; infinite: how many are not."""

    count: int
    sum: Fraction
    squares: Fraction
    infinite: int

    @classmethod
    def of(cls, values: Values) -> "Moments":
        integers, unit, up, down = _finite(values)
        squares = sum(i * i for i in integers) * unit * unit
        return cls(len(values.array), sum(integers) * unit, squares, up + down)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count,
            self.sum + other.sum,
            self.squares + other.squares,
            self.infinite + other.infinite,
        )

    def __sub__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count - other.count,
            self.sum - other.sum,
            self.squares - other.squares,
            self.infinite - other.infinite,
        )

    def variance(self) -> float | None:
        """Of a sample, rounded once; None below two values and with an infinity."""
        n = self.count
        if n < 2 or self.infinite:
            return None
        return rounded((n * self.squares - self.sum * self.sum) / (n * (n - 1)))


@dataclass(frozen=True)
class OfTotal(Aggregate):
    """A kind whose partials are totals."""

    numeric: ClassVar[bool] = True
    invertible: ClassVar[bool] = True
    commutative: ClassVar[bool] = True

    def partial(self, values: Values) -> Partial:
        return Total.of(values)

    def merge(self, left: Partial, right: Partial) -> Partial:
        return left + right

    def revert(self, whole: Partial, left: Partial) -> Partial:
        return whole - left


@dataclass(frozen=True)
class OfMoments(Aggregate):
    """A kind whose partials are moments."""

    numeric: ClassVar[bool] = True
    invertible: ClassVar[bool] = True
    commutative: ClassVar[bool] = True

    def partial(self, values: Values) -> Partial:
        return Moments.of(values)

    def merge(self, left: Partial, right: Partial) -> Partial:
        return left + right

    def revert(self, whole: Partial, left: Partial) -> Partial:
        return whole - left


def rounded(exact: Fraction) -> float:
    """The nearest double, ties to even; beyond the largest one an infinity."""
    try:
        return float(exact)
    except OverflowError:
        return float("inf") if exact > 0 else float("-inf")


def _finite(values: Values) -> tuple[list[int], Fraction, int, int]:
    """(integers, unit, how many are +inf, how many -inf): the finite values are integers * unit."""
    array: NDArray[Any] = values.array
    if values.kind != "float":
        return array.tolist(), Fraction(10) ** -values.scale, 0, 0
    finite, up, down = array[np.isfinite(array)], array == np.inf, array == -np.inf
    mantissa, exponent = np.frexp(finite)
    lowest = int(exponent.min(initial=0)) - 53
    parts = zip(np.ldexp(mantissa, 53).tolist(), (exponent - 53 - lowest).tolist(), strict=True)
    return [int(m) << e for m, e in parts], Fraction(2) ** lowest, int(up.sum()), int(down.sum())
