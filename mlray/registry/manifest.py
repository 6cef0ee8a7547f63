"""What an artifact consists of: its files by relative path, size and SHA-256."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

from mlray.errors import ConfigError, CorruptArtifact
from mlray.registry.canonical import canonical_json, sha256_text

DIGEST = re.compile(r"[0-9a-f]{64}")
CHUNK = 1 << 20
MAX_PATH, MAX_FOLDERS = 1024, 64
"""Characters of a path, and folders within folders."""
_FOREIGN_SEPARATORS = re.compile(r"[\\:\x00-\x1f\x7f]")


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestFile:
    """A file: its relative POSIX path, its size in bytes, its SHA-256 in hexadecimal."""

    path: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        if not (type(self.path) is str and type(self.size) is int and self.size >= 0):
            raise TypeError(f"a file has a path and a size in bytes, not {self.path!r} and {self.size!r}")
        if DIGEST.fullmatch(self.sha256) is None:
            raise ValueError(f"{self.path}: {self.sha256!r} is no SHA-256")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of an artifact, sorted by path; `digest` is the SHA-256 of `text()`."""

    files: tuple[ManifestFile, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """The manifest that `text()` wrote; CorruptArtifact for other text or a path that leaves its root."""
        try:
            files = tuple(ManifestFile(**entry) for entry in json.loads(text)["files"])
            manifest = cls(files)
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptArtifact(f"the artifact's manifest is not one: {error}") from error
        if manifest.text() != text:
            raise CorruptArtifact("the artifact's manifest is not spelt as a manifest is")
        return manifest

    def __post_init__(self) -> None:
        """Refuses what a folder cannot hold: a path twice, one outside of it, a file inside a file."""
        paths: set[str] = set()
        for file in self.files:
            if file.path in paths or not is_inside(file.path):
                raise _cannot_hold(file.path)
            paths.add(file.path)
        for path in paths:
            for end, sign in enumerate(path):
                if sign == "/" and path[:end] in paths:
                    raise _cannot_hold(path[:end])

    @property
    def digest(self) -> str:
        return sha256_text(self.text())

    def text(self) -> str:
        files = [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in self.files]
        return canonical_json({"files": files})


def manifest_of(root: Path) -> Manifest:
    """The manifest of what lies below `root`; ConfigError without a file there, and for links and devices."""
    if not root.is_dir():
        raise ConfigError(f"{root} is no directory; a checkpoint is a directory of files")
    files = tuple(sorted(_files_below(root), key=lambda file: file.path))
    if not files:
        raise ConfigError(f"{root} holds no file; a checkpoint is a directory of files")
    return Manifest(files)


def _files_below(root: Path) -> Iterator[ManifestFile]:
    for folder, folders, names in os.walk(root):
        for name in (*folders, *names):
            path = Path(folder) / name
            relative = path.relative_to(root).as_posix()
            if path.is_symlink() or not (path.is_dir() or path.is_file()) or not is_inside(relative):
                raise ConfigError(f"{path}: an artifact takes plain files and folders with plain names only")
        for name in names:
            path = Path(folder) / name
            sha256, size = hash_of(path)
            yield ManifestFile(path=path.relative_to(root).as_posix(), size=size, sha256=sha256)


def is_inside(path: str) -> bool:
    """A relative path that stays below its root on every system, and is spelt in one way."""
    pure = PurePosixPath(path)
    return (
        0 < len(path) <= MAX_PATH
        and path.isprintable()
        and _FOREIGN_SEPARATORS.search(path) is None
        and not pure.is_absolute()
        and pure.as_posix() == path
        and 0 < len(pure.parts) <= MAX_FOLDERS
        and ".." not in pure.parts
    )


def _cannot_hold(path: str) -> CorruptArtifact:
    return CorruptArtifact(
        f"an artifact cannot hold a file {path[:200]!r} beside its other files; a path is relative, stays below its "
        f"root, has at most {MAX_PATH} characters in {MAX_FOLDERS} parts, is there once, and is no other file's folder"
    )


def hash_of(path: Path) -> tuple[str, int]:
    """The file's SHA-256 in hexadecimal and its size in bytes."""
    digest, size = hashlib.sha256(), 0
    for chunk in chunks_of(path):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def chunks_of(path: Path) -> Iterator[bytes]:
    """The file's bytes in pieces of at most CHUNK."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk
