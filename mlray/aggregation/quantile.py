"""Quantile and Median: exact, interpolated linearly between order statistics."""

from abc import abstractmethod
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from math import isnan
from typing import Any, ClassVar

import numpy as np

from mlray.aggregation.aggregate import Aggregate, Partial, Plain, Ranges, Result, ResultType, Spans, Values, register
from mlray.aggregation.growing import growing
from mlray.aggregation.interpolation import between, exactly
from mlray.aggregation.selection import select
from mlray.errors import DefinitionError

_DIGITS = 9


@dataclass(frozen=True)
class OrderStatistic(Aggregate):
    """The value at a share of the way through the sorted usable values, float64; null for none.

    With n values x[0] <= ... <= x[n - 1] and q, let h = (n - 1) q, k its whole part and t the rest: the result is the
    exact rational (1 - t) x[k] + t x[k + 1], rounded once to float64; x[k] where t = 0. This is NumPy's method
    'linear' without its roundings. Infinities are values, and two of opposite sign with 0 < t give null.
    """

    result: ClassVar[ResultType] = "float64"
    numeric: ClassVar[bool] = True
    invertible: ClassVar[bool] = True
    commutative: ClassVar[bool] = True

    @property
    @abstractmethod
    def fraction(self) -> Fraction:
        """q."""

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:
        words, ranks = values.once("ranks", lambda: np.unique(values.array, return_inverse=True))
        pick = np.flatnonzero(hi > lo)
        last, whole = (hi - lo)[pick] - 1, self.fraction.denominator
        rank, weight = np.divmod(last * self.fraction.numerator, whole)
        both = np.concatenate((rank, np.minimum(rank + 1, last)))
        found = words[select(ranks, np.tile(lo[pick], 2), np.tile(hi[pick], 2), both)]
        out = np.zeros(len(lo))
        out[pick] = between(found[: len(pick)], found[len(pick) :], weight, whole, values.scale)
        return Result(out, (hi > lo) & ~np.isnan(out))

    def each(self, values: Plain, ranges: Spans) -> list[Any]:
        pools = values.once(("sorted", tuple(ranges)), lambda: _sorted(values, ranges))
        part, whole = self.fraction.as_integer_ratio()
        return [_within(pool, part, whole, values.scale) if pool else None for pool in pools]

    def partial(self, values: Values) -> Partial:
        """How often each value occurs."""
        return Counter(values.array.tolist())

    def merge(self, left: Partial, right: Partial) -> Partial:
        return left + right

    def revert(self, whole: Partial, left: Partial) -> Partial:
        return whole - left

    def finalize(self, partial: Partial, values: Values) -> Any:
        if not partial:
            return None
        last, whole = partial.total() - 1, self.fraction.denominator
        rank, weight = divmod(last * self.fraction.numerator, whole)
        found = exactly(_at(partial, rank), _at(partial, min(rank + 1, last)), weight, whole, values.scale)
        return None if np.isnan(found) else found


@register
@dataclass(frozen=True)
class Quantile(OrderStatistic):
    """The exact `q`-quantile, float64; null for none. q in [0, 1] is the decimal number as written: 0.95 is 19/20."""

    q: float = -1.0

    kind: ClassVar[str] = "quantile"

    def __post_init__(self) -> None:
        super().__post_init__()
        who = f"Quantile({self.column!r}): q={self.q!r}"
        if isinstance(self.q, bool) or not isinstance(self.q, int | float) or not 0 <= self.q <= 1:
            raise DefinitionError(f"{who} must lie between 0 and 1; write Quantile({self.column!r}, 0.95, ...)")
        object.__setattr__(self, "q", float(self.q))
        if 10**_DIGITS % self.fraction.denominator:
            raise DefinitionError(f"{who} has more than {_DIGITS} decimal places; round it")

    @property
    def fraction(self) -> Fraction:
        return _as_written(self.q)

    @property
    def label(self) -> str:
        """'q95' of 0.95, 'q99_9' of 0.999."""
        whole, part = divmod(self.fraction * 100, 1)
        digits = f"{int(part * 10**_DIGITS):0{_DIGITS}}".rstrip("0")
        return f"q{whole}_{digits}" if digits else f"q{whole}"


@register
@dataclass(frozen=True)
class Median(OrderStatistic):
    """The exact 0.5-quantile, float64; null for none: of an even number of values the middle of the inner two."""

    kind: ClassVar[str] = "median"

    @property
    def fraction(self) -> Fraction:
        return Fraction(1, 2)


@lru_cache(maxsize=256)
def _as_written(q: float) -> Fraction:
    return Fraction(repr(q))


def _sorted(values: Plain, ranges: Spans) -> list[list[Any]]:
    """The values of each range in order; those of a range that it holds are in order already, and only merged."""
    out: list[list[Any]] = [[]] * len(ranges)
    pool: list[Any] = []
    for which, piece, anew in growing(values, ranges):
        pool = sorted(piece) if anew else sorted(pool + piece)
        out[which] = pool
    return out


def _within(ordered: list[Any], part: int, whole: int, scale: int) -> float | None:
    """The value at the share part / whole of the way."""
    last = len(ordered) - 1
    rank, weight = divmod(last * part, whole)
    found = exactly(ordered[rank], ordered[min(rank + 1, last)], weight, whole, scale)
    return None if isnan(found) else found


def _at(counts: Counter[Any], rank: int) -> Any:
    """The value of this rank, from 0."""
    values = sorted(counts)
    ends = accumulate(counts[value] for value in values)
    return next(value for value, end in zip(values, ends, strict=True) if rank < end)
