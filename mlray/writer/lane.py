"""The queue of one source: bounded, taken in groups, emptied before it ends.

A call waits while the one before it is committed, and then all that wait go together. A call to an idle lane goes at
once; but callers who were just answered, or come by habit, come again at nearly one time: after a commit they are given
a tenth of the time that it took, until as many calls wait as did before. The thread that commits starts with the first
call and ends when nothing waits, so an idle lane costs nothing, and a process that ends finishes what it has accepted.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Generic, NamedTuple, TypeVar

from mlray.errors import Busy, RequestTooLarge

logger = logging.getLogger(__name__)

Batch = TypeVar("Batch")
Answer = TypeVar("Answer")

LONGEST_RETRY = 60
_SMOOTHING = 0.3
_PATIENCE, _LONGEST_PATIENCE = 0.1, 0.2
"""How long a commit waits for callers to come again: of the time that the one before it took, and seconds at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """waiting: rows of a source that may wait; rows, calls: of one commit, but for a call that has more rows alone."""

    waiting: int = 1_000_000
    rows: int = 50_000
    calls: int = 10_000


class _Call(NamedTuple, Generic[Batch, Answer]):
    batch: Batch
    rows: int
    since: float
    future: "Future[Answer]"


class Done(NamedTuple):
    """One commit: calls and rows of it, and the seconds from each call to its answer."""

    calls: int
    rows: int
    waited: tuple[float, ...]


class Lane(Generic[Batch, Answer]):
    """commit: gives one answer per batch; an answer that is an exception is raised to its caller. done: told of every
    commit before its callers are answered. timer: seconds.
    """

    def __init__(
        self,
        name: str,
        commit: Callable[[Sequence[Batch]], Sequence[Answer | Exception]],
        limits: Limits,
        done: Callable[[Done], None] = lambda _: None,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.name, self._commit, self._limits, self._done, self._timer = name, commit, limits, done, timer
        self._changed = Condition()
        self._queue: deque[_Call[Batch, Answer]] = deque()
        self._running = self._closed = False
        self._rows, self._rate = 0, 0.0
        self._expected, self._patience = 0, 0.0

    @property
    def waiting(self) -> int:
        """Rows that are admitted and not yet answered."""
        return self._rows

    def admit(self, rows: int) -> None:
        """Makes room for so many rows; Busy where there is none now, RequestTooLarge where there never is."""
        with self._changed:
            if rows > self._limits.waiting:
                most = self._limits.waiting
                raise RequestTooLarge(f"{self.name}: {rows:,} rows in one call, at most {most:,} are taken; cut them")
            if self._closed:
                raise Busy(f"{self.name}: the writer is ending; try again with its successor", 1)
            if self._rows + rows > self._limits.waiting:
                after = self._retry_after()
                raise Busy(
                    f"{self.name}: {self._rows:,} rows wait to be written, {rows:,} more would be over "
                    f"{self._limits.waiting:,}; try again in {after} s",
                    after,
                )
            self._rows += rows

    def release(self, rows: int) -> None:
        """Gives up the room of a call that is not put."""
        with self._changed:
            self._rows -= rows
            self._changed.notify_all()

    def put(self, batch: Batch, rows: int) -> "Future[Answer]":
        """Queues a batch that was admitted."""
        call = _Call(batch, rows, self._timer(), Future[Answer]())
        with self._changed:
            if not self._running:
                Thread(target=self._run, name=self.name).start()  # it waits for this lock
                self._running = True
            self._queue.append(call)
            self._changed.notify_all()
        return call.future

    def close(self) -> None:
        """Refuses new calls, and returns when all that were admitted are answered."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._rows and not self._running)

    def _run(self) -> None:
        while group := self._take():
            started = self._timer()
            answers = self._answers([call.batch for call in group])
            ended = self._timer()
            rows = sum(call.rows for call in group)
            try:
                self._done(Done(len(group), rows, tuple(ended - call.since for call in group)))
            except Exception:  # who only watches must not stop the lane
                logger.exception("%s: a commit could not be told of", self.name)
            self._settle(group, answers, max(ended - started, 1e-6))

    def _take(self) -> "list[_Call[Batch, Answer]]":
        """What waits, up to the limits; none ends the thread."""
        with self._changed:
            self._changed.wait_for(self._gathered, self._patience)
            group: list[_Call[Batch, Answer]] = []
            rows = 0
            while self._queue and len(group) < self._limits.calls:
                if group and rows + self._queue[0].rows > self._limits.rows:
                    break
                rows += self._queue[0].rows
                group.append(self._queue.popleft())
            self._running = bool(group)
            self._expected = 0
            self._changed.notify_all()
            return group

    def _gathered(self) -> bool:
        """Whether all that can be expected wait, or as much as one commit takes."""
        full = len(self._queue) >= self._limits.calls or self._rows >= self._limits.rows
        return full or self._closed or len(self._queue) >= self._expected

    def _answers(self, batches: "Sequence[Batch]") -> "Sequence[Answer | Exception]":
        try:
            return self._commit(batches)
        except Exception as error:  # noqa: BLE001  each caller is told, in its own thread
            return [error] * len(batches)

    def _settle(
        self, group: "Sequence[_Call[Batch, Answer]]", answers: "Sequence[Answer | Exception]", seconds: float
    ) -> None:
        rows = sum(call.rows for call in group)
        rate = rows / seconds
        with self._changed:
            self._rows -= rows
            self._rate = rate if not self._rate else self._rate + _SMOOTHING * (rate - self._rate)
            self._expected, self._patience = len(group) + len(self._queue), min(_PATIENCE * seconds, _LONGEST_PATIENCE)
            self._changed.notify_all()
        for call, answer in zip(group, answers, strict=True):
            if isinstance(answer, Exception):
                call.future.set_exception(answer)
            else:
                call.future.set_result(answer)

    def _retry_after(self) -> int:
        """Seconds until what waits should be written, by the recent rate."""
        seconds = self._rows / self._rate if self._rate else 1.0
        return min(max(math.ceil(seconds), 1), LONGEST_RETRY)
