"""New rows of a source: to Delta first, then to every online view of it.

Delta is the truth. Rows of one call, or of many, are one commit; its version is the name of the batch online, so
writing it again changes nothing. A crash between the two is made good before the next batch: commits that a view has
not seen are read back and pushed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from mlray.errors import Conflict, MlrayError, SchemaError, StoreError, TimeError
from mlray.features.rows import TS, events, raw_columns
from mlray.features.source import DeltaSource
from mlray.features.types import INSTANT
from mlray.features.view import FeatureView
from mlray.offline import compaction, delta
from mlray.offline.appends import Appended, Appender, Batch, fitted, transaction
from mlray.offline.compaction import Compacted
from mlray.online import state
from mlray.online.store import OnlineStore

Views = Callable[[], tuple[Sequence[FeatureView], Sequence[FeatureView]]]
"""The views of a source: those in force, and those no longer in force that are fed as long as the rows still fit."""
Made: TypeAlias = Sequence[tuple[FeatureView, pa.Table]]
"""Views that rows go to, each with its events in them."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Ingested:
    """What one call added. version: the Delta commit; None where the idempotency key was used before."""

    source: str
    rows: int
    version: int | None
    views: tuple[str, ...]


def ingest(
    store: OnlineStore,
    source: DeltaSource,
    views: Sequence[FeatureView],
    rows: pa.Table,
    lake: str,
    *,
    now: int,
    idempotency_key: str | None = None,
    past: Sequence[FeatureView] = (),
    future: int | None = None,
) -> Ingested:
    """Appends rows to the source's table and pushes their events to its views.

    now: microseconds UTC, stamped as `known_at` where that column is absent. idempotency_key: scoped to the source; a
    call with a used key adds nothing. past: views no longer in force, fed as long as the rows still fit them. future:
    an event that is later than so many microseconds after `now` is refused with TimeError; None: none is.
    """
    feed = Feed(store, source, lake, lambda: (views, past), future)
    if not rows.num_rows:
        return feed.nothing
    [answer] = feed.commit([feed.batch(rows, now, idempotency_key)], now)
    if isinstance(answer, MlrayError):
        raise answer
    return answer


def repair(store: OnlineStore, source: DeltaSource, views: Sequence[FeatureView], lake: str) -> int:
    """Pushes the commits that materialised views of the source have not seen; gives how many.

    A commit that changed or removed rows is left to the next materialize; until then the view is not complete.
    """
    path, pushed = delta.resolve(lake, source.path), 0
    newest = Appender(path, f"source {source.name}").version() if views else None
    if newest is None:
        return 0
    for view in views:
        for version in range(state.applied(store, view, otherwise=newest) + 1, newest + 1):
            rows = delta.commit(path, version, raw_columns(view))
            if rows is None:
                state.leave_gap(store, view, version)
                continue
            batch = events(view, rows)
            state.check_schema(store, view, batch.schema)
            state.push(store, view, batch, version=version, whole=version == 0)
            pushed += 1
    return pushed


class Feed:
    """A source's table and its online views: where calls go in, alone or many at a time.

    `batch` may be called by any thread, `commit` by one at a time. future: see `ingest`.
    """

    def __init__(
        self, store: OnlineStore, source: DeltaSource, lake: str, views: Views, future: int | None = None
    ) -> None:
        self.store, self.source, self.lake = store, source, lake
        self.complete = False
        """Whether the views are known to have seen every commit; where not, the next commit begins with a repair."""
        self.newest: int | None = None
        """The time of the newest event that was pushed, microseconds UTC."""
        self._views, self._future = views, future
        self._who, self._path = f"source {source.name}", delta.resolve(lake, source.path)
        self._appender, self._table = Appender(self._path, self._who), Lock()
        self._schema: pa.Schema | None = None

    @property
    def nothing(self) -> Ingested:
        """What adds nothing is answered with."""
        return Ingested(self.source.name, 0, None, ())

    def batch(self, rows: pa.Table, now: int, key: str | None) -> Batch:
        """A call's rows in the table's columns and types, stamped; SchemaError, TimeError where they do not fit."""
        rows = _stamped(self.source, rows, now)
        _check_times(self.source, rows, now, self._future)
        try:
            rows = fitted(rows, self._schema or self._columns(rows), self._who)
        except SchemaError:  # the table may have changed since it was looked at
            rows = fitted(rows, self._columns(rows), self._who)
        return Batch(rows, transaction(self.source.name, key))

    def commit(self, batches: Sequence[Batch], now: int) -> list[Ingested | MlrayError]:
        """One commit of all that fit, then one push per view; an answer per batch. Where the rows of some do not fit
        a view, these are refused alone.
        """
        try:
            self.repair()
            schema = self._columns(batches[0].rows)
            batches = [Batch(fitted(batch.rows, schema, self._who), batch.name) for batch in batches]
            made = self._made(pa.concat_tables([batch.rows for batch in batches]), now)
            with self._table:
                appended = self._appender.append(batches)
        except (StoreError, Conflict) as error:  # not for what the rows are
            self._schema = None
            return [error] * len(batches)
        except MlrayError as error:
            self._schema = None
            return [error] if len(batches) == 1 else [self.commit([batch], now)[0] for batch in batches]
        try:
            self._push(batches, appended, made)
        except MlrayError as error:
            return [error] * len(batches)
        names = tuple(view.name for view, _ in made)
        return [
            Ingested(self.source.name, batch.rows.num_rows, appended.version, names) if new else self.nothing
            for batch, new in zip(batches, appended.new, strict=True)
        ]

    def repair(self) -> int:
        """`repair` of all views, unless they are known to be complete."""
        if self.complete:
            return 0
        views, past = self._views()
        pushed = repair(self.store, self.source, views, self.lake)
        for view in past:
            try:
                pushed += repair(self.store, self.source, [view], self.lake)
            except SchemaError:  # the table has moved on without it
                _leave(self.store, view)
        self.complete = True
        return pushed

    def managed(self) -> bool:
        """Whether mlray made the table."""
        return delta.exists(self._path) and compaction.managed(self._path)

    def compact(self) -> Compacted:
        """Folds the table's small files, while `commit` goes on."""
        return compaction.compact(self._path, self.source.name, self.source.timestamp, self._table)

    def _push(self, batches: Sequence[Batch], appended: Appended, made: Made) -> None:
        """To every view, also to one that came into force during the commit; then none lacks it. Of a batch that was
        there before it is made sure, too.
        """
        self.complete = False  # until this is over
        if appended.version is None:
            self.repair()
            return
        pushed = self._to_push(batches, appended, made)
        for view, batch in pushed:
            state.check_schema(self.store, view, batch.schema)
            state.push(self.store, view, batch, version=appended.version, whole=appended.version == 0)
            if view.source.timestamp and batch.num_rows:
                self.newest = max(pc.max(batch.column(TS)).as_py(), self.newest or -(2**63))
        seen = [state.applied(self.store, view, otherwise=appended.version) for view, _ in pushed]
        if min(seen, default=appended.version) < appended.version or not all(appended.new):  # others commit, too
            repair(self.store, self.source, [view for view, _ in pushed], self.lake)
        self.complete = True

    def _to_push(self, batches: Sequence[Batch], appended: Appended, made: Made) -> Made:
        """The views and what each gets: mostly what was made before the commit."""
        later = [view for view in self._views()[0] if all(view != known for known, _ in made)]
        if not later and all(appended.new) and batches[0].rows.schema.equals(appended.schema):
            return made
        added = [batch.rows for batch, new in zip(batches, appended.new, strict=True) if new]
        rows = fitted(pa.concat_tables(added), appended.schema, self._who)
        return [(view, events(view, rows)) for view in [*(view for view, _ in made), *later]]

    def _made(self, rows: pa.Table, now: int) -> Made:
        """SchemaError where the rows do not fit a view in force."""
        views, past = self._views()
        made = [(view, events(view, rows)) for view in views]
        for view, batch in made:
            state.check_schema(self.store, view, batch.schema)
            if view.source.timestamp:
                _check_latest(view.source, batch.column(TS), now, self._future)
        fed = [(view, _still_fitting(self.store, view, rows)) for view in past]
        return [*made, *((view, batch) for view, batch in fed if batch is not None)]

    def _columns(self, rows: pa.Table) -> pa.Schema:
        with self._table:
            self._schema = self._appender.schema(rows.schema)
        return self._schema


def _still_fitting(store: OnlineStore, view: FeatureView, rows: pa.Table) -> pa.Table | None:
    """The events of a view no longer in force; None where the rows do not fit it: it has a gap then, and is stale."""
    try:
        batch = events(view, rows)
        state.check_schema(store, view, batch.schema)
    except SchemaError:
        _leave(store, view)
        return None
    return batch


def _leave(store: OnlineStore, view: FeatureView) -> None:
    state.leave_gap(store, view, state.applied(store, view, otherwise=-1))


def _stamped(source: DeltaSource, rows: pa.Table, now: int) -> pa.Table:
    """The rows with one known_at for all where the source declares it and they bring none."""
    if source.known_at is None or source.known_at in rows.column_names:
        return rows
    return rows.append_column(source.known_at, pa.repeat(pa.scalar(now, INSTANT), rows.num_rows))


def _check_times(source: DeltaSource, rows: pa.Table, now: int, future: int | None) -> None:
    """The event times where they stand in the rows; those that a `select` makes are seen with the views."""
    column = source.timestamp
    if future is None or column is None or column in source.select or column not in rows.column_names:
        return
    times = rows.column(column)
    if pa.types.is_timestamp(times.type):
        whole = times.cast(pa.timestamp("us", tz=times.type.tz), safe=False)
        _check_latest(source, whole.cast(pa.int64()), now, future)


def _check_latest(source: DeltaSource, times: pa.ChunkedArray, now: int, future: int | None) -> None:
    latest = pc.max(times).as_py()
    if future is None or latest is None or latest <= now + future:
        return
    raise TimeError(
        f"source {source.name}: column '{source.timestamp}' holds {_text(latest)}, which is later than now "
        f"({_text(now)}) by more than the tolerance of {timedelta(microseconds=future)}; nothing was added. Correct "
        "the row or the clock, or set `future` in the settings"
    )


def _text(microseconds: int) -> str:
    try:
        return (_EPOCH + timedelta(microseconds=microseconds)).isoformat()
    except OverflowError:
        return f"{microseconds} microseconds after 1970"
