"""Rows that belong together are brought together: every block is cut into buckets, every part gathers one bucket.

The cuts lie in Ray's object store, which spills to disk; a lost one is computed again from its block.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from numpy.typing import NDArray

from mlray.features import keys as typed_keys
from mlray.features.rows import KNOWN, TS, events, raw_columns
from mlray.features.types import instants
from mlray.features.view import FeatureView
from mlray.offline import scan
from mlray.offline.answer import spine_keys
from mlray.offline.bucket import buckets
from mlray.offline.cutting import GROUP_BYTES, cut, together, wide
from mlray.offline.plan import Bounds, Group, Read
from mlray.offline.spine import ROW, Block, in_schema, placed
from mlray.offline.tasks import Lane, fetched, started, task

TO = "__to"
"""The part of the training set that a row of another partitioning belongs to, int32."""

_INSTANTS = 4096
"""Instants of a block of the spine that are looked at to cut it by time."""

Buckets = NDArray[np.int64]


def spine_buckets(rows: pa.Table, group: Group, timestamp: str) -> Buckets:
    """The bucket of every row of a spine with `__row`: by key, and without keys by time; rows whose key has a null are
    spread.
    """
    if not group.keys:
        at = instants(rows.column(timestamp), f"spine column '{timestamp}'")
        return np.searchsorted(np.array(group.cuts, dtype=np.int64), at.floor, side="right")
    columns = spine_keys(group.reads[0].bound, rows, group.types)
    found = buckets(pa.table(columns, names=list(group.types.names)), group.parts)
    whole = typed_keys.complete(columns, rows.num_rows)
    return found if whole.all() else np.where(whole, found, rows.column(ROW).to_numpy() % group.parts)


def cut_spine(block: pa.Table, offset: int, schema: pa.Schema, group: Group, timestamp: str) -> Iterator[pa.Table]:
    """A block of the spine, with `__row`, by the parts of the training set."""
    rows = placed(block, schema, offset)
    return cut(rows, spine_buckets(rows, group, timestamp), group.parts)


def cut_questions(
    block: pa.Table, offset: int, schema: pa.Schema, group: Group, final: Group, timestamp: str
) -> Iterator[pa.Table]:
    """What a group that is not the final one needs of a block: its keys, the instant, `__row` and `__to`."""
    rows = placed(block, schema, offset)
    to = pa.array(spine_buckets(rows, final, timestamp).astype(np.int32))
    asked = rows.select(list(dict.fromkeys([*group.keys, timestamp, ROW]))).append_column(TO, to)
    return cut(asked, spine_buckets(rows, group, timestamp), group.parts)


def cut_events(view: FeatureView, rows: pa.Table, bounds: Bounds, types: pa.Schema, count: int) -> Iterator[pa.Table]:
    """A view's events in raw rows, those within the bounds, by bucket."""
    found = within(events(view, rows), bounds)
    keys = [found.column(key).cast(kind) for key, kind in zip(view.keys, types.types, strict=True)]
    return cut(found, buckets(pa.table(keys, names=types.names), count), count)


def within(found: pa.Table, bounds: Bounds) -> pa.Table:
    """The events that some query can meet."""
    ends = [(TS, pc.greater_equal, bounds.low), (TS, pc.less_equal, bounds.high)]
    ends += [(KNOWN, pc.less_equal, bounds.known)] if KNOWN in found.column_names else []
    for column, holds, end in ends:
        if end is not None and not pc.all(mask := holds(found.column(column), end), min_count=0).as_py():
            found = found.filter(mask)
    return found


@dataclass(frozen=True)
class Cuts:
    """What was cut. pieces: per block one reference per bucket; counts: per block one reference to the rows of each."""

    pieces: list[list[Any]]
    counts: list[Any]

    def of(self, bucket: int) -> tuple[Any, ...]:
        """The pieces of one bucket, in the order of the blocks."""
        return tuple(pieces[bucket] for pieces in self.pieces)

    def done(self) -> None:
        """Waits until all is cut; raises what a task raised."""
        ray.get(self.counts)

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The rows of every bucket; as `done`."""
        rows: NDArray[np.int64] = np.sum(ray.get(self.counts), axis=0, dtype=np.int64)
        return rows


def time_cuts(blocks: Sequence[Block], schema: pa.Schema, timestamp: str, parts: int) -> tuple[int, ...]:
    """Instants in microseconds that cut a spine into so many parts of about as many rows."""
    found = ray.get(started(partial(_instants.remote, block.ref, schema, timestamp) for block in blocks))
    some = np.sort(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)
    return tuple(int(some[len(some) * i // parts]) for i in range(1, parts)) if len(some) else ()


def exchange_spine(lane: Lane, blocks: Sequence[Block], schema: pa.Schema, group: Group, timestamp: str) -> Cuts:
    """The spine, cut into the parts of the training set."""
    asked = ((block.ref, block.offset, schema, group, timestamp) for block in blocks)
    return exchange(lane, _cut_spine, group.parts, asked)


def exchange_questions(
    lane: Lane, blocks: Sequence[Block], schema: pa.Schema, group: Group, final: Group, timestamp: str
) -> Cuts:
    """What another group needs of the spine, cut."""
    asked = ((block.ref, block.offset, schema, group, final, timestamp) for block in blocks)
    return exchange(lane, _cut_questions, group.parts, asked)


def exchange_events(lane: Lane, read: Read, group: Group) -> Cuts:
    """The events of a shuffled view, cut."""
    view, table, count = read.view, read.table, group.parts
    parts = together(read.files, GROUP_BYTES) or [()]
    asked = ((view, files, table.schema, read.bounds, group.types, count, read.who) for files in parts)
    return exchange(lane, _cut_events, count, asked)


def gather(refs: Sequence[Any]) -> pa.Table:
    """The pieces of one bucket as one table."""
    return wide(pa.concat_tables(fetched(refs), promote_options="permissive"))


def exchange(lane: Lane, task: Any, count: int, arguments: Iterable[tuple[Any, ...]]) -> Cuts:
    """Runs `task` once for each of the arguments: it returns what `returned` makes of its cuts. The last may still be
    under way.
    """
    run = task.options(num_returns=count + 1).remote
    outputs = [lane.start(partial(run, *given)) for given in arguments]
    return Cuts([refs[:-1] for refs in outputs], [refs[-1] for refs in outputs])


def returned(cuts: Iterable[pa.Table]) -> Iterator[Any]:
    """The return values of a task that cuts: the buckets, then how many rows each has."""
    counts = []
    for piece in cuts:
        counts.append(piece.num_rows)
        yield piece
    yield np.array(counts, dtype=np.int64)


@task
def _instants(block: pa.Table, schema: pa.Schema, timestamp: str) -> NDArray[np.int64]:
    at = instants(in_schema(block, schema).column(timestamp), f"spine column '{timestamp}'")
    known = at.floor[at.valid]
    return known[:: max(len(known) // _INSTANTS, 1)]


@task
def _cut_spine(block: pa.Table, offset: int, schema: pa.Schema, group: Group, timestamp: str) -> Any:
    return returned(cut_spine(block, offset, schema, group, timestamp))


@task
def _cut_questions(block: pa.Table, offset: int, schema: pa.Schema, group: Group, final: Group, timestamp: str) -> Any:
    return returned(cut_questions(block, offset, schema, group, final, timestamp))


@task
def _cut_events(
    view: FeatureView,
    files: Sequence[scan.Slice],
    schema: pa.Schema,
    bounds: Bounds,
    types: pa.Schema,
    count: int,
    who: str,
) -> Any:
    raw = scan.read(files, schema, raw_columns(view), who)
    return returned(cut_events(view, raw, bounds, types, count))
