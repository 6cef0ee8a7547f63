"""Which files of a checkpoint are pickles: loading one runs whatever code it holds.

Known by the name, by the first bytes (also inside a zip, as torch writes them, and behind gzip, zlib, bz2 and xz), or,
for the oldest protocols, whose bytes are plain text, by reading the opcodes as far as one that imports or calls.
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
_HEAD = 64 << 10
"""Bytes of a file, or of what is packed in it, that are looked at."""
_PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)
_IMPORTED = re.compile(r"[A-Za-z_][\w.]* [A-Za-z_][\w.]*")
_NAME = re.compile(r"[A-Za-z_][\w.]*")
_ZLIB = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_PACKED: Mapping[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": lambda head: gzip.GzipFile(fileobj=io.BytesIO(head)).read1(_HEAD),
    b"BZh": lambda head: bz2.BZ2Decompressor().decompress(head, _HEAD),
    b"\xfd7zXZ\x00": lambda head: lzma.LZMADecompressor().decompress(head, _HEAD),
    **dict.fromkeys(_ZLIB, lambda head: zlib.decompressobj().decompress(head, _HEAD)),
}


def is_pickle(name: str, file: IO[bytes]) -> bool:
    """Whether the file, read from its beginning, is a pickle or packs one."""
    if PurePosixPath(name).suffix.lower() in SUFFIXES:
        return True
    head = file.read(_HEAD)
    return any(_starts_a_pickle(part) for part in (head, *_unpacked(head))) or _zips_a_pickle(head, file)


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


def _starts_a_pickle(head: bytes) -> bool:
    """Whether the bytes begin with the mark of a protocol and an opcode, or import something by opcodes."""
    opcodes = _opcodes(head)
    if len(opcodes) > 1 and opcodes[0][0] == "PROTO" and opcodes[0][1] in _PROTOCOLS:
        return True
    names = 0
    for opcode, argument in opcodes:
        names += isinstance(argument, str) and _NAME.fullmatch(argument) is not None
        if opcode in ("GLOBAL", "INST") and _IMPORTED.fullmatch(argument):
            return True
        if opcode == "STACK_GLOBAL" and names >= 2:
            return True
    return False


def _opcodes(head: bytes) -> list[tuple[str, Any]]:
    """The opcodes that the bytes begin with, up to what is none."""
    found: list[tuple[str, Any]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # text that is no pickle may hold odd escapes
        try:
            for opcode, argument, _ in pickletools.genops(head):
                found.append((opcode.name, argument))
        except (ValueError, IndexError, UnicodeError):  # other bytes, or the cut
            pass
    return found


def _unpacked(head: bytes) -> Iterator[bytes]:
    for magic, unpack in _PACKED.items():
        if head.startswith(magic):
            try:
                yield unpack(head)
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
                continue


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
        return _starts_a_pickle(member.read(_HEAD))
