"""What a file packs: the members of a zip or a tar, and what gzip, zlib, bz2, xz or lzma has squeezed.

An archive is somebody else's: it may be damaged, encrypted, or small and without end. Nothing of it is unpacked to a
path, none of its sizes is believed, and what cannot be looked through is told as such (TooFar).
"""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from mlray.registry.opcodes import Steps, TooFar

MOST_UNPACKED, MOST_MEMBERS = 1 << 30, 10_000
"""Bytes that are unpacked, and members that are looked at, of one file with all that it packs."""
_UNKNOWN = 1 << 40
"""More bytes than any file has: of what is squeezed, the size is not known."""
_LISTING = 8 << 20
"""An archive's directory is read in pieces of at most so many bytes; that of 10,000 members has about 1 MB."""
_IN_MEMORY = 16 << 20
_PIECE = 1 << 20
_HEAD = 512
_ZLIB = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_LZ4 = b"\x04\x22\x4d\x18"
UNREADABLE = (
    EOFError, ValueError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, tarfile.TarError, zipfile.BadZipFile,
    NotImplementedError, RuntimeError, struct.error,
)  # fmt: skip
"""What reading an archive raises where it is damaged, encrypted, or of a kind that nobody here can read."""


@dataclass
class Budget:
    """What may still be looked at of one file."""

    bytes: int = MOST_UNPACKED
    members: int = MOST_MEMBERS
    steps: Steps = field(default_factory=Steps)

    def unpack(self, size: int) -> None:
        self.bytes -= size
        if self.bytes < 0:
            raise TooFar

    def member(self) -> None:
        self.members -= 1
        if self.members < 0:
            raise TooFar


@dataclass(frozen=True, kw_only=True)
class Content:
    """Some bytes. name: empty for none; size: as told; open: gives them from the beginning; whole: to be read from
    anywhere, else as one stream.
    """

    name: str
    size: int
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    whole: bool = False


def packed_in(content: Content, budget: Budget) -> Iterator[Content]:
    """What these bytes pack, one after the other. TooFar beyond the budget, and where it cannot be looked through."""
    with content.open() as file:
        head = file.read(_HEAD)
    if head.startswith(_LZ4):
        raise TooFar  # joblib reads it, with a library that need not be here
    for magic, unpacked in _SQUEEZED.items():
        if head.startswith(magic):
            yield from _squeezed(content, unpacked, budget)
    if content.whole or head.startswith(_ZIP) or _is_tar(head):
        with _kept_aside(content) as file:
            yield from _members(file, budget)


class _Inflated(io.RawIOBase):
    """What a zlib stream holds, as it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._zlib = file, zlib.decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data and not self._zlib.eof and (some := self._zlib.unconsumed_tail or self._file.read(1 << 16)):
            data = self._zlib.decompress(some, len(buffer))
        buffer[: len(data)] = data
        return len(data)


_SQUEEZED: Mapping[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x5d\x00": lzma.LZMAFile,
    **dict.fromkeys(_ZLIB, _Inflated),
}


class _Counted(io.RawIOBase):
    """A stream, each byte of which is taken from the budget."""

    def __init__(self, stream: Any, budget: Budget) -> None:
        self._stream, self._budget = stream, budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(min(len(buffer), _PIECE))
        self._budget.unpack(len(data))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Archive:
    """An archive's file, for zipfile and tarfile. While they look for members none of its sizes is believed."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._believed = file, False
        self.seek, self.tell = file.seek, file.tell

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            here = self._file.tell()
            size = self._file.seek(0, io.SEEK_END) - here
            self._file.seek(here)
        if size > _LISTING and not self._believed:
            raise TooFar
        return self._file.read(size)

    @contextmanager
    def believed(self) -> Iterator[None]:
        """While a member is read, whose reader knows how much it wants."""
        self._believed = True
        yield
        self._believed = False


def _squeezed(content: Content, unpacked: Callable[[IO[bytes]], Any], budget: Budget) -> Iterator[Content]:
    @contextmanager
    def again() -> Iterator[IO[bytes]]:
        with content.open() as file, _counted(unpacked(file), budget) as stream:
            yield stream

    try:
        with again() as stream:
            stream.read(1)
    except FileNotFoundError:
        raise
    except (*UNREADABLE, OSError):
        return  # it only begins like one
    yield Content(name="", size=_UNKNOWN, open=again)


@contextmanager
def _kept_aside(content: Content) -> Iterator[IO[bytes]]:
    """The bytes as a file to be read from anywhere."""
    with content.open() as file:
        if content.whole:
            yield file
            return
        with SpooledTemporaryFile(_IN_MEMORY) as aside:
            while some := file.read(_PIECE):
                aside.write(some)
            yield aside


def _members(file: IO[bytes], budget: Budget) -> Iterator[Content]:
    """What a zip or a tar holds; nothing of another file. A zip is known by its end, as its readers know it."""
    archive: Any = _Archive(file)
    if zipfile.is_zipfile(archive):
        yield from _zipped(archive, budget)
    file.seek(0)
    if _is_tar(file.read(_HEAD)):
        file.seek(0)
        yield from _tarred(archive, budget)


def _zipped(archive: Any, budget: Budget) -> Iterator[Content]:
    try:
        packed = zipfile.ZipFile(archive)
    except UNREADABLE:
        return  # no zip after all
    with packed:
        for info in packed.infolist():
            budget.member()
            if not info.is_dir():
                with archive.believed():
                    yield Content(name=info.filename, size=info.file_size, open=_opener(packed.open, info, budget))


def _tarred(archive: Any, budget: Budget) -> Iterator[Content]:
    with tarfile.open(fileobj=archive, mode="r:") as packed:
        while (member := packed.next()) is not None:
            budget.member()
            if member.isfile():
                with archive.believed():
                    yield Content(name=member.name, size=member.size, open=_opener(packed.extractfile, member, budget))


def _opener(member_of: Callable[[Any], Any], member: Any, budget: Budget) -> Callable[[], IO[bytes]]:
    return lambda: _counted(member_of(member), budget)


def _counted(stream: Any, budget: Budget) -> IO[bytes]:
    return io.BufferedReader(_Counted(stream, budget))


def _is_tar(head: bytes) -> bool:
    """Whether a tar begins so, of whatever age: its first header has the right sum."""
    try:
        tarfile.TarInfo.frombuf(head, tarfile.ENCODING, "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True
