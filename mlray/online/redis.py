"""The shared store: a Redis server, or a cluster of them, for any number of machines.

Per space, whose name is percent-encoded, and with it in one slot of a cluster:

    mlray:{space}                a hash: format of this layout, state
    mlray:{space}:keys           the keys in order, a sorted set of equal scores
    mlray:{space}:keys:<key>     a hash, slot -> version (8 bytes) and value
    mlray:{space}:writes         tokens and counts of the latest writes
    mlray:{space}:dropped        a dropped space whose keys are still to be removed

    mlray:spaces                 the names of all spaces, and of some that are no more

A read is one script call, in a cluster one per space: a snapshot. So is a write: whole or absent, for readers, in a
replica and after a crash. It carries a token: repeated after a broken connection, it is answered as it was the first
time. A call holds the server up, for 10,000 cells written about 45 ms: what need not appear at once comes in parts.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from os import urandom
from types import EllipsisType
from typing import Any
from urllib.parse import quote

from mlray.errors import StoreError
from mlray.online.redis_scripts import COUNT, DROP, FORMAT, READ, REMOVE, WRITE, Call, Part
from mlray.online.redis_server import Server
from mlray.online.store import VERSION, Cell, Found, Held, Stats, checked_address, checked_space, conflict

SPACES = b"mlray:spaces"
PAGE_KEYS, PAGE_BYTES = 1000, 4 << 20


class RedisStore:
    """A handle on the server at `url` (`redis://`, `rediss://`), which must answer. Works on in a forked child."""

    def __init__(self, url: str) -> None:
        self._server: Server | None = Server(url)
        self._name = self._server.name

    def read(self, requests: Sequence[tuple[str, Sequence[bytes]]]) -> list[Held]:
        server = self._held()
        apart = [[request] for request in requests] if server.is_cluster else [requests]  # a call is for one slot
        answers = [answer for part in server.run([_read(part) for part in apart]) for answer in part]
        return [
            Held(self._known(space, answer)[1], _found(keys, answer))
            for (space, keys), answer in zip(requests, answers, strict=True)
        ]

    def write(
        self, space: str, cells: Iterable[Cell], *, deletes: Iterable[tuple[bytes, bytes, int]] = (),
        state: bytes | None = None, over: bytes | EllipsisType | None = ...,
    ) -> int:
        call = _write(checked_space(space), list(cells), list(deletes), state, over)
        listed: Call = ("SADD", SPACES, space.encode())
        while True:
            outcome, *rest = self._held().run([listed, call])[1]
            if outcome == b"written":
                if rest[1]:  # it came into being: again, for a drop may have taken the name away between the two
                    self._held().run([listed])
                return int(rest[0])
            if outcome == b"conflict":
                raise conflict(space)
            if outcome == b"format":
                self._known(space, rest)
            self._remove(space)

    def state(self, space: str) -> bytes | None:
        return self.read([(space, ())])[0].state

    def scan(self, space: str) -> Iterator[Cell]:
        self._held()
        return self._scan(space)

    def spaces(self) -> list[str]:
        return self._listed(b"")

    def stats(self, space: str) -> Stats:
        totals = [0, 0, 0]
        for keys in self._pages(space):
            [found] = self._held().run([COUNT.call([_key(space), *_cell_keys(space, keys)])])
            self._known(space, found)
            totals = [total + more for total, more in zip(totals, found[1:], strict=True)]
        return Stats(*totals)

    def drop(self, space: str) -> None:
        [found] = self._held().run([DROP.call([_key(space), _key(space, b":dropped"), _key(space, b":writes")])])
        if isinstance(found, bytes):
            self._known(space, [found])
        for name in {space, *self._listed(b":dropped")}:  # also those of a drop that was cut short
            self._remove(name)
            listed = [("SREM", SPACES, name.encode()), ("EXISTS", _key(name))]
            if self._held().run(listed)[1]:  # written meanwhile
                self._held().run([("SADD", SPACES, name.encode())])

    def close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def _scan(self, space: str) -> Iterator[Cell]:
        for keys in self._pages(space):
            while keys:
                [[found]] = self._held().run([_read([(space, keys)], PAGE_BYTES)])
                if self._known(space, found)[0] is None:
                    return
                seen = len(found) - 2
                for cells in _found(keys[:seen], found):
                    yield from cells
                keys = keys[seen:]

    def _pages(self, space: str) -> Iterator[list[bytes]]:
        """The space's keys, ascending."""
        after = b"-"
        while keys := self._page(space, after):
            yield keys
            after = b"(" + keys[-1]

    def _page(self, space: str, after: bytes) -> list[bytes]:
        [keys] = self._held().run([("ZRANGEBYLEX", _key(space, b":keys"), after, "+", "LIMIT", 0, PAGE_KEYS)])
        return list(keys)

    def _remove(self, space: str) -> None:
        """The keys of a dropped space, in calls of bounded length."""
        dropped = [_key(space, b":dropped"), _key(space, b":keys")]
        while self._held().run([REMOVE.call([*dropped, *_cell_keys(space, self._page(space, b"-"))])])[0]:
            pass

    def _listed(self, of: bytes) -> list[str]:
        """The names whose key `of` exists, sorted."""
        [found] = self._held().run([("SMEMBERS", SPACES)])
        names = sorted(name.decode() for name in found)
        exist = self._held().run([("EXISTS", _key(name, of)) for name in names]) if names else []
        return [name for name, there in zip(names, exist, strict=True) if there]

    def _known(self, space: str, found: Sequence[Any]) -> Sequence[Any]:
        """The answer itself, if it is of a layout known here."""
        if found[0] in (None, FORMAT):
            return found
        raise StoreError(
            f"{self._name}: online space {space} has format {found[0].decode(errors='replace')}, this mlray knows "
            f"formats up to {FORMAT.decode()}; install a newer mlray, or materialize into another database"
        )

    def _held(self) -> Server:
        if self._server is None:
            raise StoreError(f"{self._name} is closed; open it again with open_store")
        return self._server


@lru_cache(maxsize=4096)
def _key(space: str, of: bytes = b"") -> bytes:
    """A key of the space. The braces make all of them lie in one slot; the quoting lets no name hold a brace."""
    return b"mlray:{" + quote(space, safe="").encode() + b"}" + of


def _cell_keys(space: str, keys: Iterable[bytes]) -> list[bytes]:
    prefix = _key(space, b":keys:")
    return [prefix + key for key in keys]


def _read(requests: Sequence[tuple[str, Sequence[bytes]]], most: int = 0) -> Call:
    names = list[bytes]()
    for space, keys in requests:
        names.append(_key(space))
        names += _cell_keys(space, keys)
    return READ.call(names, most, *[len(keys) for _, keys in requests])


def _found(keys: Sequence[bytes], answer: Sequence[Any]) -> Found:
    """What READ found of the keys; nothing where there is no space."""
    slots, records, ends = list[bytes](), list[bytes](), list[int]()
    for flat in answer[2:]:
        if len(flat) == 2:
            slots.append(flat[0])
            records.append(flat[1])
        else:
            pairs = sorted(zip(flat[::2], flat[1::2], strict=True))
            slots += [slot for slot, _ in pairs]
            records += [record for _, record in pairs]
        ends.append(len(slots))
    return Found(keys, slots, records, ends) if ends else Found.nothing(keys)


def _write(
    space: str, cells: list[Cell], deletes: list[tuple[bytes, bytes, int]], state: bytes | None,
    over: bytes | EllipsisType | None,
) -> Call:
    addresses = [*deletes, *((cell.key, cell.slot, cell.version) for cell in cells)]
    for address in addresses:
        checked_address(*address)
    pairs: list[Part] = []
    for _, slot, version in deletes:
        pairs += (slot, VERSION.pack(version))
    for cell in cells:
        pairs += (cell.slot, VERSION.pack(cell.version) + cell.value)
    keys = [_key(space, of) for of in (b"", b":dropped", b":writes", b":keys")]
    keys += _cell_keys(space, (key for key, _, _ in addresses))
    expected = (b"any", b"") if isinstance(over, EllipsisType) else (b"none", b"") if over is None else (b"state", over)
    token = urandom(16)
    return WRITE.call(keys, token, int(state is not None), state or b"", *expected, len(deletes), *pairs)
