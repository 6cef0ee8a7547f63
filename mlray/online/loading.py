"""A load (materialize): the bases of a view's keys, part by part.

While it goes on, reads stay within what both the old and the new bases can answer. One that was cut off goes on with
the part that it was at. Of two loads of one view the one that began later counts, and the other ends with an error: it
would put bases beside those of the other that reach less far.
"""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlray.errors import SchemaError, StoreError
from mlray.features.needed import needed, needs_all
from mlray.features.rows import TS
from mlray.features.view import FeatureView
from mlray.online.cells import BASE, COMMIT, Shape, base_cells, chunks, shape_of
from mlray.online.encoding import schema_text
from mlray.online.record import Loading, ViewState, Written, in_turn, space
from mlray.online.store import Cell, OnlineStore

_CELLS_PER_WRITE, _ROWS_PER_WRITE, _BYTES_PER_WRITE = 10_000, 200_000, 64 << 20
"""Of one transaction: a shared store is held up by it."""


class Load:
    """Its parts, one after another, and the end, which makes them the view's base.

    loading.part: the part that comes next; loading.until: may be earlier than asked, where a load was cut off.
    """

    def __init__(
        self, store: OnlineStore, view: FeatureView, schema: pa.Schema, loading: Loading, old: ViewState
    ) -> None:
        self.store, self.view, self.schema, self.loading = store, view, schema, loading
        self._name, self._shape = space(view), shape_of(view, schema)
        self._retyped = old.schema != schema_text(schema)
        self._written, self._last = Written(), list[Cell]()

    def part(self, events: pa.Table) -> None:
        """Writes the bases of the next part's keys, all of whose events are given."""
        until, version = self.loading.until, self.loading.version
        rows = events.filter(pc.less_equal(events.column(TS), until))
        later = events.num_rows - rows.num_rows
        rows = rows.filter(pa.array(needed(self.view, rows, self.loading.since)))
        waiting, count, size = list[Cell](), 0, 0
        for cell, held in base_cells(self._shape, rows, version, until, self.loading.since):
            waiting.append(cell)
            count, size = count + held, size + len(cell.value)
            if count >= _ROWS_PER_WRITE or len(waiting) == _CELLS_PER_WRITE or size >= _BYTES_PER_WRITE:
                self._write(waiting, count)
                waiting, count, size = [], 0, 0
        self._write(waiting, count)
        self.loading = replace(self.loading, part=self.loading.part + 1, later=self.loading.later + later)
        if self.loading.part < self.loading.parts and not self._retyped:
            in_turn(self.store, self._name, self._noted)

    def finish(self) -> Written:
        """What the parts replace goes, and the record names them."""
        return in_turn(self.store, self._name, self._finished)

    def _write(self, found: list[Cell], rows: int) -> None:
        self._written = self._written.plus(found, rows)
        if self._retyped:  # old and new cells cannot be read with one schema: all change at once, with the record
            self._last += found
        elif found:
            in_turn(self.store, self._name, lambda raw: self._put(raw, found))

    def _put(self, raw: bytes | None, found: list[Cell]) -> Written:
        self._held(raw)
        self.store.write(self._name, found, over=raw)
        return self._written

    def _held(self, raw: bytes | None) -> ViewState:
        """The record; StoreError where it does not name this load any more."""
        state = ViewState.parsed(raw) if raw is not None else None
        if state is None or state.loading is None or _whole(state.loading) != _whole(self.loading):
            raise StoreError(
                f"feature view {self.view.name}: another materialize has taken the place of this one, which ends here; "
                "the other's events count. Run it again if the other one failed, or if the state was dropped meanwhile"
            )
        return state

    def _noted(self, raw: bytes | None) -> Written:
        old = self._held(raw)
        self.store.write(self._name, (), state=replace(old, loading=self.loading).text(), over=raw)
        return self._written

    def _finished(self, raw: bytes | None) -> Written:
        old = self._held(raw)
        version, until, before = self.loading.version, self.loading.until, shape_of(self.view, old.events)
        settled = _settled(self.store, self._name, before, version, until, keep=self._retyped)
        kept = [_retyped(cell, before, self._shape) for cell in settled.stay]
        gap = self.loading.later > settled.carried
        behind = gap or old.watermark is None
        state = replace(
            old,
            schema=schema_text(self.schema),
            version=version,
            until=until,
            watermark=until if behind or old.watermark is None else max(until, old.watermark),
            gap=gap,
            applied=max(version, old.applied),
            reach=_reach(self._shape, self.loading),
            history=until - self.loading.since,
            loading=None,
        )
        rest = settled.replaced
        while len(rest) > _CELLS_PER_WRITE and not self._retyped:  # no read needs them, now that all bases are there
            self.store.write(self._name, (), deletes=rest[:_CELLS_PER_WRITE], over=raw)
            rest = rest[_CELLS_PER_WRITE:]
        self.store.write(self._name, [*self._last, *kept], deletes=rest, state=state.text(), over=raw)
        return self._written


def begin(
    store: OnlineStore, view: FeatureView, schema: pa.Schema, *, version: int, until: int, history: int, parts: int
) -> Load:
    """A new load, or the one of the same version, history and parts that was cut off. StoreError where a newer version
    is there or on its way.
    """
    begun: list[Load] = []

    def announced(raw: bytes | None) -> Written:
        old = ViewState.parsed(raw) if raw is not None else ViewState.new(view, schema)
        _check_newest(view, old, version)
        latest = until if old.until is None else max(until, old.until)
        asked = _asked(old, schema, Loading(version, latest, until - history, parts))
        begun[:] = [Load(store, view, schema, asked, old)]
        reach = _later_of(old.reach, _reach(shape_of(view, schema), asked))
        store.write(space(view), (), state=replace(old, reach=reach, loading=asked).text(), over=raw)
        return Written()

    in_turn(store, space(view), announced)
    return begun[0]


def _asked(old: ViewState, schema: pa.Schema, asked: Loading) -> Loading:
    """The load that was cut off where it is the one asked for, or an earlier stretch of it; else the one asked for."""
    cut_off = old.loading
    if cut_off is None or cut_off.version != asked.version or old.schema != schema_text(schema):
        return asked
    if cut_off.part and cut_off.parts == asked.parts and cut_off.since <= asked.since:
        return cut_off
    return replace(asked, until=max(asked.until, cut_off.until))  # some of its bases, which reach so far, may stay


def _check_newest(view: FeatureView, old: ViewState, version: int) -> None:
    newest = max(old.version, old.loading.version if old.loading else -1)
    if version < newest:
        raise StoreError(
            f"feature view {view.name}: version {version} of its table is to be loaded, but version {newest} is online "
            "or on its way; run platform.materialize again. Where the table was made anew, first drop the online space "
            f"'{space(view)}'"
        )


def _whole(loading: Loading) -> Loading:
    """The load without how far it is."""
    return replace(loading, part=0, later=0)


@dataclass
class _Settled:
    """What a new base replaces: bases of an earlier load, and batches that lie wholly in it; the batches that stay,
    where they are asked for, and how many of their rows the base's version holds too, later than `until`.
    """

    replaced: list[tuple[bytes, bytes, int]]
    stay: list[Cell]
    carried: int = 0


def _settled(store: OnlineStore, name: str, shape: Shape, version: int, until: int, *, keep: bool) -> _Settled:
    found = _Settled([], [])
    for some in chunks(store.scan(name)):
        old = [cell for cell in some if cell.slot == BASE and cell.version < version]
        batches = [cell for cell in some if cell.slot != BASE]
        rows, headers = shape.batch.decode([cell.value for cell in batches])
        known, early = rows.column(COMMIT).to_numpy() <= version, rows.column(TS).to_numpy() <= until
        found.carried += int((known & ~early).sum())
        outside = np.concatenate(([0], np.cumsum(~(known & early))))
        ends = np.cumsum(headers.rows, dtype=np.int64)
        stays = (outside[ends] > outside[ends - headers.rows]).tolist()
        gone = [*old, *(cell for cell, stay in zip(batches, stays, strict=True) if not stay)]
        found.replaced += [(cell.key, cell.slot, cell.version) for cell in gone]
        if keep:
            found.stay += [cell for cell, stay in zip(batches, stays, strict=True) if stay]
    return found


def _retyped(cell: Cell, before: Shape, after: Shape) -> Cell:
    """A batch in another schema; SchemaError where a value does not fit it."""
    rows, headers = before.batch.decode([cell.value])
    try:
        rows = rows.select(after.batch.schema.names).cast(after.batch.schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError) as error:
        raise SchemaError(f"events that were ingested do not fit the table as it is now: {error}") from error
    return cell._replace(value=after.batch.encode(rows).cut(0, rows.num_rows, headers[0].until, headers[0].flags))


def _reach(shape: Shape, loading: Loading) -> int | None:
    """None where all events are there, as they are."""
    return None if needs_all(shape.view) and shape.tiling is None else loading.since


def _later_of(one: int | None, other: int | None) -> int | None:
    """Of two reaches the one from which both hold; None holds from the beginning."""
    known = [reach for reach in (one, other) if reach is not None]
    return max(known) if known else None
