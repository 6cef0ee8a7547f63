"""New rows of a source: to Delta first, then to every online view of it.

Delta is the truth. A batch is one commit; its version is the batch's name online, so writing it again changes nothing.
A crash between the two is made good before the next batch: commits that a view has not seen are read back and pushed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from mlray.errors import SchemaError
from mlray.features.rows import events, raw_columns
from mlray.features.source import DeltaSource
from mlray.features.types import INSTANT
from mlray.features.view import FeatureView
from mlray.offline import delta
from mlray.online import state
from mlray.online.store import OnlineStore


@dataclass(frozen=True)
class Ingested:
    """What one call added. version: the Delta commit; None where the idempotency key was used before."""

    source: str
    rows: int
    version: int | None
    views: tuple[str, ...]


def ingest(
    store: OnlineStore,
    source: DeltaSource,
    views: Sequence[FeatureView],
    rows: pa.Table,
    lake: str,
    *,
    now: int,
    idempotency_key: str | None = None,
    past: Sequence[FeatureView] = (),
) -> Ingested:
    """Appends rows to the source's table and pushes their events to its views.

    now: microseconds UTC, stamped as `known_at` where that column is absent. idempotency_key: scoped to the source; a
    call with a used key adds nothing. past: views no longer in force, fed as long as the rows still fit them.
    """
    if not rows.num_rows:
        return Ingested(source.name, 0, None, ())
    path, who = delta.resolve(lake, source.path), f"source {source.name}"
    rows = _stamped(source, rows, now)
    if delta.exists(path):
        rows = delta.conformed(rows, delta.table_at(path, who).schema, who)
    for view in views:
        state.check_schema(store, view, events(view, rows).schema)
    views = [*views, *(view for view in past if _still_fits(store, view, rows))]
    batches = {view: events(view, rows) for view in views}
    repair(store, source, views, lake)
    transaction = f"{source.name}:{idempotency_key}" if idempotency_key is not None else None
    version = delta.append(path, rows, who, transaction)
    if version is None:
        return Ingested(source.name, 0, None, ())
    if version == 0:  # Delta has its own spelling of some types; online takes what was stored
        rows = delta.conformed(rows, delta.table_at(path, who).schema, who)
        batches = {view: events(view, rows) for view in views}
    for view, batch in batches.items():
        state.push(store, view, batch, version=version, whole=version == 0)
    return Ingested(source.name, rows.num_rows, version, tuple(view.name for view in views))


def repair(store: OnlineStore, source: DeltaSource, views: Sequence[FeatureView], lake: str) -> int:
    """Pushes the commits that materialised views of the source have not seen; gives how many.

    A commit that changed or removed rows is left to the next materialize; until then the view is not complete.
    """
    path, pushed = delta.resolve(lake, source.path), 0
    if not views or not delta.exists(path):
        return 0
    newest = delta.table_at(path, f"source {source.name}").version
    for view in views:
        for version in range(state.applied(store, view, otherwise=newest) + 1, newest + 1):
            rows = delta.commit(path, version, raw_columns(view))
            if rows is None:
                state.leave_gap(store, view, version)
                continue
            batch = events(view, rows)
            state.check_schema(store, view, batch.schema)
            state.push(store, view, batch, version=version, whole=version == 0)
            pushed += 1
    return pushed


def _still_fits(store: OnlineStore, view: FeatureView, rows: pa.Table) -> bool:
    """Whether a view no longer in force can take the rows; where not, it is left with a gap and becomes stale."""
    try:
        state.check_schema(store, view, events(view, rows).schema)
    except SchemaError:
        state.leave_gap(store, view, state.applied(store, view, otherwise=-1))
        return False
    return True


def _stamped(source: DeltaSource, rows: pa.Table, now: int) -> pa.Table:
    """The rows with one known_at for all where the source declares it and they bring none."""
    if source.known_at is None or source.known_at in rows.column_names:
        return rows
    return rows.append_column(source.known_at, pa.repeat(pa.scalar(now, INSTANT), rows.num_rows))
