"""The online read: stored events of the asked keys, evaluated at q by the same function that made the training set."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlray.aggregation.window import Instants
from mlray.errors import SchemaError, TimeError
from mlray.features import keys as typed_keys
from mlray.features.evaluate import Queries, evaluate
from mlray.features.order import prepare
from mlray.features.service import FeatureService
from mlray.features.vector import assemble, request_fields
from mlray.features.view import BoundView
from mlray.online.encoding import key_bytes
from mlray.online.state import ViewState, current, space, state_of
from mlray.online.store import Cell, OnlineStore

STATUS = "__status"


@dataclass(frozen=True)
class _Asked:
    """One reading of a view for one request: its state, the distinct keys and which of them each row asks for."""

    bound: BoundView
    state: ViewState
    keys: list[bytes]
    codes: NDArray[np.int64]
    complete: NDArray[np.bool_]


def get_features(
    store: OnlineStore, service: FeatureService, rows: pa.Table, at: Instants, *, status: bool = False
) -> pa.Table:
    """One feature vector per row, in order; the service's features in its order.

    rows: its entity keys and request fields; at: q per row. status: adds `<view>__status`, 'stale' beyond the
    watermark. Raises NotMaterialized, SchemaError, and TimeError where q lies before what the state can answer exactly.
    """
    request = request_fields(service, rows)
    asked = [_ask(store, bound, rows, at) for bound in service.reads]
    held = store.read([(space(a.bound.view), a.keys) for a in asked])
    answers = {a.bound: _answer(a, found.cells, at) for a, found in zip(asked, held, strict=True)}
    vectors = assemble(service, answers, request, at)
    if not status:
        return vectors
    for a in asked:
        name = f"{a.bound.prefix}{a.bound.view.name}{STATUS}"
        vectors = vectors.append_column(name, pa.array(_status(a, at), pa.string()))
    return vectors


def _ask(store: OnlineStore, bound: BoundView, rows: pa.Table, at: Instants) -> _Asked:
    state, who = state_of(store, bound.view), f"feature view {bound.view.name}"
    missing = [k for k in bound.spine_keys if k not in rows.column_names]
    if missing:
        raise SchemaError.missing_column(who, missing[0], "the rows", rows.column_names)
    kinds = state.events
    columns = [
        typed_keys.spine_key(rows.column(here), here, kinds.field(key).type, who)
        for here, key in zip(bound.spine_keys, bound.view.keys, strict=True)
    ]
    complete = typed_keys.complete(columns, rows.num_rows)
    _check_reach(bound, state, at, complete)
    table = pa.table(columns, names=[str(i) for i in range(len(columns))]) if columns else rows.select([])
    keys, codes = _distinct_keys(table, complete)
    return _Asked(bound, state, keys, codes, complete)


def _distinct_keys(table: pa.Table, complete: NDArray[np.bool_]) -> tuple[list[bytes], NDArray[np.int64]]:
    """The keys without nulls, each once, and per row its position among them (0 for an incomplete one: not asked)."""
    position: dict[bytes, int] = {}
    asked = key_bytes(table.filter(pa.array(complete)))
    found = np.array([position.setdefault(key, len(position)) for key in asked], dtype=np.int64)
    codes = np.zeros(len(complete), dtype=np.int64)
    codes[complete] = found
    return list(position), codes


def _answer(asked: _Asked, cells: Sequence[Sequence[Cell]], at: Instants) -> pa.Table:
    schema = asked.state.events
    found = [(code, batch) for code, key_cells in enumerate(cells) for batch in current(key_cells, schema)]
    events = pa.Table.from_batches([batch for _, batch in found], schema)
    codes = np.repeat(np.array([code for code, _ in found], dtype=np.int64), [len(batch) for _, batch in found])
    ready = prepare(asked.bound.view, events, codes)
    return evaluate(asked.bound.view, ready, Queries(asked.codes, at, asked.complete))


def _check_reach(bound: BoundView, state: ViewState, at: Instants, complete: NDArray[np.bool_]) -> None:
    if state.reach is None:
        return
    early = complete & at.valid & (at.floor < state.reach)
    if early.any():
        asked = np.datetime64(int(at.floor[early].min()), "us")
        raise TimeError(
            f"feature view {bound.view.name}: asked as of {asked}Z, but its online state answers exactly only from "
            f"{np.datetime64(state.reach, 'us')}Z on; ask later, or materialize with a longer history="
        )


def _status(asked: _Asked, at: Instants) -> list[str]:
    if asked.bound.view.source.timestamp is None:
        return ["fresh"] * len(at)
    watermark = asked.state.watermark
    return ["stale" if watermark is None or q > watermark else "fresh" for q in at.floor.tolist()]
