"""The embedded store: one LMDB file, any number of reading processes, one writer at a time, one machine.

All records lie in one sorted tree. A record's first byte says what it is:

    f                             the format of this file
    n                             the number that the next space gets
    s <hash of name>              number, name                a space; numbers are never used twice
    t <number>                    its state
    c <number> <key> <slot>       version, value              a cell
    k <number> <key>              the whole of a long key
    x <number>                    a dropped space whose records are still to be removed

A tree per space would have to be opened in every process under the writer's lock and would limit their count. Here a
space costs one record, a dropped one vanishes with it, and its cells are removed afterwards in short transactions.

Within a record a key is escaped and closed (0 becomes 0 255, then 0 0), which keeps the order of the keys and lets none
be the beginning of another. Of a key longer than 128 bytes stand the first 128, closed by 0 1, and its 256-bit BLAKE2b:
two keys would have to collide in 2**-128 of all stores of 2**64 keys.
"""

import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from hashlib import blake2b
from threading import Condition, Lock
from typing import TypeAlias, TypeVar

import lmdb

from mlray.errors import StoreError
from mlray.online.store import SORTED_KEY, Cell, Stats, checked_address, checked_space, counted

T = TypeVar("T")
Transaction: TypeAlias = "lmdb.Transaction[bytes]"
Removal: TypeAlias = tuple[bytes, bytes, int, bool]  # encoded key, slot, version, whether the key is a long one
Addition: TypeAlias = tuple[bytes, bytes, int, bytes, bytes]  # ..., record, the whole key if it is a long one

FORMAT = 1
FIRST_MAP = 1 << 30
READERS = 1024
SCAN_CELLS, SCAN_BYTES = 1000, 4 << 20
REMOVED_AT_ONCE = 20_000

_FORMAT_KEY, _FORMAT_MARK = b"format", b"mlray online store "
_NEXT_NUMBER = b"n"
_NUMBER = struct.Struct(">I")
_VERSION = struct.Struct(">q")
_END_OF_KEY = re.compile(rb"\x00[\x00\x01]")
_FIRST_OF_KEY = 1 + _NUMBER.size


class LmdbStore:
    """A handle on the environment in folder `path`, which is made if it is missing.

    A forked child is refused. first_map: bytes of address space to begin with; the map doubles when it is full.
    """

    def __init__(self, path: str, *, first_map: int = FIRST_MAP) -> None:
        self._path = os.path.realpath(path)
        self._environment: _Environment | None = _acquire(self._path, first_map)

    def read(self, requests: Sequence[tuple[str, Sequence[bytes]]]) -> list[list[list[Cell]]]:
        return self._held().read(partial(_read, requests))

    def write(
        self, space: str, cells: Iterable[Cell], *, deletes: Iterable[tuple[bytes, bytes, int]] = (),
        state: bytes | None = None,
    ) -> int:
        batch = (checked_space(space), _removals(deletes), _additions(cells), state)
        return self._held().write(partial(_write, *batch))

    def state(self, space: str) -> bytes | None:
        return self._held().read(partial(_state, space))

    def scan(self, space: str) -> Iterator[Cell]:
        number = self._held().read(partial(_number, space))
        return iter(()) if number is None else self._scan(b"c" + number)

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
            _release(environment)

    def _scan(self, prefix: bytes) -> Iterator[Cell]:
        after = prefix
        while found := self._held().read(partial(_page, prefix, after)):
            after = found[-1][0] + b"\0"  # the least record key beyond the last one seen
            for _, cell in found:
                yield cell

    def _held(self) -> "_Environment":
        if self._environment is None:
            raise StoreError(f"lmdb://{self._path} is closed; open it again with open_store")
        return self._environment


# What is done inside a transaction


def _read(requests: Sequence[tuple[str, Sequence[bytes]]], txn: Transaction) -> list[list[list[Cell]]]:
    cursor = txn.cursor()
    answers: list[list[list[Cell]]] = []
    for space, keys in requests:
        number = _number(space, txn)
        if number is None:
            answers.append([[] for _ in keys])
        else:
            answers.append([_cells(cursor, b"c" + number + _encoded(key), key) for key in keys])
    return answers


def _cells(cursor: "lmdb.Cursor[bytes]", prefix: bytes, key: bytes) -> list[Cell]:
    found: list[Cell] = []
    here = cursor.set_range(prefix)
    while here and (at := cursor.key()).startswith(prefix):
        record = cursor.value()
        found.append(Cell(key, at[len(prefix) :], _VERSION.unpack_from(record)[0], record[_VERSION.size :]))
        here = cursor.next()
    return found


def _page(prefix: bytes, after: bytes, txn: Transaction) -> list[tuple[bytes, Cell]]:
    """The next cells, each with its record key: at most SCAN_CELLS and, but for the last one, SCAN_BYTES."""
    found: list[tuple[bytes, Cell]] = []
    size = 0
    for at, record in _under(txn, prefix, after):
        key, slot = _decoded(at, txn)
        found.append((at, Cell(key, slot, _VERSION.unpack_from(record)[0], record[_VERSION.size :])))
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
    space: str, removals: list[Removal], additions: list[Addition], state: bytes | None, txn: Transaction
) -> int:
    number = _number(space, txn) or _new_number(space, txn)
    for removal in removals:
        _delete(txn, number, *removal)
    written = sum([_put(txn, number, *addition) for addition in additions])
    if state is not None:
        txn.put(b"t" + number, state)
    return written


def _put(
    txn: Transaction, number: bytes, encoded: bytes, slot: bytes, version: int, record: bytes, whole: bytes
) -> bool:
    at = b"c" + number + encoded + slot
    stored = txn.get(at)
    if stored is not None and _VERSION.unpack_from(stored)[0] > version:
        return False
    if whole:
        txn.put(b"k" + number + encoded, whole, overwrite=False)
    return txn.put(at, record)


def _delete(txn: Transaction, number: bytes, encoded: bytes, slot: bytes, version: int, is_long: bool) -> None:
    prefix = b"c" + number + encoded
    stored = txn.get(prefix + slot)
    if stored is None or _VERSION.unpack_from(stored)[0] > version:
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
    for prefix in (b"c" + dropped[1:], b"k" + dropped[1:]):
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
        record = _VERSION.pack(cell.version) + cell.value
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


# Environments: one per folder and process


class _Environment:
    """An open LMDB environment, its map and its format looked after."""

    def __init__(self, path: str, first_map: int) -> None:
        self.path = path
        self.holders = 0
        self._pid = os.getpid()
        self._gate = _Gate()
        self._writer = Lock()
        self._lmdb = _opened(path, first_map)
        self.identity = _identity(path)
        try:
            self._lmdb.reader_check()  # a killed reader's slot would keep old pages from being used again
            if not self.read(partial(_is_ours, path)):
                self.write(partial(_claim, path))
        except StoreError:
            self._lmdb.close()
            raise

    def read(self, work: Callable[[Transaction], T]) -> T:
        """work(transaction) on one snapshot."""
        return self._run(partial(self._try_reading, work), "it cannot be read")

    def write(self, work: Callable[[Transaction], T]) -> T:
        """work(transaction), committed; run again from its start if the map had to grow."""
        self.refuse_fork()
        with self._writer:
            return self._run(partial(self._try_writing, work), "nothing was written; is there room on the disk?")

    def _try_reading(self, work: Callable[[Transaction], T]) -> T:
        with self._gate, self._lmdb.begin() as txn:
            return work(txn)

    def _try_writing(self, work: Callable[[Transaction], T]) -> T:
        with self._gate:
            txn = self._lmdb.begin(write=True)
            try:
                result = work(txn)
                txn.commit()
            except BaseException:
                with self._gate.alone(inside=1):  # else abort() waits, for seconds, for the readers to pause by chance
                    txn.abort()
                raise
            return result

    def _run(self, attempt: Callable[[], T], outcome: str) -> T:
        self.refuse_fork()
        while True:
            try:
                return attempt()
            except lmdb.MapResizedError:
                self._remap(0)
            except lmdb.MapFullError:
                self._remap(2 * self._lmdb.info()["map_size"])
            except lmdb.ReadersFullError as error:
                if not self._lmdb.reader_check():
                    raise StoreError(f"lmdb://{self.path}: more than {READERS} reads at a time") from error
            except lmdb.Error as error:
                raise StoreError(f"lmdb://{self.path}: {error}; {outcome}") from error

    def close(self) -> None:
        if self._pid == os.getpid():
            with self._writer, self._gate.alone():
                self._lmdb.close()

    def refuse_fork(self) -> None:
        if self._pid != os.getpid():
            raise StoreError(
                f"lmdb://{self.path} was opened by process {self._pid} and is used in its fork {os.getpid()}, where "
                "LMDB is unsafe; start the process by spawn, or close the store before the fork"
            )

    def _remap(self, size: int) -> None:
        """size 0: as large as another process has made it."""
        with self._gate.alone():
            try:
                self._lmdb.set_mapsize(size)
            except lmdb.Error as error:
                self._lmdb.close()  # the old map is gone already, and LMDB would read where it was
                raise StoreError(f"lmdb://{self.path}: {error}; its map cannot be {size} bytes") from error


class _Gate:
    """Transactions pass together; who remaps or closes goes alone, for LMDB moves the map under the others."""

    def __init__(self) -> None:
        self._changed = Condition(Lock())
        self._inside = 0
        self._waiting = 0

    def __enter__(self) -> None:
        with self._changed:
            while self._waiting:
                self._changed.wait()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._inside -= 1
            if self._waiting:
                self._changed.notify_all()

    @contextmanager
    def alone(self, inside: int = 0) -> Iterator[None]:
        """Lets nobody in, and waits until only `inside` are: 1 for one who is in already, of whom there may be one."""
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: self._inside == inside)
                yield
            finally:
                self._waiting -= 1
                self._changed.notify_all()


_environments: dict[str, _Environment] = {}
_opening = Lock()


def _acquire(path: str, first_map: int) -> _Environment:
    with _opening:
        held = _environments.get(path)
        if held is None or held.identity != _identity(path):  # a folder removed and made again is another store
            held = _environments[path] = _Environment(path, first_map)
        held.refuse_fork()
        held.holders += 1
        return held


def _release(environment: _Environment) -> None:
    with _opening:
        environment.holders -= 1
        if environment.holders == 0:
            environment.close()
            if _environments.get(environment.path) is environment:
                del _environments[environment.path]


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(os.path.join(path, "data.mdb"))
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _opened(path: str, first_map: int) -> lmdb.Environment:
    name = f"lmdb://{path}"
    try:
        os.makedirs(path, exist_ok=True)
        files = set(os.listdir(path))
        if files - {"lock.mdb"} and "data.mdb" not in files:
            raise StoreError(f"{name} is no online store: the folder holds {min(files)!r}; name an empty folder")
        # A spare transaction would save 0.15 us a read, and a fork that ends would free its slot under the parent.
        return lmdb.open(path, map_size=first_map, max_readers=READERS, max_spare_txns=0)
    except lmdb.InvalidError as error:
        raise StoreError(f"{name} is no online store: its data.mdb is not an LMDB file ({error})") from error
    except (OSError, lmdb.Error) as error:
        raise StoreError(f"{name} cannot be opened: {error}; name a folder this process may write to") from error


def _is_ours(path: str, txn: Transaction) -> bool:
    """Whether the file is of a format known here; False while it is empty."""
    found = txn.get(_FORMAT_KEY, b"")
    if not found and txn.stat()["entries"] == 0:
        return False
    number = found.removeprefix(_FORMAT_MARK)
    if number == found or not number.isdigit():
        raise StoreError(f"lmdb://{path} is no online store but another program's LMDB file; name an empty folder")
    if int(number) > FORMAT:
        raise StoreError(
            f"lmdb://{path} has format {int(number)}, this mlray knows formats up to {FORMAT}; install a newer mlray, "
            "or materialize into another folder"
        )
    return True


def _claim(path: str, txn: Transaction) -> None:
    if not _is_ours(path, txn):  # another process may have been first
        txn.put(_FORMAT_KEY, _FORMAT_MARK + str(FORMAT).encode())
