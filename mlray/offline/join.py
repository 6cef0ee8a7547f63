"""The point-in-time join on Ray: a training set as parts that are computed alone, by the same pure functions anywhere.

Spine rows whose key falls into one bucket are a part; its events come from the bucket of a managed copy, or were cut
from the table's files. Where views are keyed by different columns, the largest gets the parts; the others answer in
buckets of their own, and send what they found to the part of each row. A service of broadcast views only has one part
per block of the spine.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import ray
from numpy.typing import NDArray

from mlray._ray_compat import dataset_of, mlray_errors
from mlray.allocator import keep_freed_memory
from mlray.errors import MlrayError
from mlray.features.rows import event_schema, events
from mlray.features.service import FeatureService
from mlray.features.types import instants
from mlray.features.view import BoundView
from mlray.offline import inputs, layout, scan
from mlray.offline.answer import Held, answer, finished, held, spine_keys
from mlray.offline.cutting import cut
from mlray.offline.exchange import (
    TO,
    Cuts,
    exchange,
    exchange_questions,
    exchange_spine,
    gather,
    returned,
    time_cuts,
    within,
)
from mlray.offline.inputs import Input
from mlray.offline.plan import Group, Read, groups, without_files
from mlray.offline.sliced import LIMIT, answer_part
from mlray.offline.spine import ROW, Spine, placed
from mlray.offline.tasks import Lane, as_done, consumed, fetched, started, task

_log = logging.getLogger("mlray")
_MOST_ROWS = 2_000_000
"""Spine rows of a part: of a bucket with more, where a key is asked for often, parts take turns in order of time."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of the training set, and where what they need lies.

    spine: references to pieces of the spine; share: (i, n), the i-th n-th of their rows in order of time; offset: the
    position of the first row where they are no pieces but a block; events: per reading of the group where they lie;
    answers: per other group references to pieces.
    """

    index: int
    rows: int
    spine: tuple[Any, ...]
    share: tuple[int, int] = (0, 1)
    offset: int | None = None
    events: tuple[Input, ...] = ()
    answers: tuple[tuple[Any, ...], ...] = ()


@dataclass(frozen=True)
class Context:
    """What all parts share. group: the readings that are answered here (None: there is no key to part by); others:
    those whose answers arrive; shared: references to the events of broadcast readings, by view.
    """

    service: FeatureService
    schema: pa.Schema
    timestamp: str
    group: Group | None
    others: tuple[Group, ...] = ()
    wide: tuple[Read, ...] = ()
    shared: Mapping[str, Any] = field(default_factory=dict)
    done: bool = False
    """The pieces are finished rows."""


class Join:
    """A planned join of a spine. Nothing is moved until `parts` is asked for; what was moved stays while this lives."""

    def __init__(
        self, service: FeatureService, spine: Spine, reads: Sequence[Read], lake: str, timestamp: str, schema: pa.Schema
    ) -> None:
        self.service, self.spine, self.lake, self.timestamp, self.schema = service, spine, lake, timestamp, schema
        self.planned = tuple(reads)

    @cached_property
    def reads(self) -> tuple[Read, ...]:
        """The readings with their managed copies made, or brought up to date, where the plan says so."""
        return tuple(_refreshed(read, self.lake) for read in self.planned)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        types = {read.index: _key_types(read) for read in self.reads if read.join != "broadcast"}
        found = groups(self.reads, types, self.spine.rows)
        return tuple(group if group.keys else self._by_time(group) for group in found)

    @cached_property
    def context(self) -> Context:
        wide = tuple(read for read in self.reads if read.join == "broadcast")
        shared = {read.view.name: _hold.remote(read) for read in {r.view.name: r for r in wide}.values()}
        slim = [_slim(group) for group in self.groups]
        here = slim[0] if slim else None
        slim_wide = tuple(map(without_files, wide))
        return Context(self.service, self.spine.schema, self.timestamp, here, tuple(slim[1:]), slim_wide, shared)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Moves what must be moved, and waits for it; raises what a task raised."""
        with mlray_errors():
            if not self.groups:
                return tuple(
                    Part(i, block.rows, (block.ref,), offset=block.offset) for i, block in enumerate(self.spine.blocks)
                )
            return self._keyed_parts()

    @property
    def shape(self) -> list[Any]:
        """What decides which rows each part has, of one spine and one version of every source; fit for JSON."""
        split = [[group.keys, group.parts, group.cuts] for group in self.groups]
        return [split, [part.rows for part in self.parts]]

    def dataset(self) -> Any:
        """The lazy ray.data.Dataset of the finished rows, with `__row`."""
        context = ray.put(self.context)
        schema = self.schema.append(pa.field(ROW, pa.int64()))
        return dataset_of([(partial(_computed, part, context), part.rows) for part in self.parts], schema)

    def tables(self) -> list[pa.Table]:
        """The finished rows here, part by part, with `__row`."""
        context = ray.put(self.context)
        return [table for _, table in as_done(lambda part: _compute.remote(part, context), self.parts)]

    def _by_time(self, group: Group) -> Group:
        return replace(group, cuts=time_cuts(self.spine.blocks, self.spine.schema, self.timestamp, group.parts))

    def _keyed_parts(self) -> tuple[Part, ...]:
        final, *others = self.groups
        lane = Lane()
        mine = exchange_spine(lane, self.spine.blocks, self.spine.schema, _slim(final), self.timestamp)
        answers = [self._answers(lane, group, final) for group in others]
        found = list(self._buckets(lane, final, mine))
        _wait(answers)
        return tuple(
            replace(part, index=i, answers=tuple(cuts.of(bucket) for cuts in answers))
            for i, (bucket, part) in enumerate(found)
        )

    def _answers(self, lane: Lane, group: Group, final: Group) -> Cuts:
        """The answers of a group that is not the final one, cut by the part that each row belongs to."""
        blocks, schema = self.spine.blocks, self.spine.schema
        asked = exchange_questions(lane, blocks, schema, _slim(group), _slim(final), self.timestamp)
        context = ray.put(Context(self.service, schema, self.timestamp, _slim(group)))
        parts = [part for _, part in self._buckets(lane, group, asked)]
        del asked  # what was cut goes as it is answered
        wanted = ((part, context, final.parts) for part in consumed(parts))
        return exchange(lane, _answer_elsewhere, final.parts, wanted)

    def _buckets(self, lane: Lane, group: Group, asked: Cuts) -> Iterator[tuple[int, Part]]:
        """Every bucket that has rows, at least one, as parts, with its number."""
        events = [(read, inputs.moved(lane, read, group)) for read in group.reads]
        rows = asked.rows.tolist()
        _wait(cuts for _, cuts in events if cuts is not None)
        for b in [b for b in range(group.parts) if rows[b]] or [0]:
            given = tuple(inputs.bucket(*moved, group, self.spine.span, b) for moved in events)
            for part in shares(Part(b, rows[b], asked.of(b)), _MOST_ROWS):
                yield b, replace(part, events=given)


class Kept(Join):
    """A join that is computed already; its rows stay in the object store, which spills to disk."""

    def __init__(self, join: Join) -> None:
        super().__init__(join.service, join.spine, join.planned, join.lake, join.timestamp, join.schema)
        self._made_of = join.shape
        with mlray_errors():
            self._dataset = join.dataset().materialize()
            refs = self._dataset.to_arrow_refs()
            extents = ray.get(started(partial(_extent.remote, ref) for ref in refs))
        # Blocks come in the order in which they were made, which is another at the next time.
        self._blocks = sorted(zip(extents, refs, strict=True), key=lambda block: block[0])

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        return ()

    @cached_property
    def context(self) -> Context:
        return Context(self.service, self.spine.schema, self.timestamp, None, done=True)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        return tuple(Part(i, rows, (ref,)) for i, ((_, rows), ref) in enumerate(self._blocks))

    @property
    def shape(self) -> list[Any]:
        return [self._made_of, [extent for extent, _ in self._blocks]]

    def dataset(self) -> Any:
        return self._dataset

    def tables(self) -> list[pa.Table]:
        return [gather(part.spine) for part in self.parts]


def compute(part: Part, context: Context, limit: int = LIMIT) -> pa.Table:
    """The finished rows of a part, with `__row`. limit: of the events that are answered at once."""
    if context.done:
        return gather(part.spine)
    spine, answers = answered(part, context, limit)
    for group, refs in zip(context.others, part.answers, strict=True):
        answers |= arrived(group.reads, gather(refs), spine.column(ROW).to_numpy())
    for read in context.wide:
        known: Held
        (known,) = fetched([context.shared[read.view.name]])
        answers[read.bound] = answer(read.bound, known, spine, context.timestamp)
    return finished(context.service, spine, answers, context.timestamp)


def answered(part: Part, context: Context, limit: int = LIMIT) -> tuple[pa.Table, dict[BoundView, pa.Table]]:
    """The spine rows of a part, and the answers of its group."""
    rows = gather(part.spine)
    if part.offset is not None:
        rows = placed(rows, context.schema, part.offset)
    if context.group is None:
        return rows, {}
    spine = by_key(share_of(rows, part.share, context.timestamp), context.group)
    answers = {}
    for read, given in zip(context.group.reads, part.events, strict=True):
        found = inputs.pieces(read, given, inputs.few_keys(read, spine), limit)
        answers[read.bound] = answer_part(read.bound, found, spine, context.timestamp, limit)
    return spine, answers


def shares(part: Part, limit: int) -> Iterator[Part]:
    """The part, or several that have at most so many of its rows each."""
    count = max(-(-part.rows // limit), 1)
    for i in range(count):
        first, last = _range(part.rows, (i, count))
        yield replace(part, rows=last - first, share=(i, count))


def share_of(rows: pa.Table, share: tuple[int, int], timestamp: str) -> pa.Table:
    """The rows of one of several parts, in order of time."""
    if share == (0, 1):
        return rows
    first, last = _range(rows.num_rows, share)
    at = instants(rows.column(timestamp), f"spine column '{timestamp}'")
    return rows.take(pa.array(np.argsort(at.floor, kind="stable")[first:last]))


def by_key(rows: pa.Table, group: Group) -> pa.Table:
    """The rows in an order in which searches for them walk forward through the events; those of a key as they come."""
    if not group.keys:
        return rows
    keys = spine_keys(group.reads[0].bound, rows, group.types)
    names = [f"key{i}" for i in range(len(keys))]
    frame = pl.DataFrame(pl.from_arrow(pa.table(keys, names=names)))
    order = frame.select(pl.arg_sort_by(names, maintain_order=True)).to_series().to_numpy()
    return rows.take(pa.array(order))


def arrived(reads: Sequence[Read], found: pa.Table, rows: NDArray[np.int64]) -> dict[BoundView, pa.Table]:
    """Answers that came from other parts, in the order of `rows`."""
    there = found.column(ROW).to_numpy()
    order = np.argsort(there)
    index = pa.array(order[np.searchsorted(there, rows, sorter=order)])
    return {
        read.bound: found.select([read.prefix + n for n in read.view.names]).rename_columns(read.view.names).take(index)
        for read in reads
    }


def answers_elsewhere(part: Part, context: Context, parts: int) -> Iterator[pa.Table]:
    """The answers of a group, cut by the parts of the training set."""
    spine, answers = answered(part, context)
    table = spine.select([ROW])
    for read in context.group.reads if context.group else ():
        for name, column in zip(read.view.names, answers[read.bound].columns, strict=True):
            table = table.append_column(read.prefix + name, column)
    return cut(table, spine.column(TO).to_numpy().astype(np.int64), parts)


def _computed(part: Part, context: Any) -> Iterable[pa.Table]:
    keep_freed_memory()
    return [compute(part, ray.get(context))]


@task
def _compute(part: Part, context: Context) -> pa.Table:
    return compute(part, context)


@task
def _extent(block: pa.Table) -> tuple[int, int]:
    """The first row of the spine that a block has, -1 for none, and how many it has."""
    return (int(block.column(ROW).to_numpy().min()) if block.num_rows else -1), block.num_rows


@task
def _answer_elsewhere(part: Part, context: Context, parts: int) -> Any:
    return returned(answers_elsewhere(part, context, parts))


@task
def _hold(read: Read) -> Held:
    raw = scan.read(read.files, read.table.schema, read.columns, read.who)
    return held(read.view, within(events(read.view, raw), read.bounds))


def _range(rows: int, share: tuple[int, int]) -> tuple[int, int]:
    """The first row of a share, and the first one after it."""
    index, count = share
    return rows * index // count, rows * (index + 1) // count


def _wait(cuts: Iterable[Cuts]) -> None:
    for one in cuts:
        one.done()


def _refreshed(read: Read, lake: str) -> Read:
    if not read.refresh:
        return read
    try:
        made = layout.refresh(lake, read.view.source, read.view.keys, read.table.version)
    except MlrayError as error:
        if read.asked == "co-partitioned":
            raise
        # Others may have taken the copy further meanwhile, or the lake cannot be written to: the table can be read.
        _log.warning("%s: the managed copy cannot be used, so it is shuffled: %s", read.who, error)
        return replace(read, join="shuffle", refresh=False)
    return replace(read, layout=made, files=made.table.files, refresh=False)


def _key_types(read: Read) -> pa.Schema:
    event = event_schema(read.view, read.table.schema)
    return pa.schema([event.field(key) for key in read.view.keys])


def _slim(group: Group) -> Group:
    return replace(group, reads=tuple(map(without_files, group.reads)))


def check_keys(service: FeatureService, tables: Mapping[str, Any], schema: pa.Schema) -> None:
    """SchemaError where a key of the spine can never equal one of a source; before anything is read."""
    for bound in service.reads:
        event = event_schema(bound.view, tables[bound.view.source.name].schema)
        spine_keys(bound, schema.empty_table(), pa.schema([event.field(key) for key in bound.view.keys]))
