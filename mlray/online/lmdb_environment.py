"""LMDB environments: one per folder and process, shared by its handles; map, format and forks are looked after."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Condition, Lock
from typing import TypeAlias, TypeVar

import lmdb

from mlray.errors import StoreError

T = TypeVar("T")
Transaction: TypeAlias = "lmdb.Transaction[bytes]"

FORMAT = 2
READERS = 1024
_FORMAT_KEY, _FORMAT_MARK = b"format", b"mlray online store "


class Environment:
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
        self._lock = Lock()
        self._changed = Condition(self._lock)
        self._inside = 0
        self._waiting = 0

    def __enter__(self) -> None:
        with self._lock:
            while self._waiting:
                self._changed.wait()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
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


_environments: dict[str, Environment] = {}
_opening = Lock()


def acquire(path: str, first_map: int) -> Environment:
    with _opening:
        held = _environments.get(path)
        if held is None or held.identity != _identity(path):  # a folder removed and made again is another store
            held = _environments[path] = Environment(path, first_map)
        held.refuse_fork()
        held.holders += 1
        return held


def release(environment: Environment) -> None:
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
    """Whether the file is of the format known here; False while it is empty."""
    found = txn.get(_FORMAT_KEY, b"")
    if not found and txn.stat()["entries"] == 0:
        return False
    number = found.removeprefix(_FORMAT_MARK)
    if number == found or not number.isdigit():
        raise StoreError(f"lmdb://{path} is no online store but another program's LMDB file; name an empty folder")
    if int(number) != FORMAT:
        raise StoreError(
            f"lmdb://{path} has format {int(number)}, this mlray knows format {FORMAT}; install "
            f"{'a newer' if int(number) > FORMAT else 'the older'} mlray, or materialize into another folder"
        )
    return True


def _claim(path: str, txn: Transaction) -> None:
    if not _is_ours(path, txn):  # another process may have been first
        txn.put(_FORMAT_KEY, _FORMAT_MARK + str(FORMAT).encode())
