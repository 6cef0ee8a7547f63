"""Time: the contract.

Instants are int64 microseconds in UTC. A query asks as of q; a source may read late by `lag`, so p = q - lag.

The latest value comes from the newest visible row with  p - ttl <= ts <= p        (both ends in).
A window holds the visible rows with         p - offset - W <= ts < p - offset     (start in, end out),
closed="right":                              p - offset - W < ts <= p - offset     (start out, end in).
`lifetime` has no start. `resolution` rounds the start down to its grid, counted from 1970-01-01.

    ts          -W                       p
    [left)       [-----------------------)          an event at p does not count, one at p - W does
    (right]      (-----------------------]          the reverse
    latest  [----- ttl ------------------]          both do

A row is visible at q if its event time is known and, where the source declares `known_at`, known_at <= q.
A query in nanoseconds never sees the future: the ends that exclude use ceil(p), the ends that include floor(p).
"""

from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mlray.errors import DefinitionError

Times = NDArray[np.int64]
Closed = Literal["left", "right"]

EARLIEST = np.iinfo(np.int64).min
LATEST = np.iinfo(np.int64).max

LONGEST = 1 << 60
"""The longest duration in microseconds, 36,000 years: a few of them taken from any date stay in int64."""

_UNITS = (("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1))


class Lifetime:
    """A window without a start; use the instance `lifetime`."""

    def __repr__(self) -> str:
        return "lifetime"


lifetime = Lifetime()


def minutes(n: float) -> timedelta:
    """`n` minutes."""
    return timedelta(minutes=n)


def hours(n: float) -> timedelta:
    """`n` hours."""
    return timedelta(hours=n)


def days(n: float) -> timedelta:
    """`n` days of 24 hours."""
    return timedelta(days=n)


def microseconds(duration: timedelta) -> int:
    """The exact length in microseconds; DefinitionError beyond `LONGEST`."""
    length = duration // timedelta(microseconds=1)
    if abs(length) > LONGEST:
        raise DefinitionError(
            f"{duration.days:,} days are longer than can be counted from any instant; a window of all history is "
            "ml.lifetime, and a ttl without end is None"
        )
    return length


@lru_cache(maxsize=4096)
def duration_name(length: int) -> str:
    """`length` microseconds in the largest unit that divides it: 86_400_000_000 -> '1d'."""
    unit, size = next((unit, size) for unit, size in _UNITS if length % size == 0)
    return f"{length // size}{unit}"


def minus(times: Times, length: int) -> Times:
    """times - length for length >= 0, held at the earliest instant instead of wrapping."""
    return np.where(times < EARLIEST + length, EARLIEST, times - length)


def after(times: Times) -> Times:
    """The next microsecond, held at the latest instant."""
    return np.where(times == LATEST, LATEST, times + 1)


@dataclass(frozen=True, slots=True)
class Instants:
    """Query times q: `floor` and `ceil` in microseconds (equal unless q had nanoseconds), `valid` where q is
    not null.
    """

    floor: Times
    ceil: Times
    valid: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.floor)

    def take(self, index: NDArray[np.int64]) -> "Instants":
        return Instants(self.floor[index], self.ceil[index], self.valid[index])


@dataclass(frozen=True, slots=True)
class Window:
    """One window. Lengths in microseconds; `length` None is `lifetime`, `resolution` 0 is exact."""

    length: int | None
    offset: int = 0
    closed: Closed = "left"
    resolution: int = 0

    def __post_init__(self) -> None:
        if self.length is not None and self.length <= 0:
            raise DefinitionError(f"a window of {self.length} us is empty; its length must be above 0")
        if self.offset < 0 or self.resolution < 0:
            raise DefinitionError("offset and resolution of a window must not be negative: that would read the future")
        if self.closed not in ("left", "right"):
            raise DefinitionError(f"closed={self.closed!r}: a window is closed='left' (the default) or 'right'")

    @property
    def name(self) -> str:
        """'7d', 'lifetime', with '_before_7d' for an offset."""
        size = "lifetime" if self.length is None else duration_name(self.length)
        return f"{size}_before_{duration_name(self.offset)}" if self.offset else size

    @property
    def reach(self) -> int | None:
        """How far before p the window can begin, in microseconds; None for `lifetime`."""
        return None if self.length is None else self.length + self.offset + self.resolution

    def bounds(self, q: Instants, lag: int) -> tuple[Times, Times]:
        """The half-open [start, end) of event times, per query, in microseconds."""
        end = self._end(q, lag)
        start = np.full_like(end, EARLIEST) if self.length is None else self._on_grid(minus(end, self.length))
        return (after(start), after(end)) if self.closed == "right" else (start, end)

    def end(self, q: Instants, lag: int) -> Times:
        """The end of `bounds`; windows that differ in length only have the same."""
        return after(self._end(q, lag)) if self.closed == "right" else self._end(q, lag)

    def span(self, floor: int, ceil: int, lag: int) -> tuple[int, int]:
        """The `bounds` of one query, from `floor` to `ceil`, in plain integers."""
        right = self.closed == "right"
        end = max(EARLIEST, (floor if right else ceil) - lag - self.offset)
        start = EARLIEST if self.length is None else max(EARLIEST, end - self.length)
        if self.resolution and start >= EARLIEST + self.resolution:
            start -= start % self.resolution
        return (min(start + 1, LATEST), min(end + 1, LATEST)) if right else (start, end)

    def _end(self, q: Instants, lag: int) -> Times:
        return minus(q.floor if self.closed == "right" else q.ceil, lag + self.offset)

    def _on_grid(self, start: Times) -> Times:
        if not self.resolution:
            return start
        return minus(start, 0) - np.where(start < EARLIEST + self.resolution, 0, start % self.resolution)


def latest_bounds(q: Instants, lag: int, ttl: int | None, closed: Closed) -> tuple[Times, Times]:
    """The half-open [start, end) that a view's latest row lies in: [p - ttl, p], or [p - ttl, p) closed left."""
    p = minus(q.floor, lag)
    end = after(p) if closed == "right" else minus(q.ceil, lag)
    return (np.full_like(p, EARLIEST) if ttl is None else minus(p, ttl)), end


def latest_span(floor: int, ceil: int, lag: int, ttl: int | None, closed: Closed) -> tuple[int, int]:
    """The `latest_bounds` of one query in plain integers."""
    p = max(EARLIEST, floor - lag)
    end = min(p + 1, LATEST) if closed == "right" else max(EARLIEST, ceil - lag)
    return (EARLIEST if ttl is None else max(EARLIEST, p - ttl)), end
