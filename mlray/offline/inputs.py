"""Where the events lie that a part of a training set needs, and reading them from there."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from mlray.features.rows import event_schema, events
from mlray.features.view import FeatureView
from mlray.offline import scan
from mlray.offline.cutting import GROUP_BYTES, together
from mlray.offline.delta import File
from mlray.offline.exchange import Cuts, exchange_events, gather
from mlray.offline.plan import Bounds, Group, Read, event_bounds, files_within
from mlray.offline.sliced import Pieces
from mlray.offline.tasks import Lane

_FEW = 16_384
"""Spine rows of a part that are worth a look at which row groups of the events they need."""


@dataclass(frozen=True, slots=True)
class Input:
    """The events of one reading for one part. places: references to what was cut, or files; rows: how many there are at
    most, None: not known; bounds: of the times that are needed.
    """

    places: tuple[Any, ...]
    rows: int | None
    bounds: Bounds


def moved(lane: Lane, read: Read, group: Group) -> Cuts | None:
    """A reading's events, moved; None where they are read where they lie."""
    return exchange_events(lane, read, group) if group.keys and read.layout is None else None


def bucket(read: Read, cuts: Cuts | None, group: Group, span: tuple[int, int] | None, index: int) -> Input:
    """What the part `index` needs of what `moved` gave; span: of the spine."""
    if cuts is not None:
        return Input(cuts.of(index), int(cuts.rows[index]), Bounds())
    if read.layout is not None:  # with powers of two, a bucket of many lies in bucket modulo few
        return _files(read.layout.files(index % read.layout.buckets), Bounds())
    bounds = event_bounds(read.view, _between(group.cuts, index, span))
    return _files(files_within(read.view, read.files, bounds), bounds)


def pieces(read: Read, given: Input, wanted: scan.Among | None, limit: int) -> Pieces:
    """The events: in one piece where they are at most `limit`, else one of each place. wanted: the keys, as `few_keys`
    gives them.
    """
    places = given.places
    few = given.rows is not None and given.rows <= limit
    if places and isinstance(places[0], File):
        within = wanted or _times(read.view, given.bounds)
        parts = [places] if few else together(places, GROUP_BYTES)
        each = tuple(partial(_read, read, files, within) for files in parts)
    else:
        each = tuple(partial(gather, refs) for refs in ([places] if few else [[ref] for ref in places]) if refs)
    return Pieces(event_schema(read.view, read.table.schema), given.rows, each)


def few_keys(read: Read, spine: pa.Table) -> scan.Among | None:
    """The keys that few spine rows ask for; only the first part of a key, and only if the table spells it itself."""
    if spine.num_rows > _FEW or not read.view.keys or read.view.keys[0] in read.view.source.select:
        return None
    key = read.view.keys[0]
    kind = read.table.schema.field(key).type
    column = spine.column(read.bound.spine_keys[0]).drop_null()
    if pa.types.is_string(kind):
        column = column.cast(pa.string()).cast(pa.binary())
    elif not pa.types.is_integer(kind):
        return None
    values = sorted(column.unique().to_pylist())
    return scan.Among(key, values) if values else None


def _files(files: tuple[File, ...], bounds: Bounds) -> Input:
    rows = [file.rows for file in files]
    return Input(files, None if None in rows else sum(count or 0 for count in rows), bounds)


def _between(cuts: Sequence[int], index: int, span: tuple[int, int] | None) -> tuple[int, int] | None:
    """The instants of the part `index` of a spine that is cut by time."""
    if span is None:
        return None
    return cuts[index - 1] if index else span[0], cuts[index] if index < len(cuts) else span[1]


def _times(view: FeatureView, bounds: Bounds) -> scan.Within | None:
    """Row groups are skipped by time where the table spells it itself."""
    column = view.source.timestamp
    if column is None or column in view.source.select or (bounds.low is None and bounds.high is None):
        return None
    return column, bounds.low, bounds.high


def _read(read: Read, files: Sequence[File | scan.Slice], within: scan.Within | scan.Among | None) -> pa.Table:
    return events(read.view, scan.read(files, read.table.schema, read.columns, read.who, within))
