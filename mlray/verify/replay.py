"""*Replay*: an empty store lives through history again.

A lake and a store of their own get the asked keys' rows in the order in which they became known, by `materialize` and
`ingest` alone; each row of the spine is read as its turn comes.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlray.features.catalog import decode_service, encode_service
from mlray.features.rows import events, raw_columns
from mlray.features.service import FeatureService
from mlray.features.source import DeltaSource
from mlray.features.types import instants
from mlray.features.view import FeatureView
from mlray.ingest import ingest
from mlray.materialize import materialize
from mlray.offline import delta
from mlray.offline.training_set import TrainingSet, source_tables
from mlray.online.retrieval import get_features
from mlray.online.store import OnlineStore
from mlray.verify.comparison import Comparison
from mlray.verify.evidence import Evidence, Side
from mlray.verify.history import Keyed, asked_keys, key_schema, rows_of
from mlray.verify.online import stored_events

_STEPS = 24
"""Batches that a replay brings; two of them are materialisations."""


def replayed(offline: TrainingSet, spine: pa.Table, lake: str, store: OnlineStore, folder: str) -> Comparison:
    """Compares a training set with a replay. spine: its rows, in order of time; lake: where its sources lie; store,
    folder: empty.
    """
    service, timestamp = offline.definition, offline.timestamp
    wanted, at = offline.to_arrow().select(service.names), instants(spine.column(timestamp), timestamp)
    tables = source_tables(service, lake, dict(offline.sources))
    own = relocated(service)
    last = int(at.ceil.max(initial=0))
    arrivals = [_Arrivals(own, source, tables[source.name], spine, last) for source in own.sources]
    evidence = _evidence(own, tables, arrivals, store)
    comparison = Comparison("replay")
    parts = [(part, int(at.floor[part[0]]), int(at.ceil[part[-1]])) for part in _parts(spine.num_rows)]
    longest = max((last - first for _, first, last in parts), default=0)  # a batch is read from its first instant on
    for step, (part, first, last) in enumerate(parts):
        if step in (0, _STEPS // 2):
            for arrival in arrivals:
                arrival.bring(store, folder, first - 1)
            list(materialize(store, own, folder, until=first - 1, history=longest))
        for arrival in arrivals:
            arrival.bring(store, folder, last)
        rows, asked = spine.slice(part[0], len(part)), at.take(part)
        found = get_features(store, own, rows, asked)
        comparison.add(rows, asked, wanted.slice(part[0], len(part)), found, evidence.of_any)
    return comparison


def relocated(service: FeatureService) -> FeatureService:
    """The same service over tables that lie side by side under any lake, named like their sources."""
    plain = encode_service(service)
    for view in plain["views"].values():
        view["source"]["path"] = view["source"]["name"]
    return decode_service(plain)


class _Arrivals:
    """The rows of one source in the order in which they became known, and how many of them are there."""

    def __init__(
        self, service: FeatureService, source: DeltaSource, table: delta.Table, spine: pa.Table, until: int
    ) -> None:
        self.source = source
        self.views = [view for view in service.views if view.source == source]
        columns = list(dict.fromkeys(name for view in self.views for name in raw_columns(view)))
        asked = [(view, asked_keys(service, view, spine, key_schema(view, table.schema))) for view in self.views]
        self.rows, self.times = rows_of(table, columns, asked, until)
        self.brought = 0

    def bring(self, store: OnlineStore, lake: str, until: int) -> None:
        """What became known by `until`; at first into a table that no view has seen."""
        count = int(np.searchsorted(self.times, until, side="right"))
        fresh = self.rows.slice(self.brought, count - self.brought)
        path = delta.resolve(lake, self.source.path)
        if not delta.exists(path):
            delta.append(path, fresh, f"source {self.source.name}")
        else:
            ingest(store, self.source, self.views, fresh, lake, now=until)
        self.brought = count


def _evidence(
    service: FeatureService, tables: dict[str, delta.Table], arrivals: Sequence[_Arrivals], store: OnlineStore
) -> Evidence:
    """Offline are all rows that ever arrive: what counts at an instant is told by their own times."""
    held: dict[str, Keyed] = {}
    rows = {arrival.source.name: arrival.rows for arrival in arrivals}

    def offline(view: FeatureView, key: pa.Table) -> Side:
        if view.name not in held:
            held[view.name] = Keyed(view, events(view, rows[view.source.name]))
        return Side(held[view.name].of(key))

    keys = {view.name: key_schema(view, tables[view.source.name].schema) for view in service.views}
    return Evidence(service, keys, offline, lambda view, key: stored_events(store, view, key))


def _parts(rows: int) -> Iterator[NDArray[np.int64]]:
    return (part for part in np.array_split(np.arange(rows), min(_STEPS, rows) or 1) if len(part))
