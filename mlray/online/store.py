"""What an online store is: named spaces of versioned cells, read in one snapshot and written in one transaction.

A space holds keys; a key holds cells, one per slot; a cell is opaque bytes and a version. What the bytes mean is the
caller's affair. The greater version of a cell stays, whatever the order of arrival.
"""

import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from types import EllipsisType
from typing import NamedTuple, Protocol, Self

from mlray.errors import ConfigError, Conflict, InvalidName, StoreError, did_you_mean

LONGEST_SPACE = 200
LONGEST_SLOT = 200
SORTED_KEY = 128
VERSIONS = range(-(2**63), 2**63)
VERSION = struct.Struct(">q")
SENTINEL = (
    "Redis Sentinel is not spoken; give redis:// or rediss:// with a name that follows the primary (a proxy, DNS, a "
    "managed service's endpoint), or any node of a Redis Cluster"
)
"""What one is told who names a Sentinel."""
SCHEMES = ("lmdb", "memory", "redis", "rediss")


class Cell(NamedTuple):
    """key and value: any bytes, the empty ones included; slot: at most 200 bytes; version: a signed 64-bit integer."""

    key: bytes
    slot: bytes
    version: int
    value: bytes


class Found:
    """Of each key in order its cells in slot order, [] for a key that the space does not hold.

    A cell is made when it is looked at: a read of many keys asks for their bytes and for few cells. slots, records: of
    all cells, those of a key together; a record is the version, 8 bytes in big-endian order, then the value. ends: per
    key how many cells there are up to its last.
    """

    __slots__ = ("ends", "keys", "records", "slots")

    def __init__(self, keys: Sequence[bytes], slots: list[bytes], records: list[bytes], ends: list[int]) -> None:
        self.keys, self.slots, self.records, self.ends = keys, slots, records, ends

    @classmethod
    def of(cls, keys: Sequence[bytes], cells: Sequence[Sequence[Cell]]) -> Self:
        every = [cell for of_key in cells for cell in of_key]
        records = [VERSION.pack(cell.version) + cell.value for cell in every]
        return cls(keys, [cell.slot for cell in every], records, list(accumulate(map(len, cells))))

    @classmethod
    def nothing(cls, keys: Sequence[bytes]) -> Self:
        return cls(keys, [], [], [0] * len(keys))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int) -> list[Cell]:
        return self._cells(self.keys[i], *self._held(i))

    def __iter__(self) -> Iterator[list[Cell]]:
        return map(self._cells, self.keys, [0, *self.ends], self.ends)

    def __eq__(self, other: object) -> bool:
        return list(self) == (list(other) if isinstance(other, Found) else other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))

    def lying(self, i: int) -> list[tuple[bytes, bytes]]:
        """Slots and records of a key."""
        held = slice(*self._held(i))
        return [*zip(self.slots[held], self.records[held], strict=True)]

    def alone(self, slot: bytes) -> list[bytes]:
        """Per key the record of its cell where it has one only, in `slot`; b"" for any other key."""
        if self.ends == list(range(1, len(self.ends) + 1)) and self.slots.count(slot) == len(self.slots):
            return self.records
        starts = [0, *self.ends]
        return [
            self.records[start] if end == start + 1 and self.slots[start] == slot else b""
            for start, end in pairwise(starts)
        ]

    def _held(self, i: int) -> tuple[int, int]:
        return self.ends[i - 1] if i else 0, self.ends[i]

    def _cells(self, key: bytes, first: int, end: int) -> list[Cell]:
        slots, records, size = self.slots, self.records, VERSION.size
        made, version = tuple.__new__, VERSION.unpack_from  # what Cell(...) comes down to
        return [made(Cell, (key, slots[j], *version(records[j]), records[j][size:])) for j in range(first, end)]


class Held(NamedTuple):
    """What one request of a read found. state: what the last write with a state gave; None before that."""

    state: bytes | None
    cells: Found


@dataclass(frozen=True, slots=True)
class Stats:
    """bytes: keys, slots and values as given, a key counted once per cell; what a store adds is not in it."""

    keys: int
    cells: int
    bytes: int


class OnlineStore(Protocol):
    """Safe to share between threads. A failure is a StoreError and leaves everything as it was."""

    def read(self, requests: Sequence[tuple[str, Sequence[bytes]]]) -> list[Held]:
        """Per request (space, keys), in their order, what the space holds of it.

        One snapshot and one round trip for everything asked, so that states and cells fit together; where the spaces
        lie on several servers, a snapshot of each space. Repeated keys and spaces are answered each time.
        """

    def write(
        self,
        space: str,
        cells: Iterable[Cell],
        *,
        deletes: Iterable[tuple[bytes, bytes, int]] = (),
        state: bytes | None = None,
        over: bytes | EllipsisType | None = ...,
    ) -> int:
        """One transaction: the deletes, then the cells in order, then the state. Returns the cells written.

        over: where given, the write happens only onto exactly this state of the space (None: it has none), or raises
        Conflict and changes nothing.

        A cell whose stored version is greater is left alone, an equal one is overwritten. A delete (key, slot,
        version) removes a cell of that version or a smaller one and is not remembered afterwards. state=None keeps the
        space's state. The space comes into being. Both iterables are read to their end, into memory, before anything
        is locked or changed.
        """

    def state(self, space: str) -> bytes | None:
        """The state alone, as `read` gives it."""

    def scan(self, space: str) -> Iterator[Cell]:
        """All cells, those of one key together and in slot order.

        Keys ascend by their first 128 bytes; keys longer than that which share them follow in a fixed order of the
        store's own. No lock is held between two cells: of what is written meanwhile some cells are seen, each whole.
        """

    def spaces(self) -> list[str]:
        """The names of all spaces, sorted."""

    def stats(self, space: str) -> Stats:
        """Counts by scanning: a few seconds for a million cells. Zeros for an unknown space."""

    def drop(self, space: str) -> None:
        """The space, its cells and its state are gone for every later call; an unknown one is no error."""

    def close(self) -> None:
        """Gives this handle up; others on the same URL go on. Closing twice is no error."""


def version_of(record: bytes) -> int:
    return int(VERSION.unpack_from(record)[0])


def open_store(url: str) -> OnlineStore:
    """The store at `memory://name`, `lmdb://path` (`lmdb:///absolute`), `redis://` or, over TLS, `rediss://` host/db.

    Within a process one URL is one store.
    """
    # The back-ends import Cell from here, and each brings a package of its own.
    scheme, separator, rest = url.partition("://")
    if scheme == "memory" and separator:
        from mlray.online.memory import MemoryStore

        return MemoryStore(rest)
    if scheme == "lmdb" and rest:
        from mlray.online.lmdb import LmdbStore

        return LmdbStore(rest)
    if scheme in ("redis", "rediss") and rest:
        try:
            from mlray.online.redis import RedisStore
        except ModuleNotFoundError as error:
            raise ConfigError(f"online='{shown(url)}' needs a package: pip install 'mlray[redis]' ({error})") from error

        return RedisStore(url)
    raise ConfigError(f"online='{shown(url)}': {_refusal(scheme, separator)}")


def shown(url: str) -> str:
    """The URL without the password in it."""
    scheme, separator, rest = url.partition("://")
    login, at, where = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    where = re.sub(r"(?<=[?&]password=)[^&]*", "***", where)
    return f"{scheme}{separator}{user}{colon}{'***' * bool(colon)}{at}{where}"


def checked_space(space: str) -> str:
    """The name itself if it can name a space."""
    if 0 < len(space) <= LONGEST_SPACE:
        return space
    raise InvalidName(f"an online space has a name of 1 to {LONGEST_SPACE} characters, not of {len(space)}")


def checked_address(key: bytes, slot: bytes, version: int) -> None:
    """Refuses what not every store can hold, so that none holds more than another."""
    if len(slot) > LONGEST_SLOT:
        raise StoreError(f"key {key[:32]!r}: a slot has at most {LONGEST_SLOT} bytes, this one {len(slot)}")
    if version not in VERSIONS:
        raise StoreError(f"key {key[:32]!r}, slot {slot!r}: version {version} is not a signed 64-bit integer")


def checked_state(space: str, state: bytes | None, over: bytes | EllipsisType | None) -> None:
    """Conflict unless `over` is not given or the space's `state`."""
    if over is not ... and state != over:
        raise conflict(space)


def conflict(space: str) -> Conflict:
    return Conflict(f"online space {space}: its state is not the one this write builds upon; read it and try again")


def counted(cells: Iterable[Cell]) -> Stats:
    """The statistics of a whole scan."""
    keys = count = size = 0
    last = None
    for cell in cells:
        keys += cell.key != last
        last = cell.key
        count += 1
        size += len(cell.key) + len(cell.slot) + len(cell.value)
    return Stats(keys, count, size)


def _refusal(scheme: str, separator: str) -> str:
    if not separator:
        return f"a store is named by a URL; for a folder write lmdb://{scheme}"
    if scheme == "lmdb":
        return "the path is missing; write lmdb:///absolute/path or lmdb://relative/path"
    if scheme in ("redis", "rediss"):
        return f"the host is missing; write {scheme}://host:6379/0 or {scheme}://user:password@host:6379/0"
    if "sentinel" in scheme:
        return SENTINEL
    return f"there is no store '{scheme}'{did_you_mean(scheme, SCHEMES)}"
