"""How each view of a training set is read and joined, chosen from the Delta log before anything is read.

- broadcast: a small table is read and ordered by one task, and every block of the spine meets all of it.
- co-partitioned: the table has a managed copy in buckets of the key; only the spine is moved, one task per bucket.
- shuffle: any other table; its events, too, are moved into buckets of the key. Without a key the spine is moved into
  ranges of time, and each part reads what it can meet of the table's files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa

from mlray.aggregation.window import EARLIEST
from mlray.features.rows import raw_columns
from mlray.features.service import FeatureService
from mlray.features.view import BoundView, FeatureView
from mlray.offline import delta, layout, scan
from mlray.offline.layout import Layout

Strategy = Literal["auto", "broadcast", "shuffle", "co-partitioned"]

BROADCAST_BYTES = 256 << 20
BROADCAST_ROWS = 2_000_000
"""A table is broadcast if what is to be read of it is at most this large."""
_BYTES_PER_PART, _ROWS_PER_PART = 64 << 20, 1_000_000
_FEWEST_PARTS, _MOST_PARTS = 8, 512
_SHARE = 8
"""A managed copy is read whole, and at about an eighth of a shuffle's cost a row."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Event times that some spine row can meet, both ends in, in microseconds; None: open. known: latest known_at."""

    low: int | None = None
    high: int | None = None
    known: int | None = None


@dataclass(frozen=True)
class Read:
    """One reading of a view, planned. index: its position in the service; files: what is read of the table, or of its
    managed copy where `layout` is there; refresh: the copy is made, or brought up to date, before.
    """

    index: int
    bound: BoundView
    table: delta.Table
    join: Strategy
    reason: str
    bounds: Bounds
    files: tuple[delta.File, ...]
    layout: Layout | None = None
    refresh: bool = False
    asked: Strategy = "auto"

    @property
    def view(self) -> FeatureView:
        return self.bound.view

    @property
    def prefix(self) -> str:
        """Names the columns in which an answer travels."""
        return f"__answer{self.index}."

    @property
    def who(self) -> str:
        """Names what is read, in a message."""
        return f"feature view {self.view.name}: source {self.view.source.name}, {self.table.name}"

    @property
    def rows(self) -> int:
        return sum(file.rows or 0 for file in self.files)

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def columns(self) -> list[str]:
        """The columns of the table that are read."""
        return raw_columns(self.view)


@dataclass(frozen=True)
class Group:
    """Readings by the same spine columns and key types: one partitioning of the spine serves them all.

    parts: a power of two, at least the number of buckets of every managed copy among them; cuts: without keys, the
    instants in microseconds, in order, at which a part ends and the next begins.
    """

    keys: tuple[str, ...]
    types: pa.Schema
    reads: tuple[Read, ...]
    parts: int
    cuts: tuple[int, ...] = ()


def plan(
    service: FeatureService,
    tables: Mapping[str, delta.Table],
    lake: str,
    join: Strategy,
    span: tuple[int, int] | None,
) -> tuple[Read, ...]:
    """How each reading of the service is joined, and why. tables: by source name; span: the spine's earliest and latest
    instant in microseconds, None where it has none.
    """
    return tuple(_planned(i, bound, tables[bound.view.source.name], lake, join, span) for i, bound in _each(service))


def _each(service: FeatureService) -> Sequence[tuple[int, BoundView]]:
    return list(enumerate(service.reads))


def _planned(
    index: int, bound: BoundView, table: delta.Table, lake: str, join: Strategy, span: tuple[int, int] | None
) -> Read:
    view = bound.view
    bounds = event_bounds(view, span)
    files = files_within(view, table.files, bounds) if span is not None else ()
    read = Read(index, bound, table, join, "as asked", bounds, files, asked=join)
    small = f"{read.rows:,} rows, {read.size:,} bytes"
    told = all(file.rows is not None for file in files)  # else a small file may hold many
    fits = read.rows <= BROADCAST_ROWS and read.size <= (BROADCAST_BYTES if told else BROADCAST_BYTES // 8)
    if not view.keys:
        return _global(read, fits or join == "broadcast")
    if join == "auto" and fits:
        return replace(read, join="broadcast", reason=f"{small}: small enough to share with every worker")
    if join in ("auto", "co-partitioned"):
        return _copied(read, lake, join)
    return read


def _global(read: Read, shared: bool) -> Read:
    """One global row has no key to part by. Of a table without time there is nothing that some part does not need."""
    if shared or read.view.source.timestamp is None:
        return replace(read, join="broadcast", reason="one global row: there is no key to partition by")
    text = f"{read.rows:,} rows, {read.size:,} bytes of one global row: parted by the spine's time"
    return replace(read, join="shuffle", reason=text)


def _copied(read: Read, lake: str, join: Strategy) -> Read:
    """Co-partitioned where there is a managed copy of this version, or one is to be had; else shuffled."""
    view, version = read.view, read.table.version
    found = layout.find(lake, view.source, view.keys, mirrors=version)
    read = replace(read, join="co-partitioned")
    told = all(file.rows is not None for file in read.files)
    if found is not None and join == "auto" and told and read.rows * _SHARE <= found.table.rows:
        text = f"{read.rows:,} rows may be met by the spine's times, of {found.table.rows:,} in its managed copy"
        return replace(read, join="shuffle", reason=text)
    if found is not None:
        text = f"its managed copy has {found.buckets} buckets of the key"
        return replace(read, layout=found, files=found.table.files, reason=text)
    behind = layout.find(lake, view.source, view.keys)
    if behind is not None and behind.source_version < version:
        text = f"its managed copy mirrors version {behind.source_version} and is brought up to date first"
        return replace(read, refresh=True, reason=text)
    if join == "co-partitioned" or (behind is None and layout.wanted(read.table)):
        return replace(read, refresh=True, reason="a managed copy in buckets of the key is made first")
    text = f"{read.rows:,} rows, {read.size:,} bytes and no managed copy of version {version}: see mlray layout"
    return replace(read, join="shuffle", reason=text)


def event_bounds(view: FeatureView, span: tuple[int, int] | None) -> Bounds:
    """What of a view's source rows asked within the span can meet."""
    if span is None:
        return Bounds()
    known = span[1] if view.source.known_at else None
    if view.source.timestamp is None:
        return Bounds(known=known)
    starts = [span[0] - view.source.lag_us - view.ttl_us] if view.columns and view.ttl_us is not None else []
    starts += [span[0] - view.reach] if view.aggregates and view.reach is not None else []
    open_ = (view.columns and view.ttl_us is None) or (view.aggregates and view.reach is None)
    low, high = None if open_ else min(starts), span[1] - view.source.lag_us
    return Bounds(None if low is None or low < EARLIEST else low, max(high, EARLIEST), known)


def files_within(view: FeatureView, files: tuple[delta.File, ...], bounds: Bounds) -> tuple[delta.File, ...]:
    """The files that may hold rows within the bounds; of columns that `select` replaces nothing is known."""
    source = view.source
    if source.timestamp is not None and source.timestamp not in source.select:
        files = scan.pruned(files, source.timestamp, bounds.low, bounds.high)
    if source.known_at is not None and source.known_at not in source.select:
        files = scan.pruned(files, source.known_at, None, bounds.known)
    return files


def without_files(read: Read) -> Read:
    """The same for a task that is told its files."""
    return replace(read, files=(), layout=None, table=replace(read.table, files=()))


def groups(reads: Sequence[Read], types: Mapping[int, pa.Schema], rows: int) -> tuple[Group, ...]:
    """The partitionings that the reads which are not broadcast need, the one that moves most first.

    types: of the event keys, by index; rows: of the spine.
    """
    found: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Read]] = {}
    for read in reads:
        if read.join != "broadcast":
            found.setdefault((read.bound.spine_keys, tuple(map(str, types[read.index].types))), []).append(read)
    made = [
        Group(keys, types[members[0].index], tuple(members), _parts(members, rows))
        for (keys, _), members in found.items()
    ]
    return tuple(sorted(made, key=lambda group: -sum(read.rows for read in group.reads)))


def _parts(reads: Sequence[Read], rows: int) -> int:
    """As many as the managed copies have buckets; more only where parts would grow too large. Where one global row
    looks back without a limit, every part reads all that came before: as many as the spine alone makes worth it.
    """
    if any(not read.view.keys and read.bounds.low is None for read in reads):
        return min(1 << max(rows * _FEWEST_PARTS // _ROWS_PER_PART - 1, 0).bit_length(), _MOST_PARTS)
    copies = [read.layout.buckets for read in reads if read.layout is not None]
    moved = [read for read in reads if read.layout is None]
    needed = [rows // _ROWS_PER_PART, *copies]
    needed += [max(read.size // _BYTES_PER_PART, read.rows // _ROWS_PER_PART) for read in moved]
    parts = 1 << max(max(needed) - 1, 0).bit_length()
    return max([min(parts, _MOST_PARTS), *(copies or [_FEWEST_PARTS])])


def explained(reads: Sequence[Read]) -> list[str]:
    """One line per reading: join, source and version, rows, files, columns and bytes, and the reason."""
    return [_line(read) for read in reads]


def _line(read: Read) -> str:
    files = f"{len(read.files)} of {len(read.table.files)} files" if read.layout is None else "its managed copy"
    share = sum(_width(read.table.schema.field(c).type) for c in read.columns)
    whole = sum(_width(field.type) for field in read.table.schema) or 1
    return (
        f"  {read.view.name}: {read.join} of {read.view.source.name} version {read.table.version} ({files}, "
        f"{len(read.columns)} of {len(read.table.schema)} columns, {read.rows:,} rows, about "
        f"{read.size * share // whole:,} of {read.table.size:,} bytes); {read.reason}"
    )


def _width(kind: pa.DataType) -> int:
    """Bytes of a value, roughly, to tell what share of a file its columns are."""
    try:
        return max(int(kind.bit_width) // 8, 1)
    except ValueError:
        return 16
