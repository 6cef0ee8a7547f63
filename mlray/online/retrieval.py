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
from mlray.online.encoding import key_bytes, plain_key
from mlray.online.one import One
from mlray.online.record import ViewState, read_state, space
from mlray.online.status import Asked, Status, newest
from mlray.online.store import Cell, OnlineStore

FEW = 16
"""Rows up to which each is answered by itself."""

_OF_SCHEMA = ("types", "names", "how", "shape", "one")
"""What of a reading follows from its events' schema alone."""

_ALONE = 8
"""Rows up to which latest values are looked up one by one."""

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
        if not isinstance(rows, pa.Table):
            try:
                return [plain_key([row[name] for name in names], types) for row in rows]
            except (KeyError, SchemaError, OverflowError):
                return None
        for name, kind in zip(names, types, strict=True):
            if name not in rows.column_names or rows.column(name).type != kind:
                return None
        parts = [rows.column(name).to_pylist() for name in names]
        try:
            return [plain_key(key, types) for key in zip(*parts, strict=True)] if names else [b""] * rows.num_rows
        except SchemaError:
            return None

    def answers(
        self, keys: Sequence[bytes | None], cells: Sequence[Sequence[Cell]], at: Instants
    ) -> list[Sequence[Any]] | None:
        """Per row its answer; None where a key's cells need columns. cells: those of the keys that are not None."""
        one, found = self.one, iter(cells)
        assert one is not None
        asked = [next(found) if key is not None else None for key in keys]
        floor, ceil, valid = at.floor.tolist(), at.ceil.tolist(), at.valid.tolist()
        rows = [i for i, of_key in enumerate(asked) if of_key is not None and valid[i]]
        if self.state.reach is not None and rows and (first := min([floor[i] for i in rows])) < self.state.reach:
            raise _too_early(self, first)
        answers: list[Sequence[Any]] = [one.nothing] * len(asked)
        held = [asked[i] or () for i in rows]
        if one.bare and len(rows) > _ALONE:
            moments = [floor[i] for i in rows], [ceil[i] for i in rows]
            if (latest := one.latest(held, *moments)) is not None:
                for i, answer in zip(rows, latest, strict=True):
                    answers[i] = answer
                return answers
        for i in rows:
            single = one.answer(asked[i] or (), floor[i], ceil[i])
            if single is None:
                return None
            answers[i] = single
        return answers


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
    places: Mapping[str, int] | None = None
    """Where in the answers of all views a feature stands; None where not every feature is a view's."""

    def to_arrow(self) -> pa.Table:
        if self.table is not None:
            return self.table
        answers = []
        for view, found in self.plain:
            assert view.one is not None
            answers.append(view.one.to_table(found))
        return self.assembly.vectors(answers, request_fields(self.service, self.rows()), self.at)

    def to_pylist(self) -> list[dict[str, Any]]:
        if self.places is None or not all(view.one is not None and view.one.plain for view, _ in self.plain):
            found: list[dict[str, Any]] = self.to_arrow().to_pylist()
            return found
        rows = zip(*(answers for _, answers in self.plain), strict=True)
        if list(self.places.values()) == list(range(len(self.places))):  # all features of all views, as they come
            names = list(self.places)
            return [dict(zip(names, chain.from_iterable(row), strict=False)) for row in rows]
        whole = [list(chain.from_iterable(row)) for row in rows]
        return [{name: row[place] for name, place in self.places.items()} for row in whole]


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
        self._places, self._assembly = _places(service), Assembly(service)

    def read(self, rows: pa.Table | Rows, at: Instants, *, status: Asked = False) -> Vectors:
        """One vector per row, in order, as `get_features` describes."""
        if not status and (len(at) <= self._few or (self._few and self._bare())):
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
                return self._in_columns(asked, [held.cells for held in found], table, at, status)

    def _bare(self) -> bool:
        """Whether all that is read are latest values, which are looked up faster than they are put into columns."""
        return all(view.one is not None and view.one.bare for view in self._views or self._looked_up())

    def _one_by_one(self, views: list[_View], rows: pa.Table | Rows, at: Instants) -> Vectors | None:
        """None where a view or the cells of a key need columns, or events have another schema by now."""
        if not all(view.one for view in views):
            return None
        made: dict[_How, list[bytes | None] | None] = {}  # views that are read by the same columns share their keys
        for view in views:
            if view.how not in made:
                made[view.how] = view.plain_keys(rows)
        keys = [made[view.how] for view in views]
        if None in keys:
            return None
        asked = {how: [key for key in of_view or () if key is not None] for how, of_view in made.items()}
        found = self.store.read([(name, asked[view.how]) for name, view in zip(self._spaces, views, strict=True)])
        before, views = views, self._renewed([held.state for held in found])
        if not _alike(before, views):
            return None
        plain = []
        for view, held, of_view in zip(views, found, keys, strict=True):
            answers = view.answers(of_view or (), held.cells, at)
            if answers is None:
                return None
            plain.append((view, answers))
        table = partial(self._as_table, rows) if not isinstance(rows, pa.Table) else lambda: rows
        return Vectors(self.service, self._assembly, table, at, plain=plain, places=self._places)

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


def _places(service: FeatureService) -> dict[str, int] | None:
    """Where each feature stands among all features of all readings; None where one is no view's."""
    if not all(isinstance(item, BoundView) for item in service.items):
        return None
    every = [(read, name) for read in service.reads for name in read.renamed.values()]
    at = {pair: place for place, pair in enumerate(every)}
    return {name: at[item.whole, name] for item in service.items if isinstance(item, BoundView) for name in item.names}


def _too_early(view: _View, floor: int) -> TimeError:
    return TimeError(
        f"feature view {view.bound.view.name}: asked as of {np.datetime64(floor, 'us')}Z, but its online state answers "
        f"exactly only from {np.datetime64(view.state.reach or 0, 'us')}Z on; ask later, or materialize with a longer "
        "history="
    )
