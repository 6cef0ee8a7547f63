"""A training set as a Delta table: every part writes its own file, and one commit makes them a table.

A part that is written leaves a record beside the table, which no reader of the table sees. A build that was cut off
goes on from the records of the same build; the same names are written again, so nothing is there twice.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from deltalake.transaction import AddAction
from obstore.store import LocalStore, from_url

from mlray._ray_compat import mlray_errors
from mlray.errors import Conflict, MlrayError, SchemaError
from mlray.offline import delta
from mlray.offline.join import Context, Join, Part, compute
from mlray.offline.parquet import commit_new, stored_schema, write_file
from mlray.offline.spine import ROW

_RECORDS = "_mlray"


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """parts of `of` are written, with so many rows, after so many seconds; resumed: those that an earlier try wrote."""

    parts: int
    of: int
    rows: int
    seconds: float
    resumed: int


@dataclass(frozen=True)
class Target:
    """Where the parts of one build go. schema: the table's, in types that Delta has."""

    path: str
    build: str
    schema: pa.Schema
    timestamp: str

    def file(self, index: int) -> str:
        return f"part-{self.build[:16]}-{index:05}.parquet"

    def record(self, index: int) -> str:
        return f"{_RECORDS}/{self.build[:32]}/{index:05}.json"


def write(
    join: Join,
    path: str,
    schema: pa.Schema,
    fingerprint: str,
    progress: Callable[[BuildProgress], None],
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Writes the join's rows as a new Delta table at `path`. Conflict where there is a table already."""
    if delta.exists(path):
        raise Conflict(f"there is a Delta table at {path} already; write to another path, or remove it first")
    started = clock()
    stored = stored_schema(schema, f"the training set for {path}")
    target = Target(path, build_of(join, fingerprint), stored, join.timestamp)
    done = _recorded(target)
    try:
        rows = resumed = sum(part.rows for part in join.parts if part.index in done)
        for part, action in _written(join, target, [p for p in join.parts if p.index not in done]):
            done[part.index] = action
            rows += part.rows
            progress(BuildProgress(len(done), len(join.parts), rows, clock() - started, resumed))
        commit_new(path, stored, [done[part.index] for part in join.parts])
    except MlrayError:  # it would fail again; what was cut off from outside may go on
        _forget(path)
        raise
    _forget(path, keep=set(map(target.file, done)))


def build_of(join: Join, fingerprint: str) -> str:
    """Names a build by what decides the rows of each of its parts."""
    shape = [(group.keys, group.parts) for group in join.groups], [part.rows for part in join.parts]
    return hashlib.sha256(json.dumps([fingerprint, shape]).encode()).hexdigest()


def write_part(rows: pa.Table, target: Target, index: int) -> AddAction:
    """Writes one part, then its record."""
    try:
        fitting = rows.select(target.schema.names).cast(target.schema)
    except pa.ArrowInvalid as error:
        raise SchemaError(f"the training set for {target.path} does not fit the types of Delta: {error}") from error
    action = write_file(target.path, target.file(index), fitting, stats=[target.timestamp])
    _store(target.path).put(target.record(index), json.dumps(asdict(action)).encode())
    return action


def _written(join: Join, target: Target, parts: Sequence[Part]) -> Iterator[tuple[Part, AddAction]]:
    """Every part as it is done."""
    context = ray.put(join.context)
    running = {_write_part.remote(part, context, target): part for part in parts}
    try:
        while running:
            (ref,), _ = ray.wait(list(running), num_returns=1)
            with mlray_errors():
                action = ray.get(ref)
            yield running.pop(ref), action
    finally:
        for ref in running:
            ray.cancel(ref)


@ray.remote(num_cpus=1, max_retries=-1)
def _write_part(part: Part, context: Context, target: Target) -> AddAction:
    return write_part(compute(part, context).drop_columns([ROW]), target, part.index)


def _recorded(target: Target) -> dict[int, AddAction]:
    """The parts that an earlier try of the same build has written."""
    folder = target.record(0).rpartition("/")[0]
    found = {}
    for name in _names(target.path, folder):
        action = json.loads(bytes(_store(target.path).get(name).bytes()))
        found[int(name.rpartition("/")[2].removesuffix(".json"))] = AddAction(**action)
    return found


def _forget(path: str, keep: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """Removes all records, and the files that they speak of, but for those to keep."""
    store = _store(path)
    for name in _names(path, _RECORDS):
        file = json.loads(bytes(store.get(name).bytes()))["path"]
        for gone in [name] if file in keep else [file, name]:
            with suppress(FileNotFoundError):
                store.delete(gone)
    if "://" not in path:
        with suppress(OSError):  # not empty
            Path(path).rmdir()


def _names(path: str, folder: str) -> list[str]:
    return [entry["path"] for batch in _store(path).list(folder) for entry in batch]


def _store(path: str) -> Any:
    return from_url(path) if "://" in path else LocalStore(path, automatic_cleanup=True, mkdir=True)
