"""The law, checked: a training row as of q against the online answer at q, per cell, to the bit.

Two parts. *Replay*: an empty store lives through history again. Events enter it only as materialize and ingest bring
them, in the order in which they became known; the rows are read as their turn comes. *Live*: the store in use is read
at instants that it can answer, as it stands. Both are compared with a training set of the same rows at the same Delta
versions.
"""

import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlray.aggregation.window import Instants
from mlray.errors import NotMaterialized
from mlray.features.rows import KNOWN, TS, events, raw_columns
from mlray.features.service import FeatureService, Item, item_names, read_views
from mlray.features.types import INSTANT, instants
from mlray.features.view import FeatureView
from mlray.offline import delta
from mlray.offline.spine import in_memory
from mlray.offline.training_set import TrainingSet, build, source_tables
from mlray.online import state
from mlray.online.retrieval import get_features
from mlray.online.store import OnlineStore

_STEPS = 24
"""Batches that a replay brings; two of them are materialisations."""
_SHOWN = 20


@dataclass(frozen=True)
class Difference:
    """A cell that the two sides answer differently."""

    part: str
    feature: str
    row: dict[str, Any]
    offline: Any
    online: Any


@dataclass(frozen=True)
class Verification:
    """cells = compared; stale: cells read beyond their view's watermark that differ, not counted as different;
    skipped: what was not compared, and why.
    """

    service: str
    rows: int
    cells: int
    different: int
    stale: int
    seconds: float
    differences: tuple[Difference, ...] = field(default=(), repr=False)
    skipped: tuple[str, ...] = field(default=(), repr=False)

    @property
    def ok(self) -> bool:
        return self.different == 0 and self.cells > 0


def verify(
    service: FeatureService,
    store: OnlineStore,
    lake: str,
    spine: Any,
    timestamp: str,
    *,
    rows: int,
    replay: Callable[[], OnlineStore],
    clock: Callable[[], float] = time.perf_counter,
) -> Verification:
    """Compares `rows` rows of the spine, evenly taken from it in time order, in both parts.

    replay: opens an empty store of the kind in use. Ray must be running.
    """
    started = clock()
    chosen = evenly(_rows_of(spine, lake), timestamp, rows)
    results = [_replayed(service, replay(), lake, chosen, timestamp)]
    skipped = []
    try:
        results.append(_live(service, store, lake, chosen, timestamp))
    except NotMaterialized as error:
        skipped.append(f"the online store in use: {error}")
    different = [d for result in results for d in result[2]]
    return Verification(
        service.name,
        sum(r[0] for r in results),
        sum(r[1] for r in results),
        sum(r[3] for r in results),
        sum(r[4] for r in results),
        clock() - started,
        tuple(different[:_SHOWN]),
        tuple(skipped),
    )


def _rows_of(spine: Any, lake: str) -> pa.Table:
    """The spine here: in memory already, or a Delta table."""
    if not isinstance(spine, str | Path):
        return in_memory(spine)
    table = delta.table_at(delta.resolve(lake, str(spine)), "spine")
    return delta.read(table.path, table.version, table.schema.names)


def evenly(spine: pa.Table, timestamp: str, rows: int) -> pa.Table:
    """`rows` rows of the spine, in time order, evenly spaced; all of them where there are fewer."""
    ordered = spine.sort_by(timestamp)
    ordered = ordered.filter(pc.is_valid(ordered.column(timestamp)))
    picks = np.unique(np.linspace(0, max(ordered.num_rows - 1, 0), min(rows, ordered.num_rows)).astype(np.int64))
    return ordered.take(pa.array(picks))


Compared = tuple[int, int, list[Difference], int, int]


def _replayed(service: FeatureService, store: OnlineStore, lake: str, spine: pa.Table, timestamp: str) -> Compared:
    offline = build(service, spine, lake=lake, label=None, timestamp=timestamp)
    wanted = offline.to_arrow().select(service.names)
    at = instants(spine.column(timestamp), timestamp)
    arrivals = [_Arrivals(view, lake, offline) for view in service.views]
    answers = []
    for step, part in enumerate(_parts(spine.num_rows)):
        first, last = int(at.floor[part[0]]), int(at.ceil[part[-1]])
        for arrival in arrivals:
            arrival.bring(store, step, first, last)
        rows = spine.slice(part[0], len(part))
        answers.append(get_features(store, service, rows, at.take(part)))
    found = pa.concat_tables(answers) if answers else wanted
    return _compare("replay", service, spine, wanted, found, np.zeros((len(spine), len(service.names)), bool))


class _Arrivals:
    """The events of one view in the order in which they became known."""

    def __init__(self, view: FeatureView, lake: str, training_set: TrainingSet) -> None:
        self.view = view
        path, version = delta.resolve(lake, view.source.path), training_set.sources[view.source.name]
        self.events = events(view, delta.read(path, version, raw_columns(view)))
        self.times: NDArray[np.int64] = self.events.column(TS).to_numpy()
        if KNOWN in self.events.column_names:
            self.times = np.maximum(self.times, self.events.column(KNOWN).to_numpy())
        elif view.source.timestamp is None:
            self.times = np.full(len(self.times), np.iinfo(np.int64).min)
        self.brought: int | None = None

    def bring(self, store: OnlineStore, step: int, first: int, last: int) -> None:
        """Everything known by `last`. Steps 0 and the middle one materialize up to the instant before the first
        read.
        """
        since = first - 1 if self.brought is None else max(self.brought, first - 1)
        if step in (0, _STEPS // 2):
            known = self.events.filter(pa.array(self.times <= since))
            state.load(store, self.view, known, version=2 * step, until=first - 1, history=0)
        else:
            since = self.brought if self.brought is not None else since
        fresh = self.events.filter(pa.array((self.times > since) & (self.times <= last)))
        state.push(store, self.view, fresh, version=2 * step + 1, whole=False)
        self.brought = max(last, since)


def _live(service: FeatureService, store: OnlineStore, lake: str, spine: pa.Table, timestamp: str) -> Compared:
    """The store in use, read at its own instants: the spine's where it reaches, else where its answers begin
    and end.
    """
    states = {view.name: state.state_of(store, view) for view in service.views}
    versions = {
        view.source.name: max(states[v.name].applied for v in service.views if v.source == view.source)
        for view in service.views
    }
    rows = _within_reach(spine, timestamp, list(states.values()))
    offline = build(service, rows, lake=lake, label=None, timestamp=timestamp, versions=versions)
    wanted = offline.to_arrow().select(service.names)
    at = instants(rows.column(timestamp), timestamp)
    found = get_features(store, service, rows, at)
    stale = np.stack([_stale(item, at, states, versions) for item in service.items for _ in item_names(item)], 1)
    return _compare("live", service, rows, wanted, found, stale)


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


def _parts(rows: int) -> Iterator[NDArray[np.int64]]:
    return (part for part in np.array_split(np.arange(rows), min(_STEPS, rows) or 1) if len(part))


def _compare(
    part: str, service: FeatureService, spine: pa.Table, wanted: pa.Table, found: pa.Table, stale: NDArray[np.bool_]
) -> Compared:
    different, stale_cells, count = [], 0, 0
    for i, name in enumerate(service.names):
        unequal = ~same_bits(wanted.column(name), found.column(name))
        stale_cells += int((unequal & stale[:, i]).sum())
        wrong = np.flatnonzero(unequal & ~stale[:, i])
        count += len(wrong)
        for row in wrong[:_SHOWN].tolist():
            cells = {c: spine.column(c)[row].as_py() for c in spine.column_names}
            different.append(
                Difference(part, name, cells, wanted.column(name)[row].as_py(), found.column(name)[row].as_py())
            )
    return spine.num_rows, spine.num_rows * len(service.names), different, count, stale_cells


def same_bits(left: pa.ChunkedArray, right: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Per cell whether both are null or carry the same bits; columns of different types are different throughout."""
    if left.type != right.type:
        return np.zeros(len(left), dtype=np.bool_)
    null = left.is_null().to_numpy(), right.is_null().to_numpy()
    if pa.types.is_floating(left.type):
        bits = [
            c.combine_chunks().cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False).view(np.int64)
            for c in (left, right)
        ]
        equal = bits[0] == bits[1]
    else:
        cells = zip(left.to_pylist(), right.to_pylist(), strict=True)
        equal = np.array([_bits(a) == _bits(b) for a, b in cells], dtype=np.bool_)
    same: NDArray[np.bool_] = (null[0] & null[1]) | (~null[0] & ~null[1] & equal)
    return same


def _bits(value: Any) -> Any:
    """A value such that == compares bits, within lists and structs as well."""
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, dict):
        return {name: _bits(inner) for name, inner in value.items()}
    return [_bits(inner) for inner in value] if isinstance(value, list) else value


def sampled_spine(service: FeatureService, lake: str, timestamp: str, rows: int, seed: int) -> pa.Table:
    """Real keys at real instants, for a service whose spine is not at hand: keys and event times drawn from its tables.

    Instants are event times, and those ends at which a window would drop or take one. Request fields are drawn from a
    source's column of the same name, or are null.
    """
    tables, rng = source_tables(service, lake), np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    moments: list[NDArray[np.int64]] = []
    for read in service.reads:
        raw = delta.read(
            tables[read.view.source.name].path, tables[read.view.source.name].version, raw_columns(read.view)
        )
        found = events(read.view, raw)
        if not found.num_rows:
            continue
        picks = rng.integers(0, found.num_rows, rows)
        for here, key in zip(read.spine_keys, read.view.keys, strict=True):
            columns.setdefault(here, found.column(key).take(pa.array(picks)))
        if read.view.source.timestamp is not None:
            moments.append(found.column(TS).to_numpy()[picks] + read.view.source.lag_us)
            moments += [moments[-1] + w.reach for a in read.view.aggregates for w in a.spans if w.reach is not None]
    for name, kind in service.request.items():
        columns.setdefault(name, pa.array([kind()] * rows) if kind in (int, float, str, bool) else pa.nulls(rows))
    for key in service.keys:
        columns.setdefault(key, pa.nulls(rows))
    at = rng.choice(np.stack(moments), axis=0) if moments else np.zeros(rows, dtype=np.int64)
    columns[timestamp] = pa.array(at, pa.int64()).cast(INSTANT)
    return pa.table(columns)
