"""The order of the rows, and how they reach the workers.

The order is by a hash of a row's content, so it depends on the set of rows alone, neither on blocks nor on arrival, and
is as good as shuffled. It is cut into windows of `shuffle_rows`; an epoch permutes each window by (seed, epoch, window)
and cuts it into global batches. Rank r takes each world-th row of a batch, so a batch is the same for any world.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import GetTimeoutError

PATIENCE = 20.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rows:
    """Encoded rows: (n, width) float32, (n, texts) int32, (n,) labels as the task encodes them, (n,) float32 factors on
    their losses.
    """

    numbers: NDArray[np.float32]
    codes: NDArray[np.int32]
    labels: NDArray[Any]
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> "Rows":
        return Rows(self.numbers[rows], self.codes[rows], self.labels[rows], self.weights[rows])

    @staticmethod
    def concat(many: Sequence["Rows"]) -> "Rows":
        if len(many) == 1:
            return many[0]
        return Rows(
            np.concatenate([rows.numbers for rows in many]),
            np.concatenate([rows.codes for rows in many]),
            np.concatenate([rows.labels for rows in many]),
            np.concatenate([rows.weights for rows in many]),
        )


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the split: its blocks, in order, and how many rows they hold together."""

    blocks: tuple[Any, ...]
    rows: int

    def stream(self, late: Callable[[], None] = lambda: None) -> Iterator[Rows]:
        """The blocks one after the other; the next is fetched to this node while one is in use. late: called as long as
        a block is waited for, every PATIENCE seconds.
        """
        for block, following in zip(self.blocks, (*self.blocks[1:], None), strict=True):
            if following is not None:
                ray.wait([following], timeout=0, fetch_local=True)
            yield fetched(block, late)


def fetched(block: Any, late: Callable[[], None]) -> Rows:
    while True:
        try:
            rows: Rows = ray.get(block, timeout=PATIENCE)
            return rows
        except GetTimeoutError:
            late()


Stream = Callable[[], Iterator[Rows]]


def content_hash(rows: Rows, time: NDArray[np.int64]) -> NDArray[np.uint64]:
    """(n,) a 64-bit hash of each row's bytes and event time; equal rows get equal hashes."""
    state = mix(time.view(np.uint64))
    for values in (rows.labels[:, np.newaxis], rows.weights[:, np.newaxis], rows.numbers, rows.codes):
        bits = np.ascontiguousarray(values).view(np.uint32)
        for column in range(bits.shape[1]):
            state = mix(state ^ bits[:, column])
    return state


def mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: one-to-one, every input bit reaches every output bit."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def windows(stream: Stream, size: int) -> Iterator[Rows]:
    """The same rows in the same order, `size` at a time, the last one shorter."""
    held: list[Rows] = []
    count = 0
    for rows in stream():
        start = 0
        while count + len(rows) - start >= size:
            held.append(rows.take(slice(start, start + size - count)))
            start += size - count
            yield Rows.concat(held)
            held, count = [], 0
        if start < len(rows):
            held.append(rows.take(slice(start, None)))
            count += len(rows) - start
    if held:
        yield Rows.concat(held)


def batches(
    stream: Stream, *, size: int, shuffle_rows: int, seed: tuple[int, int], rank: int, world: int, start: int = 0
) -> Iterator[Rows]:
    """One epoch from batch `start` on, the rows of this rank: global batches of `size`, the last one shorter (possibly
    empty here).

    `shuffle_rows` must be a multiple of `size`; `seed` is (seed, epoch).
    """
    per_window = shuffle_rows // size
    for number, window in enumerate(windows(stream, shuffle_rows)):
        if start >= (number + 1) * per_window:
            continue
        order = np.random.default_rng([*seed, number]).permutation(len(window))
        for place in range(max(start - number * per_window, 0) * size, len(order), size):
            yield window.take(order[place : place + size][rank::world])


def ahead(items: Iterator[T], count: int) -> Iterator[T]:
    """The same items, `count` of them made in a thread before they are asked for."""
    if not count:
        yield from items
        return
    nothing_left: Any = object()
    with ThreadPoolExecutor(1, "feed") as thread:
        made = deque(thread.submit(next, items, nothing_left) for _ in range(count))
        while (item := made.popleft().result()) is not nothing_left:
            made.append(thread.submit(next, items, nothing_left))
            yield item


def share(stream: Stream, *, rank: int, world: int) -> Iterator[Rows]:
    """Each row whose place in the order is rank modulo world, in order."""
    place = 0
    for rows in stream():
        yield rows.take(slice((rank - place) % world, None, world))
        place += len(rows)
