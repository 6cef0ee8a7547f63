"""The named actor: one per cluster, found from everywhere, alive again after any death."""

import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import ray

import mlray as ml
from mlray.discovery import Drop, Inventory, apply, drop
from mlray.errors import ConfigError, UnknownName
from mlray.features.applied import Applied
from mlray.registry import actor as registry_actor
from mlray.registry.actor import ACTOR_NAME, NAMESPACE
from mlray.registry.client import Registry
from mlray.registry.identity import Call


@pytest.fixture(scope="module")
def urls(tmp_path_factory):
    """The database and the artifact store of this file's actor; each test registers a model of its own."""
    folder = tmp_path_factory.mktemp("registry")
    return f"sqlite:///{folder}/registry.db", str(folder / "artifacts")


@pytest.fixture(scope="module")
def remote(ray_cluster, urls):  # noqa: ARG001
    """A registry behind the cluster's actor."""
    yield Registry.connect(*urls)
    registry_actor.stop()


def in_actor(function):
    """What the function answers inside the actor's process."""
    return ray.get(ray.get_actor(ACTOR_NAME, namespace=NAMESPACE).__ray_call__.remote(function))


def test_the_actor_does_what_the_embedded_registry_does(remote, urls, make_run, tmp_path):
    version = remote.register("same", make_run(b"weights"), alias="candidate")
    remote.set_alias("same", "seen", 1)
    remote.remove_alias("same", "candidate")

    embedded = Registry.connect(*urls, embedded=True)
    assert remote.get("same@seen") == embedded.get("same/1")
    assert remote.list("same") == embedded.list("same")
    assert remote.models() == embedded.models()
    assert remote.audit("same") == embedded.audit("same")
    assert remote.check_audit() is None
    copy = remote.download(version, tmp_path / "copy")
    assert (copy / "model.safetensors").read_bytes() == b"weights"


def test_the_actor_takes_a_view_out_of_the_catalog_and_puts_it_back(remote, tmp_path):
    weather = ml.DeltaSource("weather", path="weather", timestamp="at")
    rain = ml.FeatureView("rain", entity=None, source=weather, features=["millimetres"])
    service, applied = ml.FeatureService("damp", features=[rain]), Applied(str(tmp_path))
    applied.apply(service)

    assert drop(Inventory.of(applied, []), applied, remote, "rain") == [Drop("damp", "withdrawn", ("rain",))]
    assert (applied.names(), len(applied.dropped())) == ([], 1)
    apply(applied, lambda: remote, service)

    assert (applied.get("damp"), applied.dropped()) == (service, [])
    assert [row["action"] for row in remote.audit()][-2:] == ["drop", "apply_again"]


def test_an_error_of_the_rules_arrives_as_itself(remote, make_run):
    remote.register("erring", make_run())

    with pytest.raises(UnknownName) as caught:
        remote.get("erring@candidat")

    assert type(caught.value) is UnknownName
    assert str(caught.value) == "there is no alias 'erring@candidat'"


IN_A_JOB = """
import sys
import ray
from mlray.registry.client import Registry
job = {"working_dir": sys.argv[4]}
ray.init(address=sys.argv[1], namespace="a-job-of-its-own", log_to_driver=False, runtime_env=job)
registry = Registry.connect(sys.argv[2], sys.argv[3])
print(registry.get("found@candidate").digest)
registry.set_alias("found", "seen", 1)
"""


def test_another_job_in_another_namespace_finds_the_same_actor(remote, ray_cluster, urls, make_run, tmp_path):
    version = remote.register("found", make_run(), alias="candidate")
    (tmp_path / "job").mkdir()

    command = [sys.executable, "-c", IN_A_JOB, ray_cluster, *urls, str(tmp_path / "job")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == version.digest
    assert remote.get("found@seen") == remote.get("found/1")


def test_another_database_or_store_is_refused_by_name(remote, urls, tmp_path):
    with pytest.raises(ConfigError, match=rf"registry=sqlite:///{tmp_path}/other.db.*serves {urls[0]}; use that"):
        Registry.connect(f"sqlite:///{tmp_path}/other.db", urls[1])
    with pytest.raises(ConfigError, match=rf"artifacts=file://{tmp_path}/other.*serves file://{urls[1]}; use that"):
        Registry.connect(urls[0], str(tmp_path / "other"))

    assert remote.check_audit() is None


def test_a_killed_process_is_started_again_and_no_registration_is_lost_or_doubled(remote, make_run):
    run = make_run()
    remote.register("killed", run)
    killed = in_actor(lambda _: os.getpid())

    with ThreadPoolExecutor(4) as threads:
        pending = [threads.submit(remote.register, "killed", run) for _ in range(20)]
        pending[0].result()
        os.kill(killed, signal.SIGKILL)
        versions = [each.result().version for each in pending]

    assert sorted(versions) == list(range(2, 22))
    assert [version.version for version in remote.list("killed")] == list(range(1, 22))
    assert in_actor(lambda _: os.getpid()) != killed
    assert remote.check_audit() is None


def test_a_kill_that_ray_restarts_and_one_that_it_does_not(remote, make_run):
    version = remote.register("restarted", make_run())

    for no_restart in (False, True):
        ray.kill(ray.get_actor(ACTOR_NAME, namespace=NAMESPACE), no_restart=no_restart)
        assert remote.get("restarted/1") == version


def test_a_call_repeated_with_its_request_changes_nothing_twice(remote, make_run):
    first = remote.register("repeated", make_run(), idempotency_key="nightly", alias="candidate")
    again = remote.register("repeated", make_run(), idempotency_key="nightly", alias="candidate")
    rules = remote._rules
    for _ in range(2):
        rules.set_alias("repeated", "seen", 1, call=Call(request="same"))
    for _ in range(2):
        rules.remove_alias("repeated", "candidate", call=Call(request="same"))

    assert again == first
    assert [row["action"] for row in remote.audit("repeated")] == ["register", "set_alias", "set_alias", "remove_alias"]


def test_a_registry_travels_to_tasks(remote, make_run):
    remote.register("travelling", make_run())

    @ray.remote(num_cpus=0)
    def models(registry: Registry) -> list[str]:
        return registry.models()

    assert "travelling" in ray.get(models.remote(remote))
    assert "travelling" in pickle.loads(pickle.dumps(remote)).models()


START_IN_A_JOB = """
import sys
import ray
from mlray.registry.client import Registry
ray.init(address=sys.argv[1], log_to_driver=False, runtime_env={"working_dir": sys.argv[4]})
Registry.connect(sys.argv[2], sys.argv[3]).models()
"""


def test_the_actor_runs_the_installed_package_and_outlives_the_job(ray_cluster, tmp_path):
    registry_actor.stop()
    urls = (f"sqlite:///{tmp_path}/registry.db", str(tmp_path / "artifacts"))
    (tmp_path / "job" / "mlray").mkdir(parents=True)
    (tmp_path / "job" / "mlray" / "__init__.py").write_text("raise RuntimeError('the copy of the job')")
    command = [sys.executable, "-c", START_IN_A_JOB, ray_cluster, *urls, str(tmp_path / "job")]
    try:
        subprocess.run(command, check=True)
        assert Registry.connect(*urls).models() == []
        assert in_actor(lambda _: os.getcwd()) == "/"
    finally:
        registry_actor.stop()


@pytest.mark.usefixtures("ray_cluster")
def test_stop_without_an_actor_does_nothing():
    registry_actor.stop()
