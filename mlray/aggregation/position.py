"""The first and the last usable values in event order: event time, then sequence, known_at and the tie order."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mlray.aggregation.aggregate import Aggregate, Partial, Plain, Ranges, Result, ResultType, Spans, Values, register
from mlray.aggregation.ranges import expand
from mlray.errors import DefinitionError


@register
@dataclass(frozen=True)
class First(Aggregate):
    """The earliest usable value of the window, in the column's type; null for none."""

    kind: ClassVar[str] = "first"
    result: ClassVar[ResultType] = "column"

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:
        return _at(values, lo, hi > lo)

    def each(self, values: Plain, ranges: Spans) -> list[Any]:
        return [values.cells[lo] if hi > lo else None for lo, hi in ranges]

    def partial(self, values: Values) -> Partial:
        return tuple(values.array[:1].tolist())

    def merge(self, left: Partial, right: Partial) -> Partial:
        return left or right

    def finalize(self, partial: Partial, values: Values) -> Any:  # noqa: ARG002
        return partial[0] if partial else None


@register
@dataclass(frozen=True)
class Last(Aggregate):
    """The latest usable value of the window, in the column's type; null for none."""

    kind: ClassVar[str] = "last"
    result: ClassVar[ResultType] = "column"

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:
        return _at(values, hi - 1, hi > lo)

    def each(self, values: Plain, ranges: Spans) -> list[Any]:
        return [values.cells[hi - 1] if hi > lo else None for lo, hi in ranges]

    def partial(self, values: Values) -> Partial:
        return tuple(values.array[-1:].tolist())

    def merge(self, left: Partial, right: Partial) -> Partial:
        return right or left

    def finalize(self, partial: Partial, values: Values) -> Any:  # noqa: ARG002
        return partial[0] if partial else None


@dataclass(frozen=True)
class SomeOf(Aggregate):
    """At most `n` usable values as a list, whose elements have the column's type; null for none."""

    n: int = 0

    result: ClassVar[ResultType] = "list"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 1:
            kind = type(self).__name__
            raise DefinitionError(
                f"{kind}({self.column!r}): n={self.n!r} is no number of values; write {kind}({self.column!r}, 5, ...)"
            )

    @property
    def label(self) -> str:
        return f"{self.kind.removesuffix('_n')}_{self.n}"

    def finalize(self, partial: Partial, values: Values) -> Any:  # noqa: ARG002
        return list(partial) or None


@register
@dataclass(frozen=True)
class FirstN(SomeOf):
    """The `n` earliest usable values of the window in event order, oldest first, as a list; null for none."""

    kind: ClassVar[str] = "first_n"

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:
        return _lists(values, lo, np.minimum(lo + self.n, hi))

    def each(self, values: Plain, ranges: Spans) -> list[Any]:
        return [values.cells[lo : min(lo + self.n, hi)] or None for lo, hi in ranges]

    def partial(self, values: Values) -> Partial:
        return tuple(values.array[: self.n].tolist())

    def merge(self, left: Partial, right: Partial) -> Partial:
        return (left + right)[: self.n]


@register
@dataclass(frozen=True)
class LastN(SomeOf):
    """The `n` latest usable values of the window in event order, the newest at the end, as a list; null for none."""

    kind: ClassVar[str] = "last_n"

    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:
        return _lists(values, np.maximum(lo, hi - self.n), hi)

    def each(self, values: Plain, ranges: Spans) -> list[Any]:
        return [values.cells[max(lo, hi - self.n) : hi] or None for lo, hi in ranges]

    def partial(self, values: Values) -> Partial:
        return tuple(values.array[-self.n :].tolist())

    def merge(self, left: Partial, right: Partial) -> Partial:
        return (left + right)[-self.n :]


def _at(values: Values, index: Ranges, valid: NDArray[np.bool_]) -> Result:
    out = np.zeros(len(index), dtype=values.array.dtype)
    out[valid] = values.array[index[valid]]
    return Result(out, valid)


def _lists(values: Values, lo: Ranges, hi: Ranges) -> Result:
    index, _ = expand(lo, hi)
    return Result(values.array[index], hi > lo, np.concatenate(([0], np.cumsum(hi - lo))))
