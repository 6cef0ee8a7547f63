"""From files of a table to sorted files by bucket: the work of a managed layout, as Ray tasks over pure functions.

Scatter: a task reads some files and cuts their rows into parts, each of them some neighbouring buckets. Gather: a task
sorts the rows of one part and writes a file for each of its buckets. A task holds a group of files, or a part and the
small files of a bucket; what lies between is in the object store, which spills to disk. A task that is run again writes
the same bytes under the same names.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from deltalake.transaction import AddAction

from mlray._ray_compat import mlray_errors
from mlray.features.source import DeltaSource
from mlray.offline import scan
from mlray.offline.bucket import buckets
from mlray.offline.copies import BUCKET
from mlray.offline.cutting import GROUP_BYTES, cut, roomy, together
from mlray.offline.delta import File
from mlray.offline.ordering import in_order, marked
from mlray.offline.parquet import write_file
from mlray.offline.scan import Slice
from mlray.offline.tasks import Lane, consumed, task

MOST_FILES = 8
"""A bucket that would have more has its small ones folded into one."""

_CUT_BYTES = 512 << 20
"""Bytes of rows that are cut at a time."""

Note = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """Rows of a source into `buckets` buckets of `keys` under `root`.

    schema: the source's columns; parts: how many gather, a power of two like `buckets`, and not more; stem: names the
    files; full: the files of the buckets that cannot take one more, by bucket.
    """

    root: str
    source: DeltaSource
    keys: tuple[str, ...]
    schema: pa.Schema
    buckets: int
    parts: int
    stem: str
    full: Mapping[int, tuple[File, ...]]

    @property
    def who(self) -> str:
        return f"layout of source {self.source.name}"

    @property
    def statistics(self) -> list[str]:
        """The columns whose bounds are kept."""
        times = (self.source.timestamp, self.source.known_at, self.source.sequence)
        return [c for c in dict.fromkeys((*self.keys, *filter(None, times))) if c in self.schema.names]

    def of_part(self, part: int) -> "Job":
        """The job as one gathering task needs it."""
        width = self.buckets // self.parts
        return replace(self, full={b: files for b, files in self.full.items() if b // width == part})


@dataclass(frozen=True, slots=True)
class Written:
    """New files, and those whose rows they took over."""

    added: tuple[AddAction, ...] = ()
    folded: tuple[File, ...] = ()


def run(job: Job, files: Sequence[File], note: Note) -> Written:
    """Scatters the files and gathers their rows. note: told how far it is."""
    groups = _groups(files)
    scatter: Any = _scatter.options(num_returns=job.parts + 1)
    slim = replace(job, full={})
    with mlray_errors():
        lane = Lane(lambda n: note(f"{n} of {len(groups)} groups of files read"))
        cuts = [lane.start(partial(scatter.remote, slim, group), told=0) for group in groups]
        lane.end()
        counts = ray.get([refs[0] for refs in cuts])
        rows = np.sum(counts, axis=0) if counts else np.zeros(job.parts, dtype=np.int64)
        parts = [int(part) for part in np.flatnonzero(rows)]
        pieces = [(part, [refs[part + 1] for refs in cuts]) for part in parts]
        del cuts  # what a part needs goes from the object store when its task is done
        lane = Lane(lambda n: note(f"{n} of {len(parts)} parts of {int(rows.sum()):,} rows written"))
        starts = (partial(_gather.remote, job.of_part(part), part, *refs) for part, refs in consumed(pieces))
        tasks = [lane.start(start) for start in starts]
        lane.end()
        done = ray.get(tasks)
    return Written(tuple(a for one in done for a in one.added), tuple(file for one in done for file in one.folded))


def scattered(job: Job, files: Sequence[File | Slice]) -> list[pa.Table]:
    """The rows of the files that count, by part."""
    pieces: list[list[pa.Table]] = [[job.schema.empty_table()] for _ in range(job.parts)]
    for file in files:
        for rows in _slices(scan.read((file,), job.schema, job.schema.names, job.who)):
            found, kept = marked(job.source, job.keys, rows)
            parts = buckets(found.select(list(job.keys)), job.buckets) * job.parts // job.buckets
            for piece, rows_of_part in zip(pieces, cut(rows, parts, job.parts, kept), strict=True):
                piece.append(rows_of_part)
    return [pa.concat_tables(piece, promote_options="permissive") for piece in pieces]


def gathered(job: Job, part: int, pieces: Sequence[pa.Table]) -> Written:
    """Writes the rows of a part, one sorted file for each of its buckets that has any."""
    rows = pa.concat_tables(pieces, promote_options="permissive")
    added: list[AddAction] = []
    folded: list[File] = []
    for bucket, mine in _by_bucket(job, part, rows):
        small = _small(job.full.get(bucket, ()), mine.num_rows)
        held = scan.read(small, job.schema, job.schema.names, job.who)
        whole = in_order(job.source, job.keys, pa.concat_tables([roomy(held), mine], promote_options="permissive"))
        name, values = f"{BUCKET}={bucket}/{job.stem}-{bucket:05}.parquet", {BUCKET: str(bucket)}
        added.append(write_file(job.root, name, whole, stats=job.statistics, partition=values))
        folded += small
    return Written(tuple(added), tuple(folded))


def _by_bucket(job: Job, part: int, rows: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """The buckets of a part that have rows, and these."""
    width = job.buckets // job.parts
    if width == 1:
        yield part, roomy(rows)
        return
    found, kept = marked(job.source, job.keys, rows)
    of = buckets(found.select(list(job.keys)), job.buckets) - part * width
    for number, mine in enumerate(cut(rows, of, width, kept)):
        if mine.num_rows:
            yield part * width + number, mine


def _slices(rows: pa.Table) -> Iterator[pa.Table]:
    """The rows in pieces of bounded size."""
    pieces = -(-rows.nbytes // _CUT_BYTES) or 1
    size = -(-rows.num_rows // pieces) or 1
    yield from (rows.slice(start, size) for start in range(0, rows.num_rows, size))


def _small(files: Sequence[File], rows: int) -> list[File]:
    """The files to fold with as many new rows: one at least, then each that is not much larger than the smaller ones
    together. So a large file is rewritten only when what was added since weighs about half of it.
    """
    chosen: list[File] = []
    for file in sorted(files, key=lambda file: (file.rows or 0, file.path)):
        if len(files) - len(chosen) < MOST_FILES and (file.rows or 0) > 2 * rows:
            break
        chosen.append(file)
        rows += file.rows or 0
    return sorted(chosen, key=lambda file: file.path)


def _groups(files: Sequence[File]) -> list[tuple[Slice, ...]]:
    """What each task reads: enough tasks for every CPU."""
    resources: Any = ray.cluster_resources  # its annotation is missing
    cpus = int(resources().get("CPU", 1))
    return together(files, min(GROUP_BYTES, max(16 << 20, sum(file.size for file in files) // (2 * cpus))))


@task
def _scatter(job: Job, files: Sequence[Slice]) -> Any:
    pieces = scattered(job, files)
    return [np.array([piece.num_rows for piece in pieces], dtype=np.int64), *pieces]


@task
def _gather(job: Job, part: int, *pieces: pa.Table) -> Written:
    return gathered(job, part, pieces)
