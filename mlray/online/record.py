"""The state record of a view's space, and how writers take turns over it.

Whoever changes a record writes it over the one that it has read (compare-and-swap); where another was faster, it looks
again. So writers in any number of processes take turns, and none undoes what another did.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Self

import pyarrow as pa

from mlray.errors import Conflict, NotMaterialized, SchemaError
from mlray.features.catalog import view_hash
from mlray.features.view import FeatureView
from mlray.online.encoding import schema_from_text, schema_text
from mlray.online.store import Cell, OnlineStore


@dataclass(frozen=True)
class Loading:
    """A load under way. since: the instant from which reads must be exact; part of parts: the first that is still to
    do; later: rows beyond `until` in those before.
    """

    version: int
    until: int
    since: int
    parts: int
    part: int = 0
    later: int = 0


@dataclass(frozen=True)
class ViewState:
    """The state record of a space. Times in microseconds UTC; None: not yet, or without bound.

    until, version: of the newest base; watermark: complete up to it; reach: answers are exact from it on; history: how
    far before `until` the load was asked to reach; applied: the newest Delta version that was loaded or pushed; gap:
    the base's version held later events than `until` that are not online, so no push can complete the view; folded: no
    commit up to this one can be pushed any more; loading: a load that has not come to its end.
    """

    view: str
    digest: str
    schema: str
    version: int = -1
    until: int | None = None
    watermark: int | None = None
    reach: int | None = None
    applied: int = -1
    gap: bool = False
    history: int = 0
    folded: int = -1
    loading: Loading | None = None

    @property
    def events(self) -> pa.Schema:
        return schema_from_text(self.schema)

    @property
    def readable(self) -> bool:
        """Whether there is something to read: not while the first load is under way."""
        return self.version >= 0 or self.applied >= 0

    @classmethod
    def new(cls, view: FeatureView, schema: pa.Schema) -> Self:
        """Of a view that has nothing yet, for events of this schema."""
        return cls(view.name, view_hash(view), schema_text(schema))

    @classmethod
    def parsed(cls, raw: bytes) -> Self:
        """SchemaError where it is no record that this version of mlray knows."""
        try:
            found = json.loads(raw)
            loading = found.pop("loading", None)
            return cls(**found, loading=Loading(**loading) if loading else None)
        except (ValueError, TypeError, AttributeError) as error:
            raise SchemaError(
                f"the record of an online view is damaged, or of a newer mlray ({error}); drop the view's online space "
                "and materialize the view again, or read it with the mlray that wrote it"
            ) from error

    def text(self) -> bytes:
        return json.dumps(asdict(self)).encode()


@dataclass(frozen=True)
class Written:
    """How much a load or a push wrote."""

    rows: int = 0
    keys: int = 0
    bytes: int = 0

    def __add__(self, other: "Written") -> "Written":
        return Written(self.rows + other.rows, self.keys + other.keys, self.bytes + other.bytes)

    def plus(self, found: Sequence[Cell], rows: int) -> "Written":
        size = sum(len(cell.key) + len(cell.value) for cell in found)
        return Written(self.rows + rows, self.keys + len(found), self.bytes + size)


def space(view: FeatureView) -> str:
    """Where a view of this content lives; a changed definition lives elsewhere."""
    return f"{view.name}-{view_hash(view)[:32]}"


def read_state(view: FeatureView, raw: bytes | None) -> ViewState:
    """The record, as the store gives it; NotMaterialized where there is none, or nothing to read yet."""
    state = ViewState.parsed(raw) if raw is not None else None
    if state is None or not state.readable:
        raise NotMaterialized(
            f"feature view {view.name} has no online state in this definition; run "
            "platform.materialize(service, until=...)"
        )
    return state


def in_turn(store: OnlineStore, name: str, change: Callable[[bytes | None], Written]) -> Written:
    """`change` applied to the space's record, again with a newer one as long as it meets a Conflict."""
    while True:
        try:
            return change(store.state(name))
        except Conflict:  # another writer has moved on; every round one of them does
            continue
