"""A training set as a Delta table: every part writes its own file, and one commit makes them a table.

A part that is written leaves a record beside the table, which no reader of the table sees. A build that was cut off
goes on from the records of the same build; the same names are written again, so nothing is there twice.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from deltalake.transaction import AddAction
from obstore.store import LocalStore, from_url

from mlray.errors import Conflict, MlrayError, SchemaError
from mlray.offline import delta
from mlray.offline.cutting import retyped
from mlray.offline.join import Context, Join, Part, compute
from mlray.offline.parquet import commit_new, stored_schema, write_file
from mlray.offline.spine import ROW
from mlray.offline.tasks import as_done, task

_RECORDS = "_mlray"
_FILE = re.compile(r"part-[0-9a-f]{16}-\d{5}\.parquet(\.[0-9a-f]{32})?")
"""A part of any build, or one half-written."""


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

    @property
    def stem(self) -> str:
        """What the names of the files of this build begin with."""
        return f"part-{self.build[:16]}-"

    @property
    def records(self) -> str:
        return f"{_RECORDS}/{self.build[:32]}"

    def file(self, index: int) -> str:
        return f"{self.stem}{index:05}.parquet"

    def record(self, index: int) -> str:
        return f"{self.records}/{index:05}.json"


def write(
    join: Join,
    path: str,
    schema: pa.Schema,
    fingerprint: str,
    description: str,
    progress: Callable[[BuildProgress], None],
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Writes the join's rows as a new Delta table at `path`, of this description. Conflict where there is a table
    already.
    """
    path = located(path)
    if delta.exists(path):
        raise _taken(path)
    started = clock()
    stored = stored_schema(schema, f"the training set for {path}")
    target = Target(path, build_of(join, fingerprint), stored, join.timestamp)
    done = _recorded(target)
    try:
        rows = resumed = sum(part.rows for part in join.parts if part.index in done)
        context = ray.put(join.context)
        left = [part for part in join.parts if part.index not in done]
        for part, action in as_done(lambda part: _write_part.remote(part, context, target), left):
            done[part.index] = action
            rows += part.rows
            progress(BuildProgress(len(done), len(join.parts), rows, clock() - started, resumed))
        if set(map(target.file, done)) - _files(path).keys():
            raise Conflict(f"files of the training set at {path} are gone; another process that wrote it, too, failed")
        commit_new(path, stored, [done[part.index] for part in join.parts], description=description)
    except MlrayError as error:  # it would fail again; what was cut off from outside may go on
        _forget_build(target)
        if delta.exists(path):
            raise _taken(path) from error
        raise
    _forget_others(target, set(map(target.file, done)))


def located(path: str) -> str:
    """A local path made absolute, for workers have other current directories; URLs of elsewhere as they are."""
    path = path.removeprefix("file://")
    return path if "://" in path else str(Path(path).absolute())


def build_of(join: Join, fingerprint: str) -> str:
    """Names a build by what decides the rows of each of its parts."""
    tables = sorted({(read.view.source.name, read.table.id, read.table.version) for read in join.planned})
    code = [version(name) for name in ("mlray", "pyarrow", "polars", "numpy")]
    return hashlib.sha256(json.dumps([fingerprint, tables, join.shape, code]).encode()).hexdigest()


def write_part(rows: pa.Table, target: Target, index: int) -> AddAction:
    """Writes one part, then its record."""
    try:
        fitting = retyped(rows, target.schema)
    except pa.ArrowInvalid as error:
        raise SchemaError(f"the training set for {target.path} does not fit the types of Delta: {error}") from error
    action = write_file(target.path, target.file(index), fitting, stats=[target.timestamp])
    _store(target.path).put(target.record(index), json.dumps(asdict(action)).encode())
    return action


@task
def _write_part(part: Part, context: Context, target: Target) -> AddAction:
    return write_part(compute(part, context).drop_columns([ROW]), target, part.index)


def _taken(path: str) -> Conflict:
    return Conflict(f"there is a Delta table at {path} already; write to another path, or remove it first")


def _recorded(target: Target) -> dict[int, AddAction]:
    """The parts that an earlier try of the same build has written."""
    store, there = _store(target.path), _files(target.path)
    found = {}
    for name in _names(store, target.records):
        action = AddAction(**json.loads(bytes(store.get(name).bytes())))
        if there.get(action.path) == action.size:
            found[int(name.rpartition("/")[2].removesuffix(".json"))] = action
    return found


def _forget_build(target: Target) -> None:
    """Removes what this build wrote, but for what another process that wrote the same has made a table of."""
    held: set[str] = set()
    if delta.exists(target.path):
        first = delta.table_at(target.path, "a training set", 0)
        held = {file.path.rpartition("/")[2] for file in first.files}
    mine = [name for name in _files(target.path) if name.startswith(target.stem) and name not in held]
    _remove(target.path, [*mine, *_names(_store(target.path), target.records)])
    if "://" not in target.path:
        with suppress(OSError):  # not empty
            Path(target.path).rmdir()


def _forget_others(target: Target, held: set[str]) -> None:
    """Removes all that any build left here, but for what is held; none of them can become a table any more."""
    others = [name for name in _files(target.path) if _FILE.fullmatch(name) and name not in held]
    _remove(target.path, [*others, *_names(_store(target.path), _RECORDS)])


def _remove(path: str, names: Sequence[str]) -> None:
    store = _store(path)
    for name in names:
        with suppress(FileNotFoundError):  # another process was quicker
            store.delete(name)


def _files(path: str) -> dict[str, int]:
    """The names and sizes of the files at the top of the table's folder."""
    return {entry["path"]: entry["size"] for entry in _store(path).list_with_delimiter()["objects"]}


def _names(store: Any, folder: str) -> list[str]:
    return [entry["path"] for batch in store.list(folder) for entry in batch]


def _store(path: str) -> Any:
    return from_url(path) if "://" in path else LocalStore(path, automatic_cleanup=True, mkdir=True)
