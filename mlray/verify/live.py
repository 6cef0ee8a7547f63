"""*Live*: the store in use, read at instants that it can answer, as it stands."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlray.aggregation.window import Instants
from mlray.errors import TimeError
from mlray.features.service import FeatureService, Item, item_names, read_views
from mlray.features.types import INSTANT, instants
from mlray.features.view import FeatureView
from mlray.offline.training_set import build, source_tables
from mlray.online import state
from mlray.online.retrieval import get_features
from mlray.online.store import OnlineStore
from mlray.verify.cells import unequal
from mlray.verify.comparison import Comparison
from mlray.verify.evidence import Evidence, Side
from mlray.verify.history import Keyed, asked_keys, events_of, key_schema
from mlray.verify.online import stored_events

_TRIES = 4
"""Rows that differ while the store is being written are read again, so often at most."""


def live(service: FeatureService, store: OnlineStore, lake: str, spine: pa.Table, timestamp: str) -> Comparison:
    """Reads the spine's rows at their own instants where the state reaches, else where its answers begin and end.

    A row that differs while events arrive is read again: what was true for an instant in between is no difference.
    """
    comparison, tries = Comparison("live"), _TRIES
    while spine.num_rows:
        tries -= 1
        before = _states(service, store)
        rows = _within_reach(spine, timestamp, list(before.values()))
        at = instants(rows.column(timestamp), timestamp)
        try:
            found = get_features(store, service, rows, at)
        except TimeError:  # a load may have moved the reach since
            if tries and _states(service, store) != before:
                continue
            raise
        moving = tries > 0 and _states(service, store) != before
        versions = _versions(service, before)
        offline = build(service, rows, lake=lake, label=None, timestamp=timestamp, versions=versions)
        wanted = offline.to_arrow().select(service.names)
        again = unequal(wanted, found).any(axis=1) & moving
        kept = np.flatnonzero(~again)
        stale = np.stack([_stale(item, at, before, versions) for item in service.items for _ in item_names(item)], 1)
        evidence = _evidence(service, store, lake, rows, versions)
        settled = [table.take(pa.array(kept)) for table in (rows, wanted, found)]
        comparison.add(settled[0], at.take(kept), settled[1], settled[2], evidence.of_any, stale[kept])
        spine = spine.filter(pa.array(again))
    return comparison


def _states(service: FeatureService, store: OnlineStore) -> dict[str, state.ViewState]:
    return {view.name: state.state_of(store, view) for view in service.views}


def _versions(service: FeatureService, states: Mapping[str, state.ViewState]) -> dict[str, int]:
    """Per source the newest version that a view of it has seen."""
    return {
        source.name: max(states[view.name].applied for view in service.views if view.source == source)
        for source in service.sources
    }


def _stale(
    item: Item, at: Instants, states: Mapping[str, state.ViewState], versions: Mapping[str, int]
) -> NDArray[np.bool_]:
    """Per row whether a view that the item reads is asked beyond its watermark, or has not seen the version
    compared.
    """
    late = np.zeros(len(at), dtype=np.bool_)
    for view in read_views(item):
        known = states[view.name]
        if view.source.timestamp is not None:
            behind = known.watermark is None or known.applied < versions[view.source.name]
            late |= behind | (at.floor > (known.watermark or 0))
    return late


def _within_reach(spine: pa.Table, timestamp: str, states: Sequence[state.ViewState]) -> pa.Table:
    """Rows that lie before what the state can answer are asked at its two ends instead."""
    earliest = max((s.reach for s in states if s.reach is not None), default=None)
    latest = min((s.watermark for s in states if s.watermark is not None), default=None)
    if earliest is None:
        return spine
    at = instants(spine.column(timestamp), timestamp).floor
    ends = np.array([earliest, max(earliest, latest if latest is not None else earliest)])
    moved = np.where(at < earliest, ends[np.arange(len(at)) % 2], at)
    index = spine.column_names.index(timestamp)
    return spine.set_column(index, timestamp, pa.array(moved, pa.int64()).cast(INSTANT))


def _evidence(
    service: FeatureService, store: OnlineStore, lake: str, rows: pa.Table, versions: Mapping[str, int]
) -> Evidence:
    """Offline events are read when the first cell is to be explained, of the keys of all rows at once."""
    tables = source_tables(service, lake, dict(versions))
    schemas = {view.name: key_schema(view, tables[view.source.name].schema) for view in service.views}
    held: dict[str, Keyed] = {}

    def offline(view: FeatureView, key: pa.Table) -> Side:
        if view.name not in held:
            keys = asked_keys(service, view, rows, schemas[view.name])
            held[view.name] = events_of(view, tables[view.source.name], keys)
        return Side(held[view.name].of(key))

    return Evidence(service, schemas, offline, lambda view, key: stored_events(store, view, key))
