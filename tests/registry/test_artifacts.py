"""What is read back is what was stored, or an error that names the file."""

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import obstore
import pytest

from mlray.errors import ConfigError, Conflict, CorruptArtifact, UnknownName
from mlray.registry.artifacts import ArtifactStore
from mlray.registry.manifest import Manifest, ManifestFile, manifest_of


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    """An empty store, of either kind."""
    return ArtifactStore(str(tmp_path / "store") if request.param == "folder" else request.getfixturevalue("s3_url"))


@pytest.fixture
def folder_store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files in two folders, one of them empty and one of several chunks."""
    root = tmp_path / "folder"
    (root / "nested").mkdir(parents=True)
    (root / "model.safetensors").write_bytes(bytes(range(256)) * 10_000)
    (root / "nested" / "empty").write_bytes(b"")
    (root / "nested" / "naïve ☕.json").write_text("{}")
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def blob(content: bytes) -> str:
    """Where a store keeps these bytes."""
    digest = hashlib.sha256(content).hexdigest()
    return f"blobs/sha256/{digest[:2]}/{digest}"


def held(store: ArtifactStore) -> dict[str, bytes]:
    """Everything that the store holds."""
    paths = [entry.path for entry in (*store.blobs(), *store.manifests())]
    return {path: bytes(obstore.get(store._store, path).bytes()) for path in paths}


def overwrite(store: ArtifactStore, path: str, content: bytes) -> None:
    """As whoever owns the store can."""
    obstore.put(store._store, path, content)


def test_a_folder_comes_back_byte_for_byte(store, folder, tmp_path):
    digest = store.upload(folder)

    copy = store.download(digest, tmp_path / "copies" / "one")

    assert copy == tmp_path / "copies" / "one"
    assert contents(copy) == contents(folder)
    assert os.listdir(copy.parent) == ["one"]


def test_the_digest_is_the_sha256_of_the_canonical_manifest(store, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a").write_bytes(b"abc")

    digest = store.upload(tmp_path / "one")

    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    manifest = '{"files":[{"path":"a","sha256":"' + sha256 + '","size":3}]}'
    assert digest == hashlib.sha256(manifest.encode()).hexdigest()


def test_the_same_files_have_the_same_digest_and_are_stored_once(store, folder, tmp_path):
    (tmp_path / "twin").mkdir()
    for path, content in sorted(contents(folder).items(), reverse=True):
        (tmp_path / "twin" / path).parent.mkdir(exist_ok=True)
        (tmp_path / "twin" / path).write_bytes(content)
    digest = store.upload(folder)
    before = held(store)

    assert store.upload(tmp_path / "twin") == digest
    assert held(store) == before


def test_one_flipped_bit_is_refused_and_leaves_nothing_behind(store, folder, tmp_path):
    digest = store.upload(folder)
    original = (folder / "model.safetensors").read_bytes()
    flipped = bytes([original[0] ^ 1]) + original[1:]
    overwrite(store, blob(original), flipped)

    wanted, got = (hashlib.sha256(content).hexdigest() for content in (original, flipped))
    with pytest.raises(CorruptArtifact, match=f"model.safetensors: wanted SHA-256 {wanted}, got {got}"):
        store.download(digest, tmp_path / "copies" / "one")

    assert os.listdir(tmp_path / "copies") == []


def test_a_missing_or_shortened_file_is_refused(store, folder, tmp_path):
    digest = store.upload(folder)
    overwrite(store, blob(b"{}"), b"{")
    with pytest.raises(CorruptArtifact, match=r"nested/naïve ☕.json: wanted 2 bytes, got 1 bytes"):
        store.require(digest)

    obstore.delete(store._store, blob(b"{}"))
    with pytest.raises(CorruptArtifact, match=r"nested/naïve ☕.json: wanted 2 bytes, got nothing"):
        store.require(digest)
    with pytest.raises(CorruptArtifact, match=r"nested/naïve ☕.json: wanted SHA-256 .*, got nothing"):
        store.download(digest, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_changed_manifest_is_refused(store, folder, tmp_path):
    digest = store.upload(folder)
    [manifest] = store.manifests()
    overwrite(store, manifest.path, held(store)[manifest.path].replace(b"model", b"modem"))

    with pytest.raises(CorruptArtifact, match=f"manifest of artifact {digest}: wanted SHA-256 {digest}, got"):
        store.download(digest, tmp_path / "copy")


def test_other_bytes_under_a_file_s_digest_are_never_built_upon(store, folder):
    store.upload(folder)
    overwrite(store, blob(b"{}"), b"[]")

    with pytest.raises(CorruptArtifact, match="remove it and upload again"):
        store.upload(folder)


UPLOAD = (
    "import sys; from mlray.registry.artifacts import ArtifactStore; ArtifactStore(sys.argv[1]).upload(sys.argv[2])"
)


def test_a_blob_that_a_janitor_takes_while_it_is_looked_at_is_told_as_missing(store):
    with pytest.raises(CorruptArtifact, match=r"weights: wanted SHA-256 (\w+), got nothing; upload it again"):
        store._check_blob(ManifestFile(path="weights", size=1, sha256="ab" * 32))


def test_an_upload_killed_half_way_is_invisible_and_can_be_repeated(folder_store, tmp_path):
    store, root = folder_store, Path(folder_store.url.removeprefix("file://"))
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "a").write_bytes(b"abc")
    with (folder / "b").open("wb") as large:
        large.truncate(400 << 20)
    process = subprocess.Popen([sys.executable, "-c", UPLOAD, store.url, str(folder)])
    while not (root / blob(b"abc")).exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (root / "manifests").exists()

    (folder / "b").write_bytes(b"small now")
    digest = store.upload(folder)

    assert contents(store.download(digest, tmp_path / "copy")) == {"a": b"abc", "b": b"small now"}


def test_a_file_that_changes_between_hash_and_upload_is_not_stored(store, tmp_path):
    (tmp_path / "one").mkdir()
    path = tmp_path / "one" / "a"
    path.write_bytes(b"before")
    file = ManifestFile(path="a", size=6, sha256=hashlib.sha256(b"before").hexdigest())
    path.write_bytes(b"behind")

    with pytest.raises(Conflict, match="changed while it was uploaded"):
        store._put_blob(path, file)

    assert held(store) == {}


def test_a_directory_that_holds_the_artifact_is_kept_and_any_other_refused(store, folder, tmp_path):
    digest = store.upload(folder)
    copy = store.download(digest, tmp_path / "copy")
    inode = (copy / "model.safetensors").stat().st_ino

    assert (store.download(digest, copy) / "model.safetensors").stat().st_ino == inode
    (copy / "extra").write_text("x")
    with pytest.raises(Conflict, match="holds other files than artifact"):
        store.download(digest, copy)
    (copy / "extra").unlink()
    (copy / "model.safetensors").write_bytes(b"x")
    with pytest.raises(CorruptArtifact, match=r"copy/model\.safetensors: wanted SHA-256"):
        store.download(digest, copy)


@pytest.mark.parametrize("digest", ["0" * 64, "../../etc/passwd", "", "0" * 63, "A" * 64])
def test_an_unknown_digest_is_an_unknown_name(store, tmp_path, digest):
    with pytest.raises(UnknownName):
        store.download(digest, tmp_path / "copy")


@pytest.mark.parametrize(
    "path",
    ["../evil", "/etc/passwd", "a/../../evil", "a//b", "./a", ".", "", "a\\..\\b", "c:evil", "a\x00b", "a\nb", "a/"],
)
def test_a_manifest_cannot_name_a_path_outside_its_folder(path):
    text = json.dumps({"files": [{"path": path, "sha256": "0" * 64, "size": 1}]}, separators=(",", ":"))

    with pytest.raises(CorruptArtifact, match="an artifact cannot hold a file"):
        Manifest.parse(text)


def test_a_manifest_cannot_name_a_file_twice_or_inside_a_file():
    def files(*paths: str) -> tuple[ManifestFile, ...]:
        return tuple(ManifestFile(path=path, size=1, sha256="0" * 64) for path in paths)

    with pytest.raises(CorruptArtifact, match="'a'"):
        Manifest(files("a", "a"))
    with pytest.raises(CorruptArtifact, match="'a'"):
        Manifest(files("a", "a/b"))


def test_folders_within_folders_are_counted_and_never_all_in_memory():
    def deep(folders: int) -> tuple[ManifestFile, ...]:
        return tuple(ManifestFile(path=f"{i}/" + "a/" * folders + "b", size=1, sha256="0" * 64) for i in range(1000))

    tracemalloc.start()
    with pytest.raises(CorruptArtifact, match="at most 1024 characters in 64 parts"):
        Manifest(deep(500))
    assert len(Manifest(deep(62)).files) == 1000
    assert tracemalloc.get_traced_memory()[1] < 5 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"files":[{}]}', '{"files":[{"path":"a","sha256":"../x","size":1}]}', '{ "files":[]}']
)
def test_text_that_is_no_manifest_is_refused(text):
    with pytest.raises(CorruptArtifact, match="manifest is not"):
        Manifest.parse(text)


def test_links_and_empty_folders_are_no_artifact(store, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no file"):
        store.upload(tmp_path / "empty")
    with pytest.raises(ConfigError, match="is no directory"):
        store.upload(tmp_path / "nowhere")

    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(ConfigError, match="link: an artifact takes plain files"):
        store.upload(folder)


def test_a_store_is_named_by_a_folder_or_a_known_scheme(tmp_path):
    assert ArtifactStore(str(tmp_path / "a b")).url == ArtifactStore(f"file://{tmp_path}/a%20b").url
    assert ArtifactStore("s3://bucket/prefix/").url == "s3://bucket/prefix"
    with pytest.raises(ConfigError, match=r"no artifact store is called 'file3'.*did you mean 'file'"):
        ArtifactStore("file3:///folder")


def test_a_pickled_store_is_the_same_store(store, folder):
    digest = store.upload(folder)

    assert pickle.loads(pickle.dumps(store)).require(digest) == store.require(digest)


def test_an_artifact_is_made_of_blobs_that_came_one_by_one(store, folder):
    manifest = manifest_of(folder)
    for file in manifest.files[1:]:
        store.put_blob(folder / file.path, file)

    with pytest.raises(UnknownName, match=r"model\.safetensors: nothing is stored under [0-9a-f]{64}; upload it first"):
        store.put_manifest(manifest)
    store.put_blob(folder / manifest.files[0].path, manifest.files[0])

    assert store.put_manifest(manifest) == manifest.digest
    assert store.verify(manifest.digest) == manifest


def test_a_file_is_streamed_whole_or_its_last_piece_is_kept_back(store, folder):
    digest = store.upload(folder)
    large, *_, empty = sorted(store.manifest(digest).files, key=lambda file: -file.size)
    content = (folder / large.path).read_bytes()
    assert (b"".join(store.stream(large)), b"".join(store.stream(empty))) == (content, b"")

    overwrite(store, blob(content), content[:-1] + b"?")

    got = []
    with pytest.raises(CorruptArtifact, match=r"model\.safetensors: wanted SHA-256"):
        got.extend(store.stream(large))
    assert 0 < sum(map(len, got)) < len(content)
