"""The numbers of one query as unbounded integers, from whose prefix sums follows the exact sum of any range."""

from dataclasses import dataclass
from itertools import accumulate
from math import frexp, isfinite, trunc

from mlray.aggregation.aggregate import Plain

_DEEPEST = -1000
"""Below this exponent its inverse may leave the doubles."""


@dataclass(frozen=True, slots=True)
class Integers:
    """The value is cell * 2^exponent; of a decimal cell * 10^-scale; an infinity is 0 and counted by `infinite`.

    infinite: how many infinities lie before each place; None where there is none.
    """

    cells: list[int]
    exponent: int = 0
    infinite: list[int] | None = None


def integers(values: Plain) -> Integers:
    """The numbers, all over one power of two."""
    make = _of_floats if values.kind == "float" else Integers
    return values.once("integers", lambda: make(values.cells))


def sums(values: Plain) -> list[int]:
    """The sum of the integers before each place."""
    return values.once("sums", lambda: list(accumulate(integers(values).cells, initial=0)))


def squares(values: Plain) -> list[int]:
    """The sum of their squares."""
    return values.once("squares", lambda: list(accumulate([i * i for i in integers(values).cells], initial=0)))


def _of_floats(cells: list[float]) -> Integers:
    """Every double is a multiple of the last place of the least of them: times a power of two it is an integer."""
    exponent = frexp(_least(cells))[1] - 53
    if exponent > _DEEPEST:
        unit = 2.0**-exponent
        try:
            return Integers(list(map(trunc, [x * unit for x in cells])), exponent)
        except OverflowError:  # an infinity, or sizes so far apart that one becomes infinite
            pass
    return _of_any_floats(cells)


def _least(cells: list[float]) -> float:
    """The least size other than zero; 1.0 for none."""
    least = min(cells, default=1.0)
    return least if least > 0.0 else min(filter(None, map(abs, cells)), default=1.0)


def _of_any_floats(cells: list[float]) -> Integers:
    ratios = [x.as_integer_ratio() if isfinite(x) else (0, 1) for x in cells]
    deepest = max(below.bit_length() for _, below in ratios)
    whole = [above << (deepest - below.bit_length()) for above, below in ratios]
    infinite = None if all(map(isfinite, cells)) else list(accumulate((not isfinite(x) for x in cells), initial=0))
    return Integers(whole, 1 - deepest, infinite)
