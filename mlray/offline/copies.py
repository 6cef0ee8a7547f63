"""Managed copies of a source's table: where they lie, and which version of the source each of their versions mirrors.

A copy is a Delta table of its own under the lake, partitioned by the bucket of a key, its files sorted by key and time.
It holds all columns and all rows of the source but those without key, event time or known_at, which no view ever sees.
Every commit carries the version that it mirrors as an application transaction.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

from deltalake import DeltaTable, Transaction

from mlray.features.source import DeltaSource
from mlray.offline import changes, delta

BUCKET = "__bucket"
"""The partition column of a copy, int32."""

_FORM = 1
"""Raised when the same source would be written otherwise."""
_BUCKETS = "mlray.buckets"
_KEPT = timedelta(days=6)
"""How long a replaced file surely stays: Delta's week, less a day for the build that reads it."""


@dataclass(frozen=True)
class Layout:
    """A copy at one of its versions. source_version: the version of the source that it mirrors."""

    table: delta.Table
    source_version: int
    keys: tuple[str, ...]
    buckets: int

    def files(self, bucket: int) -> tuple[delta.File, ...]:
        """The files of a bucket, each sorted."""
        return tuple(self._by_bucket[bucket])

    @cached_property
    def _by_bucket(self) -> dict[int, list[delta.File]]:
        found: dict[int, list[delta.File]] = defaultdict(list)
        for file in self.table.files:
            found[dict(file.partition)[BUCKET]].append(file)
        return found


def folder(lake: str, source: DeltaSource, keys: Sequence[str]) -> str:
    """Where the copy lies: named by all that shapes it, so that a changed definition has a copy of its own."""
    times = (source.timestamp, source.known_at, source.sequence)
    derived = {c: source.select[c] for c in (*keys, *filter(None, times)) if c in source.select}
    shape = json.dumps([_FORM, source.path, list(keys), times, derived], sort_keys=True)
    digest = hashlib.sha256(shape.encode()).hexdigest()[:16]
    name = re.sub(r"[^A-Za-z0-9_]+", "_", "-".join(keys))[:64]
    return f"{lake.rstrip('/')}/_mlray/layout/{source.name}/{name}-{digest}"


def find(lake: str, source: DeltaSource, keys: Sequence[str], mirrors: int | None = None) -> Layout | None:
    """The newest copy for these key columns, or that which mirrors exactly the source's version `mirrors`; None where
    there is none.
    """
    root = folder(lake, source, keys)
    if not delta.exists(root):
        return None
    mark, opened = identity(lake, source), DeltaTable(root)
    newest = opened.transaction_version(mark)
    if newest is None:
        return None
    if mirrors is None or mirrors == newest:
        return _layout(opened, root, source, keys, newest)
    version = _that_mirrored(root, mark, opened.version(), mirrors)
    return None if version is None else _layout(DeltaTable(root, version=version), root, source, keys, mirrors)


def identity(lake: str, source: DeltaSource) -> str:
    """The name of the transactions that mirror this table: one that was removed and made again begins at version 0
    again, but is another.
    """
    return f"mlray.source/{DeltaTable(delta.resolve(lake, source.path)).metadata().id}"


def transactions(mark: str, version: int, buckets: int) -> list[Transaction]:
    """What a commit of a copy carries. Two commits of one name from one version of a table exclude each other."""
    return [Transaction(mark, version), Transaction(_BUCKETS, buckets)]


def _layout(opened: DeltaTable, root: str, source: DeltaSource, keys: Sequence[str], mirrors: int) -> Layout:
    table = delta.table_at(root, f"layout of source {source.name}", opened.version())
    return Layout(table, mirrors, tuple(keys), int(opened.transaction_version(_BUCKETS) or 1))


def _that_mirrored(root: str, mark: str, newest: int, mirrors: int) -> int | None:
    """The copy's version that mirrored this version of the source, as long as its files surely are there."""
    for version in range(newest, -1, -1):
        actions = changes.entry(root, version)
        if actions is None:
            return None
        found = [a["txn"]["version"] for a in actions if a.get("txn", {}).get("appId") == mark]
        if mirrors in found:
            return version
        if any(other < mirrors for other in found) or _gone(actions):
            return None
    return None


def _gone(actions: Sequence[changes.Action]) -> bool:
    """Whether files that this commit removed may be deleted by now."""
    horizon = (datetime.now(UTC) - _KEPT).timestamp() * 1000
    return any(a["remove"].get("deletionTimestamp", 0) < horizon for a in actions if "remove" in a)
