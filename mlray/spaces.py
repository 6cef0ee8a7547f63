"""What the online store holds, view by view, and which of it nobody reads any more."""

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from secrets import token_hex

from mlray.features.applied import Applied
from mlray.features.catalog import pinned
from mlray.features.view import FeatureView
from mlray.online.corner import Corner
from mlray.online.record import ViewState, space
from mlray.online.state import event_bounds
from mlray.online.store import OnlineStore, open_store
from mlray.registry.model_version import ModelVersion

logger = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DIGITS = 12
_SECOND, _DAY = 1_000_000, 86_400_000_000
_CORNER = re.compile(r"verify~([0-9a-f]+)~[0-9a-f]{8}~")
"""How the names of spaces begin that are there only while something is verified: since when, in seconds, and whose."""


@dataclass(frozen=True)
class SpaceStats:
    """One space: a view in one definition, by the first digits of its hash. Times in UTC.

    keys, cells, bytes: as the store counts them. version: of Delta, of the newest base; watermark: complete up to it;
    reach: answers are exact from it on (None: always); oldest, newest: times of stored events. None: not there, or, of
    a space that is of no definition ever in force here, not known.
    """

    view: str
    definition: str
    in_force: bool
    keys: int
    cells: int
    bytes: int
    version: int | None
    watermark: datetime | None
    reach: datetime | None
    oldest: datetime | None
    newest: datetime | None


@dataclass(frozen=True)
class Dropped:
    """A space that is gone, and what it held."""

    view: str
    definition: str
    keys: int
    cells: int
    bytes: int


def space_stats(store: OnlineStore, applied: Applied) -> list[SpaceStats]:
    """Every space of the store, by name. Reads all of it: some seconds for a million cells."""
    now = _by_space(applied.views())
    known = _by_space(applied.past_views()) | now
    return [_stats(store, name, known.get(name), name in now) for name in store.spaces()]


def drop_unread(
    store: OnlineStore, applied: Applied, versions: Iterable[ModelVersion], now: int, *, dry_run: bool = False
) -> list[Dropped]:
    """Drops the spaces of definitions that were in force, are not any more, and are pinned by no model version; and
    those that a `verify` began more than a day before `now` (microseconds UTC) and has left.

    Other spaces of definitions that were never in force here stay: another platform may use the same store. So do those
    of views that a definition names which this release cannot rebuild; a warning tells it. dry_run: only tells what it
    would drop.
    """
    held = store.spaces()  # first: what comes into being from now on stays
    kept = _pinned(versions, held)
    past = _by_space(applied.past_views())
    unread = [name for name in held if (name in past and name not in kept) or _is_left(name, now)]
    dropped = []
    for name in unread:
        count = store.stats(name)
        dropped.append(Dropped(*_named(name), count.keys, count.cells, count.bytes))
        if not dry_run:
            store.drop(name)
    return dropped


def _pinned(versions: Iterable[ModelVersion], held: list[str]) -> set[str]:
    texts = {version.service_definition: version.reference for version in versions if version.service_definition}
    kept: set[str] = set()
    for text, reference in texts.items():
        service = pinned(text)
        if service is None:
            logger.warning("%s pins a service that cannot be rebuilt; views that its text names stay", reference)
            kept |= {name for name in held if _named(name)[0] in text}
        else:
            kept |= {space(view) for view in service.views}
    return kept


def _is_left(name: str, now: int) -> bool:
    corner = _CORNER.match(name)
    return corner is not None and now - int(corner[1], 16) * _SECOND > _DAY


def _stats(store: OnlineStore, name: str, view: FeatureView | None, in_force: bool) -> SpaceStats:
    count, raw = store.stats(name), store.state(name)
    state = ViewState.parsed(raw) if raw is not None else None
    ready = state if state is not None and state.readable else None
    timed = view if ready and view and view.source.timestamp else None
    oldest, newest = (event_bounds(store, timed) if timed else None) or (None, None)
    return SpaceStats(
        *_named(name),
        in_force,
        count.keys,
        count.cells,
        count.bytes,
        ready.version if ready and ready.version >= 0 else None,
        _instant(ready.watermark if ready else None),
        _instant(ready.reach if ready else None),
        _instant(oldest),
        _instant(newest),
    )


def _by_space(views: Iterable[FeatureView]) -> dict[str, FeatureView]:
    return {space(view): view for view in views}


def _named(name: str) -> tuple[str, str]:
    view, _, definition = name.rpartition("-")
    return view, definition[:_DIGITS]


def _instant(time: int | None) -> datetime | None:
    return None if time is None else _EPOCH + timedelta(microseconds=time)


@contextmanager
def empty_store(like: str, folder: str, now: int) -> Iterator[OnlineStore]:
    """A store of the kind at `like`, of its own and gone afterwards: of LMDB in the folder, of Redis a corner of that
    very server, else in memory. now: microseconds UTC, by which `drop_unread` knows what a killed process has left.
    """
    shared = like.startswith(("redis://", "rediss://"))
    own = f"lmdb://{folder}/online" if like.startswith("lmdb://") else f"memory://{folder}"
    held = open_store(like if shared else own)
    prefix = f"verify~{now // _SECOND:x}~{token_hex(4)}~" if shared else ""
    with closing(held), closing(Corner(held, prefix)) as corner:
        yield corner
