"""Every prediction, in Delta: one table per model version at <log>/<model>/<version>, so that its columns never change.

request_id, row   the request and the row's place in it      asked   struct of the row as it was sent
served_at, q      when it was answered, as of when           vector  struct of the features that the model was given
                                                             score

score is a double, of a multiclass model a list of them in the order of its signature's classes, with the likeliest
class in a column `predicted`.

Rows wait in memory and are appended by one thread per process; Delta orders the appends of many. An attempt that fails
is repeated until it succeeds, so rows are there twice if it failed after its commit: (request_id, row) tells. A killed
process loses what waited, while all is well at most `seconds` of rows; a stopped one writes it first.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Condition, Thread

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlray.aggregation.window import Instants
from mlray.errors import LogUnavailable, TableNotFound
from mlray.features.types import INSTANT
from mlray.offline import delta
from mlray.registry.model_version import ModelVersion
from mlray.training.task import MULTICLASS, Task

logger = logging.getLogger(__name__)

PATIENCE = 1.0
"""Seconds that a request waits for room."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0
"""Seconds between attempts after a failure, doubling."""
LAST_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class LogHealth:
    """waiting, written: rows; failures: attempts that failed since all went well; error: of the last one, per table."""

    waiting: int
    written: int
    failures: int
    error: str | None


class PredictionLog:
    """Appends below `root`, a folder or a URL; `rows`, `seconds` and `capacity` as in `Config.log_*`."""

    def __init__(self, root: str, *, rows: int = 1000, seconds: float = 2.0, capacity: int = 100_000) -> None:
        self.root = root.rstrip("/")
        self._rows, self._seconds, self._capacity = rows, seconds, capacity
        self._changed = Condition()
        self._waiting: dict[str, list[pa.Table]] = {}
        self._errors: dict[str, str] = {}
        self._count = self._written = self._failures = 0
        self._nudged = self._closing = False
        self._thread = Thread(target=self._write_all, name="prediction-log", daemon=True)
        self._thread.start()

    def path(self, version: ModelVersion) -> str:
        """Where the predictions of a version lie."""
        return table_path(self.root, version)

    def add(self, version: ModelVersion, rows: pa.Table) -> None:
        """Takes rows made by `log_rows`. LogUnavailable if there is no room within `PATIENCE`, or it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._has_room(len(rows)), timeout=PATIENCE)
            self._require_room(len(rows))
            self._waiting.setdefault(self.path(version), []).append(rows)
            self._count += len(rows)
            self._changed.notify_all()

    def flush(self, timeout: float = 30.0) -> None:
        """Returns when all that waits now is written; LogUnavailable after `timeout` seconds."""
        with self._changed:
            target = self._written + self._count
            self._nudge()
            if not self._changed.wait_for(lambda: self._written >= target, timeout):
                raise LogUnavailable(
                    f"{self.root}: {self._count} predictions wait after {timeout:.0f} s; last error: {self._error()}"
                )

    def close(self, timeout: float = 15.0) -> None:
        """Writes what waits and ends the thread. LogUnavailable if rows are lost by it. Again is fine."""
        with self._changed:
            self._closing = True
            self._nudge()
        self._thread.join(timeout)
        if self._count:
            raise LogUnavailable(f"{self.root}: {self._count} predictions are lost; last error: {self._error()}")

    def health(self) -> LogHealth:
        with self._changed:
            return LogHealth(self._count, self._written, self._failures, self._error())

    def check(self) -> None:
        """LogUnavailable where a prediction would be refused now."""
        with self._changed:
            self._require_room(1)

    def _require_room(self, rows: int) -> None:
        if self._closing:
            raise LogUnavailable(f"{self.root}: the prediction log is closed")
        if not self._has_room(rows):
            raise LogUnavailable(
                f"{self.root}: {self._count} predictions wait and no more fit; last error: {self._error()}"
            )

    def _has_room(self, rows: int) -> bool:
        return self._count + rows <= self._capacity

    def _error(self) -> str | None:
        return next(iter(self._errors.values()), None)

    def _nudge(self) -> None:
        self._nudged = True
        self._changed.notify_all()

    def _write_all(self) -> None:
        """The thread: waits until rows are due, makes one commit per table, pauses after a failure."""
        attempts_at_closing = 0
        while self._await_rows() and attempts_at_closing < LAST_ATTEMPTS:
            attempts_at_closing += self._closing
            for path, batch in self._take().items():
                self._append(path, batch)
            self._pause()

    def _await_rows(self) -> bool:
        """False when it is closed and nothing waits."""
        with self._changed:
            self._changed.wait_for(lambda: self._count > 0 or self._closing)
            if not self._failures:
                self._changed.wait_for(self._due, timeout=self._seconds)
            return self._count > 0

    def _due(self) -> bool:
        return self._nudged or self._closing or self._count >= self._rows

    def _take(self) -> dict[str, list[pa.Table]]:
        with self._changed:
            self._nudged = False
            taken, self._waiting = self._waiting, {}
            return taken

    def _append(self, path: str, batch: list[pa.Table]) -> None:
        table = pa.concat_tables(batch)
        try:
            delta.append(path, table, "prediction log")
        except Exception as error:  # noqa: BLE001  whatever a storage back-end raises is reported and tried again
            self._put_back(path, batch, error)
            return
        with self._changed:
            self._count -= len(table)
            self._written += len(table)
            self._errors.pop(path, None)
            self._failures = self._failures if self._errors else 0
            self._changed.notify_all()

    def _put_back(self, path: str, batch: list[pa.Table], error: Exception) -> None:
        with self._changed:
            self._waiting[path] = batch + self._waiting.get(path, [])
            self._errors[path] = f"{type(error).__name__}: {error}"
            self._failures += 1
            logger.warning("prediction log: %s: attempt %d failed, %d rows wait: %s",
                           path, self._failures, self._count, self._errors[path])

    def _pause(self) -> None:
        with self._changed:
            if self._failures:
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._failures - 1, 10))
                pause = min(pause, FIRST_PAUSE) if self._closing else pause
                self._changed.wait_for(lambda: self._nudged, timeout=pause)


def log_rows(
    request_id: str, served_at: int, version: ModelVersion, rows: pa.Table, at: Instants, vectors: pa.Table,
    scores: NDArray[np.float64], task: Task = Task(),  # noqa: B008 - immutable
) -> pa.Table:
    """One row per prediction, in the columns of the log. served_at: microseconds UTC; at: q per row."""
    count = len(scores)
    several = task.kind == MULTICLASS
    return pa.table({
        "request_id": pa.array([request_id] * count, pa.string()),
        "row": pa.array(range(count), pa.int32()),
        "served_at": pa.array([served_at] * count, pa.int64()).cast(INSTANT),
        "q": pa.array(at.floor).cast(INSTANT),
        "model": pa.array([version.name] * count, pa.string()),
        "version": pa.array([version.version] * count, pa.int64()),
        "asked": _struct(rows),
        "vector": _struct(vectors),
        "score": pa.array(scores.tolist(), pa.list_(pa.float64())) if several else pa.array(scores),
        **({"predicted": pa.array(task.names(scores), pa.string())} if several else {}),
    })


def _struct(table: pa.Table) -> pa.Array:
    return pa.StructArray.from_arrays([c.combine_chunks() for c in table.columns], fields=list(table.schema))


def table_path(root: str, version: ModelVersion) -> str:
    """Where the predictions of a version lie below `root`."""
    return f"{root.rstrip('/')}/{version.name}/{version.version}"


def logged(root: str, versions: Sequence[ModelVersion]) -> list[tuple[ModelVersion, str]]:
    """The versions that have a log, and where; TableNotFound where none has one."""
    found = [(version, path) for version in versions if delta.exists(path := table_path(root, version))]
    if not found:
        names = ", ".join(version.reference for version in versions) or "none"
        raise TableNotFound(f"there is no prediction log under {root} of these versions: {names}; serve one first")
    return found


def read(root: str, version: ModelVersion) -> pa.Table:
    """All logged predictions of a version, repetitions included, in no order; TableNotFound before the first."""
    path = table_path(root, version)
    known = delta.table_at(path, "prediction log")
    return delta.read(path, known.version, known.schema.names)
