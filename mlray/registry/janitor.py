"""Removes bytes of the artifact store that no version names: what was uploaded and not registered, or cut off.

It must not take what a registration is about to name. Three things see to that, without a lock on the store:

- what is younger than the grace period stays, and so does every file of an artifact that stays;
- bytes go only while the janitor holds the lock under which versions come to be, after another look at what they name;
- a registration that has a sweep beside it looks at its bytes once more under that lock, and is refused without them.
  The sweep announces itself in the audit before it removes anything and signs off at its end. One that was killed has
  not signed off: registrations look twice until the next one has.

A manifest goes before its blobs, so that an artifact is whole or not there.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sqlmodel import Session, col, select

from mlray.errors import CorruptArtifact, UnknownName
from mlray.registry.artifacts import ArtifactStore, Entry
from mlray.registry.identity import ADMIN
from mlray.registry.lookup import microseconds
from mlray.registry.tables import AuditRow, VersionRow
from mlray.registry.transaction import Transaction

BEGAN, ENDED = "sweep", "swept"
LONGEST_GRACE = timedelta(days=3660)
BATCH = 1000
"""Objects that are removed under one lock."""
_DELETIONS = ("delete_version", "delete_model")
_READERS = 8
_PARTIAL = timedelta(hours=1)
"""How long a half-written file of a local store is left to whoever writes it, however short the grace."""


@dataclass(frozen=True)
class Swept:
    """What went, or would go: artifacts that no version names, blobs of no artifact, files of uploads cut off."""

    artifacts: int
    blobs: int
    partial: int
    bytes: int


@dataclass(frozen=True)
class Sweeps:
    """The last word of a janitor in the audit, and whether it has not signed off."""

    sequence: int
    running: bool

    @classmethod
    def seen(cls, session: Session) -> "Sweeps":
        mine = select(AuditRow).where(AuditRow.model == "", col(AuditRow.action).in_([BEGAN, ENDED]))
        newest = (col(AuditRow.sequence) + 0).desc()  # by the index of actions, not by walking all of the audit back
        row = session.exec(mine.order_by(newest).limit(1)).one_or_none()
        return cls(0, False) if row is None else cls(row.sequence, row.action == BEGAN)

    def beside(self, session: Session) -> bool:
        """Whether a sweep may have removed bytes since: then they have to be looked at again."""
        now = type(self).seen(session)
        return now.running or now != self


def named(session: Session, since: int) -> set[str]:
    """The digests that versions name, or have named until they were deleted at `since` (microseconds) or later."""
    digests = set(session.exec(select(VersionRow.digest).distinct()))
    gone = select(AuditRow).where(col(AuditRow.action).in_(_DELETIONS), col(AuditRow.at) >= since)
    rows = list(session.exec(gone))
    digests |= {(row.before or {}).get("digest", "") for row in rows}
    models = {row.model for row in rows if row.action == "delete_model"}
    return (digests | _registered(session, models)) - {""}


def _registered(session: Session, models: set[str]) -> set[str]:
    """The digests that versions of these models ever had, also under names that the models had before."""
    renamed = select(AuditRow).where(AuditRow.action == "renamed")
    before = {row.model: (row.before or {})["name"] for row in session.exec(renamed)} if models else {}
    while more := {before[name] for name in models & before.keys()} - models:
        models = models | more
    made = select(AuditRow).where(col(AuditRow.model).in_(models), col(AuditRow.action).in_(["register", "copy"]))
    return {(row.after or {}).get("digest", "") for row in session.exec(made)}


Changing = Callable[[], AbstractContextManager[Transaction]]


def sweep(artifacts: ArtifactStore, changing: Changing, before: datetime, dry_run: bool) -> Swept:
    """Removes what is older than `before` and no version names, by an admin; a repeated request removes nothing more.

    changing: opens a transaction of the call.
    """

    @contextmanager
    def kept() -> Iterator[set[str]]:
        with changing() as tx:
            _require_admin(tx)
            yield named(tx.session, microseconds(before))

    janitor = Janitor(artifacts, before, kept)
    if dry_run:
        return janitor.told(*janitor.orphans())
    with changing() as tx:
        _require_admin(tx)
        if (done := tx.repeated(ENDED)) is not None:
            return Swept(**(done.after or {})["swept"])
        if tx.repeated(BEGAN) is None:
            tx.note(BEGAN, after={"before": before.isoformat()})
    swept = janitor.sweep()
    with changing() as tx:
        tx.note(ENDED, after={"swept": asdict(swept)})
    return swept


def _require_admin(tx: Transaction) -> None:
    if tx.caller.proven:
        tx.caller.require([ADMIN], "remove artifacts")


class Janitor:
    """One sweep over a store: of what is older than `before`. named: the digests to keep, under the lock while it is
    entered.
    """

    def __init__(
        self, artifacts: ArtifactStore, before: datetime, named: Callable[[], AbstractContextManager[set[str]]]
    ) -> None:
        self._artifacts = artifacts
        self._before = before
        self._named = named
        self._files: dict[str, frozenset[str]] = {}

    def orphans(self) -> tuple[list[Entry], list[Entry]]:
        """Manifests and blobs that could go now. CorruptArtifact where a named artifact has no readable manifest: which
        blobs are its own is not known then.
        """
        blobs = self._artifacts.blobs()
        with self._named() as digests:
            manifests = self._artifacts.manifests()
        kept, gone = self._parted(manifests, digests)
        used = self._used(kept)
        return gone, [blob for blob in blobs if self._is_old(blob) and blob.name not in used]

    def sweep(self) -> Swept:
        """Removes them, batch by batch."""
        manifests, blobs = self.orphans()
        gone_manifests = list(self._remove(manifests, self._still_unnamed))
        gone_blobs = list(self._remove(blobs, self._still_unused))
        told = self.told(gone_manifests, gone_blobs)
        for path in self.partial():
            path.unlink(missing_ok=True)
        return told

    def told(self, manifests: Sequence[Entry], blobs: Sequence[Entry]) -> Swept:
        """The sum of these and of the partial files."""
        partial = [path.stat().st_size for path in self.partial()]
        size = sum(entry.size for entry in (*manifests, *blobs)) + sum(partial)
        return Swept(len(manifests), len(blobs), len(partial), size)

    def partial(self) -> Iterator[Path]:
        """Files that an upload to a folder has begun and not ended. Of a bucket these are parts that no listing shows:
        its own rule for unfinished multipart uploads removes them.
        """
        if not self._artifacts.url.startswith("file:"):
            return
        for path in Path(unquote(urlsplit(self._artifacts.url).path)).rglob("*#*"):
            try:
                written = datetime.fromtimestamp(path.stat().st_mtime, self._before.tzinfo)
            except FileNotFoundError:  # its upload has ended since the folder was listed
                continue
            if path.name.rpartition("#")[2].isdigit() and written < self._before - _PARTIAL:
                yield path

    def _remove(
        self, entries: Sequence[Entry], still: Callable[[set[str], Sequence[Entry]], list[Entry]]
    ) -> Iterator[Entry]:
        for start in range(0, len(entries), BATCH):
            with self._named() as digests:
                batch = still(digests, entries[start : start + BATCH])
                if batch:
                    self._artifacts.remove(batch)
            yield from batch

    def _still_unnamed(self, digests: set[str], entries: Sequence[Entry]) -> list[Entry]:
        return [entry for entry in entries if entry.name not in digests]

    def _still_unused(self, digests: set[str], entries: Sequence[Entry]) -> list[Entry]:
        used = self._used(self._parted(self._artifacts.manifests(), digests)[0])
        return [entry for entry in entries if entry.name not in used]

    def _parted(self, manifests: Sequence[Entry], digests: set[str]) -> tuple[list[Entry], list[Entry]]:
        """The manifests to keep, and the others. A young one that was removed in the meantime is no matter."""
        lost = digests - {manifest.name for manifest in manifests}
        if lost:
            raise CorruptArtifact(
                f"a version names artifact {min(lost)}, whose manifest is not in {self._artifacts.url}; nothing is "
                "removed as long as it is not known which files are its own: restore it, or delete the version"
            )
        kept = [one for one in manifests if one.name in digests or not self._is_old(one)]
        return kept, [one for one in manifests if one.name not in digests and self._is_old(one)]

    def _used(self, manifests: Sequence[Entry]) -> set[str]:
        """The blobs of these artifacts; each manifest is read once."""
        new = [one.name for one in manifests if one.name not in self._files]
        with ThreadPoolExecutor(_READERS) as readers:
            self._files |= zip(new, readers.map(self._blobs_of, new), strict=True)
        return {blob for one in manifests for blob in self._files[one.name]}

    def _blobs_of(self, digest: str) -> frozenset[str]:
        try:
            return frozenset(file.sha256 for file in self._artifacts.manifest(digest).files)
        except UnknownName:  # a young one, removed since it was listed
            return frozenset()

    def _is_old(self, entry: Entry) -> bool:
        return entry.modified < self._before
