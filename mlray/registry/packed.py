"""What a file packs: the members of a zip or a tar, and what gzip, zlib, bz2, xz or lzma has squeezed.

An archive is somebody else's: it may be damaged, encrypted, or small and without end. Nothing of it is unpacked to a
path, none of its sizes is believed, and what cannot be looked through is told as such (TooFar).
"""

import bz2
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
from mlray.registry.zip_end import leads_all_to_the_same

MOST_UNPACKED, MOST_MEMBERS = 1 << 30, 10_000
"""Bytes that are unpacked, and members that are looked at, of one artifact's files with all that they pack."""
_UNKNOWN = 1 << 40
"""More bytes than any file has: of what is squeezed, the size is not known."""
_LISTING = 8 << 20
"""Bytes that are read to learn what a zip holds; the directory of 10,000 members has about 1 MB."""
_HEADERS = 4096
"""Bytes that are read between two members of a tar: a long name or link, times in full, but no endless header."""
_GLOBAL = 100
"""Headers of a tar that hold for all of its members; each of them keeps a copy."""
_DICTIONARY = 256 << 20
"""Bytes that lzma may keep in memory; `xz -9` wants 65 MiB, and a header may ask for 4 GiB."""
_IN_MEMORY = 16 << 20
_PIECE = 1 << 20
_STEP = 1 << 16
_HEAD = 512
_GZIP = b"\x1f\x8b\x08"
_ZLIB = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_COMPRESSED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The members of a zip that are looked into: zipfile gives lzma all the memory that a header asks for."""
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_LZ4 = b"\x04\x22\x4d\x18"


class Damaged(Exception):
    """Bytes that are not what they began like."""


UNREADABLE = (
    Damaged, EOFError, ValueError, zlib.error, tarfile.TarError, zipfile.BadZipFile, RuntimeError, struct.error,
)  # fmt: skip
"""What reading an archive raises where it is damaged, encrypted, or of a kind that nobody here can read."""


@dataclass
class Budget:
    """What may still be looked at of the files of one artifact."""

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
    for magic, decompressor in _SQUEEZED.items():
        if head.startswith(magic):
            yield from _squeezed(content, decompressor, budget, sure=magic == _GZIP)
    if content.whole or head.startswith(_ZIP) or _is_tar(head):
        with _kept_aside(content) as file:
            yield from _members(file, budget)


class _Inflating:
    """zlib's decompressor, used as those of bz2 and lzma are."""

    def __init__(self, wbits: int) -> None:
        self._zlib = zlib.decompressobj(wbits)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


_SQUEEZED: Mapping[bytes, Callable[[], Any]] = {
    _GZIP: lambda: _Inflating(zlib.MAX_WBITS + 16),
    b"BZh": bz2.BZ2Decompressor,
    **dict.fromkeys((b"\xfd7zXZ\x00", b"\x5d\x00"), lambda: lzma.LZMADecompressor(memlimit=_DICTIONARY)),
    **dict.fromkeys(_ZLIB, lambda: _Inflating(zlib.MAX_WBITS)),
}


class _Unsqueezed(io.RawIOBase):
    """What compressed streams, one after the other, hold, as it is read. Damaged where they are, or are cut off;
    TooFar where one wants more memory than it gets.
    """

    def __init__(self, file: IO[bytes], decompressor: Callable[[], Any], budget: Budget) -> None:
        self._file, self._decompressor, self._budget = file, decompressor, budget
        self._now, self._next = decompressor(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data and (not self._now.eof or self._goes_on()):
            some, self._next = self._next, b""
            if not some and self._now.needs_input and not (some := self._file.read(_STEP)):
                raise Damaged
            data = self._decompressed(some, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _goes_on(self) -> bool:
        """Whether another stream follows; zeros may lie between."""
        self._next = self._now.unused_data.lstrip(b"\0")
        while not self._next and (some := self._file.read(_STEP)):
            self._next = some.lstrip(b"\0")
        if self._next:
            self._budget.member()
            self._now = self._decompressor()
        return bool(self._next)

    def _decompressed(self, some: bytes, most: int) -> bytes:
        try:
            data: bytes = self._now.decompress(some, most)
            return data
        except (zlib.error, lzma.LZMAError, OSError) as error:  # OSError is what bz2 says of other bytes
            raise (TooFar if "limit" in str(error) else Damaged) from error


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
    """An archive's file, for zipfile and tarfile. While they look for a member none of its sizes is believed, and they
    read at most so many bytes.
    """

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file, self._most, self._left, self._believed = file, most, most, False
        self.tell = file.tell

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET and not 0 <= offset <= _UNKNOWN:
            raise Damaged
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            here = self._file.tell()
            size = self._file.seek(0, io.SEEK_END) - here
            self._file.seek(here)
        self._left -= 0 if self._believed else size
        if self._left < 0:
            raise TooFar
        return self._file.read(size)

    def found(self) -> None:
        """A member was found: the next one may take as many bytes again."""
        self._left = self._most

    @contextmanager
    def believed(self) -> Iterator[None]:
        """While a member is read, whose reader knows how much it wants."""
        self._believed = True
        yield
        self._believed = False


def _squeezed(content: Content, decompressor: Callable[[], Any], budget: Budget, sure: bool) -> Iterator[Content]:
    @contextmanager
    def again() -> Iterator[IO[bytes]]:
        with content.open() as file, _counted(_Unsqueezed(file, decompressor, budget), budget) as stream:
            yield stream

    try:
        with again() as stream:
            stream.read(1)
    except Damaged:
        if sure:
            raise  # gzip itself lets pass what zlib does not: odd flags, a wrong sum of a header
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
    file.seek(0)
    head = file.read(_HEAD)
    yield from _zipped(_Archive(file, _LISTING), budget, sure=head.startswith(_ZIP))
    if _is_tar(head):
        file.seek(0)
        yield from _tarred(_Archive(file, _HEADERS), budget)


def _zipped(archive: Any, budget: Budget, sure: bool) -> Iterator[Content]:
    if not sure and not zipfile.is_zipfile(archive):
        return
    try:
        packed = zipfile.ZipFile(archive)
    except UNREADABLE as error:
        if sure or isinstance(error, RuntimeError):
            raise TooFar from error  # other readers ask for less, and open it
        return  # no zip after all
    with packed:
        if not leads_all_to_the_same(archive, packed):
            raise TooFar  # another reader finds other members
        for info in packed.infolist():
            budget.member()
            if info.compress_type not in _COMPRESSED:
                raise TooFar
            with archive.believed():
                yield Content(name=info.filename, size=info.file_size, open=_opener(packed.open, info, budget))


def _tarred(archive: Any, budget: Budget) -> Iterator[Content]:
    packed: Any
    with tarfile.open(fileobj=archive, mode="r:") as packed:
        while (member := packed.next()) is not None:
            packed.members.clear()  # tarfile keeps them all
            archive.found()
            budget.member()
            if len(packed.pax_headers) > _GLOBAL:
                raise TooFar
            if member.isfile() or member.type not in tarfile.SUPPORTED_TYPES:  # which is taken for a file
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
