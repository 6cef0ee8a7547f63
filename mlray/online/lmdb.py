"""The embedded store: one LMDB file, any number of reading processes, one writer at a time, one machine.

All records lie in one sorted tree. A record's first byte says what it is:

    f                             the format of this file
    n                             the number that the next space gets
    s <hash of name>              number, name                a space; numbers are never used twice
    t <number>                    its state
    k <number> <key>              the whole of a long key
    x <number>                    a dropped space whose records are still to be removed
    z <number> <key> <slot>       version, value              a cell

Cells come last, so that those of a new space are put at the end of the tree, whose pages become full.

A tree per space would have to be opened in every process under the writer's lock and would limit their count. Here a
space costs one record, a dropped one vanishes with it, and its cells are removed afterwards in short transactions.

Within a record a key is escaped and closed (0 becomes 0 255, then 0 0), which keeps the order of the keys and lets none
be the beginning of another. Of a key longer than 128 bytes stand the first 128, closed by 0 1, and its 256-bit BLAKE2b:
two keys would have to collide in 2**-128 of all stores of 2**64 keys.
"""

import os
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from hashlib import blake2b
from types import EllipsisType
from typing import TypeAlias

import lmdb

from mlray.errors import StoreError
from mlray.online.lmdb_environment import Environment, Transaction, acquire, release
from mlray.online.store import (
    SORTED_KEY,
    VERSION,
    Cell,
    Found,
    Held,
    Stats,
    checked_address,
    checked_space,
    checked_state,
    counted,
)

Removal: TypeAlias = tuple[bytes, bytes, int, bool]  # encoded key, slot, version, whether the key is a long one
Addition: TypeAlias = tuple[bytes, bytes, int, bytes, bytes]  # ..., record, the whole key if it is a long one

FIRST_MAP = 1 << 30
SCAN_CELLS, SCAN_BYTES = 1000, 4 << 20
REMOVED_AT_ONCE = 20_000

_NEXT_NUMBER, _CELL = b"n", b"z"
_NUMBER = struct.Struct(">I")
_version = VERSION.unpack_from
_END_OF_KEY = re.compile(rb"\x00[\x00\x01]")
_FIRST_OF_KEY = 1 + _NUMBER.size


class LmdbStore:
    """A handle on the environment in folder `path`, which is made if it is missing.

    A forked child is refused. first_map: bytes of address space to begin with; the map doubles when it is full.
    """

    def __init__(self, path: str, *, first_map: int = FIRST_MAP) -> None:
        self._path = os.path.realpath(path)
        self._environment: Environment | None = acquire(self._path, first_map)

    def read(self, requests: Sequence[tuple[str, Sequence[bytes]]]) -> list[Held]:
        return self._held().read(partial(_read, requests))

    def write(
        self, space: str, cells: Iterable[Cell], *, deletes: Iterable[tuple[bytes, bytes, int]] = (),
        state: bytes | None = None, over: bytes | EllipsisType | None = ...,
    ) -> int:
        batch = (checked_space(space), _removals(deletes), _additions(cells), state, over)
        return self._held().write(partial(_write, *batch))

    def state(self, space: str) -> bytes | None:
        return self._held().read(partial(_state, space))

    def scan(self, space: str) -> Iterator[Cell]:
        number = self._held().read(partial(_number, space))
        return iter(()) if number is None else self._scan(_CELL + number)

    def spaces(self) -> list[str]:
        return self._held().read(_spaces)

    def stats(self, space: str) -> Stats:
        return counted(self.scan(space))

    def drop(self, space: str) -> None:
        environment = self._held()
        environment.write(partial(_forget, space))
        while environment.write(_remove_forgotten):
            pass

    def close(self) -> None:
        environment, self._environment = self._environment, None
        if environment is not None:
            release(environment)

    def _scan(self, prefix: bytes) -> Iterator[Cell]:
        after = prefix
        while found := self._held().read(partial(_page, prefix, after)):
            after = found[-1][0] + b"\0"  # the least record key beyond the last one seen
            for _, cell in found:
                yield cell

    def _held(self) -> Environment:
        if self._environment is None:
            raise StoreError(f"lmdb://{self._path} is closed; open it again with open_store")
        return self._environment


# What is done inside a transaction


def _read(requests: Sequence[tuple[str, Sequence[bytes]]], txn: Transaction) -> list[Held]:
    cursor = txn.cursor()
    answers, encoded = [], dict[int, list[bytes]]()  # the views of a service are often asked for the same keys
    for space, keys in requests:
        number = _number(space, txn)
        if number is None:
            answers.append(Held(None, Found.nothing(keys)))
            continue
        if id(keys) not in encoded:
            encoded[id(keys)] = list(map(_encoded, keys))
        found = _found(cursor, _CELL + number, keys, encoded[id(keys)])
        answers.append(Held(txn.get(b"t" + number), found))
    return answers


def _found(cursor: "lmdb.Cursor[bytes]", space: bytes, keys: Sequence[bytes], encoded: Sequence[bytes]) -> Found:
    """Nothing is looked up, called or made twice: this loop is most of what a read costs."""
    find, at, record, following = cursor.set_range, cursor.key, cursor.value, cursor.next
    slots, records, ends = list[bytes](), list[bytes](), list[int]()
    for coded in encoded:
        prefix = space + coded
        here = find(prefix)
        while here and (name := at()).startswith(prefix):
            slots.append(name[len(prefix) :])
            records.append(record())
            here = following()
        ends.append(len(records))
    return Found(keys, slots, records, ends)


def _page(prefix: bytes, after: bytes, txn: Transaction) -> list[tuple[bytes, Cell]]:
    """The next cells, each with its record key: at most SCAN_CELLS and, but for the last one, SCAN_BYTES."""
    found: list[tuple[bytes, Cell]] = []
    size = 0
    for at, record in _under(txn, prefix, after):
        key, slot = _decoded(at, txn)
        found.append((at, Cell(key, slot, _version(record)[0], record[VERSION.size :])))
        size += len(key) + len(record)
        if len(found) == SCAN_CELLS or size >= SCAN_BYTES:
            break
    return found


def _state(space: str, txn: Transaction) -> bytes | None:
    number = _number(space, txn)
    return None if number is None else txn.get(b"t" + number)


def _spaces(txn: Transaction) -> list[str]:
    return sorted(record[_NUMBER.size :].decode() for _, record in _under(txn, b"s", b"s"))


def _under(txn: Transaction, prefix: bytes, start: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The records from `start` on whose keys begin with `prefix`."""
    cursor = txn.cursor()
    here = cursor.set_range(start)
    while here and cursor.key().startswith(prefix):
        yield cursor.item()
        here = cursor.next()


def _write(
    space: str, removals: list[Removal], additions: list[Addition], state: bytes | None,
    over: bytes | EllipsisType | None, txn: Transaction,
) -> int:
    checked_state(space, _state(space, txn), over)
    number = _number(space, txn) or _new_number(space, txn)
    for removal in removals:
        _delete(txn, number, *removal)
    written = _put_all(txn, number, additions)
    if state is not None:
        txn.put(b"t" + number, state)
    return written


def _put_all(txn: Transaction, number: bytes, additions: list[Addition]) -> int:
    """At once where all are new, as the batches of a commit are; else one by one. Gives how many were written."""
    space = _CELL + number
    records = [(space + encoded + slot, record) for encoded, slot, _, record, _ in additions]
    if txn.cursor().putmulti(records, overwrite=False)[1] < len(records):
        return sum([_put(txn, number, *addition) for addition in additions])
    for encoded, _, _, _, whole in additions:
        if whole:
            txn.put(b"k" + number + encoded, whole, overwrite=False)
    return len(records)


def _put(
    txn: Transaction, number: bytes, encoded: bytes, slot: bytes, version: int, record: bytes, whole: bytes
) -> bool:
    at = _CELL + number + encoded + slot
    stored = txn.get(at)
    if stored is not None and _version(stored)[0] > version:
        return False
    if whole:
        txn.put(b"k" + number + encoded, whole, overwrite=False)
    return txn.put(at, record)


def _delete(txn: Transaction, number: bytes, encoded: bytes, slot: bytes, version: int, is_long: bool) -> None:
    prefix = _CELL + number + encoded
    stored = txn.get(prefix + slot)
    if stored is None or _version(stored)[0] > version:
        return
    txn.delete(prefix + slot)
    if is_long and not any(_under(txn, prefix, prefix)):
        txn.delete(b"k" + number + encoded)


def _forget(space: str, txn: Transaction) -> None:
    number = _number(space, txn)
    if number is not None:
        txn.delete(_space_key(space))
        txn.delete(b"t" + number)
        txn.put(b"x" + number, b"")


def _remove_forgotten(txn: Transaction) -> bool:
    """Removes a bounded number of records of dropped spaces; whether any are left, also those of a drop cut short."""
    dropped, _ = next(_under(txn, b"x", b"x"), (b"", b""))
    if not dropped:
        return False
    cursor = txn.cursor()
    left = REMOVED_AT_ONCE
    for prefix in (_CELL + dropped[1:], b"k" + dropped[1:]):
        here = cursor.set_range(prefix)
        while here and left and cursor.key().startswith(prefix):
            here = cursor.delete()
            left -= 1
    if left:
        txn.delete(dropped)
    return True


def _number(space: str, txn: Transaction) -> bytes | None:
    found = txn.get(_space_key(space))
    return None if found is None else found[: _NUMBER.size]


def _new_number(space: str, txn: Transaction) -> bytes:
    stored = txn.get(_NEXT_NUMBER)
    number = 0 if stored is None else _NUMBER.unpack(stored)[0]
    txn.put(_NEXT_NUMBER, _NUMBER.pack(number + 1))
    txn.put(_space_key(space), _NUMBER.pack(number) + space.encode())
    return _NUMBER.pack(number)


# Records and what they stand for


def _removals(deletes: Iterable[tuple[bytes, bytes, int]]) -> list[Removal]:
    found = []
    for key, slot, version in deletes:
        checked_address(key, slot, version)
        found.append((_encoded(key), slot, version, len(key) > SORTED_KEY))
    return found


def _additions(cells: Iterable[Cell]) -> list[Addition]:
    """Encoded before the writer's lock is taken, and in the order of the tree, which is the fastest to insert."""
    found = []
    for cell in cells:
        checked_address(cell.key, cell.slot, cell.version)
        record = VERSION.pack(cell.version) + cell.value
        whole = cell.key if len(cell.key) > SORTED_KEY else b""
        found.append((_encoded(cell.key), cell.slot, cell.version, record, whole))
    found.sort(key=lambda addition: addition[:2])
    return found


def _encoded(key: bytes) -> bytes:
    if len(key) <= SORTED_KEY:
        return key.replace(b"\0", b"\0\xff") + b"\0\0"
    return key[:SORTED_KEY].replace(b"\0", b"\0\xff") + b"\0\1" + blake2b(key, digest_size=32).digest()


def _decoded(at: bytes, txn: Transaction) -> tuple[bytes, bytes]:
    """The key and the slot of a cell's record."""
    end = _END_OF_KEY.search(at, _FIRST_OF_KEY)
    assert end is not None, at
    if end.group() == b"\0\0":
        return at[_FIRST_OF_KEY : end.start()].replace(b"\0\xff", b"\0"), at[end.end() :]
    end_of_hash = end.end() + 32
    key = txn.get(b"k" + at[1:end_of_hash])
    assert key is not None, at
    return key, at[end_of_hash:]


@lru_cache(maxsize=4096)
def _space_key(space: str) -> bytes:
    return b"s" + blake2b(space.encode(), digest_size=32).digest()
