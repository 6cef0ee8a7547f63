"""One query of one key over its cells, in plain Python: for few rows, where every array would cost more than its cells.

It answers where the rows of the cells, put together, lie in the order of the contract, none of them is another version
of one beside it, and nothing is left as partials only; what is then hidden at q is simply left out. Everything else is
answered in columns.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias, cast

import pyarrow as pa

from mlray.aggregation.window import EARLIEST, LATEST, Closed, Instants, latest_bounds, latest_span
from mlray.features.rows import KNOWN, TS
from mlray.features.single import Single
from mlray.online.cells import BASE, COMMIT, Shape
from mlray.online.codec import IN_ORDER
from mlray.online.latest import Latest
from mlray.online.store import Cell, Found, version_of

Columns: TypeAlias = Sequence[Sequence[Any]]
_ALONE = 16
"""Latest values up to which each is looked up by itself, of keys with a base only."""
_AS_THEY_ARE = (pa.float64(), pa.int64(), pa.string(), pa.bool_(), pa.int32(), pa.int16(), pa.int8(), pa.binary())
"""Types whose stored values are what Arrow gives to Python."""


class Moments:
    """The instants of some rows, also as lists. first: the least of them."""

    def __init__(self, at: Instants) -> None:
        self.at, self.floor, self.ceil = at, at.floor.tolist(), at.ceil.tolist()
        self.first: int = min(self.floor, default=LATEST)
        self._alike = len(set(self.floor)) == 1 == len(set(self.ceil))

    def span(self, lag: int, ttl: int | None, closed: Closed) -> tuple[int, int] | None:
        """The `latest_span` of all of them; None where they differ."""
        return latest_span(self.first, self.ceil[0], lag, ttl, closed) if self._alike else None

    def spans(self, lag: int, ttl: int | None, closed: Closed) -> list[tuple[int, int]]:
        """The `latest_span` of each."""
        return [latest_span(*q, lag, ttl, closed) for q in zip(self.floor, self.ceil, strict=True)]


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
        self._empty: Columns = [()] * len(schema.names)
        self.bare = not shape.view.aggregates and self._known is None
        """Whether one visible row is the whole answer."""
        self.flat = self.bare and not any(map(pa.types.is_nested, self.types))
        """Whether it is looked up faster than put into columns, also of many keys."""
        self._base = Latest(shape.base, self.names) if self.bare else None
        self._batch = Latest(shape.batch, self.names) if self.bare else None
        self._timeless = shape.view.source.timestamp is None
        self._how = shape.view.source.lag_us, shape.view.ttl_us, shape.view.closed

    @classmethod
    def of(cls, shape: Shape) -> "One | None":
        """None where the view can only be answered in columns."""
        return cls(shape) if Single.possible(shape.view, shape.base.schema) else None

    def answers(self, found: Found, moments: Moments) -> list[Sequence[Any]] | None:
        """Per key one value per feature; None where the cells of one must be read in columns."""
        answers = self._as_they_lie(found, moments)
        for i, answer in enumerate(answers):
            if answer is None:
                answers[i] = self.answer(found[i], moments.floor[i], moments.ceil[i])
                if answers[i] is None:
                    return None
        return cast(list[Sequence[Any]], answers)

    def _as_they_lie(self, found: Found, moments: Moments) -> list[Sequence[Any] | None]:
        """The answers of keys whose latest value can be unpacked as a whole; None for all others."""
        base = self._base
        if base is None or not len(found):
            return [None] * len(found)
        records, span = found.alone(BASE), (EARLIEST, LATEST) if self._timeless else moments.span(*self._how)
        spans = [span] * len(found) if span else moments.spans(*self._how)
        if base.even and len(records) - records.count(b"") > _ALONE:
            answers = base.many(records, *(span or latest_bounds(moments.at, *self._how)))
        else:
            answers = [base.one(record, *of_key) for record, of_key in zip(records, spans, strict=True)]
        for i, answer in enumerate(answers):
            if answer is None:
                answers[i] = self._newest(found.lying(i), *spans[i])
        return answers

    def _newest(self, cells: Sequence[tuple[bytes, bytes]], start: int, end: int) -> Sequence[Any] | None:
        """The answer of a key with cells of one row each; None where one is another, or two are of one time, as all are
        without a timestamp.
        """
        assert self._base is not None
        assert self._batch is not None
        version, until, newest = -1, 0, None
        for slot, record in cells:
            lies = self._base if slot == BASE else self._batch
            time = lies.time(record)
            if time is None or (newest and time == newest[0]):
                return None
            if slot == BASE:
                version, until = version_of(record), lies.until(record)
            elif time <= until and lies.integer(record, COMMIT) <= version:
                continue
            if start <= time < end and (newest is None or time > newest[0]):
                newest = time, lies, record
        return newest[1].values(newest[2]) if newest else self.nothing

    def answer(self, cells: Sequence[Cell], floor: int, ceil: int) -> Sequence[Any] | None:
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
        if self._timeless:
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
