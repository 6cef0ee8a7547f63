"""Artifacts in a bucket, over the real S3 protocol: the life of a version, uploads at once, and what goes wrong."""

import multiprocessing
from datetime import timedelta
from pathlib import Path

import obstore
import pytest

from mlray.errors import ConfigError, CorruptArtifact, RegistryUnavailable
from mlray.registry.artifacts import ArtifactStore
from mlray.registry.client import Registry

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["mlray.registry.client"])


@pytest.fixture
def bucket(s3_url, tmp_path) -> Registry:
    """A registry whose artifacts lie in a bucket."""
    return Registry.connect(f"sqlite:///{tmp_path}/registry.db", s3_url, embedded=True)


def test_a_version_lives_in_a_bucket_as_in_a_folder(bucket, make_run, tmp_path):
    run = make_run(b"weights", gates={})

    version = bucket.register("fraud", run)

    copy = bucket.download("fraud/1", tmp_path / "copy")
    assert (copy / "model.safetensors").read_bytes() == b"weights"
    assert bucket.promote(version, stage="Staging").stage == "Staging"
    assert bucket.register("fraud", run).digest == version.digest


def test_one_flipped_bit_in_a_bucket_is_refused(bucket, make_run, tmp_path):
    bucket.register("fraud", make_run(b"weights"))
    store = bucket._artifacts
    [blob] = [blob for blob in store.blobs() if blob.size == len(b"weights")]
    obstore.put(store._store, blob.path, b"Weights")

    with pytest.raises(CorruptArtifact, match=r"fraud/1: model.safetensors: wanted SHA-256"):
        bucket.download("fraud/1", tmp_path / "copy")
    with pytest.raises(CorruptArtifact):
        bucket.promote("fraud/1", stage="Staging")


def test_the_janitor_sweeps_a_bucket(bucket, make_run, s3_url):
    kept = bucket.register("fraud", make_run(b"kept"))
    ArtifactStore(s3_url).upload(make_run(b"orphan").checkpoint)
    assert bucket.janitor(grace=timedelta(days=7)).artifacts == 0

    swept = bucket.janitor(grace=timedelta(seconds=-5))

    assert (swept.artifacts, swept.blobs) == (1, 1)
    assert ArtifactStore(s3_url).verify(kept.digest)


def upload(url: str, folder: Path, start) -> None:
    store = ArtifactStore(url)
    store.blobs()
    start.wait()
    store.upload(folder)


def test_two_uploads_of_the_same_content_at_once_are_one(s3_url, make_run):
    folder = make_run(b"\x00" * 1_000_000).checkpoint
    start = PROCESSES.Barrier(4)
    uploads = [PROCESSES.Process(target=upload, args=(s3_url, folder, start)) for _ in range(4)]
    for process in uploads:
        process.start()
    for process in uploads:
        process.join(60)

    assert [process.exitcode for process in uploads] == [0] * 4
    [manifest] = ArtifactStore(s3_url).manifests()
    assert ArtifactStore(s3_url).verify(manifest.name)
    assert len(ArtifactStore(s3_url).blobs()) == 2


def test_a_bucket_that_is_not_there_is_named(s3_url, make_run):  # noqa: ARG001
    elsewhere = ArtifactStore("s3://modles/artifacts")

    with pytest.raises(ConfigError, match=r"artifacts=s3://modles/artifacts: there is no such bucket; make it"):
        elsewhere.upload(make_run(b"1").checkpoint)
    with pytest.raises(ConfigError, match="there is no such bucket"):
        elsewhere.manifest("0" * 64)


def test_keys_that_the_server_does_not_know_are_refused_with_the_variables_to_set(s3_url, make_run, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")

    with pytest.raises(ConfigError, match=r"the store refuses this user: .*; set AWS_ACCESS_KEY_ID and AWS_SECRET"):
        ArtifactStore(s3_url).upload(make_run(b"1").checkpoint)


def test_a_server_that_is_away_is_unavailable(s3_url, make_run, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")

    with pytest.raises(RegistryUnavailable, match=f"the artifact store {s3_url} does not answer"):
        ArtifactStore(s3_url).upload(make_run(b"1").checkpoint)


def test_without_keys_nobody_is_asked_for_long(s3_url, make_run, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")  # no machine of a cloud

    with pytest.raises(ConfigError, match="there are no credentials; set AWS_ACCESS_KEY_ID"):
        ArtifactStore(s3_url).upload(make_run(b"1").checkpoint)
