"""The point-in-time join on Ray Data: every spine row gets what each view knew at its q.

A view's events either travel to the spine or meet it. Small: one task reads and orders the events once, the object
store shares them with every worker, and blocks of the spine stream past (broadcast). Large: spine and events, conformed
to one schema, are partitioned by key, and each partition is answered alone (shuffle). The answer comes from the same
`features.evaluate` in both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from mlray.features import keys as typed_keys
from mlray.features.evaluate import Queries, evaluate, view_schema
from mlray.features.order import Events, prepare
from mlray.features.rows import event_schema, events, raw_columns
from mlray.features.service import FeatureService
from mlray.features.types import instants
from mlray.features.vector import assemble, request_fields
from mlray.features.view import BoundView, FeatureView
from mlray.offline import delta
from mlray.offline.spine import ROW

Join = Literal["auto", "broadcast", "shuffle"]

BROADCAST_BYTES = 256 << 20
"""A table whose files are together at most this large is read by one task and shared."""

_SIDE, _KEY, _EVENT = "__side", "__key", "__event."


@dataclass(frozen=True)
class Read:
    """One reading of a view, planned: its position in the service, its table, and how it is joined."""

    index: int
    bound: BoundView
    table: delta.Table
    join: Literal["broadcast", "shuffle"]
    reason: str

    @property
    def view(self) -> FeatureView:
        return self.bound.view

    @property
    def prefix(self) -> str:
        """Names the columns in which a shuffled answer travels."""
        return f"__answer{self.index}."


@dataclass(frozen=True)
class Shared:
    """A broadcast view: its events in order and the key of each code."""

    events: Events
    dictionary: pa.Table


def plan(service: FeatureService, tables: dict[str, delta.Table], join: Join) -> tuple[Read, ...]:
    """How each reading of the service is joined, and why. tables: by source name."""
    return tuple(_read(i, bound, tables[bound.view.source.name], join) for i, bound in enumerate(service.reads))


def check_keys(service: FeatureService, tables: dict[str, delta.Table], schema: pa.Schema) -> None:
    """SchemaError where a key of the spine can never equal one of a source; before anything is read."""
    for bound in service.reads:
        event = event_schema(bound.view, tables[bound.view.source.name].schema)
        _spine_keys(bound, schema.empty_table(), pa.schema([event.field(key) for key in bound.view.keys]))


def joined(service: FeatureService, reads: Sequence[Read], spine: Any, schema: pa.Schema, timestamp: str) -> Any:
    """The lazy Ray Dataset of the spine (with `__row`) and the service's features."""
    dataset = spine
    for read in (r for r in reads if r.join == "shuffle"):
        dataset, schema = _shuffled(dataset, schema, read, timestamp)
    wide = {r.view.name: r for r in reads if r.join == "broadcast"}
    shared = {name: _share.remote(r.view, r.table.path, r.table.version) for name, r in wide.items()}
    arguments = {"service": service, "reads": tuple(reads), "shared": shared, "timestamp": timestamp}
    return dataset.map_batches(complete_block, batch_size=None, batch_format="pyarrow", fn_kwargs=arguments, num_cpus=1)


def complete_block(
    block: pa.Table, service: FeatureService, reads: Sequence[Read], shared: dict[str, Any], timestamp: str
) -> pa.Table:
    """A block of the spine, with shuffled answers beside it, as finished rows of the training set."""
    at = instants(block.column(timestamp), f"spine column '{timestamp}'")
    answers = {}
    for read in reads:
        if read.join == "shuffle":
            names = {name: f"{read.prefix}{name}" for name in read.view.names}
            answers[read.bound] = block.select(list(names.values())).rename_columns(list(names))
        else:
            held: Shared = ray.get(shared[read.view.name])
            answers[read.bound] = answer(read.bound, held, block, timestamp)
    request = request_fields(service, block)
    vectors = assemble(service, answers, request, at)
    own = [n for n in block.column_names if not n.startswith("__") or n == ROW]
    columns = {n: request.column(n) if n in service.request else block.column(n) for n in own}
    return pa.table(columns | {n: vectors.column(n) for n in service.names})


def answer(bound: BoundView, held: Shared, block: pa.Table, timestamp: str) -> pa.Table:
    """The view's features for a block of spine rows, from its events."""
    columns = _spine_keys(bound, block, held.dictionary.schema)
    names = [str(i) for i in range(len(columns))]
    found = pa.table(columns, names=names) if columns else _keyless(block.num_rows)
    queries = Queries(
        typed_keys.codes(found, held.dictionary),
        instants(block.column(timestamp), f"spine column '{timestamp}'"),
        typed_keys.complete(columns, block.num_rows),
    )
    return evaluate(bound.view, held.events, queries)


def share(view: FeatureView, path: str, version: int) -> Shared:
    """Reads a view's events and orders them."""
    rows = events(view, delta.read(path, version, raw_columns(view)))
    dictionary, codes = typed_keys.distinct(rows.select(list(view.keys)) if view.keys else _keyless(rows.num_rows))
    return Shared(prepare(view, rows, codes), dictionary)


@ray.remote(num_cpus=1)
def _share(view: FeatureView, path: str, version: int) -> Shared:
    return share(view, path, version)


def answer_partition(partition: pa.Table, read: Read, timestamp: str, own: Sequence[str]) -> pa.Table:
    """One partition of tagged spine rows and events: its spine rows, with the answers as hidden columns."""
    is_event = pc.equal(partition.column(_SIDE), 1)
    names = [n for n in partition.column_names if n.startswith(_EVENT)]
    rows = partition.filter(is_event).select(names).rename_columns([n.removeprefix(_EVENT) for n in names])
    spine = partition.filter(pc.invert(is_event)).select(list(own))
    dictionary, codes = typed_keys.distinct(rows.select(list(read.view.keys)))
    held = Shared(prepare(read.view, rows, codes), dictionary)
    found = answer(read.bound, held, spine, timestamp)
    for name in found.column_names:
        spine = spine.append_column(f"{read.prefix}{name}", found.column(name))
    return spine


def _shuffled(dataset: Any, schema: pa.Schema, read: Read, timestamp: str) -> tuple[Any, pa.Schema]:
    event = event_schema(read.view, read.table.schema)
    keys = [pa.field(f"{_KEY}{i}", event.field(key).type) for i, key in enumerate(read.view.keys)]
    both = pa.schema([pa.field(_SIDE, pa.int8()), *keys, *schema, *(pa.field(_EVENT + f.name, f.type) for f in event)])
    left = dataset.map_batches(
        tag_spine, batch_size=None, batch_format="pyarrow", num_cpus=1, fn_kwargs={"bound": read.bound, "schema": both}
    )
    parts = max(len(read.table.files), 1)
    tagged: Any = tag_events  # Ray's annotation of a function has no place for fn_kwargs
    right = ray.data.range(parts, override_num_blocks=parts).map_batches(
        tagged,
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=1,
        fn_kwargs={"read": read, "schema": both, "parts": parts},
    )
    partitions = left.union(right).repartition(_partitions(read.table), keys=[k.name for k in keys])
    answered = partitions.map_batches(
        answer_partition,
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=1,
        fn_kwargs={"read": read, "timestamp": timestamp, "own": schema.names},
    )
    hidden = [pa.field(read.prefix + f.name, f.type) for f in view_schema(read.view, read.table.schema)]
    return answered, pa.schema([*schema, *hidden])


def tag_spine(block: pa.Table, bound: BoundView, schema: pa.Schema) -> pa.Table:
    """Spine rows in the schema of the union, side 0."""
    keys = pa.schema([schema.field(f"{_KEY}{i}") for i in range(len(bound.view.keys))])
    columns = dict(zip(keys.names, _spine_keys(bound, block, keys), strict=True))
    side = pa.chunked_array([pa.repeat(pa.scalar(0, pa.int8()), block.num_rows)])
    return _in_schema(
        {_SIDE: side, **columns, **{n: block.column(n) for n in block.column_names}}, schema, block.num_rows
    )


def tag_events(indices: pa.Table, read: Read, schema: pa.Schema, parts: int) -> pa.Table:
    """The events of some files in the schema of the union, side 1."""
    columns = raw_columns(read.view)
    files = [delta.read(read.table.path, read.table.version, columns, i, parts) for i in indices.column(0).to_pylist()]
    rows = events(read.view, pa.concat_tables(files))
    side = pa.chunked_array([pa.repeat(pa.scalar(1, pa.int8()), rows.num_rows)])
    keys = {f"{_KEY}{i}": rows.column(key) for i, key in enumerate(read.view.keys)}
    tagged = {_SIDE: side, **keys, **{_EVENT + n: rows.column(n) for n in rows.column_names}}
    return _in_schema(tagged, schema, rows.num_rows)


def _in_schema(columns: dict[str, pa.ChunkedArray], schema: pa.Schema, length: int) -> pa.Table:
    filled = [columns[f.name] if f.name in columns else pa.nulls(length, f.type) for f in schema]
    return pa.table(filled, schema=schema)


def _spine_keys(bound: BoundView, block: pa.Table, keys: pa.Schema) -> list[pa.ChunkedArray]:
    who = f"feature view {bound.view.name}"
    return [
        typed_keys.spine_key(block.column(name), name, field.type, who)
        for name, field in zip(bound.spine_keys, keys, strict=False)
    ]


def _keyless(length: int) -> pa.Table:
    """A table without columns loses its length; this one keeps it and still has no key column."""
    return pa.table({"": np.zeros(length, dtype=np.int8)}).select([])


def _read(index: int, bound: BoundView, table: delta.Table, join: Join) -> Read:
    if not bound.view.keys:
        return Read(index, bound, table, "broadcast", "one global row: there is no key to partition by")
    if join != "auto":
        return Read(index, bound, table, join, "as asked")
    size = f"{table.rows:,} rows, {table.size:,} bytes"
    if table.size <= BROADCAST_BYTES:
        return Read(index, bound, table, "broadcast", f"{size}: small enough to share with every worker")
    return Read(index, bound, table, "shuffle", f"{size}: more than {BROADCAST_BYTES:,} bytes")


def _partitions(table: delta.Table) -> int:
    return max(4, min(512, table.size // (64 << 20)))
