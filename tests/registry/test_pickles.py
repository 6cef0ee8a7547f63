"""A pickle runs code when it is loaded: refused at the door, never beyond Staging, unpickled only when asked to."""

import bz2
import collections
import functools
import gzip
import io
import lzma
import os
import pickle
import tarfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import joblib
import numpy as np
import pytest
import skops.io
import torch
from safetensors.torch import save
from sklearn.ensemble import GradientBoostingClassifier

from mlray.errors import NotApproved, PickleRefused
from mlray.registry.gates import Gate, write_gates
from mlray.registry.packed import Budget
from mlray.registry.pickles import is_pickle

OBJECT = collections.OrderedDict(a=1)
PACKS = [bytes, gzip.compress, bz2.compress, lzma.compress, zlib.compress]


def torch_file(**options) -> bytes:
    written = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, written, **options)
    return written.getvalue()


def zipped(**members: bytes) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return written.getvalue()


def tarred(form: int = tarfile.PAX_FORMAT, **members: bytes) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=form) as packed:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            packed.addfile(header, io.BytesIO(content))
    return written.getvalue()


def saved(array: np.ndarray) -> bytes:
    """As numpy.save writes it."""
    written = io.BytesIO()
    np.save(written, array, allow_pickle=True)
    return written.getvalue()


def dumped(**options) -> bytes:
    """As joblib.dump writes it."""
    written = io.BytesIO()
    joblib.dump(OBJECT, written, **options)
    return written.getvalue()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("pack", PACKS)
def test_a_pickle_is_known_by_its_bytes_in_every_protocol_packed_or_not(protocol, pack):
    assert is_pickle("weights", io.BytesIO(pack(pickle.dumps(OBJECT, protocol))))


@pytest.mark.parametrize(
    "content",
    [torch_file(), torch_file(_use_new_zipfile_serialization=False), zipped(inner=pickle.dumps(OBJECT)),
     b"cos\nsystem\n(S'id'\ntR.", b"\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R."],
    ids=["torch", "torch before 1.6", "in a zip", "without a mark", "without a mark, new opcodes"],
)  # fmt: skip
def test_what_torch_writes_and_what_an_attacker_would_is_a_pickle(content):
    assert is_pickle("weights", io.BytesIO(content))


CALLS = b"0cos\ngetcwd\n(tR."


@pytest.mark.parametrize("pack", [*PACKS, lambda content: zipped(w=content)])
@pytest.mark.parametrize(
    "before",
    [b"V" + b"a" * 70_000 + b"\n", b"X" + (70_000).to_bytes(4, "little") + b"a" * 70_000, b"N0" * 70_000 + b"N",
     b"V" + b"a" * (65 << 20) + b"\n"],
    ids=["a long line", "a long text", "many opcodes", "a line of 65 MiB"],
)  # fmt: skip
def test_what_is_put_before_the_call_does_not_hide_it(before, pack):
    assert pickle.loads(before + CALLS) == os.getcwd()
    assert is_pickle("w.dat", io.BytesIO(pack(before + CALLS)))


def test_a_million_opcodes_are_a_pickle_whatever_follows():
    assert is_pickle("w.dat", io.BytesIO(b"N0" * 600_000))
    assert not is_pickle("w.dat", io.BytesIO(b"N0" * 100))


@pytest.mark.parametrize("first", [b"V", b"X", b"T", b"B", b"\x8a", b"\x8b", b"\x8d", b"\x8e", b"\x96", b"]", b"("])
def test_weights_that_begin_like_an_opcode_are_none(first):
    length = first + bytes([2]) + bytes(6)  # of a safetensors header, which may have any first byte
    assert not is_pickle("w", io.BytesIO(length + b'{"weight": {"dtype": "F32"' + bytes(100_000) + b"\n"))


@pytest.mark.parametrize("name", ["a.pkl", "a.PICKLE", "a.pt", "a.pth", "a.bin", "a.joblib", "a.ckpt", "b/a.dill"])
def test_a_name_that_stands_for_pickles_is_enough(name):
    assert is_pickle(name, io.BytesIO(b"anything"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", save({"weight": torch.zeros(300)})),
        ("model.safetensors", bytes([0x80, 4, 0, 0, 0, 0, 0, 0]) + b'{"__metadata__"'),  # a header of 1,152 bytes
        ("model.json", b'{"learner": {}}'),
        ("model.ubj", b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner{"),
        ("model.skops", zipped(**{"schema.json": b"{}", "1.npy": b"\x93NUMPY"})),
        ("notes.txt", b"(I am text.\nc is a letter\n"),
        ("background.arrow", b"ARROW1\x00\x00"),
        ("empty", b""),
        ("no.zip", b"PK but no zip"),
    ],
)
def test_what_holds_no_code_is_no_pickle(name, content):
    assert not is_pickle(name, io.BytesIO(content))


WEIGHTS, PICKLED = save({"weight": torch.zeros(300)}), pickle.dumps(OBJECT)
NUMBERS = np.arange(600.0)
ARCHIVES = {
    "zip in zip": lambda content: zipped(a=zipped(b=content)),
    "tar in zip": lambda content: zipped(a=WEIGHTS, b=tarred(c=content)),
    "zip in tar": lambda content: tarred(a=WEIGHTS, b=zipped(c=content)),
    "an old tar": lambda content: tarred(tarfile.USTAR_FORMAT, a=content),
    "a GNU tar": lambda content: tarred(tarfile.GNU_FORMAT, **{"a" * 200: content}),
    "tar.gz": lambda content: gzip.compress(tarred(a=WEIGHTS, b=content)),
    "tar.xz in zip": lambda content: zipped(a=lzma.compress(tarred(b=content))),
    "gz in bz2": lambda content: bz2.compress(gzip.compress(content)),
    "a zip behind a program": lambda content: b"#!/bin/sh\n" * 100 + zipped(a=content),
    "six zips deep": lambda content: functools.reduce(lambda inner, _: zipped(a=inner), range(6), content),
}


@pytest.mark.parametrize("pack", ARCHIVES.values(), ids=ARCHIVES.keys())
def test_an_archive_is_searched_with_the_archives_in_it(pack):
    for content in (PICKLED, torch_file(), dumped(), saved(np.array([OBJECT]))):
        assert is_pickle("w", io.BytesIO(pack(content)))
    for content in (WEIGHTS, saved(NUMBERS), zipped(a=saved(NUMBERS)), b""):
        assert not is_pickle("w", io.BytesIO(pack(content)))


@pytest.mark.parametrize("compress", [0, 3, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_what_joblib_writes_is_a_pickle(compress):
    assert is_pickle("w", io.BytesIO(dumped(compress=compress)))


@pytest.mark.parametrize(
    ("array", "holds_objects"),
    [(np.array([OBJECT, None]), True), (np.array(["a", 1], object), True),
     (np.zeros(2, [("a", "<f4"), ("b", "O")]), True), (np.zeros(0, object), True),
     (NUMBERS, False), (np.array(["O", "b"]), False), (np.zeros(2, [("O", "<f4")]), False)],
    ids=str,
)  # fmt: skip
def test_an_array_of_numpys_is_a_pickle_where_it_holds_objects(array, holds_objects):
    several = io.BytesIO()
    np.savez_compressed(several, numbers=NUMBERS, array=array)

    assert is_pickle("w.npy", io.BytesIO(saved(array))) == holds_objects
    assert is_pickle("w.npz", several) == holds_objects


def test_what_skops_writes_is_none(tmp_path):
    model = GradientBoostingClassifier(n_estimators=3).fit(NUMBERS[:20].reshape(-1, 1), [0, 1] * 10)
    skops.io.dump(model, tmp_path / "model.skops")

    with (tmp_path / "model.skops").open("rb") as file:
        assert not is_pickle("model.skops", file)


def encrypted() -> bytes:
    content = bytearray(zipped(a=WEIGHTS))
    for mark, flag in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + flag] |= 1
    return bytes(content)


def damaged() -> bytes:
    """Its first member is damaged, its second one a pickle."""
    content = bytearray(zipped(a=os.urandom(500), b=PICKLED))
    content[100:140] = bytes(40)
    return bytes(content)


def long_header() -> bytes:
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, (1 << 33) - 1
    return header.tobuf(tarfile.USTAR_FORMAT)


UNSEARCHABLE = {
    "an encrypted member": encrypted,
    "a damaged member": damaged,
    "a tar.gz cut off": lambda: gzip.compress(tarred(a=os.urandom(200_000), b=WEIGHTS))[:-1000],
    "twenty zips deep": lambda: functools.reduce(lambda inner, _: zipped(a=inner), range(20), WEIGHTS),
    "21 members of 20": lambda: zipped(**{str(number): b"" for number in range(21)}),
    "lz4, which joblib reads": lambda: b"\x04\x22\x4d\x18" + bytes(100),
    "a tar whose extended header is 8 GiB": long_header,
}


@pytest.mark.parametrize("made", UNSEARCHABLE.values(), ids=UNSEARCHABLE.keys())
def test_what_cannot_be_looked_through_counts_as_a_pickle(made):
    assert is_pickle("w", io.BytesIO(made()), Budget(members=20))


@pytest.mark.parametrize("pack", [lambda tar: zipped(a=tar), gzip.compress, lambda tar: zipped(a=zipped(b=tar))])
def test_a_bomb_counts_as_a_pickle_before_it_fills_anything(pack):
    bomb = io.BytesIO(pack(tarred(a=bytes(16 << 20), b=WEIGHTS)))

    tracemalloc.start()
    assert is_pickle("w", bomb, Budget(bytes=8 << 20))
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()
    assert not is_pickle("w", bomb)


@pytest.fixture
def pickled(make_run):
    """A run whose checkpoint holds a pickle besides, its evaluation passed."""
    run = make_run(b"1")
    (Path(run.checkpoint) / "optimizer").write_bytes(pickle.dumps(OBJECT))
    write_gates(run.checkpoint, run.id, {"evaluation": Gate(passed=True)})
    return run


def test_a_pickle_is_refused_at_registration_unless_it_is_allowed(team, pickled):
    with pytest.raises(PickleRefused, match=r"optimizer of the checkpoint is a pickle.*allow_pickle=True"):
        team.ana.register("fraud", pickled)
    assert team.ana.models() == []

    version = team.ana.register("fraud", pickled, allow_pickle=True)

    assert version.provenance["pickles"] == ["optimizer"]
    assert team.ana.promote(version, stage="Staging").stage == "Staging"


def test_whoever_says_that_there_is_no_pickle_is_not_believed(team, pickled):
    pickled.provenance["pickles"] = []

    assert team.ana.register("fraud", pickled, allow_pickle=True).provenance["pickles"] == ["optimizer"]


@pytest.mark.parametrize("stage", ["Canary", "Production"])
def test_no_approvals_bring_a_pickle_beyond_staging(team, pickled, stage):
    version = team.ana.register("fraud", pickled, allow_pickle=True)
    team.ben.approve(version, stage=stage, role="ml_engineer")
    if stage == "Production":
        team.cleo.approve(version, stage=stage, role="risk_officer")

    with pytest.raises(NotApproved, match=rf"fraud/1 may not enter {stage}: optimizer in it runs code"):
        team.ana.promote(version, stage=stage)


def test_the_alias_champion_does_not_point_at_a_pickle(team, pickled):
    team.ana.register("fraud", pickled, allow_pickle=True)

    with pytest.raises(NotApproved, match="fraud@champion is a protected alias"):
        team.ana.set_alias("fraud", "champion", 1)


def test_a_rollback_does_not_return_to_a_pickle(team, pickled, execute):
    team.ana.register("fraud", pickled, allow_pickle=True)
    team.production(b"2")
    team.production(b"3")
    digest = team.ana.get("fraud/1").digest  # as if it had been in Production before there was this rule
    execute("UPDATE model_versions SET stage = 'Archived' WHERE version = 1")
    execute(f"UPDATE promotions SET version = 1, digest = '{digest}' WHERE version = 2")

    with pytest.raises(NotApproved, match="fraud/1 may not enter Production: optimizer in it runs code"):
        team.ben.rollback("fraud")
    assert team.stages() == ["Archived", "Archived", "Production"]


def test_unpickling_is_asked_for_or_refused(team, pickled):
    version = team.ana.register("fraud", pickled, allow_pickle=True)

    with pytest.raises(PickleRefused, match="fraud/1: unpickling optimizer runs whatever code it holds"):
        team.ana.unpickle(version, "optimizer")
    with pytest.raises(PickleRefused):
        team.ana.unpickle(version, "signature.json", allow_pickle=True)
    assert team.ana.unpickle(version, "optimizer", allow_pickle=True) == OBJECT


def test_an_allowed_pickle_is_in_the_audit(team, pickled):
    team.ana.register("fraud", pickled, allow_pickle=True)

    assert team.ana.audit("fraud")[-1]["after"]["pickles"] == ["optimizer"]


def test_a_checkpoint_without_pickles_goes_on_as_before(team):
    assert "pickles" not in team.production().provenance
