"""From history to now: a view's events of one Delta version, up to an instant, into the online store."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mlray.features.rows import events, raw_columns
from mlray.features.service import FeatureService
from mlray.features.view import FeatureView
from mlray.offline import delta
from mlray.offline.training_set import source_tables
from mlray.online import state
from mlray.online.store import OnlineStore


@dataclass(frozen=True)
class Materialized:
    """What one view took."""

    view: str
    version: int
    rows: int
    keys: int
    bytes: int
    seconds: float


def materialize(
    store: OnlineStore,
    service: FeatureService,
    lake: str,
    *,
    until: int,
    history: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Materialized]:
    """Loads every view of the service with events up to `until`, one after another; yields as each is done.

    until, history: microseconds; answers are exact from until - history on.
    """
    tables = source_tables(service, lake)
    for view in service.views:
        started = clock()
        table = tables[view.source.name]
        written = _load(store, view, table, until, history)
        yield Materialized(view.name, table.version, written.rows, written.keys, written.bytes, clock() - started)


def _load(store: OnlineStore, view: FeatureView, table: delta.Table, until: int, history: int) -> state.Written:
    rows = events(view, delta.read(table.path, table.version, raw_columns(view)))
    return state.load(store, view, rows, version=table.version, until=until, history=history)
