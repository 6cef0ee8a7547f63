"""The online read: stored events of the asked keys, evaluated at q by the functions that made the training set.

A `Reader` compiles what a service reads of a store. All states and cells of a request come in one round trip. Few rows
are answered one by one in plain Python (`one`), many together in columns (`features.evaluate`); both give the same
bits, and where the first cannot answer, the second does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlray.aggregation.window import Instants
from mlray.errors import SchemaError, TimeError
from mlray.features import keys as typed_keys
from mlray.features.evaluate import Queries, evaluate
from mlray.features.order import prepare
from mlray.features.service import FeatureService
from mlray.features.vector import Assembly, request_fields
from mlray.features.view import BoundView
from mlray.online.cells import Shape, shape_of, stored
from mlray.online.encoding import key_bytes, plain_keys
from mlray.online.one import Moments, One
from mlray.online.record import ViewState, read_state, space
from mlray.online.status import Asked, Status, newest
from mlray.online.store import Cell, Found, OnlineStore

FEW = 16
"""Rows up to which each is answered by itself."""

_OF_SCHEMA = ("types", "names", "how", "shape", "one")
"""What of a reading follows from its events' schema alone."""

Rows: TypeAlias = Sequence[Mapping[str, Any]]
_How: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]


def get_features(
    store: OnlineStore, service: FeatureService, rows: pa.Table, at: Instants, *, status: Asked = False
) -> pa.Table:
    """One feature vector per row, in order; the service's features in its order.

    rows: its entity keys and request fields; at: q per row. status: adds what `status.Status` says. Raises
    NotMaterialized, SchemaError, and TimeError where q lies before what the state can answer exactly.
    """
    return Reader(store, service).read(rows, at, status=status).to_arrow()


@dataclass(frozen=True)
class _View:
    """A reading of a view under the record that the store holds."""

    bound: BoundView
    raw: bytes
    state: ViewState

    def like(self, older: "_View") -> "_View":
        """This reading with what was made of the events' schema under an older record, where that was the same."""
        if older.raw == self.raw:
            return older
        if older.state.schema == self.state.schema:
            self.__dict__.update({name: made for name, made in older.__dict__.items() if name in _OF_SCHEMA})
        return self

    @cached_property
    def types(self) -> list[pa.DataType]:
        """Of the key's parts, as they are stored."""
        events = self.state.events
        return [events.field(key).type for key in self.bound.view.keys]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the key's parts, in the rows of a request."""
        return self.bound.spine_keys

    @cached_property
    def how(self) -> "_How":
        """Names and types of the key's parts."""
        return self.names, tuple(str(kind) for kind in self.types)

    @cached_property
    def shape(self) -> Shape:
        return shape_of(self.bound.view, self.state.events)

    @cached_property
    def one(self) -> One | None:
        """Answers single queries; None where the view needs columns."""
        return One.of(self.shape)

    def plain_keys(self, rows: pa.Table | Rows) -> list[bytes | None] | None:
        """Per row its key, None for one with a null; None for all where a value is not simply of the stored type."""
        names, types = self.names, self.types
        if not names:
            return [b""] * len(rows)
        try:
            return plain_keys(_columns(rows, names, types), types)
        except (KeyError, SchemaError, OverflowError):
            return None

    def answers(self, asked: "_Few", found: Found) -> list[Sequence[Any]] | None:
        """Per row its answer; None where a key's cells need columns. found: the cells of those that are asked."""
        reach, one = self.state.reach, self.one
        assert one is not None
        if reach is not None and asked.moments.first < reach:
            raise _too_early(self, asked.moments.first)
        answers = one.answers(found, asked.moments)
        if answers is None or len(answers) == asked.count:
            return answers
        whole: list[Sequence[Any]] = [one.nothing] * asked.count
        for row, answer in zip(asked.rows, answers, strict=True):
            whole[row] = answer
        return whole


class _Few:
    """Which of a request's `count` rows ask: those that have a key and an instant. All others get nothing."""

    def __init__(self, keys: Sequence[bytes | None], at: Instants) -> None:
        self.count = len(keys)
        self.rows: Sequence[int] = range(len(keys))
        valid = at.valid.tolist()
        if None in keys or False in valid:
            self.rows = [i for i, known in enumerate(valid) if known and keys[i] is not None]
            at = at.take(np.array(self.rows, np.int64))
        self.keys = [key for row in self.rows if (key := keys[row]) is not None]
        self.moments = Moments(at)


@dataclass(frozen=True)
class _Asked:
    """One reading of a view for one request: the distinct keys, and which of them each row asks for."""

    view: _View
    keys: list[bytes]
    codes: NDArray[np.int64]
    complete: NDArray[np.bool_]


@dataclass(frozen=True)
class Vectors:
    """The feature vectors of a request, one per row: typed (`to_arrow`) or as plain Python (`to_pylist`)."""

    service: FeatureService
    assembly: Assembly
    rows: Callable[[], pa.Table]
    at: Instants
    table: pa.Table | None = None
    plain: Sequence[tuple[_View, Sequence[Sequence[Any]]]] = ()
    named: "_Named | None" = None

    def to_arrow(self) -> pa.Table:
        if self.table is not None:
            return self.table
        answers = []
        for view, found in self.plain:
            assert view.one is not None
            answers.append(view.one.to_table(found))
        return self.assembly.vectors(answers, request_fields(self.service, self.rows()), self.at)

    def to_pylist(self) -> list[dict[str, Any]]:
        if self.named is None or not all(view.one is not None and view.one.plain for view, _ in self.plain):
            found: list[dict[str, Any]] = self.to_arrow().to_pylist()
            return found
        return self.named.rows([answers for _, answers in self.plain])


class _Named:
    """The features of a service that are all of views, as dicts of the answers of its readings."""

    def __init__(self, service: FeatureService) -> None:
        every = [(read, name) for read in service.reads for name in read.renamed.values()]
        at = {pair: place for place, pair in enumerate(every)}
        views = [item for item in service.items if isinstance(item, BoundView)]
        places = {name: at[item.whole, name] for item in views for name in item.names}
        self._names, self._places, self._blank = [name for _, name in every], places, dict.fromkeys(places)

    @classmethod
    def of(cls, service: FeatureService) -> "_Named | None":
        """None where a feature is no view's."""
        return cls(service) if all(isinstance(item, BoundView) for item in service.items) else None

    def rows(self, answers: Sequence[Sequence[Sequence[Any]]]) -> list[dict[str, Any]]:
        """answers: per reading, per row."""
        found = map(chain.from_iterable, zip(*answers, strict=True))
        if len(self._places) < len(self._names):
            return [{name: row[place] for name, place in self._places.items()} for row in map(tuple, found)]
        rows = []
        for values in found:
            rows.append(row := self._blank.copy())  # has its names, in order: half of what a new one costs
            row.update(zip(self._names, values, strict=True))
        return rows


class Reader:
    """A service's reads of one store. Safe to share between threads.

    few: rows up to which each is answered by itself; 0: all in columns. as_table: makes a table of rows in Python.
    """

    def __init__(
        self, store: OnlineStore, service: FeatureService, *, few: int = FEW,
        as_table: Callable[[Rows], pa.Table] = pa.Table.from_pylist,
    ) -> None:  # fmt: skip
        self.store, self.service, self._few, self._as_table = store, service, few, as_table
        self._reads = service.reads
        self._spaces = [space(bound.view) for bound in self._reads]
        self._views: list[_View] = []
        self._named, self._assembly = _Named.of(service), Assembly(service)

    def read(self, rows: pa.Table | Rows, at: Instants, *, status: Asked = False) -> Vectors:
        """One vector per row, in order, as `get_features` describes."""
        if not status and (len(at) <= self._few or (self._few and self._flat())):
            vectors = self._one_by_one(self._views or self._looked_up(), rows, at)
            if vectors is not None:
                return vectors
        views = self._views or self._looked_up()
        table = rows if isinstance(rows, pa.Table) else self._as_table(rows)
        while True:
            try:
                keys = _Keys(table)
                asked = [_Asked(view, *keys.of(view)) for view in views]
            except SchemaError:
                if self._looked_up() == views:  # else the keys have another type by now
                    raise
                views = self._views
                continue
            found = self.store.read([(name, a.keys) for name, a in zip(self._spaces, asked, strict=True)])
            before, views = views, self._renewed([held.state for held in found])
            if _alike(before, views):
                asked = [replace(one, view=view) for one, view in zip(asked, views, strict=True)]
                return self._in_columns(asked, [[*held.cells] for held in found], table, at, status)

    def _flat(self) -> bool:
        """Whether all that is read are latest values that are looked up faster than they are put into columns."""
        return all(view.one is not None and view.one.flat for view in self._views or self._looked_up())

    def _one_by_one(self, views: list[_View], rows: pa.Table | Rows, at: Instants) -> Vectors | None:
        """None where a view or the cells of a key need columns, or events have another schema by now."""
        if not all(view.one for view in views):
            return None
        made: dict[_How, _Few | None] = {}  # views that are read by the same columns share their keys
        for view in views:
            if view.how not in made:
                keys = view.plain_keys(rows)
                made[view.how] = None if keys is None else _Few(keys, at)
        asked = [few for view in views if (few := made[view.how])]
        if len(asked) < len(views):
            return None
        found = self.store.read([(name, few.keys) for name, few in zip(self._spaces, asked, strict=True)])
        before, views = views, self._renewed([held.state for held in found])
        if not _alike(before, views):
            return None
        plain = []
        for view, held, few in zip(views, found, asked, strict=True):
            answers = view.answers(few, held.cells)
            if answers is None:
                return None
            plain.append((view, answers))
        table = partial(self._as_table, rows) if not isinstance(rows, pa.Table) else lambda: rows
        return Vectors(self.service, self._assembly, table, at, plain=plain, named=self._named)

    def _in_columns(
        self, asked: list[_Asked], cells: list[list[list[Cell]]], rows: pa.Table, at: Instants, status: Asked
    ) -> Vectors:
        answers, told = list[pa.Table](), list[Status]()
        for a, found in zip(asked, cells, strict=True):
            _check_reach(a, at)
            bound, held = a.view.bound, stored(a.view.shape, found)
            events = prepare(bound.view, held.rows, held.codes)
            queries = Queries(a.codes, at, a.complete)
            before = held.tiles.before if held.tiles else None
            answers.append(evaluate(bound.view, events, queries, before=before))
            if status:
                told.append(Status(bound, a.view.state, at, answers[-1], newest(bound.view, events, queries)))
        vectors = self._assembly.vectors(answers, request_fields(self.service, rows), at)
        for one in told:
            vectors = one.beside(vectors, values=status == "values")
        return Vectors(self.service, self._assembly, lambda: rows, at, vectors)

    def _looked_up(self) -> list[_View]:
        return self._renewed([held.state for held in self.store.read([(name, []) for name in self._spaces])])

    def _renewed(self, raw: Sequence[bytes | None]) -> list[_View]:
        """The readings under these records; what has been made of them stays as far as it holds."""
        known = self._views
        if len(known) == len(raw) and all(view.raw == text for view, text in zip(known, raw, strict=True)):
            return known
        read = zip(self._reads, raw, strict=True)
        views = [_View(bound, text or b"", read_state(bound.view, text)) for bound, text in read]
        self._views = [view.like(old) for view, old in zip(views, known, strict=True)] if known else views
        return self._views


def _alike(before: Sequence[_View], now: Sequence[_View]) -> bool:
    """Whether keys and cells mean the same under both records."""
    return before is now or all(a.state.schema == b.state.schema for a, b in zip(before, now, strict=True))


class _Keys:
    """The keys of a request, made once for all views that are read by the same columns."""

    def __init__(self, rows: pa.Table) -> None:
        self.rows = rows
        self._made: dict[_How, _Found] = {}

    def of(self, view: _View) -> "_Found":
        if view.how not in self._made:
            self._made[view.how] = self._find(view)
        return self._made[view.how]

    def _find(self, view: _View) -> "_Found":
        who, rows = f"feature view {view.bound.view.name}", self.rows
        missing = [name for name in view.names if name not in rows.column_names]
        if missing:
            raise SchemaError.missing_column(who, missing[0], "the rows", rows.column_names)
        columns = [
            typed_keys.spine_key(rows.column(name), name, kind, who)
            for name, kind in zip(view.names, view.types, strict=True)
        ]
        complete = typed_keys.complete(columns, rows.num_rows)
        table = pa.table(columns, names=[str(i) for i in range(len(columns))]) if columns else rows.select([])
        keys, codes = _distinct_keys(table, complete)
        return keys, codes, complete


_Found: TypeAlias = tuple[list[bytes], NDArray[np.int64], NDArray[np.bool_]]
"""The distinct keys; per row its position among them; whether it has one."""


def _check_reach(asked: _Asked, at: Instants) -> None:
    reach = asked.view.state.reach
    if reach is not None:
        early = asked.complete & at.valid & (at.floor < reach)
        if early.any():
            raise _too_early(asked.view, int(at.floor[early].min()))


def _distinct_keys(table: pa.Table, complete: NDArray[np.bool_]) -> tuple[list[bytes], NDArray[np.int64]]:
    """The keys without nulls, each once, and per row its position among them (0 for an incomplete one: not asked)."""
    asked = key_bytes(table if complete.all() else table.filter(pa.array(complete)))
    position = {key: i for i, key in enumerate(dict.fromkeys(asked))}
    codes = np.zeros(len(complete), dtype=np.int64)
    codes[complete] = [position[key] for key in asked]
    return list(position), codes


def _columns(rows: pa.Table | Rows, names: Sequence[str], types: Sequence[pa.DataType]) -> list[list[Any]]:
    """KeyError where a column is missing, SchemaError where one of a table is of another type."""
    if not isinstance(rows, pa.Table):
        return [[row[name] for row in rows] for name in names]
    for name, kind in zip(names, types, strict=True):
        if rows.column(name).type != kind:
            raise SchemaError(f"column '{name}' is {rows.column(name).type}, not {kind}")
    return [rows.column(name).to_pylist() for name in names]


def _too_early(view: _View, floor: int) -> TimeError:
    return TimeError(
        f"feature view {view.bound.view.name}: asked as of {np.datetime64(floor, 'us')}Z, but its online state answers "
        f"exactly only from {np.datetime64(view.state.reach or 0, 'us')}Z on; ask later, or materialize with a longer "
        "history="
    )
