"""What a view keeps online: events, never a finished value.

Per entity key one base cell, written by `load` (materialize), and one cell per later batch, written by `push` (ingest).
The base holds the snapshot of Delta version v up to an event time T. An event of commit w is in that snapshot exactly
if w <= v and its time is <= T; a read takes the base and, of every batch, only what is not in it. So a batch that
arrives before, after or between materialisations, or twice, counts once, and a load that was cut off is simply done
again.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlray.aggregation.window import EARLIEST
from mlray.errors import NotMaterialized, SchemaError
from mlray.features.catalog import view_hash
from mlray.features.keys import distinct
from mlray.features.needed import needed, needs_all
from mlray.features.rows import TS
from mlray.features.view import FeatureView
from mlray.online.encoding import batch_bytes, key_bytes, rows_of, schema_from_text, schema_text
from mlray.online.store import Cell, OnlineStore

BASE = b"\x00"
_BATCH = b"\x01"
_HEADER = 8
_ROWS_PER_WRITE = 200_000


@dataclass(frozen=True)
class ViewState:
    """The state record of a space. Times in microseconds UTC; None: not yet, or without bound.

    until, version: of the newest base; watermark: complete up to it; reach: answers are exact from it on;
    applied: the newest Delta version that was loaded or pushed; gap: the base's version held later events than `until`
    that are not online, so no push can complete the view.
    """

    view: str
    digest: str
    schema: str
    version: int = -1
    until: int | None = None
    watermark: int | None = None
    reach: int | None = None
    applied: int = -1
    gap: bool = False

    @property
    def events(self) -> pa.Schema:
        return schema_from_text(self.schema)


@dataclass(frozen=True)
class Written:
    """How much a load or a push wrote."""

    rows: int
    keys: int
    bytes: int


def space(view: FeatureView) -> str:
    """Where a view of this content lives; a changed definition lives elsewhere."""
    return f"{view.name}-{view_hash(view)[:32]}"


def has_state(store: OnlineStore, view: FeatureView) -> bool:
    """Whether the view, in this definition, was ever loaded or fed."""
    return store.state(space(view)) is not None


def state_of(store: OnlineStore, view: FeatureView) -> ViewState:
    """Raises NotMaterialized where there is none."""
    raw = store.state(space(view))
    if raw is None:
        raise NotMaterialized(
            f"feature view {view.name} has no online state in this definition; run "
            "platform.materialize(service, until=...)"
        )
    return ViewState(**json.loads(raw))


def open_state(store: OnlineStore, view: FeatureView, schema: pa.Schema) -> ViewState:
    """The view's state, or a new one for events of this schema."""
    raw = store.state(space(view))
    return ViewState(**json.loads(raw)) if raw else ViewState(view.name, view_hash(view), schema_text(schema))


def applied(store: OnlineStore, view: FeatureView, *, otherwise: int) -> int:
    """The newest Delta version that the view has seen; `otherwise` where it has no state yet."""
    raw = store.state(space(view))
    return ViewState(**json.loads(raw)).applied if raw else otherwise


def load(store: OnlineStore, view: FeatureView, events: pa.Table, *, version: int, until: int, history: int) -> Written:
    """Replaces the base by the events with time <= until of Delta version `version`; newer ones stay.

    history: from how long before `until` answers must be exact, in microseconds.
    """
    old, since = open_state(store, view, events.schema), until - history
    until = max(until, old.until if old.until is not None else until)
    rows = events.filter(pc.less_equal(events.column(TS), until))
    rows = rows.filter(pa.array(needed(view, rows, since)))
    name, written = space(view), Written(0, 0, 0)
    retyped = old.schema != schema_text(events.schema)
    if old.version >= 0:  # from here on until the last write, a read must not ask before either reach
        _record(store, name, replace(old, reach=_later_of(old.reach, _reach(view, since))))
    keys: set[bytes] = set()
    last: list[Cell] = []
    for cells, count in _cells(view, rows, BASE, version, until):
        keys |= {cell.key for cell in cells}
        written = _plus(written, cells, count)
        if retyped:
            last += cells
        else:
            store.write(name, cells)
    settled, later = _settled(store, name, old.events, keys, version, until)
    if retyped:  # old and new cells cannot be read with one schema: all change at once, with the state that names it
        last += [_retyped(cell, old.events, events.schema) for cell in later]
    carried = sum(_later(cell, old.events, until) for cell in later if cell.version <= version)
    gap = (pc.sum(pc.greater(events.column(TS), until)).as_py() or 0) > carried
    watermark = until if gap or old.watermark is None else max(until, old.watermark)
    state = replace(
        old,
        schema=schema_text(events.schema),
        version=version,
        until=until,
        watermark=watermark,
        gap=gap,
        applied=max(version, old.applied),
        reach=_reach(view, since),
    )
    store.write(name, last, deletes=settled, state=json.dumps(asdict(state)).encode())
    return written


def check_schema(store: OnlineStore, view: FeatureView, schema: pa.Schema) -> None:
    """SchemaError where events of this schema cannot lie beside those that the view has online."""
    raw = store.state(space(view))
    stored = ViewState(**json.loads(raw)).events if raw else schema
    for field in schema:
        if stored.field(field.name).type != field.type:
            raise SchemaError(
                f"feature view {view.name}: column '{field.name}' is {field.type} in the table now and was "
                f"{stored.field(field.name).type} when the view was loaded; run platform.materialize again first"
            )


def push(store: OnlineStore, view: FeatureView, events: pa.Table, *, version: int, whole: bool) -> Written:
    """Adds the events of Delta commit `version`. whole: nothing was in the table before it.

    A view that was never materialised takes nothing but a whole table: a part would answer as if it were all.
    """
    if not whole and store.state(space(view)) is None:
        return Written(0, 0, 0)
    state = open_state(store, view, events.schema)
    newest = pc.max(events.column(TS)).as_py() if view.source.timestamp else None
    follows = version <= state.applied + 1  # else a batch before it is still on its way, or lost and to be repaired
    if follows and not state.gap and newest is not None:
        state = replace(state, watermark=max(newest, state.watermark if state.watermark is not None else newest))
    state = replace(state, applied=max(version, state.applied) if follows else state.applied)
    slot = _BATCH + version.to_bytes(8, "big")
    cells = [cell for part, _ in _cells(view, events, slot, version, EARLIEST) for cell in part]
    store.write(space(view), cells, state=json.dumps(asdict(state)).encode())
    return _plus(Written(0, 0, 0), cells, events.num_rows)


def leave_gap(store: OnlineStore, view: FeatureView, version: int) -> None:
    """Notes that commit `version` changed rows in a way that only a load can follow: the watermark stays from here."""
    _record(store, space(view), replace(state_of(store, view), applied=version, gap=True))


def _record(store: OnlineStore, name: str, state: ViewState) -> None:
    store.write(name, (), state=json.dumps(asdict(state)).encode())


def _later_of(one: int | None, other: int | None) -> int | None:
    """Of two reaches the one from which both hold; None holds from the beginning."""
    known = [reach for reach in (one, other) if reach is not None]
    return max(known) if known else None


def current(cells: Sequence[Cell], schema: pa.Schema) -> list[pa.RecordBatch]:
    """The events that a key's cells stand for, each once."""
    base = next((cell for cell in cells if cell.slot == BASE), None)
    batches = []
    for cell in cells:
        batch = rows_of(cell.value[_HEADER:], schema)
        if base is not None and cell is not base and cell.version <= base.version:
            batch = batch.filter(pc.greater(batch.column(TS), _until(base)))
        batches.append(batch)
    return batches


def _cells(
    view: FeatureView, events: pa.Table, slot: bytes, version: int, until: int
) -> Iterator[tuple[list[Cell], int]]:
    """One cell per key, in parts of bounded size, with the number of rows of each part."""
    dictionary, codes = distinct(events.select(list(view.keys)))
    if not view.keys and events.num_rows:
        dictionary = dictionary.slice(0, 1)
    order = np.argsort(codes, kind="stable")
    ordered, keys = events.take(pa.array(order)).combine_chunks(), key_bytes(dictionary)
    starts = np.searchsorted(codes[order], np.arange(len(keys) + 1))
    header = until.to_bytes(_HEADER, "big", signed=True)
    cells: list[Cell] = []
    first = 0
    for code, key in enumerate(keys):
        lo, hi = int(starts[code]), int(starts[code + 1])
        cells.append(Cell(key, slot, version, header + batch_bytes(ordered.slice(lo, hi - lo))))
        if hi - first >= _ROWS_PER_WRITE:
            yield cells, hi - first
            cells, first = [], hi
    if cells:
        yield cells, events.num_rows - first


def _until(base: Cell) -> int:
    return int.from_bytes(base.value[:_HEADER], "big", signed=True)


def _settled(
    store: OnlineStore, name: str, schema: pa.Schema, keys: set[bytes], version: int, until: int
) -> tuple[list[tuple[bytes, bytes, int]], list[Cell]]:
    """What the new base replaces: batches that lie wholly in it, and bases of keys that have no event left.

    Also the batches that stay.
    """
    replaced, stay = [], []
    for cell in store.scan(name):
        if cell.slot == BASE:
            if cell.version <= version and cell.key not in keys:
                replaced.append((cell.key, cell.slot, version))
        elif cell.version > version or _later(cell, schema, until):
            stay.append(cell)
        else:
            replaced.append((cell.key, cell.slot, cell.version))
    return replaced, stay


def _later(cell: Cell, schema: pa.Schema, until: int) -> int:
    """How many events of a batch are later than `until`."""
    return int(pc.sum(pc.greater(rows_of(cell.value[_HEADER:], schema).column(TS), until)).as_py() or 0)


def _retyped(cell: Cell, before: pa.Schema, after: pa.Schema) -> Cell:
    """The cell in another schema; SchemaError where a value does not fit it."""
    rows = pa.Table.from_batches([rows_of(cell.value[_HEADER:], before)])
    try:
        return replace(cell, value=cell.value[:_HEADER] + batch_bytes(rows.select(after.names).cast(after)))
    except (pa.ArrowInvalid, KeyError) as error:
        raise SchemaError(f"events that were ingested do not fit the table as it is now: {error}") from error


def _reach(view: FeatureView, since: int) -> int | None:
    return None if needs_all(view) else since


def _plus(written: Written, cells: Sequence[Cell], rows: int) -> Written:
    size = sum(len(cell.key) + len(cell.value) for cell in cells)
    return Written(written.rows + rows, written.keys + len(cells), written.bytes + size)
