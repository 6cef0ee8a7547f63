"""The janitor takes what no version names, and never what one is about to name: raced, and killed."""

import multiprocessing
import os
import signal
from contextlib import suppress
from datetime import timedelta
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import Engine, event

from mlray.errors import CorruptArtifact, Forbidden, RegistryUnavailable, UnknownName
from mlray.registry import model_registry
from mlray.registry.artifacts import ArtifactStore
from mlray.registry.client import Registry
from mlray.registry.janitor import Swept
from tests.soak import rounds

NOW = timedelta(0)
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["mlray.registry.client"])


def folder(root: Path, **files: bytes) -> Path:
    made = root / "-".join(files)
    made.mkdir(exist_ok=True)
    for name, content in files.items():
        (made / name).write_bytes(content)
    return made


def blobs(urls) -> list[bytes]:
    return sorted(path.read_bytes() for path in Path(urls[1], "blobs").rglob("*") if path.is_file())


def test_what_no_version_names_goes_after_the_grace_and_what_one_names_stays(team, urls, tmp_path):
    team.version(b"kept")
    ArtifactStore(urls[1]).upload(folder(tmp_path, a=b"orphan", b=b"kept"))
    before = blobs(urls)

    assert team.root.janitor(grace=timedelta(days=7)) == Swept(artifacts=0, blobs=0, partial=0, bytes=0)
    told = team.root.janitor(grace=NOW, dry_run=True)
    assert blobs(urls) == before

    swept = team.root.janitor(grace=NOW)

    assert (swept.artifacts, swept.blobs) == (told.artifacts, told.blobs) == (1, 1)  # "kept" is in both artifacts
    assert b"orphan" not in blobs(urls)
    assert team.ana.download("fraud/1", tmp_path / "copy").exists()


def test_what_an_upload_has_begun_and_not_ended_goes_an_hour_after_the_grace(registry, urls):
    partial = Path(urls[1], "blobs", "sha256", "ab", "abcd#1")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"half")
    assert registry.janitor(grace=NOW).partial == 0

    os.utime(partial, (0, 0))

    assert registry.janitor(grace=NOW) == Swept(artifacts=0, blobs=0, partial=1, bytes=4)
    assert not partial.exists()


def test_an_upload_that_ends_while_its_folder_is_listed_stops_no_sweep(registry, urls):
    listed = Path(urls[1], "blobs", "sha256", "ab", "abcd#1")
    listed.parent.mkdir(parents=True)
    listed.symlink_to("gone")  # a name in the folder, and no file behind it any more

    assert registry.janitor(grace=NOW) == Swept(artifacts=0, blobs=0, partial=0, bytes=0)


def test_it_takes_an_admin_and_is_in_the_audit(team):
    with pytest.raises(Forbidden, match="ana may not remove artifacts: that takes the role admin"):
        team.ana.janitor()
    with pytest.raises(Forbidden):
        team.ana.janitor(dry_run=True)

    team.root.janitor(grace=NOW, why="the disk is full")

    began, ended = team.root.audit()[-2:]
    assert (began["action"], ended["action"]) == ("sweep", "swept")
    assert (began["who"], began["why"]) == ("root", "the disk is full")
    assert team.root.check_audit() is None


def test_nothing_goes_while_it_is_not_known_which_files_are_a_version_s(team, urls, tmp_path):
    version = team.version(b"kept")
    ArtifactStore(urls[1]).upload(folder(tmp_path, a=b"orphan"))
    manifest = next(Path(urls[1], "manifests").rglob(f"{version.digest}.json"))
    text = manifest.read_text()

    manifest.write_text(text.replace("model", "modem"))
    with pytest.raises(CorruptArtifact, match="wanted SHA-256"):
        team.root.janitor(grace=NOW)
    manifest.unlink()
    with pytest.raises(CorruptArtifact, match=f"a version names artifact {version.digest}, whose manifest is not"):
        team.root.janitor(grace=NOW)

    assert b"orphan" in blobs(urls)


def test_a_registration_whose_bytes_the_janitor_took_meanwhile_uploads_them_again(team, tmp_path, monkeypatch):
    run = team.make_run(b"1", gates={})
    upload = ArtifactStore.upload

    def upload_then_sweep(store, directory):
        digest = upload(store, directory)
        monkeypatch.setattr(ArtifactStore, "upload", upload)
        team.root.janitor(grace=NOW)
        return digest

    monkeypatch.setattr(ArtifactStore, "upload", upload_then_sweep)

    version = team.ana.register("fraud", run)

    assert team.ana.download(version, tmp_path / "copy").exists()


def sweep_beside_the_look(team, monkeypatch, meanwhile):
    """Registers a version, and does something between the look at its bytes and the transaction."""
    last_before = model_registry.with_pickles

    def looked(*given):
        monkeypatch.setattr(model_registry, "with_pickles", last_before)
        meanwhile()
        return last_before(*given)

    monkeypatch.setattr(model_registry, "with_pickles", looked)
    return team.ana.register("fraud", team.make_run(b"1", gates={}))


def test_bytes_that_go_between_the_look_at_them_and_the_row_are_seen_to_be_missing(team, monkeypatch, tmp_path):
    version = sweep_beside_the_look(team, monkeypatch, lambda: team.root.janitor(grace=NOW))

    assert team.ana.download(version, tmp_path / "copy").exists()


def test_a_killed_sweep_counts_as_one_that_goes_on(team, urls, monkeypatch, tmp_path):
    team.version(b"0")
    ArtifactStore(urls[1]).upload(folder(tmp_path, a=b"orphan"))
    assert killed(sweep_until_bytes_go, urls, team.root._token) == -signal.SIGKILL
    assert team.root.audit()[-1]["action"] == "sweep"

    def take_the_bytes():  # as the rest of that sweep would
        store = ArtifactStore(urls[1])
        store.remove([entry for entry in store.manifests() if entry.name != team.ana.get("fraud/1").digest])

    version = sweep_beside_the_look(team, monkeypatch, take_the_bytes)

    assert team.ana.download(version, tmp_path / "copy").exists()


def killed(sweep, *given) -> int:
    """How a process that sweeps has ended."""
    process = PROCESSES.Process(target=sweep, args=given)
    process.start()
    process.join(60)
    return process.exitcode


def sweep_until_bytes_go(urls, token):
    ArtifactStore.remove = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    Registry.connect(*urls, embedded=True, token=token).janitor(grace=NOW)


def sweep_until(urls, token, statement):
    """Sweeps, and ends the process by SIGKILL before the given statement or commit of the database, from 1."""
    registry = Registry.connect(*urls, embedded=True, token=token)
    numbers = count(1)

    def die(*_):
        if next(numbers) == statement:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", die)
    event.listen(Engine, "commit", die)
    registry.janitor(grace=NOW)


def test_a_sweep_killed_anywhere_leaves_every_version_whole_and_the_next_one_ends_it(team, urls, tmp_path):
    version = team.version(b"kept")
    store = ArtifactStore(urls[1])

    for statement in count(1, rounds(9, 1)):
        store.upload(folder(tmp_path, a=b"orphan", b=b"kept", c=str(statement).encode()))
        ended = killed(sweep_until, urls, team.root._token, statement)
        assert store.verify(version.digest)
        if ended == 0:
            assert statement > 20
            break
        assert ended == -signal.SIGKILL

    team.root.janitor(grace=NOW)
    assert [entry.name for entry in store.manifests()] == [version.digest]
    assert team.root.check_audit() is None


def register_many(urls, token, root, known, first, versions):
    registry = Registry.connect(*urls, embedded=True, token=token)
    for number in range(first, first + versions):
        checkpoint = folder(Path(root), **{"signature.json": b"{}", f"w{number % 5}": b"shared"})
        run = SimpleNamespace(**known | {"checkpoint": str(checkpoint)})
        while True:
            with suppress(CorruptArtifact, UnknownName, RegistryUnavailable):  # two sweeps without grace in a row
                registry.register("fraud", run, idempotency_key=f"{first}-{number}")
                break


def sweep_many(urls, token, sweeps):
    registry = Registry.connect(*urls, embedded=True, token=token)
    for _ in range(sweeps):
        registry.janitor(grace=NOW)


def test_registrations_and_sweeps_beside_each_other_leave_no_version_without_its_bytes(team, urls, tmp_path):
    versions, known = rounds(6, 60), vars(team.make_run(b"1"))
    racers = [
        PROCESSES.Process(target=register_many, args=(urls, team.ana._token, tmp_path, known, first, versions))
        for first in (0, 1000)
    ] + [PROCESSES.Process(target=sweep_many, args=(urls, team.root._token, 2 * versions)) for _ in range(2)]
    for process in racers:
        process.start()
    for process in racers:
        process.join(240)

    assert [process.exitcode for process in racers] == [0] * 4
    known = team.ana.list("fraud")
    assert len(known) == 2 * versions
    for digest in {version.digest for version in known}:
        ArtifactStore(urls[1]).verify(digest)
    assert team.root.check_audit() is None


def age(urls):
    """Makes everything in the store as old as can be."""
    for path in Path(urls[1]).rglob("*"):
        os.utime(path, (0, 0))


def test_what_a_deleted_version_named_stays_for_the_grace_after_the_deletion(team, urls):
    team.version(b"1")
    team.version(b"2", model="other")
    age(urls)
    team.ana.delete_version("fraud/1")
    team.ana.rename("other", "another")
    team.ana.delete("another")

    assert team.root.janitor(grace=timedelta(days=1)) == Swept(artifacts=0, blobs=0, partial=0, bytes=0)
    assert team.root.janitor(grace=timedelta(seconds=-1)).artifacts == 2
    assert blobs(urls) == []
