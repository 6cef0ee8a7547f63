"""What a view keeps online: events, never a finished value.

`load` (materialize) writes a base per entity key, `push` (ingest) a batch per key and commit; `cells` says which of
their events count. A load that was cut off is simply done again, or goes on.
"""

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from mlray.errors import SchemaError
from mlray.features.rows import TS
from mlray.features.view import FeatureView
from mlray.online.cells import batch_cells, chunks, shape_of
from mlray.online.folding import FOLD, folded
from mlray.online.loading import begin
from mlray.online.record import ViewState as ViewState
from mlray.online.record import Written as Written
from mlray.online.record import in_turn, read_state
from mlray.online.record import space as space
from mlray.online.store import OnlineStore


def has_state(store: OnlineStore, view: FeatureView) -> bool:
    """Whether the view, in this definition, was ever loaded or fed."""
    raw = store.state(space(view))
    return raw is not None and ViewState.parsed(raw).readable


def state_of(store: OnlineStore, view: FeatureView) -> ViewState:
    """Raises NotMaterialized where there is none."""
    return read_state(view, store.state(space(view)))


def applied(store: OnlineStore, view: FeatureView, *, otherwise: int) -> int:
    """The newest Delta version that the view has seen; `otherwise` where it has no state yet."""
    raw = store.state(space(view))
    state = ViewState.parsed(raw) if raw is not None else None
    return state.applied if state is not None and state.readable else otherwise


def check_schema(store: OnlineStore, view: FeatureView, schema: pa.Schema) -> None:
    """SchemaError where events of this schema cannot lie beside those that the view has online."""
    raw = store.state(space(view))
    _check_same(view, ViewState.parsed(raw).events if raw is not None else schema, schema)


def _check_same(view: FeatureView, held: pa.Schema, schema: pa.Schema) -> None:
    for field in schema:
        if held.field(field.name).type != field.type:
            raise SchemaError(
                f"feature view {view.name}: column '{field.name}' is {field.type} in the table now and was "
                f"{held.field(field.name).type} when the view was loaded; run platform.materialize again first"
            )


def load(store: OnlineStore, view: FeatureView, events: pa.Table, *, version: int, until: int, history: int) -> Written:
    """Replaces the base by the events with time <= until of Delta version `version`; newer ones stay.

    history: from how long before `until` answers must be exact, in microseconds.
    """
    one = begin(store, view, events.schema, version=version, until=until, history=history, parts=1)
    one.part(events)
    return one.finish()


def push(
    store: OnlineStore, view: FeatureView, events: pa.Table, *, version: int, whole: bool, fold: int = FOLD
) -> Written:
    """Adds the events of Delta commit `version`; again changes nothing. whole: nothing was in the table before it.

    A view that was never materialised takes nothing but a whole table: a part would answer as if it were all.
    fold: so many batches of a key are folded into one.
    """
    fresh = batch_cells(shape_of(view, events.schema), events, version)

    def pushed(raw: bytes | None) -> Written:
        if raw is None and not whole:
            return Written()
        old = ViewState.parsed(raw) if raw is not None else ViewState.new(view, events.schema)
        if version <= old.folded:
            return Written()
        _check_same(view, old.events, events.schema)  # a load may have retyped a column since the caller looked
        new = _advanced(old, view, events, version)
        again = version <= old.applied  # its cells may be there, and must not be folded and written once more
        found = folded(store, view, old, new, [] if again else [cell.key for cell in fresh], fold)
        state, cells = found.state.text(), [*found.cells, *fresh]
        store.write(space(view), cells, deletes=found.replaced, state=state, over=raw)
        return Written().plus(fresh, events.num_rows)

    return in_turn(store, space(view), pushed)


def leave_gap(store: OnlineStore, view: FeatureView, version: int) -> None:
    """Notes that commit `version` changed rows in a way that only a load can follow: the watermark stays from here."""

    def noted(raw: bytes | None) -> Written:
        state = replace(read_state(view, raw), applied=version, gap=True)
        store.write(space(view), (), state=state.text(), over=raw)
        return Written()

    in_turn(store, space(view), noted)


def event_bounds(store: OnlineStore, view: FeatureView) -> tuple[int, int] | None:
    """The times of the oldest and the newest stored event, by a scan; None where there is none."""
    shape = shape_of(view, state_of(store, view).events)
    bounds = []
    for some in chunks(store.scan(space(view))):
        for layout in (shape.base, shape.batch):
            rows, _ = layout.decode([cell.value for cell in some if shape.layout(cell) is layout])
            if rows.num_rows:
                bounds.append(pc.min_max(rows.column(TS)).as_py())
    return (min(b["min"] for b in bounds), max(b["max"] for b in bounds)) if bounds else None


def _advanced(old: ViewState, view: FeatureView, events: pa.Table, version: int) -> ViewState:
    """The record once commit `version` is in."""
    newest = pc.max(events.column(TS)).as_py() if view.source.timestamp else None
    if version > old.applied + 1:  # a batch before it is still on its way, or lost and to be repaired
        return old
    new = replace(old, applied=max(version, old.applied))
    if old.gap or newest is None:
        return new
    return replace(new, watermark=newest if old.watermark is None else max(newest, old.watermark))
