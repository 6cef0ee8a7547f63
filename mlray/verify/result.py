"""What a verification found."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Name = Literal["offline", "online"]
"""Of a side."""
SHOWN = 20
"""Differences that are told in full."""


@dataclass(frozen=True)
class Event:
    """An event that counts on one side at that instant and not, or not so, on the other.

    side: which has it; at, known_at: microseconds UTC; sequence, known_at: None where the source declares none;
    columns: those that the view reads.
    """

    side: Name
    at: int
    sequence: Any
    known_at: int | None
    columns: dict[str, Any]

    def __str__(self) -> str:
        other = "online" if self.side == "offline" else "offline"
        named = f", sequence {self.sequence!r}" if self.sequence is not None else ""
        known = f", known at {moment(self.known_at)}" if self.known_at is not None else ""
        return f"only {self.side} has the event of {moment(self.at)}{named}{known}: {self.columns}; {other} does not"


@dataclass(frozen=True)
class Difference:
    """A cell that the two sides answer differently.

    part: 'replay', 'live' or 'log'; view, key: whose events the feature is made of; at: q in microseconds; row: as it
    was asked; event: the first that one side has and the other has not, None where both have the same.
    """

    part: str
    view: str
    feature: str
    key: dict[str, Any]
    at: int | None
    row: dict[str, Any]
    offline: Any
    online: Any
    event: Event | None

    def __str__(self) -> str:
        q = "no instant" if self.at is None else moment(self.at)
        head = f"{self.part}: {self.feature} of view {self.view or '-'}, key {self.key}, as of {q}"
        why = self.event or "both sides have the same events within reach, as far as they hold them one by one"
        return f"{head}: offline {self.offline!r}, online {self.online!r}\n  {why}\n  row {self.row}"


@dataclass(frozen=True)
class Verification:
    """cells = compared; stale: cells read beyond their view's watermark that differ, not counted as different;
    skipped: what was not compared, and why.
    """

    service: str
    rows: int
    cells: int
    different: int
    stale: int
    seconds: float
    differences: tuple[Difference, ...] = field(default=(), repr=False)
    skipped: tuple[str, ...] = field(default=(), repr=False)

    @property
    def ok(self) -> bool:
        return self.different == 0 and self.cells > 0


@dataclass(frozen=True)
class LogVerification:
    """What a model version was given, as its prediction log says, against the same rows rebuilt.

    late: cells that differ because events became known after they were served, not counted as different; skipped: why
    cells could not be told late from wrong, which are then counted as different.
    """

    model: str
    service: str
    rows: int
    cells: int
    different: int
    late: int
    seconds: float
    differences: tuple[Difference, ...] = field(default=(), repr=False)
    skipped: tuple[str, ...] = field(default=(), repr=False)

    @property
    def ok(self) -> bool:
        return self.different == 0 and self.cells > 0


def moment(time: int) -> str:
    """Microseconds UTC as ISO 8601."""
    return f"{np.datetime64(time, 'us')}Z"
