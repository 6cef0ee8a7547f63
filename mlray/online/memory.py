"""The reference: dictionaries behind one lock. It lives as long as the process, for tests and for a first look."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock
from types import EllipsisType

from mlray.errors import StoreError
from mlray.online.store import Cell, Found, Held, Stats, checked_address, checked_space, checked_state, counted


@dataclass
class _Space:
    keys: dict[bytes, dict[bytes, Cell]] = field(default_factory=dict)
    state: bytes | None = None

    def cells(self, key: bytes) -> list[Cell]:
        slots = self.keys.get(key, {})
        return [slots[slot] for slot in sorted(slots)]

    def put(self, cell: Cell) -> bool:
        slots = self.keys.setdefault(cell.key, {})
        if cell.slot in slots and slots[cell.slot].version > cell.version:
            return False
        slots[cell.slot] = cell
        return True

    def delete(self, key: bytes, slot: bytes, version: int) -> None:
        slots = self.keys.get(key, {})
        if slot in slots and slots[slot].version <= version:
            del slots[slot]
            if not slots:
                del self.keys[key]


@dataclass
class _Contents:
    lock: Lock = field(default_factory=Lock)
    spaces: dict[str, _Space] = field(default_factory=dict)


_contents: dict[str, _Contents] = {}


class MemoryStore:
    """A handle on the dictionaries of that name; they stay when it is closed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._open: _Contents | None = _contents.setdefault(name, _Contents())

    def read(self, requests: Sequence[tuple[str, Sequence[bytes]]]) -> list[Held]:
        contents = self._contents()
        with contents.lock:
            found = [(contents.spaces.get(space, _Space()), keys) for space, keys in requests]
            return [Held(space.state, Found.of(keys, [space.cells(key) for key in keys])) for space, keys in found]

    def write(
        self,
        space: str,
        cells: Iterable[Cell],
        *,
        deletes: Iterable[tuple[bytes, bytes, int]] = (),
        state: bytes | None = None,
        over: bytes | EllipsisType | None = ...,
    ) -> int:
        checked_space(space)
        removed, added = list(deletes), list(cells)
        for address in (*removed, *((cell.key, cell.slot, cell.version) for cell in added)):
            checked_address(*address)
        contents = self._contents()
        with contents.lock:
            held = contents.spaces.get(space, _Space())
            checked_state(space, held.state, over)
            contents.spaces[space] = held
            for key, slot, version in removed:
                held.delete(key, slot, version)
            written = sum([held.put(cell) for cell in added])
            held.state = held.state if state is None else state
            return written

    def state(self, space: str) -> bytes | None:
        contents = self._contents()
        with contents.lock:
            return contents.spaces.get(space, _Space()).state

    def scan(self, space: str) -> Iterator[Cell]:
        contents = self._contents()
        with contents.lock:
            held = contents.spaces.get(space, _Space())
            found = [cell for key in sorted(held.keys) for cell in held.cells(key)]
        return iter(found)

    def spaces(self) -> list[str]:
        contents = self._contents()
        with contents.lock:
            return sorted(contents.spaces)

    def stats(self, space: str) -> Stats:
        return counted(self.scan(space))

    def drop(self, space: str) -> None:
        contents = self._contents()
        with contents.lock:
            contents.spaces.pop(space, None)

    def close(self) -> None:
        self._open = None

    def _contents(self) -> _Contents:
        if self._open is None:
            raise StoreError(f"memory://{self._name} is closed; open it again with open_store")
        return self._open
