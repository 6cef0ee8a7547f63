"""A corner of a store: spaces under a prefix of their own, beside which those of others are not seen."""

from collections.abc import Iterable, Iterator, Sequence
from types import EllipsisType

from mlray.online.store import Cell, Held, OnlineStore, Stats


class Corner:
    """A store within another: every space of it is one of the other's, its name after `prefix`.

    `close` removes the spaces and leaves the other store open.
    """

    def __init__(self, store: OnlineStore, prefix: str) -> None:
        self._store, self._prefix = store, prefix

    def read(self, requests: Sequence[tuple[str, Sequence[bytes]]]) -> list[Held]:
        return self._store.read([(self._prefix + space, keys) for space, keys in requests])

    def write(
        self, space: str, cells: Iterable[Cell], *, deletes: Iterable[tuple[bytes, bytes, int]] = (),
        state: bytes | None = None, over: bytes | EllipsisType | None = ...,
    ) -> int:
        return self._store.write(self._prefix + space, cells, deletes=deletes, state=state, over=over)

    def state(self, space: str) -> bytes | None:
        return self._store.state(self._prefix + space)

    def scan(self, space: str) -> Iterator[Cell]:
        return self._store.scan(self._prefix + space)

    def spaces(self) -> list[str]:
        mine = (name for name in self._store.spaces() if name.startswith(self._prefix))
        return [name.removeprefix(self._prefix) for name in mine]

    def stats(self, space: str) -> Stats:
        return self._store.stats(self._prefix + space)

    def drop(self, space: str) -> None:
        self._store.drop(self._prefix + space)

    def close(self) -> None:
        for space in self.spaces():
            self.drop(space)
