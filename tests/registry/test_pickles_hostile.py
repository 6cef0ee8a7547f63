"""Files made to get past the rule of pickles, or to keep whoever looks into them busy: told as pickles, and soon."""

import bz2
import gzip
import io
import itertools
import lzma
import os
import pickle
import struct
import tarfile
import time
import tracemalloc
import zipfile
import zlib

import numpy as np
import obstore
import pytest

from mlray.registry.artifacts import ArtifactStore
from mlray.registry.manifest import Manifest, ManifestFile, hash_of
from mlray.registry.packed import Budget
from mlray.registry.pickles import is_pickle, pickles_of

CALLS = b"cos\ngetcwd\n(tR."


@pytest.mark.parametrize(
    "before",
    [b"I0x1\n0", b"I010\n0", b"I1\0x\n0", b"L0x1L\n0", b"L1\0x\n0", b"F1\0x\n0", b"F-.5e3\n0", b"Np1\0x\n0",
     b"S'\xc3\xa9'\n0", b"S'\\xe9'\n0"],
    ids=repr,
)  # fmt: skip
def test_what_loaders_take_as_a_number_or_a_string_does_not_hide_the_call(before):
    assert pickle.loads(before + CALLS, encoding="latin1") == os.getcwd()
    assert is_pickle("w", io.BytesIO(before + CALLS))


@pytest.mark.parametrize("line", [b"I am text", b"Latitude", b"Full name", b"I", b"S'open", b"p q"])
def test_a_list_of_words_is_none(line):
    assert not is_pickle("words.txt", io.BytesIO(line + b"\ncity\ncountry\n"))


def test_a_name_that_is_kept_and_used_twice_is_an_import():
    content = b"\x8c\x06timeit\x94h\x00\x93."

    assert pickle.loads(content).__name__ == "timeit"
    assert is_pickle("w", io.BytesIO(content))


@pytest.mark.parametrize("second", [CALLS, pickle.dumps([1], 4)], ids=["an import", "a mark"])
def test_a_pickle_that_follows_another_is_seen(second):
    assert is_pickle("w", io.BytesIO(b"N." + second))
    assert not is_pickle("w", io.BytesIO(b"N.N."))


def zipped(content: bytes, compression: int = zipfile.ZIP_STORED, name: str = "member") -> bytearray:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", compression) as packed:
        packed.writestr(name, content)
    return bytearray(written.getvalue())


def of_version_99() -> bytes:
    """torch opens it, Python's zipfile does not."""
    content = zipped(CALLS)
    content[content.index(b"PK\x01\x02") + 6] = 99
    return bytes(content)


def behind_a_program() -> bytes:
    return b"#!/bin/sh\n" + of_version_99()


def nameless() -> bytes:
    content = zipped(CALLS, name="a")
    at = content.index(b"PK\x01\x02")
    content[at + 28], content[at + 32] = 0, 1  # the name's letter is the comment's
    return bytes(content)


def odd_flags() -> bytes:
    """gzip.decompress takes it, zlib does not."""
    content = bytearray(gzip.compress(CALLS))
    content[3] |= 0x20
    return bytes(content)


def damaged_bz2() -> bytes:
    content = bytearray(bz2.compress(tarred(os.urandom(400_000)), 1))
    content[250_000] ^= 0xFF
    return bytes(content)


def tarred(content: bytes, *heads: tuple[bytes, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar of one member, behind headers of these types and contents."""
    written = b""
    for type_, data in (*heads, (kind, content)):
        header = tarfile.TarInfo("member")
        header.type, header.size = type_, len(data)
        written += header.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)
    return written + bytes(1024)


def record(name: str, value: str) -> bytes:
    """A line of a tar's extended header, which begins with its own length, here always two digits."""
    return f"{len(name) + len(value) + 5} {name}={value}\n".encode()


def sparse() -> bytes:
    """A member with a map of a million pieces."""
    said = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x", "GNU.sparse.realsize": "0"}
    lines = b"".join(itertools.starmap(record, said.items()))
    return tarred(b"1000000\n" + b"0\n" * 2_000_000, (tarfile.XHDTYPE, lines))


def global_headers() -> bytes:
    return tarred(b"", (tarfile.XGLTYPE, b"".join(record(f"key{number}", "v") for number in range(100, 250))))


def asks_for_memory(size: int) -> bytes:
    """A tar of 1 MiB as .lzma, whose header wants a dictionary of `size` bytes."""
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 16, "preset": 0}]
    content = lzma.compress(tarred(bytes(1 << 20)), lzma.FORMAT_ALONE, filters=filters)
    return content[:1] + struct.pack("<I", size) + content[5:]


def array_of(header: bytes) -> bytes:
    return np.lib.format.magic(2, 0) + struct.pack("<I", len(header)) + header


HOSTILE = {
    "a zip of a version to come": of_version_99,
    "the same behind a program": behind_a_program,
    "a zip without its end": lambda: bytes(zipped(CALLS))[:-30],
    "a zip of a folder with bytes": lambda: bytes(zipped(CALLS, name="folder/")),
    "a zip of a member without a name": nameless,
    "a zip with lzma": lambda: bytes(zipped(b"{}", zipfile.ZIP_LZMA)),
    "a gzip with odd flags": odd_flags,
    "a gzip behind an empty one": lambda: gzip.compress(b"") + bytes(100) + gzip.compress(CALLS),
    "zlib behind an empty one, as joblib reads it": lambda: zlib.compress(b"") + zlib.compress(CALLS),
    "a damaged tar.bz2": damaged_bz2,
    "lzma that wants 2 GiB": lambda: asks_for_memory(1 << 31),
    "xz cut off": lambda: lzma.compress(tarred(os.urandom(100_000)))[:-100],
    "zlib cut off": lambda: zlib.compress(tarred(os.urandom(100_000)))[:-100],
    "a tar with a header of digits": lambda: tarred(b"", (tarfile.XHDTYPE, b"1" * 200_000)),
    "a tar with a map of a million pieces": sparse,
    "a tar with headers for all its members": global_headers,
    "a tar with a file of a type unknown": lambda: tarred(CALLS, kind=b"Z"),
    "an array with a long header": lambda: array_of(b"(" * 900_000),
    "an array with a header of signs": lambda: array_of(b"-" * 60_000 + b"1"),
}


@pytest.mark.parametrize("made", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_file_counts_as_a_pickle_at_once(made):
    content = io.BytesIO(made())

    began = time.process_time()
    assert is_pickle("w", content)
    assert time.process_time() - began < 2


def test_archives_as_they_should_be_are_none():
    small = asks_for_memory(1 << 16)
    gzips = gzip.compress(b"{}") + bytes(100) + gzip.compress(tarred(b"{}", (tarfile.GNUTYPE_LONGNAME, b"n" * 2000)))
    for content in (small, gzips, bytes(zipped(b"{}")), tarred(b"{}", (tarfile.XHDTYPE, record("path", "other")))):
        assert not is_pickle("w", io.BytesIO(content))


def test_a_gzip_in_a_gzip_whose_name_has_no_end_is_read_in_pieces():
    content = io.BytesIO(gzip.compress(b"\x1f\x8b\x08\x08" + bytes(6) + b"A" * (32 << 20)))

    tracemalloc.start()
    began = time.process_time()
    assert is_pickle("w", content)
    assert time.process_time() - began < 2
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_streams_one_after_the_other_are_counted():
    assert is_pickle("w", io.BytesIO(gzip.compress(b"") * 100), Budget(members=20))
    assert not is_pickle("w", io.BytesIO(gzip.compress(b"") * 10), Budget(members=200))


@pytest.fixture
def same_files(tmp_path):
    """A store and an artifact of ten paths of one file, which takes half a million opcodes to look through."""
    (tmp_path / "file").write_bytes(b"N0" * 250_000 + b"\xff")
    sha256, size = hash_of(tmp_path / "file")
    files = [ManifestFile(path=f"{number}", sha256=sha256, size=size) for number in range(10)]
    store, manifest = ArtifactStore(str(tmp_path / "store")), Manifest(tuple(files))
    store.put_blob(tmp_path / "file", files[0])
    store.put_manifest(manifest)
    return store, manifest


def test_a_file_of_many_paths_is_looked_through_and_hashed_once(same_files, monkeypatch):
    store, manifest = same_files
    read, get = [], obstore.get
    monkeypatch.setattr(obstore, "get", lambda at, path: (read.append(path), get(at, path))[1])

    assert pickles_of(store, manifest) == []  # ten times half a million would be too far
    assert store.verify(manifest.digest) == manifest
    assert [path.partition("/")[0] for path in read] == ["manifests", "blobs"]


def test_the_files_of_an_artifact_share_one_budget(same_files, tmp_path):
    store, manifest = same_files
    files = list(manifest.files)
    for number in range(2):
        (tmp_path / "other").write_bytes(b"N0" * 250_000 + bytes([0xF0 + number]))
        sha256, size = hash_of(tmp_path / "other")
        files.append(ManifestFile(path=f"other{number}", sha256=sha256, size=size))
        store.put_blob(tmp_path / "other", files[-1])

    assert pickles_of(store, Manifest(tuple(files))) == ["other1"]
    named = ManifestFile(path="a.pt", sha256=files[0].sha256, size=files[0].size)
    assert pickles_of(store, Manifest((files[0], named))) == ["a.pt"]
