"""Which files of a checkpoint are pickles: loading one runs whatever code it holds.

Known by the name, by the first bytes (also inside a zip, as torch writes them, and behind gzip, zlib, bz2 and xz), or,
for the oldest protocols, whose bytes are plain text, by reading the opcodes as far as one that imports. Whoever puts
much before that gains nothing: what goes on as opcodes for longer than anybody would look counts as a pickle.
safetensors, JSON, UBJSON, ONNX and skops files are none of these.
"""

import bz2
import gzip
import io
import lzma
import pickle
import pickletools
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import IO, Any

from mlray.errors import PickleRefused
from mlray.registry.artifacts import ArtifactStore
from mlray.registry.manifest import Manifest
from mlray.registry.model_version import VersionRecord
from mlray.registry.object_store import reached

RECORDED = "pickles"
"""In the provenance of a version that was registered with pickles: their paths."""
SUFFIXES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".ckpt", ".dill"})
_MOST_BYTES, _MOST_OPCODES = 64 << 20, 1_000_000
"""How far opcodes are followed."""
_LARGEST = 1 << 40
"""More bytes than any file has: of what is packed, the size is not known."""
_PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)
_IMPORTED = re.compile(r"[A-Za-z_][\w.]* [A-Za-z_][\w.]*")
_NAME = re.compile(r"[A-Za-z_][\w.]*")
_ZLIB = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")


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


_PACKED: Mapping[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    **dict.fromkeys(_ZLIB, lambda file: io.BufferedReader(_Inflated(file))),
}
_DAMAGED = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)


def is_pickle(name: str, file: IO[bytes]) -> bool:
    """Whether the file, read from its beginning, is a pickle or packs one."""
    if PurePosixPath(name).suffix.lower() in SUFFIXES:
        return True
    head, size = file.read(len(max(_PACKED, key=len))), file.seek(0, io.SEEK_END)
    file.seek(0)
    return _starts_a_pickle(file, size) or _packs_a_pickle(head, file) or _zips_a_pickle(head, file)


def pickles_of(artifacts: ArtifactStore, manifest: Manifest) -> list[str]:
    """The paths of the artifact's files that are pickles, sorted."""
    found = []
    with reached(artifacts.url):
        for file in manifest.files:
            with artifacts.opened(file) as content:
                if is_pickle(file.path, content):
                    found.append(file.path)
    return found


def with_pickles(record: VersionRecord, pickles: Sequence[str], allowed: bool) -> VersionRecord:
    """The record, which says what pickles the checkpoint holds; PickleRefused for any that was not allowed."""
    if pickles and not allowed:
        raise PickleRefused(
            f"{', '.join(pickles)} of the checkpoint is a pickle, which runs whatever code it holds when it is loaded; "
            "save safetensors, skops or JSON instead, or register with allow_pickle=True: such a version never goes "
            "beyond Staging"
        )
    rest = {name: value for name, value in record.provenance.items() if name != RECORDED}
    return replace(record, provenance=rest | ({RECORDED: list(pickles)} if pickles else {}))


class _TooFar(Exception):
    """The opcodes go on beyond what is followed."""


class _Followed:
    """A file of `size` bytes for `genops`, which takes an argument whole: none of more bytes than are followed."""

    def __init__(self, file: Any, size: int) -> None:
        self._file, self._size, self._left = file, size, _MOST_BYTES

    def read(self, count: int) -> bytes:
        if count > self._size:
            return b""  # as at the end: it is no pickle that asks for more than there is
        return self._took(self._file.read(self._room(count)))

    def readline(self) -> bytes:
        line = self._took(self._file.readline(self._left + 1))
        self._room(0)
        return line

    def _took(self, some: bytes) -> bytes:
        self._left -= len(some)
        return some

    def _room(self, count: int) -> int:
        if count > self._left:
            raise _TooFar
        return count


def _starts_a_pickle(file: Any, size: int) -> bool:
    """Whether the file begins with the mark of a protocol and an opcode, or imports something by opcodes, or is
    opcodes as far as they are followed.
    """
    first: tuple[str, Any] = ("", None)
    names = 0
    try:
        for number, (opcode, argument) in enumerate(_opcodes(_Followed(file, size))):
            if number == 1 and first[0] == "PROTO" and first[1] in _PROTOCOLS:
                return True
            first = (opcode, argument) if number == 0 else first
            names += isinstance(argument, str) and _NAME.fullmatch(argument) is not None
            if opcode in ("GLOBAL", "INST") and _IMPORTED.fullmatch(argument):
                return True
            if (opcode == "STACK_GLOBAL" and names >= 2) or number >= _MOST_OPCODES:
                return True
    except _TooFar:
        return True
    return False


def _opcodes(file: _Followed) -> Iterator[tuple[str, Any]]:
    """The opcodes that the bytes begin with, up to what is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # text that is no pickle may hold odd escapes
        opcodes: Any = file  # genops asks for `read` and `readline` only
        try:
            for opcode, argument, _ in pickletools.genops(opcodes):
                yield opcode.name, argument
        except (ValueError, IndexError, UnicodeError):  # other bytes, or the end
            pass


def _packs_a_pickle(head: bytes, file: IO[bytes]) -> bool:
    for magic, unpacked in _PACKED.items():
        if head.startswith(magic):
            file.seek(0)
            try:
                return _starts_a_pickle(unpacked(file), _LARGEST)
            except _DAMAGED:
                return False
    return False


def _zips_a_pickle(head: bytes, file: IO[bytes]) -> bool:
    if not head.startswith(b"PK"):
        return False
    file.seek(0)
    try:
        with zipfile.ZipFile(file) as packed:
            return any(_member_is_pickle(packed, name) for name in packed.namelist())
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError):  # no zip after all, or one that nobody can read
        return False


def _member_is_pickle(packed: zipfile.ZipFile, name: str) -> bool:
    if PurePosixPath(name).suffix.lower() in SUFFIXES:
        return True
    with packed.open(name) as member:
        return _starts_a_pickle(member, packed.getinfo(name).file_size)
