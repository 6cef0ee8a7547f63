"""Which files of a checkpoint are pickles: loading one runs whatever code it holds.

Known by the name, by the first bytes, or, for the oldest protocols, whose bytes are plain text, by reading the opcodes
as far as one that imports. An array of NumPy's whose type holds objects is one. So is what packs one, in zip, tar,
gzip, zlib, bz2, xz or lzma, and in archives within those; and so is what nobody can look through: damaged or encrypted
members, more bytes, members or archives within archives than anybody follows. safetensors, JSON, UBJSON, ONNX and skops
files are none of these.
"""

import io
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import PurePosixPath
from tokenize import TokenError
from typing import IO

from numpy.lib import format as npy

from mlray.errors import PickleRefused
from mlray.registry.artifacts import ArtifactStore
from mlray.registry.manifest import Manifest, ManifestFile
from mlray.registry.model_version import VersionRecord
from mlray.registry.object_store import reached
from mlray.registry.opcodes import TooFar, starts_a_pickle
from mlray.registry.packed import UNREADABLE, Budget, Content, packed_in

RECORDED = "pickles"
"""In the provenance of a version that was registered with pickles: their paths."""
SUFFIXES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".ckpt", ".dill"})
MOST_DEPTH = 8
"""Archives within archives."""
_LONGEST_HEADER = 1 << 16
"""Bytes of the header of an array of NumPy's, which takes 10,000 from strangers."""


def is_pickle(name: str, file: IO[bytes], budget: Budget | None = None) -> bool:
    """Whether the file is a pickle, or packs one, or cannot be looked through within the budget."""

    def rewound() -> "nullcontext[IO[bytes]]":
        file.seek(0)
        return nullcontext(file)

    size = file.seek(0, io.SEEK_END)
    try:
        return _is_pickle(Content(name=name, size=size, open=rewound, whole=True), budget or Budget(), depth=0)
    except TooFar:
        return True


def pickles_of(artifacts: ArtifactStore, manifest: Manifest) -> list[str]:
    """The paths of the artifact's files that are pickles, sorted. What is stored once is read once, and all of them
    are looked through within one budget.
    """
    budget = Budget()
    known: dict[tuple[str, int, bool], bool] = {}
    with reached(artifacts.url):
        for file in manifest.files:
            if (key := _known_as(file)) not in known:
                with artifacts.opened(file) as content:
                    known[key] = is_pickle(file.path, content, budget)
    return [file.path for file in manifest.files if known[_known_as(file)]]


def with_pickles(record: VersionRecord, pickles: Sequence[str], allowed: bool) -> VersionRecord:
    """The record, which says what pickles the checkpoint holds; PickleRefused for any that was not allowed."""
    if pickles and not allowed:
        raise PickleRefused(
            f"{', '.join(pickles)} of the checkpoint is a pickle, packs one, or cannot be searched for one; a pickle "
            "runs whatever code it holds when it is loaded; save safetensors, skops or JSON instead, or register with "
            "allow_pickle=True: such a version never goes beyond Staging"
        )
    rest = {name: value for name, value in record.provenance.items() if name != RECORDED}
    return replace(record, provenance=rest | ({RECORDED: list(pickles)} if pickles else {}))


def _known_as(file: ManifestFile) -> tuple[str, int, bool]:
    """All that the answer depends on."""
    return file.sha256, file.size, _is_named_like_one(file.path)


def _is_named_like_one(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def _is_pickle(content: Content, budget: Budget, depth: int) -> bool:
    if _is_named_like_one(content.name):
        return True
    if depth > MOST_DEPTH:
        raise TooFar
    try:
        with content.open() as file:
            if starts_a_pickle(file, content.size, budget.steps):
                return True
        with content.open() as file:
            if _holds_objects(file):
                return True
        return any(_is_pickle(one, budget, depth + 1) for one in packed_in(content, budget))
    except UNREADABLE as error:
        raise TooFar from error


def _holds_objects(file: IO[bytes]) -> bool:
    """Whether it is an array of NumPy's, which goes on with a pickle of its objects."""
    if file.read(npy.MAGIC_LEN - 2) != npy.MAGIC_PREFIX:
        return False
    try:
        first, _ = file.read(2)
        read, width = (npy.read_array_header_1_0, 2) if first == 1 else (npy.read_array_header_2_0, 4)
        length = file.read(width)
        if int.from_bytes(length, "little") > _LONGEST_HEADER:
            raise TooFar
        header = io.BytesIO(length + file.read(_LONGEST_HEADER))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that Python 2 wrote it
            return bool(read(header, max_header_size=_LONGEST_HEADER)[2].hasobject)
    except MemoryError as error:  # what Python's parser says of many signs or brackets
        raise TooFar from error
    except (ValueError, TypeError, SyntaxError, TokenError):  # NumPy does not read it either
        return False
