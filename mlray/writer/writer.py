"""The writer of one lake and one online store: a lane per source, each independent of the others; knows no Ray.

Where a push has failed, or a process before this one has died between Delta and the online store, the views are made
complete before the next commit, and by `start` without waiting for one.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from threading import Event, Lock, Thread

import numpy as np
import pyarrow as pa

from mlray.features.applied import Applied
from mlray.features.source import DeltaSource
from mlray.features.view import FeatureView
from mlray.ingest import Feed, Ingested
from mlray.offline.appends import Batch
from mlray.offline.compaction import Compacted
from mlray.online.state import has_state
from mlray.online.store import OnlineStore
from mlray.writer.lane import Done, Lane, Limits

logger = logging.getLogger(__name__)

FUTURE = timedelta(minutes=10)
"""How much later than now an event may be."""
REPAIR_EVERY = 5.0
"""Seconds between attempts to make views complete."""
FOLD_EVERY = 64
"""Commits after which a table's small files are folded."""
LIMITS = Limits()
_RECENT = 10_000


@dataclass(frozen=True)
class Stats:
    """What a source took since the writer started.

    waiting: rows; newest: event time of the newest readable event, microseconds UTC; age: seconds since then; p50, p99:
    seconds from a call until its rows could be read, of the latest calls; problem: why views may be incomplete.
    """

    source: str
    waiting: int
    rows: int
    calls: int
    commits: int
    newest: int | None
    age: float | None
    p50: float | None
    p99: float | None
    problem: str | None


Watch = Callable[[str, Sequence[float], int | None], None]
"""Told of each commit: the source, the seconds of each call, and the newest readable event; and of the last of these
now and then while nothing comes, for it grows older.
"""


class Writer:
    """clock: microseconds UTC, when a call comes in. future: an event later than now by more is refused.

    watch: see `Watch`. fold: see `FOLD_EVERY`; 0: never.
    """

    def __init__(
        self,
        lake: str,
        store: OnlineStore,
        *,
        clock: Callable[[], int],
        future: timedelta = FUTURE,
        limits: Limits = LIMITS,
        watch: Watch = lambda *_: None,
        fold: int = FOLD_EVERY,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.lake, self.store = lake, store
        self._applied, self._clock, self._limits, self._watch = Applied(lake), clock, limits, watch
        self._future, self._fold, self._timer = future // timedelta(microseconds=1), fold, timer
        self._sources: dict[DeltaSource, _Source] = {}
        self._opening, self._ended = Lock(), Event()
        self._keeper: Thread | None = None

    def ingest(self, source: DeltaSource, rows: pa.Table, key: str | None = None) -> Ingested:
        """`submit`, and the answer."""
        return self.submit(source, rows, key).result()

    def submit(self, source: DeltaSource, rows: pa.Table, key: str | None = None) -> "Future[Ingested]":
        """Takes rows; the future gives what they added, once they are in Delta and can be read online.

        key: an idempotency key, scoped to the source. At once, with nothing added: Busy where too many rows wait;
        SchemaError, TimeError where a row does not fit.
        """
        self.admit(source, rows.num_rows)
        return self.accept(source, rows, key)

    def admit(self, source: DeltaSource, rows: int) -> None:
        """Makes room for so many rows, to be used by `accept`; never waits. Busy where there is none."""
        self._source(source).lane.admit(rows)

    def accept(self, source: DeltaSource, rows: pa.Table, key: str | None = None) -> "Future[Ingested]":
        """The rest of `submit`."""
        to = self._source(source)
        try:
            if rows.num_rows:
                return to.lane.put(to.feed.batch(rows, self._clock(), key), rows.num_rows)
        except BaseException:
            to.lane.release(rows.num_rows)
            raise
        empty: Future[Ingested] = Future()
        empty.set_result(to.feed.nothing)
        return empty

    def repair(self) -> None:
        """Makes the views of every source in force complete, where they are not; what fails is told by `stats`."""
        try:
            sources = {s.name: s for name in self._applied.names() for s in self._applied.get(name).sources}
        except Exception as error:  # noqa: BLE001  whatever the lake's store raises, it is asked again
            logger.warning("writer: the definitions in %s cannot be read: %s", self.lake, error)
            return
        for source in sources.values():
            self._source(source).repair()

    def start(self) -> None:
        """`repair`, and to tell who watches, now and then, in a thread of its own, until `stop`."""
        self._keeper = Thread(target=self._keep, name="mlray-writer-keeper", daemon=True)
        self._keeper.start()

    def stop(self) -> None:
        """Refuses new calls, and returns when those accepted are answered."""
        self._ended.set()
        for one in list(self._sources.values()):
            one.lane.close()
            one.join()
        if self._keeper is not None:
            self._keeper.join()

    def stats(self) -> list[Stats]:
        """Per source that this writer has looked at."""
        return [one.stats(self._clock()) for one in list(self._sources.values())]

    def compact(self, source: DeltaSource) -> Compacted:
        """Folds the small files of the source's table, whoever made it."""
        return self._source(source).feed.compact()

    def _source(self, source: DeltaSource) -> "_Source":
        found = self._sources.get(source)
        if found is not None:
            return found
        with self._opening:
            if source not in self._sources:
                feed = Feed(self.store, source, self.lake, partial(self._views, source), self._future)
                self._sources[source] = _Source(feed, self._limits, self._clock, self._watch, self._fold, self._timer)
                if self._ended.is_set():
                    self._sources[source].lane.close()
            return self._sources[source]

    def _views(self, source: DeltaSource) -> tuple[list[FeatureView], list[FeatureView]]:
        past = self._applied.past_views_of(source)
        return self._applied.views_of(source), [view for view in past if has_state(self.store, view)]

    def _keep(self) -> None:
        self.repair()
        while not self._ended.wait(REPAIR_EVERY):
            self.repair()
            for one in list(self._sources.values()):
                one.tell(())


class _Source:
    """A source's feed and lane, and what went through them."""

    def __init__(
        self, feed: Feed, limits: Limits, clock: Callable[[], int], watch: Watch, fold: int,
        timer: Callable[[], float],
    ) -> None:
        self.feed = feed
        self.problem: str | None = None
        self._clock, self._watch, self._fold = clock, watch, fold
        self._name = f"source {feed.source.name}"
        self.lane: Lane[Batch, Ingested] = Lane(self._name, self._commit, limits, self._done, timer)
        self._turn = Lock()
        self._rows = self._calls = self._commits = 0
        self._waited: deque[float] = deque(maxlen=_RECENT)
        self._folding: Thread | None = None

    def repair(self) -> None:
        """Makes the views complete, if nothing else is being done; a failure is kept as `problem`."""
        if not self._turn.acquire(blocking=False):
            return
        try:
            self.feed.repair()
            self.problem = None
        except Exception as error:  # noqa: BLE001  told by `stats` and to the next caller, and tried again
            self.problem = f"{type(error).__name__}: {error}"
            logger.warning("%s: its views cannot be made complete: %s", self._name, self.problem)
        finally:
            self._turn.release()

    def stats(self, now: int) -> Stats:
        newest, waited = self.feed.newest, sorted(self._waited)
        age = None if newest is None else (now - newest) / 1e6
        p50, p99 = (float(np.quantile(waited, q)) if waited else None for q in (0.5, 0.99))
        return Stats(
            self.feed.source.name, self.lane.waiting, self._rows, self._calls, self._commits, newest, age, p50, p99,
            self.problem,
        )  # fmt: skip

    def tell(self, waited: Sequence[float]) -> None:
        """Who watches, of the calls that were answered and the newest readable event."""
        try:
            self._watch(self.feed.source.name, waited, self.feed.newest)
        except Exception:  # who only watches must not stop the writer
            logger.exception("%s: it could not be told of", self._name)

    def join(self) -> None:
        """Returns when no fold is under way."""
        if self._folding is not None:
            self._folding.join()

    def _commit(self, batches: Sequence[Batch]) -> Sequence[Ingested | Exception]:
        with self._turn:
            return self.feed.commit(batches, self._clock())

    def _done(self, done: Done) -> None:
        self._rows, self._calls, self._commits = self._rows + done.rows, self._calls + done.calls, self._commits + 1
        self._waited.extend(done.waited)
        self.tell(done.waited)
        if self._fold and self._commits % self._fold == 0 and (self._folding is None or not self._folding.is_alive()):
            self._folding = Thread(target=self._folded, name=f"{self._name}: fold")
            self._folding.start()

    def _folded(self) -> None:
        try:
            if self.feed.managed():
                self.feed.compact()
        except Exception as error:  # noqa: BLE001  nothing is lost by it, and it is tried again
            logger.warning("%s: its small files stay as they are: %s", self._name, error)
