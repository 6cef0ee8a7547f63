"""The facade: bytes beside the rules."""

import subprocess
import sys
from pathlib import Path

import pytest

from mlray.errors import ConfigError, CorruptArtifact
from mlray.registry.client import Registry


def test_a_registered_checkpoint_is_downloaded_by_reference_or_version(registry, make_run, tmp_path):
    version = registry.register("flights", make_run(b"weights"), alias="candidate")

    for number, what in enumerate((version, "flights/1", "flights@candidate")):
        copy = registry.download(what, tmp_path / f"copy-{number}")
        assert (copy / "model.safetensors").read_bytes() == b"weights"


def test_a_corrupt_checkpoint_names_model_file_and_digests(registry, make_run, urls, tmp_path):
    registry.register("flights", make_run(b"weights"))
    blob = next(path for path in Path(urls[1]).rglob("*") if path.is_file() and path.read_bytes() == b"weights")
    blob.write_bytes(b"weighty")

    message = rf"flights/1: model\.safetensors: wanted SHA-256 {blob.name}, got "
    with pytest.raises(CorruptArtifact, match=message):
        registry.download("flights/1", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_checkpoint_whose_manifest_is_gone_is_corrupt(registry, make_run, urls, tmp_path):
    registry.register("flights", make_run())
    for path in Path(urls[1], "manifests").rglob("*.json"):
        path.unlink()

    with pytest.raises(CorruptArtifact, match="flights/1: there is no artifact"):
        registry.download("flights/1", tmp_path / "copy")


def test_without_ray_the_actor_is_refused_with_the_remedy(tmp_path):
    code = "import sys; from mlray.registry.client import Registry; Registry.connect(sys.argv[1], sys.argv[2])"
    command = [sys.executable, "-c", code, f"sqlite:///{tmp_path}/registry.db", str(tmp_path / "artifacts")]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert "ConfigError: the registry actor lives in a Ray cluster: call ray.init() first" in done.stderr


def test_embedded_needs_no_ray(tmp_path):
    code = (
        "import sys; from mlray.registry.client import Registry; "
        "Registry.connect(sys.argv[1], sys.argv[2], embedded=True).models(); assert 'ray' not in sys.modules"
    )
    command = [sys.executable, "-c", code, f"sqlite:///{tmp_path}/registry.db", str(tmp_path / "artifacts")]

    subprocess.run(command, check=True)


@pytest.mark.usefixtures("bare")
def test_connecting_creates_nothing_until_something_is_asked(urls, tmp_path):
    Registry.connect(*urls, embedded=True)

    assert list(tmp_path.iterdir()) == []


def test_a_wrong_url_is_refused_when_connecting(tmp_path):
    with pytest.raises(ConfigError, match="is no database URL"):
        Registry.connect("nonsense", str(tmp_path), embedded=True)
