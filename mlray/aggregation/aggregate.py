"""What an aggregate is: a declaration, and a function from ranges of ordered values to results.

A kind of aggregate is one file: a subclass of `Aggregate` that names itself and computes `over`. The windows, the
visibility of rows, nulls, `where` and storage are not its business: it is given the usable values of a column in
event order and, per query, the half-open range [lo, hi) of them that its window holds.

A call of `over` answers thousands of queries at once, and costs hundreds of microseconds for one. So a kind says the
same in plain Python too: `each` answers the few ranges of one query over some hundred values, to the same bits.

It also says how values are combined piece by piece: `partial` condenses a segment of values, `merge` joins two that
follow one another, `finalize` gives the value. This is a monoid, whose identity is the partial of no values, and
finalize(partial(v)) is what `over` gives for all of v, to the bit.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from datetime import timedelta
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlray.aggregation.window import Closed, Lifetime, Window, microseconds
from mlray.errors import DefinitionError

Ranges = NDArray[np.int64]
Made = TypeVar("Made")
Partial = Any
"""What a kind keeps of a segment of values: plain, picklable and exact; equal where it stands for the same."""
ValuesKind = Literal["int", "float", "decimal", "ordered"]
Spans = Sequence[tuple[int, int]]
"""Half-open ranges [lo, hi) of values."""
ResultType = Literal["int64", "float64", "column", "list", "sum"]
"""'column': a value of the input column, in its type; 'list': a list of them; 'sum': int64 for integers and bool,
else float64.
"""


class Shared:
    """Keeps what several aggregates over the same values need."""

    __slots__ = ()
    shared: dict[Hashable, Any]

    def once(self, name: Hashable, make: Callable[[], Made]) -> Made:
        """Made by the first of them that asks; not to be changed."""
        if name not in self.shared:
            self.shared[name] = make()
        made: Made = self.shared[name]
        return made


@dataclass(frozen=True, slots=True)
class Values(Shared):
    """The usable values of a column in event order: no null, no NaN, no -0.0.

    `array`: float64, or int64 for integers, bool and every other ordered type coded so that codes order as values do.
    A decimal is array * 10^-scale, scale >= 0: int64, or Python integers where it has more than 18 digits.
    """

    name: str
    kind: ValuesKind
    array: NDArray[Any]
    scale: int = 0
    shared: dict[Hashable, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Plain(Shared):
    """The usable values of a column in event order, as Python has them: no null, no NaN, no -0.0.

    `cells`: floats, infinities among them; integers (bool is one); of a decimal the integers cell * 10^scale; of every
    other type what Python orders as the contract does: text, bytes, and times as integers in their unit.
    """

    name: str
    kind: ValuesKind
    cells: list[Any]
    scale: int = 0
    shared: dict[Hashable, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Result:
    """Per query a value and whether it is one; where not, the value is null.

    With `offsets` (one more than queries, ascending) the value of query i is the list array[offsets[i]:offsets[i + 1]].
    """

    array: NDArray[Any]
    valid: NDArray[np.bool_]
    offsets: Ranges | None = None

    def part(self, start: int, stop: int) -> "Result":
        """Of the queries start..stop - 1."""
        if self.offsets is None:
            return Result(self.array[start:stop], self.valid[start:stop])
        return Result(self.array, self.valid[start:stop], self.offsets[start : stop + 1])


@dataclass(frozen=True)
class Aggregate(ABC):
    """An aggregation of `column` over each of `windows`, as a user declares it."""

    column: str = ""
    _: KW_ONLY
    windows: Iterable[timedelta | Lifetime | Window]
    where: str | None = None
    offset: timedelta = timedelta(0)
    closed: Closed = "left"
    resolution: timedelta = timedelta(0)
    name: str | None = None

    kind: ClassVar[str]
    result: ClassVar[ResultType]
    numeric: ClassVar[bool] = False
    """Whether the column must hold numbers."""
    needs_column: ClassVar[bool] = True
    of_condition: ClassVar[bool] = False
    """Whether `where` filters nothing and is itself the value: 1 where true, 0 elsewhere, of every visible row."""
    invertible: ClassVar[bool] = False
    """Whether `revert` undoes `merge`."""
    commutative: ClassVar[bool] = False
    """Whether `merge` gives the same whichever of its sides comes first: then the order of events does not matter."""

    def __post_init__(self) -> None:
        if not self.column and self.needs_column:
            raise DefinitionError(f"{type(self).__name__} needs a column: {type(self).__name__}('amount', windows=...)")
        if not isinstance(self.windows, list | tuple):
            raise DefinitionError(
                f"{type(self).__name__}({self.column!r}): windows={self.windows!r} is no list; write windows=[days(7)]"
            )
        spans = tuple(self._window(w) for w in self.windows)
        if not spans:
            raise DefinitionError(f"{type(self).__name__}({self.column!r}) has no windows; give windows=[days(7)]")
        object.__setattr__(self, "windows", spans)

    @property
    def spans(self) -> tuple[Window, ...]:
        """The declared windows."""
        return tuple(w for w in self.windows if isinstance(w, Window))

    def _window(self, length: timedelta | Lifetime | Window) -> Window:
        if isinstance(length, Window):
            return length
        if not isinstance(length, timedelta | Lifetime):
            raise DefinitionError(f"a window is a timedelta such as days(7), or lifetime; got {length!r}")
        size = microseconds(length) if isinstance(length, timedelta) else None
        return Window(size, microseconds(self.offset), self.closed, microseconds(self.resolution))

    @property
    def stem(self) -> str:
        """The feature name before the window."""
        return f"{self.column}_{self.label}" if self.column else self.label

    @property
    def label(self) -> str:
        """The aggregate's part of a feature name."""
        return self.kind

    def feature_name(self, window: Window) -> str:
        """`name=` is the whole name of a single window, or the stem before several."""
        if self.name is not None and len(self.spans) == 1:
            return self.name
        return f"{self.name or self.stem}_{window.name}"

    @property
    def parameters(self) -> dict[str, Any]:
        """What a kind declares beyond these fields, as plain data."""
        own = {f.name for f in fields(self)} - {f.name for f in fields(Aggregate)}
        return {name: getattr(self, name) for name in sorted(own)}

    @abstractmethod
    def over(self, values: Values, lo: Ranges, hi: Ranges) -> Result:
        """The aggregate of values[lo:hi] per range; 0 <= lo <= hi <= len(values.array).

        Aggregates over the same column, condition and windows are given the same objects, so that they can share
        what they compute.
        """

    @abstractmethod
    def each(self, values: Plain, ranges: Spans) -> list[Any]:
        """The same, plain, for the ranges of one query: None for null, a cell for 'column', a list of cells for 'list'.

        0 <= lo <= hi <= len(values.cells). Raises OverflowInSum as `over` does.
        """

    def partial(self, values: Values) -> Partial:
        """The segment `values`, condensed."""
        raise NotImplementedError

    def merge(self, left: Partial, right: Partial) -> Partial:
        """The partial of the values of `left` followed by those of `right`."""
        raise NotImplementedError

    def revert(self, whole: Partial, left: Partial) -> Partial:
        """What merge(left, rest) was made of besides `left`; kinds that are `invertible` only."""
        raise NotImplementedError(f"{type(self).__name__} cannot take values back")

    def finalize(self, partial: Partial, values: Values) -> Any:
        """The value, plain; None for null. `values`: any of the same column, for its name, kind and scale."""
        raise NotImplementedError


Kind = TypeVar("Kind", bound=Aggregate)
registered: dict[str, type[Aggregate]] = {}


def register(kind: type[Kind]) -> type[Kind]:
    """Makes a kind known by its name, to the catalog and to the law tests."""
    registered[kind.__name__] = kind
    return kind
