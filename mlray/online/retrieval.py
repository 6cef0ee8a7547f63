"""The online read: stored events of the asked keys, evaluated at q by the functions that made the training set.

A `Reader` compiles what a service reads of a store. All states and cells of a request come in one round trip. Few rows
are answered one by one in plain Python (`one`), many together in columns (`features.evaluate`); both give the same
bits, and where the first cannot answer, the second does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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
from mlray.features.single import to_arrow
from mlray.features.vector import assemble, request_fields
from mlray.features.view import BoundView
from mlray.online.cells import shape_of, stored
from mlray.online.encoding import key_bytes, plain_key
from mlray.online.one import One
from mlray.online.record import ViewState, read_state, space
from mlray.online.status import Asked, Status, newest
from mlray.online.store import Cell, OnlineStore

FEW = 16
"""Rows up to which each is answered by itself."""

Rows: TypeAlias = Sequence[Mapping[str, Any]]


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

    @cached_property
    def types(self) -> list[pa.DataType]:
        """Of the key's parts, as they are stored."""
        events = self.state.events
        return [events.field(key).type for key in self.bound.view.keys]

    @cached_property
    def one(self) -> One | None:
        """Answers single queries; None where the view needs columns."""
        return One.of(shape_of(self.bound.view, self.state.events))


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
    rows: pa.Table | Rows
    at: Instants
    table: pa.Table | None = None
    plain: Sequence[tuple[_View, Sequence[list[Any]]]] = ()

    def to_arrow(self) -> pa.Table:
        if self.table is not None:
            return self.table
        rows = self.rows if isinstance(self.rows, pa.Table) else _table(self.service, self.rows)
        answers = {}
        for view, found in self.plain:
            assert view.one is not None
            columns = [[values[i] for values in found] for i in range(len(view.one.names))]
            made = [to_arrow(column, kind) for column, kind in zip(columns, view.one.types, strict=True)]
            answers[view.bound] = pa.table(made, names=view.one.names)
        return assemble(self.service, answers, request_fields(self.service, rows), self.at)

    def to_pylist(self) -> list[dict[str, Any]]:
        whole = self.table is None and all(isinstance(item, BoundView) for item in self.service.items)
        if not whole or not all(view.one is not None and view.one.plain for view, _ in self.plain):
            found: list[dict[str, Any]] = self.to_arrow().to_pylist()
            return found
        out: list[dict[str, Any]] = [{} for _ in range(len(self.at))]
        names = self.service.names
        for view, answers in self.plain:
            here = list(view.bound.renamed.values())
            for row, values in zip(out, answers, strict=True):
                row.update(zip(here, values, strict=True))
        return [{name: row[name] for name in names} for row in out]


class Reader:
    """A service's reads of one store. Safe to share between threads.

    few: rows up to which each is answered by itself; 0: all in columns.
    """

    def __init__(self, store: OnlineStore, service: FeatureService, *, few: int = FEW) -> None:
        self.store, self.service, self._few = store, service, few
        self._reads = service.reads
        self._spaces = [space(bound.view) for bound in self._reads]
        self._views: list[_View] = []

    def read(self, rows: pa.Table | Rows, at: Instants, *, status: Asked = False) -> Vectors:
        """One vector per row, in order, as `get_features` describes."""
        views = self._views or self._looked_up()
        if len(at) <= self._few and not status:
            vectors = self._one_by_one(views, rows, at)
            if vectors is not None:
                return vectors
        table = rows if isinstance(rows, pa.Table) else _table(self.service, rows)
        while True:
            asked = [_ask(view, table, at) for view in views]
            found = self.store.read([(name, a.keys) for name, a in zip(self._spaces, asked, strict=True)])
            if all(held.state == view.raw for held, view in zip(found, views, strict=True)):
                return self._in_columns(asked, [held.cells for held in found], table, at, status)
            views = self._renewed([held.state for held in found])

    def _one_by_one(self, views: list[_View], rows: pa.Table | Rows, at: Instants) -> Vectors | None:
        """None where a view or the cells of a key need columns, or a record has changed meanwhile."""
        if not all(view.one for view in views):
            return None
        keys = [_plain_keys(view, rows) for view in views]
        if any(of_view is None for of_view in keys):
            return None
        asked = [[key for key in of_view or () if key is not None] for of_view in keys]
        found = self.store.read(list(zip(self._spaces, asked, strict=True)))
        floor, ceil, valid = at.floor.tolist(), at.ceil.tolist(), at.valid.tolist()
        plain = []
        for view, held, of_view in zip(views, found, keys, strict=True):
            if held.state != view.raw:
                self._renewed([each.state for each in found])
                return None
            cells, answers = iter(held.cells), list[list[Any]]()
            for i, key in enumerate(of_view or ()):
                one, of_key = view.one, next(cells) if key is not None else []
                assert one is not None
                if key is None or not valid[i]:
                    answers.append(one.nothing)
                    continue
                if view.state.reach is not None and floor[i] < view.state.reach:
                    raise _too_early(view, floor[i])
                answer = one.answer(of_key, floor[i], ceil[i])
                if answer is None:
                    return None
                answers.append(answer)
            plain.append((view, answers))
        return Vectors(self.service, rows, at, plain=plain)

    def _in_columns(
        self, asked: list[_Asked], cells: list[list[list[Cell]]], rows: pa.Table, at: Instants, status: Asked
    ) -> Vectors:
        answers, told = {}, []
        for a, found in zip(asked, cells, strict=True):
            bound, held = a.view.bound, stored(shape_of(a.view.bound.view, a.view.state.events), found)
            events = prepare(bound.view, held.rows, held.codes)
            queries = Queries(a.codes, at, a.complete)
            answers[bound] = evaluate(bound.view, events, queries)
            if status:
                told.append(Status(bound, a.view.state, at, answers[bound], newest(bound.view, events, queries)))
        vectors = assemble(self.service, answers, request_fields(self.service, rows), at)
        for one in told:
            vectors = one.beside(vectors, values=status == "values")
        return Vectors(self.service, rows, at, vectors)

    def _looked_up(self) -> list[_View]:
        return self._renewed([held.state for held in self.store.read([(name, []) for name in self._spaces])])

    def _renewed(self, raw: Sequence[bytes | None]) -> list[_View]:
        known = {(view.bound, view.raw): view for view in self._views}
        views = []
        for bound, text in zip(self._reads, raw, strict=True):
            state = read_state(bound.view, text)
            views.append(known.get((bound, text or b"")) or _View(bound, text or b"", state))
        self._views = views
        return views


def _ask(view: _View, rows: pa.Table, at: Instants) -> _Asked:
    bound, who = view.bound, f"feature view {view.bound.view.name}"
    missing = [k for k in bound.spine_keys if k not in rows.column_names]
    if missing:
        raise SchemaError.missing_column(who, missing[0], "the rows", rows.column_names)
    columns = [
        typed_keys.spine_key(rows.column(here), here, kind, who)
        for here, kind in zip(bound.spine_keys, view.types, strict=True)
    ]
    complete = typed_keys.complete(columns, rows.num_rows)
    if view.state.reach is not None:
        early = complete & at.valid & (at.floor < view.state.reach)
        if early.any():
            raise _too_early(view, int(at.floor[early].min()))
    table = pa.table(columns, names=[str(i) for i in range(len(columns))]) if columns else rows.select([])
    keys, codes = _distinct_keys(table, complete)
    return _Asked(view, keys, codes, complete)


def _distinct_keys(table: pa.Table, complete: NDArray[np.bool_]) -> tuple[list[bytes], NDArray[np.int64]]:
    """The keys without nulls, each once, and per row its position among them (0 for an incomplete one: not asked)."""
    position: dict[bytes, int] = {}
    asked = key_bytes(table.filter(pa.array(complete)))
    found = np.array([position.setdefault(key, len(position)) for key in asked], dtype=np.int64)
    codes = np.zeros(len(complete), dtype=np.int64)
    codes[complete] = found
    return list(position), codes


def _plain_keys(view: _View, rows: pa.Table | Rows) -> list[bytes | None] | None:
    """Per row its key, None for one with a null; None for all where a value is not simply of the stored type."""
    names = view.bound.spine_keys
    if isinstance(rows, pa.Table):
        if any(name not in rows.column_names or rows.column(name).type != kind
               for name, kind in zip(names, view.types, strict=True)):  # fmt: skip
            return None
        parts = [rows.column(name).to_pylist() for name in names]
        return [plain_key(key, view.types) for key in zip(*parts, strict=True)] if names else [b""] * rows.num_rows
    try:
        return [plain_key([row[name] for name in names], view.types) for row in rows]
    except (KeyError, SchemaError, OverflowError):
        return None


def _table(service: FeatureService, rows: Rows) -> pa.Table:
    names = dict.fromkeys([*service.keys, *service.request])
    found = {name: pa.array([row[name] for row in rows]) for name in names if all(name in row for row in rows)}
    return pa.table(found) if found else pa.table({"": pa.nulls(len(rows))})


def _too_early(view: _View, floor: int) -> TimeError:
    return TimeError(
        f"feature view {view.bound.view.name}: asked as of {np.datetime64(floor, 'us')}Z, but its online state answers "
        f"exactly only from {np.datetime64(view.state.reach or 0, 'us')}Z on; ask later, or materialize with a longer "
        "history="
    )
