"""Checkpoints written while the loop goes on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self


class Saver:
    """Writes one thing at a time, in a thread of its own; when it is left, all is written."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] = Future()
        self._pending.set_result(None)

    def save(self, write: Callable[[], None]) -> None:
        """Begins to write, once the one before is written; where that raised, nothing more is."""
        if self.settled():
            self._pending = self._thread.submit(write)

    @property
    def failed(self) -> bool:
        """Whether the last write has ended, and raised."""
        return self._pending.done() and self._pending.exception() is not None

    def settled(self) -> bool:
        """Waits for the last write; whether it succeeded."""
        return self._pending.exception() is None

    def wait(self) -> None:
        """For the last write; raises what it raised."""
        self._pending.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._thread.shutdown()
