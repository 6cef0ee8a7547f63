"""What a view answers from more events than are held at once.

The events lie in pieces, which are looked at one at a time. How many events each key has tells which keys are answered
together; a key with more than `LIMIT` events is answered in ranges of time, each from its own events and what of the
past its questions can still meet (`features.needed`). So no more is held than one piece and the events of one answer,
and no value changes. Only a `lifetime`, or a window that holds more than `LIMIT` events, takes what it takes.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mlray.aggregation.aggregate import Ranges
from mlray.aggregation.timeline import NOWHERE
from mlray.aggregation.window import Times, minus
from mlray.features import keys as typed_keys
from mlray.features.needed import needed
from mlray.features.rows import TS
from mlray.features.types import instants
from mlray.features.view import BoundView
from mlray.offline.answer import answer, held, keyless, spine_keys
from mlray.offline.cutting import wide

LIMIT = 4_000_000
"""Events that are answered at once."""
_TIMES = 1_000_000
"""Times that are looked at, of how many there may be, to cut the events of one key by time."""

Piece = Callable[[], pa.Table]


@dataclass(frozen=True, slots=True)
class Pieces:
    """Events (see `features.rows`) in places. rows: how many there are at most, None: not known; each: gives the events
    of a place.
    """

    schema: pa.Schema
    rows: int | None
    each: tuple[Piece, ...]

    @classmethod
    def of(cls, table: pa.Table) -> "Pieces":
        """Events that are here."""
        return cls(table.schema, table.num_rows, (lambda: table,))

    def batches(self, size: int) -> Iterator[pa.Table]:
        """All events, at most so many at a time."""
        for piece in self.each:
            rows = wide(piece())
            yield from (rows.slice(i, size) for i in range(0, rows.num_rows, size))

    def joined(self, tables: Iterable[pa.Table]) -> pa.Table:
        """Some of the events as one table."""
        return pa.concat_tables([*tables] or [self.schema.empty_table()], promote_options="permissive")


def answer_part(bound: BoundView, pieces: Pieces, block: pa.Table, timestamp: str, limit: int = LIMIT) -> pa.Table:
    """The view's features for a block of spine rows, from all events that the block's keys have."""
    if pieces.rows is not None and pieces.rows <= limit:
        return answer(bound, held(bound.view, pieces.joined(piece() for piece in pieces.each)), block, timestamp)
    answers, order = [], []
    for mine, rows in slices(bound, pieces, block, timestamp, limit):
        answers.append(answer(bound, held(bound.view, rows), block.take(pa.array(mine)), timestamp))
        order.append(mine)
    back = np.argsort(np.concatenate(order), kind="stable")
    return pa.concat_tables(answers, promote_options="permissive").take(pa.array(back))


def slices(
    bound: BoundView, pieces: Pieces, block: pa.Table, timestamp: str, limit: int
) -> Iterator[tuple[Ranges, pa.Table]]:
    """(positions of questions, events): every question once, with all events that it can meet."""
    sought = _Sought.of(bound, pieces, block, limit)
    counts = sought.counts()
    yield np.flatnonzero(sought.asked == NOWHERE), pieces.schema.empty_table()
    for first, last in runs(counts, limit):
        mine = np.flatnonzero((sought.asked >= first) & (sought.asked < last))
        many = int(counts[first:last].sum()) > limit
        if len(mine) and many and bound.view.source.timestamp is not None:
            yield from _by_time(sought, first, mine, block, timestamp, limit)
        elif len(mine):
            yield mine, sought.events(first, last)


def runs(counts: Ranges, limit: int) -> Iterator[tuple[int, int]]:
    """Half-open runs of neighbouring codes whose counts add up to at most `limit`, or of one code that has more."""
    total = np.cumsum(counts)
    first = 0
    while first < len(counts):
        before = int(total[first - 1]) if first else 0
        last = max(int(np.searchsorted(total, before + limit, side="right")), first + 1)
        yield first, last
        first = last


@dataclass(frozen=True, slots=True)
class _Sought:
    """The keys that a block asks for, and their events. asked: per row of the block its key's code; size: of the events
    that are looked at together.
    """

    bound: BoundView
    pieces: Pieces
    dictionary: pa.Table
    asked: Ranges
    size: int

    @classmethod
    def of(cls, bound: BoundView, pieces: Pieces, block: pa.Table, size: int) -> "_Sought":
        columns = spine_keys(bound, block, pa.schema([pieces.schema.field(key) for key in bound.view.keys]))
        keys = pa.table(columns, names=list(bound.view.keys)) if columns else keyless(block.num_rows)
        whole = typed_keys.complete(columns, block.num_rows)
        dictionary, codes = typed_keys.distinct(keys if whole.all() else keys.filter(pa.array(whole)))
        asked = np.full(block.num_rows, NOWHERE)
        asked[whole] = codes
        return cls(bound, pieces, dictionary, asked, size)

    def coded(self, rows: pa.Table) -> Ranges:
        """The code of every event, NOWHERE where nobody asks for its key."""
        keys = rows.select(list(self.bound.view.keys)) if self.bound.view.keys else keyless(rows.num_rows)
        return typed_keys.codes(keys, self.dictionary)

    def counts(self) -> Ranges:
        """How many events each key has."""
        total = np.zeros(int(self.asked.max(initial=0)) + 1, dtype=np.int64)
        for rows in self.pieces.batches(self.size):
            codes = self.coded(rows)
            total += np.bincount(codes[codes != NOWHERE], minlength=len(total))
        return total

    def times(self, code: int, step: int) -> Times:
        """Every so many-th time of a key's events, in order."""
        batches = self.pieces.batches(self.size)
        return np.sort(np.concatenate([rows[TS].to_numpy()[self.coded(rows) == code][::step] for rows in batches]))

    def events(self, first: int, last: int) -> pa.Table:
        """Those of the keys with codes from `first` to `last`, which is out."""

        def pick(rows: pa.Table) -> pa.Table:
            codes = self.coded(rows)
            return rows.take(pa.array(np.flatnonzero((codes >= first) & (codes < last))))

        return self.pieces.joined(map(pick, self.pieces.batches(self.size)))

    def met(self, code: int, first: int, last: int) -> pa.Table:
        """Those of one key that a question from the instant `first` to `last`, in microseconds, can meet."""

        def pick(rows: pa.Table) -> pa.Table:
            mine = (self.coded(rows) == code) & (rows.column(TS).to_numpy() <= last)
            found = rows.take(pa.array(np.flatnonzero(mine)))
            kept = needed(self.bound.view, found, first, np.zeros(found.num_rows, dtype=np.int64))
            return found if kept.all() else found.filter(pa.array(kept))

        return self.pieces.joined(map(pick, self.pieces.batches(self.size)))


def _by_time(
    sought: _Sought, code: int, mine: Ranges, block: pa.Table, timestamp: str, limit: int
) -> Iterator[tuple[Ranges, pa.Table]]:
    """The questions about one key in order of time, cut where its events reach `limit`."""
    view, at = sought.bound.view, instants(block.column(timestamp), f"spine column '{timestamp}'")
    mine = mine[np.argsort(at.floor[mine], kind="stable")]
    step = max(limit // _TIMES, 1)
    cuts = sought.times(code, step)[limit // step - 1 :: limit // step]
    for part in np.split(mine, np.searchsorted(minus(at.floor[mine], view.source.lag_us), cuts)):
        if len(part):
            first, last = int(at.floor[part[0]]), int(at.ceil[part].max())
            yield part, sought.met(code, first, last)
