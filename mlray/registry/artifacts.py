"""Directories of files kept by content: what is read back is, byte for byte, what was stored, or an error.

    blobs/sha256/ab/abcd...          the bytes of a file, under the SHA-256 of these bytes
    manifests/sha256/12/1234....json the files of one directory; its own SHA-256 is the digest of the artifact

An artifact exists from the moment its manifest does, which is written last and in one piece; what an
interrupted upload leaves behind are blobs that nothing names. Nothing is overwritten with other bytes.
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Self
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import ObjectStore

from mlray.errors import ConfigError, Conflict, CorruptArtifact, UnknownName, did_you_mean
from mlray.registry.manifest import CHUNK, DIGEST, Manifest, ManifestFile, chunks_of, manifest_of
from mlray.registry.object_store import ObjectReader, open_at, reached

# Up to this size a file goes up in one request, which can refuse to overwrite; a larger one in parts.
ONE_REQUEST = 64 << 20
SCHEMES = ("file", "s3", "gs", "az")


@dataclass(frozen=True, slots=True)
class Entry:
    """An object of the store: a blob or a manifest. name: its digest; modified: aware, by the store's own clock."""

    path: str
    size: int
    modified: datetime

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2].removesuffix(".json")


class ArtifactStore:
    """Uploads and downloads directories. Safe to share between threads; pickled as its URL."""

    def __init__(self, url: str) -> None:
        self.url = absolute_artifacts_url(url)

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return type(self), (self.url,)

    def upload(self, directory: str | Path) -> str:
        """Stores every file below `directory` and answers the artifact's digest; again is fine.

        Only plain files and folders are taken. Conflict where a file changes under the hand, CorruptArtifact
        where the store already holds other bytes under a file's digest.
        """
        root = Path(directory)
        manifest = manifest_of(root)
        with self._reached():
            for file in manifest.files:
                self._put_blob(root / file.path, file)
            self._put_manifest(manifest)
        return manifest.digest

    def require(self, digest: str) -> Manifest:
        """The manifest of an artifact that is whole.

        UnknownName without one, CorruptArtifact where a blob is missing or of another size. The bytes are
        verified by `download`.
        """
        manifest = self.manifest(digest)
        with self._reached():
            for file in manifest.files:
                size = self._size(_blob(file.sha256))
                if size != file.size:
                    got = "nothing" if size is None else f"{size} bytes"
                    wanted = f"artifact {digest}: {file.path}: wanted {file.size} bytes"
                    raise CorruptArtifact(f"{wanted}, got {got}; upload it again")
        return manifest

    def verify(self, digest: str) -> Manifest:
        """The manifest of an artifact of which every byte was read and is the recorded one, else CorruptArtifact."""
        manifest = self.require(digest)
        with self._reached():
            for file in {file.sha256: file for file in manifest.files}.values():  # each blob once
                self._check_blob(file)
        return manifest

    def put_blob(self, source: Path, file: ManifestFile) -> None:
        """Stores the bytes of `source`, which are those of the file, for a manifest to come; again is fine."""
        with self._reached():
            self._put_blob(source, file)

    def put_manifest(self, manifest: Manifest) -> str:
        """Makes the artifact of a manifest, and answers its digest; UnknownName where a file's bytes are not stored."""
        with self._reached():
            for file in manifest.files:
                size = self._size(_blob(file.sha256))
                if size is None:
                    raise UnknownName(f"{file.path}: nothing is stored under {file.sha256}; upload it first")
                if size != file.size:
                    raise Conflict(f"{file.path}: {file.sha256} has {size} bytes, not {file.size}; give its true size")
            self._put_manifest(manifest)
        return manifest.digest

    def stream(self, file: ManifestFile) -> Iterator[bytes]:
        """The bytes of a file of a manifest, in pieces, all but the last before the whole is verified; the last comes
        only if it is, else CorruptArtifact.
        """
        got, kept = hashlib.sha256(), b""
        with self._reached():
            try:
                pieces = obstore.get(self._store, _blob(file.sha256)).stream(min_chunk_size=CHUNK)
                for piece in pieces:
                    got.update(piece)
                    if kept:
                        yield kept
                    kept = bytes(piece)
            except FileNotFoundError as error:
                raise CorruptArtifact(_mismatch(file.path, file.sha256, "nothing")) from error
        if got.hexdigest() != file.sha256:
            raise CorruptArtifact(_mismatch(file.path, file.sha256, got.hexdigest()))
        yield kept

    def read(self, file: ManifestFile) -> bytes:
        """The verified bytes of a file of a manifest; for small ones."""
        with self._reached():
            try:
                content = bytes(obstore.get(self._store, _blob(file.sha256)).bytes())
            except FileNotFoundError as error:
                raise CorruptArtifact(_mismatch(file.path, file.sha256, "nothing")) from error
        got = hashlib.sha256(content).hexdigest()
        if got != file.sha256:
            raise CorruptArtifact(_mismatch(file.path, file.sha256, got))
        return content

    def manifest(self, digest: str) -> Manifest:
        """The artifact's manifest, verified; UnknownName where the store has none."""
        if DIGEST.fullmatch(digest) is None:
            raise UnknownName(f"{digest!r} is no digest of an artifact; it has 64 hexadecimal digits")
        try:
            with self._reached():
                content = bytes(obstore.get(self._store, _manifest_path(digest)).bytes())
        except FileNotFoundError as error:
            raise UnknownName(f"there is no artifact {digest} in {self.url}; upload it first") from error
        got = hashlib.sha256(content).hexdigest()
        if got != digest:
            raise CorruptArtifact(_mismatch(f"the manifest of artifact {digest}", digest, got))
        return Manifest.parse(content.decode())

    def download(self, digest: str, directory: str | Path) -> Path:
        """A verified copy at `directory`, which appears whole or not at all.

        A directory that already holds exactly this artifact is verified and kept; any other content is a
        Conflict. CorruptArtifact names the file, the digest wanted and the digest got.
        """
        target = Path(directory).absolute()
        manifest = self.manifest(digest)
        if not _is_vacant(target):
            return _verified_copy(manifest, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as staging:
            whole = Path(staging) / "whole"
            whole.mkdir()
            for file in manifest.files:
                self._get_blob(file, whole / file.path)
            try:
                whole.rename(target)
            except OSError:  # somebody else was faster: what is there now must be the same
                return _verified_copy(manifest, target)
        return target

    def opened(self, file: ManifestFile) -> IO[bytes]:
        """The bytes of a file of a manifest, not verified, to be read from anywhere."""
        return io.BufferedReader(ObjectReader(self._store, _blob(file.sha256), file.size), 1 << 16)

    def blobs(self) -> list[Entry]:
        """Every blob there is, named by an artifact or not."""
        return self._entries("blobs/")

    def manifests(self) -> list[Entry]:
        """The manifest of every artifact there is."""
        return self._entries("manifests/")

    def remove(self, entries: Sequence[Entry]) -> None:
        """Removes objects; one that is gone already is fine."""
        with self._reached():
            try:
                obstore.delete(self._store, [entry.path for entry in entries])
                return
            except FileNotFoundError:
                pass
            for entry in entries:
                if self._size(entry.path) is not None:
                    obstore.delete(self._store, entry.path)

    def _entries(self, prefix: str) -> list[Entry]:
        with self._reached():
            found = [one for chunk in obstore.list(self._store, prefix) for one in chunk]
        return [Entry(one["path"], one["size"], one["last_modified"]) for one in found]

    @cached_property
    def _store(self) -> ObjectStore:
        return open_at(self.url)

    def _put_blob(self, source: Path, file: ManifestFile) -> None:
        path = _blob(file.sha256)
        if self._size(path) is None:
            mode = "create" if file.size <= ONE_REQUEST else "overwrite"
            try:
                obstore.put(self._store, path, _unchanged(source, file), mode=mode)  # type: ignore[arg-type]
                return
            except AlreadyExistsError:
                pass
        self._check_blob(file)

    def _check_blob(self, file: ManifestFile) -> None:
        got = hashlib.sha256()
        try:
            for chunk in obstore.get(self._store, _blob(file.sha256)).stream(min_chunk_size=CHUNK):
                got.update(chunk)
        except FileNotFoundError as error:  # a janitor was faster
            raise CorruptArtifact(_mismatch(file.path, file.sha256, "nothing") + "; upload it again") from error
        if got.hexdigest() != file.sha256:
            wrong = _mismatch(f"{self.url}/{_blob(file.sha256)}", file.sha256, got.hexdigest())
            raise CorruptArtifact(f"{wrong}; remove it and upload again")

    def _put_manifest(self, manifest: Manifest) -> None:
        try:
            obstore.put(self._store, _manifest_path(manifest.digest), manifest.text().encode(), mode="create")
        except AlreadyExistsError:
            self.manifest(manifest.digest)

    def _get_blob(self, file: ManifestFile, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        got, size = hashlib.sha256(), 0
        with self._reached(), target.open("xb") as out:
            try:
                stream = obstore.get(self._store, _blob(file.sha256)).stream(min_chunk_size=CHUNK)
            except FileNotFoundError as error:
                raise CorruptArtifact(_mismatch(file.path, file.sha256, "nothing")) from error
            for chunk in stream:
                got.update(chunk)
                size += out.write(chunk)
        if (got.hexdigest(), size) != (file.sha256, file.size):
            raise CorruptArtifact(_mismatch(file.path, file.sha256, got.hexdigest()))

    def _size(self, path: str) -> int | None:
        try:
            return obstore.head(self._store, path)["size"]
        except FileNotFoundError:
            return None

    def _reached(self) -> AbstractContextManager[None]:
        return reached(self.url)


def absolute_artifacts_url(text: str) -> str:
    """A folder as an absolute `file://` URL, or the URL itself where its scheme is one that is served."""
    parts = urlsplit(text)
    if parts.scheme in SCHEMES[1:]:
        return text.rstrip("/")
    if parts.scheme and parts.scheme != "file":
        near = did_you_mean(parts.scheme, SCHEMES)
        raise ConfigError(f"artifacts={text!r}: no artifact store is called '{parts.scheme}'{near}")
    folder = unquote(parts.path) if parts.scheme else text
    return Path(folder).expanduser().resolve().as_uri()


def _is_vacant(target: Path) -> bool:
    return not target.exists() or (target.is_dir() and not any(target.iterdir()))


def _verified_copy(manifest: Manifest, target: Path) -> Path:
    found = {file.path: file.sha256 for file in manifest_of(target).files}
    wanted = {file.path: file.sha256 for file in manifest.files}
    for path in wanted.keys() & found.keys():
        if found[path] != wanted[path]:
            raise CorruptArtifact(_mismatch(str(target / path), wanted[path], found[path]))
    if found.keys() != wanted.keys():
        raise Conflict(f"{target} holds other files than artifact {manifest.digest}; name an empty directory")
    return target


def _unchanged(source: Path, file: ManifestFile) -> Iterator[bytes]:
    """The file's bytes; Conflict at the end, which abandons the upload, where they are not the manifest's."""
    got = hashlib.sha256()
    for chunk in chunks_of(source):
        got.update(chunk)
        yield chunk
    if got.hexdigest() != file.sha256:
        raise Conflict(f"{source} changed while it was uploaded; upload again when nothing writes to it")


def _blob(sha256: str) -> str:
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


def _manifest_path(digest: str) -> str:
    return f"manifests/sha256/{digest[:2]}/{digest}.json"


def _mismatch(what: str, wanted: str, got: str) -> str:
    return f"{what}: wanted SHA-256 {wanted}, got {got}"
