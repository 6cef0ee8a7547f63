"""A pickle runs code when it is loaded: refused at the door, never beyond Staging, unpickled only when asked to."""

import bz2
import collections
import gzip
import io
import lzma
import os
import pickle
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from mlray.errors import NotApproved, PickleRefused
from mlray.registry.gates import Gate, write_gates
from mlray.registry.pickles import is_pickle

OBJECT = collections.OrderedDict(a=1)
PACKS = [bytes, gzip.compress, bz2.compress, lzma.compress, zlib.compress]


def torch_file(**options) -> bytes:
    written = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, written, **options)
    return written.getvalue()


def zipped(**members: bytes) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
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
