"""One query of one key over its cells, in plain Python: for few rows, where every array would cost more than its cells.

It answers where the rows of the cells, put together, lie in the order of the contract, none of them is another version
of one beside it, and nothing is left as partials only; what is then hidden at q is simply left out. Everything else is
answered in columns.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import pyarrow as pa

from mlray.aggregation.window import latest_span
from mlray.features.rows import KNOWN, TS
from mlray.features.single import Single
from mlray.online.cells import BASE, Shape
from mlray.online.codec import IN_ORDER
from mlray.online.store import Cell

Columns: TypeAlias = Sequence[Sequence[Any]]
_AS_THEY_ARE = (pa.float64(), pa.int64(), pa.string(), pa.bool_(), pa.int32(), pa.int16(), pa.int8(), pa.binary())
"""Types whose stored values are what Arrow gives to Python."""


class One:
    """A view's features of one key at one instant. names, types: of the features, in order; plain: whether every value
    is what Python has for it.
    """

    def __init__(self, shape: Shape) -> None:
        schema = shape.base.schema
        self._shape, self._single = shape, Single(shape.view, schema)
        self.names, self.types = self._single.names, self._single.types
        self.plain = all(kind in _AS_THEY_ARE for kind in self.types)
        self.nothing: list[Any] = [None] * len(self.names)
        self._columns = schema.names
        self._time = schema.names.index(TS)
        self._known = schema.names.index(KNOWN) if KNOWN in schema.names else None
        self._told = (TS, *self.names)
        self._empty: Columns = [()] * len(schema.names)
        self.bare = not shape.view.aggregates and self._known is None
        """Whether one visible row is the whole answer."""

    @classmethod
    def of(cls, shape: Shape) -> "One | None":
        """None where the view can only be answered in columns."""
        return cls(shape) if Single.possible(shape.view, shape.base.schema) else None

    def answer(self, cells: Sequence[Cell], floor: int, ceil: int) -> list[Any] | None:
        """One value per feature as of q, in [floor, ceil]; None where these cells must be read in columns."""
        columns = self._rows(cells)
        if columns is None:
            return None
        if self._known is not None:
            known = columns[self._known]
            if known and max(known) > floor:
                seen = [moment <= floor for moment in known]
                columns = [_kept(column, seen) for column in columns]
        return self._single.answer(dict(zip(self._columns, columns, strict=True)), floor, ceil)

    def to_table(self, answers: Sequence[Sequence[Any]]) -> pa.Table:
        """One row per answer."""
        return self._single.to_table(answers)

    def latest(
        self, cells: Sequence[Sequence[Cell]], floor: Sequence[int], ceil: Sequence[int]
    ) -> list[Sequence[Any]] | None:
        """`answer` of many keys of a view that is `bare`; None where a key has more than a base of one row."""
        bases = [of_key[0] for of_key in cells if of_key]
        if max(map(len, cells), default=0) > 1 or {base.slot for base in bases} - {BASE}:
            return None
        rows = self._shape.base.tuples([base.value for base in bases], self._told) if bases else []
        if rows is None:
            return None
        view, found = self._shape.view, iter(rows)
        timeless, lag, ttl, closed = view.source.timestamp is None, view.source.lag_us, view.ttl_us, view.closed
        spans = {q: latest_span(*q, lag, ttl, closed) for q in set(zip(floor, ceil, strict=True))}
        answers: list[Sequence[Any]] = []
        for of_key, *q in zip(cells, floor, ceil, strict=True):
            row = next(found) if of_key else None
            start, end = spans[q[0], q[1]]
            answers.append(row[1:] if row and (timeless or start <= row[0] < end) else self.nothing)
        return answers

    def _rows(self, cells: Sequence[Cell]) -> Columns | None:
        """The events that the cells stand for, in order; None where their order is not to be seen from their times."""
        if not cells:
            return self._empty
        parts: list[Columns] = []
        version, until = -1, 0
        for cell in cells:
            header, columns = self._shape.layout(cell).plain(cell.value)
            if header.tail or not header.flags & IN_ORDER:
                return None
            if cell.slot == BASE:
                version, until = cell.version, header.until
            else:
                *columns, commits = columns
                fresh = [w > version or t > until for w, t in zip(commits, columns[self._time], strict=True)]
                columns = columns if all(fresh) else [_kept(column, fresh) for column in columns]
            if columns[self._time]:
                parts.append(columns)
        return self._joined(parts)

    def _joined(self, parts: list[Columns]) -> Columns | None:
        if len(parts) < 2:
            return parts[0] if parts else self._empty
        if self._shape.view.source.timestamp is None:
            return None
        at = self._time
        whole = [[value for part in parts for value in part[i]] for i in range(len(self._columns))]
        if all(one[at][-1] < other[at][0] for one, other in pairwise(parts)):
            return whole
        times = whole[at]
        if len(set(times)) < len(times):
            return None
        order = sorted(range(len(times)), key=times.__getitem__)
        return [[column[i] for i in order] for column in whole]


def _kept(column: Sequence[Any], keep: Sequence[bool]) -> list[Any]:
    return [value for value, kept in zip(column, keep, strict=True) if kept]
