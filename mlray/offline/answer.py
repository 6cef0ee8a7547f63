"""What a view answers for a block of spine rows, and finished rows of the training set; pure functions on Arrow.

Events beyond `LIMIT` are answered in slices: those of some keys, and of one key with very many those of some time
with what reads in that time can still meet of the past. So the working memory stays bounded, and no value changes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mlray.aggregation.aggregate import Ranges
from mlray.aggregation.timeline import NOWHERE
from mlray.aggregation.window import Instants, Times
from mlray.features import keys as typed_keys
from mlray.features.evaluate import Queries, evaluate
from mlray.features.needed import needed
from mlray.features.order import Events, prepare
from mlray.features.rows import KNOWN, TS
from mlray.features.service import FeatureService
from mlray.features.types import instants
from mlray.features.vector import Answers, assemble, request_fields
from mlray.features.view import BoundView, FeatureView
from mlray.offline.spine import ROW

LIMIT = 4_000_000
"""Events that are answered at once."""


@dataclass(frozen=True)
class Held:
    """A view's events in order, and the key of each code."""

    events: Events
    dictionary: pa.Table


def held(view: FeatureView, rows: pa.Table) -> Held:
    """The events `rows` (see `features.rows`), ordered."""
    dictionary, codes = coded_keys(view, rows)
    return Held(prepare(view, rows, codes), dictionary)


def coded_keys(view: FeatureView, rows: pa.Table) -> tuple[pa.Table, Ranges]:
    """The distinct keys of the events, and the code of every row."""
    return typed_keys.distinct(rows.select(list(view.keys)) if view.keys else keyless(rows.num_rows))


def answer(bound: BoundView, known: Held, block: pa.Table, timestamp: str) -> pa.Table:
    """The view's features for a block of spine rows: one row per row, under the view's own names."""
    return evaluate(bound.view, known.events, queries(bound, known.dictionary, block, timestamp))


def queries(bound: BoundView, dictionary: pa.Table, block: pa.Table, timestamp: str) -> Queries:
    """The block's rows as questions to a view whose keys are `dictionary`."""
    columns = spine_keys(bound, block, dictionary.schema)
    names = [str(i) for i in range(len(columns))]
    found = pa.table(columns, names=names) if columns else keyless(block.num_rows)
    codes = typed_keys.codes(found, dictionary)
    at = instants(block.column(timestamp), f"spine column '{timestamp}'")
    return Queries(codes, at, typed_keys.complete(columns, block.num_rows))


def answer_part(bound: BoundView, rows: pa.Table, block: pa.Table, timestamp: str, limit: int = LIMIT) -> pa.Table:
    """`answer` from all events that the block's keys have, in slices where they are more than `limit`."""
    dictionary, codes = coded_keys(bound.view, rows)
    asked = queries(bound, dictionary, block, timestamp)
    if rows.num_rows <= limit:
        return evaluate(bound.view, prepare(bound.view, rows, codes), asked)
    answers, order = [], []
    for mine, events in slices(bound.view, rows, codes, asked, limit):
        part = rows.take(pa.array(events))
        prepared = prepare(bound.view, part, codes[events])
        answers.append(evaluate(bound.view, prepared, asked.part(mine)))
        order.append(mine)
    back = np.argsort(np.concatenate(order), kind="stable")
    return pa.concat_tables(answers).take(pa.array(back))


def slices(
    view: FeatureView, rows: pa.Table, codes: Ranges, asked: Queries, limit: int
) -> Iterator[tuple[Ranges, Ranges]]:
    """(queries, events) as positions: every query once, with all events that it can meet."""
    yield np.flatnonzero(asked.codes == NOWHERE), np.zeros(0, dtype=np.int64)
    counts = np.bincount(codes)
    for first, last in runs(counts, limit):
        mine = np.flatnonzero((asked.codes >= first) & (asked.codes < last))
        events = np.flatnonzero((codes >= first) & (codes < last))
        if len(mine) and len(events) > limit and view.source.timestamp is not None:
            yield from _by_time(view, rows, mine, events, asked.instants, limit)
        elif len(mine):
            yield mine, events


def runs(counts: Ranges, limit: int) -> Iterator[tuple[int, int]]:
    """Half-open runs of neighbouring codes whose counts add up to at most `limit`, or of one code that has more."""
    total = np.cumsum(counts)
    first = 0
    while first < len(counts):
        before = int(total[first - 1]) if first else 0
        last = max(int(np.searchsorted(total, before + limit, side="right")), first + 1)
        yield first, last
        first = last


def _by_time(
    view: FeatureView, rows: pa.Table, mine: Ranges, events: Ranges, at: Instants, limit: int
) -> Iterator[tuple[Ranges, Ranges]]:
    """The queries of one key in order of time, cut where the events reach `limit`."""
    mine = mine[np.argsort(at.floor[mine], kind="stable")]
    history = rows.select([c for c in (*view.keys, TS, KNOWN) if c in rows.column_names])
    history = history if len(events) == rows.num_rows else history.take(pa.array(events))
    times: Times = history.column(TS).to_numpy()
    cuts = np.sort(times)[limit - 1 :: limit] + view.source.lag_us
    for part in np.split(mine, np.searchsorted(at.floor[mine], cuts)):
        if len(part):
            first, last = int(at.floor[part[0]]), int(at.ceil[part[-1]])
            keep = needed(view, history, first) & (times <= last)
            yield part, events[keep]


def finished(service: FeatureService, spine: pa.Table, answers: Answers, timestamp: str) -> pa.Table:
    """Spine rows and the answers of every reading as rows of the training set, with `__row`."""
    at = instants(spine.column(timestamp), f"spine column '{timestamp}'")
    request = request_fields(service, spine)
    vectors = assemble(service, answers, request, at)
    own = [n for n in spine.column_names if not n.startswith("__") or n == ROW]
    columns = {n: request.column(n) if n in service.request else spine.column(n) for n in own}
    return pa.table(columns | {n: vectors.column(n) for n in service.names})


def spine_keys(bound: BoundView, block: pa.Table, keys: pa.Schema) -> list[pa.ChunkedArray]:
    """The block's columns that stand for the view's keys, in the types of the events' keys."""
    who = f"feature view {bound.view.name}"
    return [
        typed_keys.spine_key(block.column(name), name, field.type, who)
        for name, field in zip(bound.spine_keys, keys, strict=False)
    ]


def keyless(length: int) -> pa.Table:
    """A table without columns loses its length; this one keeps it and still has no key column."""
    return pa.table({"": np.zeros(length, dtype=np.int8)}).select([])
