"""The registry served: alone by `mlray registry serve`, or in a cluster by Ray Serve over its one actor."""

import os
import signal
import socket
import subprocess
import sys

import httpx
import pytest
from http_server import Caller
from ray import serve
from typer.testing import CliRunner

from mlray.cli import app
from mlray.errors import ConfigError, PortInUse
from mlray.registry import actor
from mlray.registry.client import Registry
from mlray.registry_server import alone
from mlray.registry_server.alone import check_open, embedded
from mlray.registry_server.config import Config
from mlray.registry_server.deployment import deploy


@pytest.fixture
def recipe(tmp_path):
    """A file that says where the registry lies, and how it is served."""
    path = tmp_path / "platform.toml"
    path.write_text(f'[platform]\nlake = "{tmp_path}"\n[registry_server]\nport = 0\n')
    return path


def test_the_command_serves_until_it_is_told_to_end(recipe, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLRAY_TOKEN")}
    command = [sys.executable, "-m", "mlray.cli", "registry", "serve", "--config", str(recipe)]

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        url = process.stdout.readline().removeprefix("registry: ").strip()
        assert httpx.get(f"{url}/readyz").json() == {"status": "ok"}
        made = httpx.post(f"{url}/v1/models", json={"name": "fraud"})
        assert made.status_code == 201
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)

    database = f"sqlite:///{tmp_path}/_mlray/registry.db"
    assert Registry.connect(database, str(tmp_path), embedded=True).models() == ["fraud"]


def test_a_registry_without_users_is_not_opened_to_other_machines(recipe):
    refused = CliRunner().invoke(app, ["registry", "serve", "--config", str(recipe), "--host", "203.0.113.1"])

    assert isinstance(refused.exception, ConfigError)
    assert "has no users, so it would let anybody do anything: add the first one" in str(refused.exception)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "registry.example"])
def test_a_registry_with_users_may_be_opened_and_one_without_only_to_this_machine(staffed_sqlite, host, tmp_path):
    check_open(embedded(f"sqlite:///{staffed_sqlite.template}", str(tmp_path), Config(host=host)))

    for local in ("127.0.0.1", "::1", "localhost"):
        check_open(embedded(f"sqlite:///{tmp_path}/empty.db", str(tmp_path), Config(host=local)))
    with pytest.raises(ConfigError, match=f"host={host} is reached by other machines"):
        check_open(embedded(f"sqlite:///{tmp_path}/empty.db", str(tmp_path), Config(host=host)))


def test_a_port_that_is_taken_is_told(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        backend = embedded(f"sqlite:///{tmp_path}/registry.db", str(tmp_path), Config(port=port))
        with pytest.raises(PortInUse, match=f"127.0.0.1:{port} cannot be listened on.*choose another --port"):
            alone.serve(backend)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"prot": 1}, "there is no setting 'prot'.*did you mean 'port'"),
        ({"port": "8600"}, "port='8600' is str"),
        ({"port": 70000}, "it must be a port from 0"),
        ({"url": "registry.example"}, "url='registry.example'; it must be http:// or https://"),
        ({"sources": ["file"]}, "without 'file' and 'models'"),
        ({"max_file_bytes": 0}, "max_file_bytes=0; it must be 1 or more"),
    ],
)
def test_a_setting_that_cannot_be_is_told(table, message):
    with pytest.raises(ConfigError, match=message):
        Config.of(table)


@pytest.fixture
def in_ray(ray_cluster, team, urls):  # noqa: ARG001
    """The registry of the team, served by Ray Serve on a free port."""
    actor.stop()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    running = deploy(*urls, Config(port=port))
    yield running.url
    running.stop()
    serve.shutdown()
    actor.stop()


@pytest.mark.parametrize("urls", ["postgresql"], indirect=True)  # with SQLite the actor itself is tested
def test_ray_serve_answers_over_the_actor_of_the_cluster(in_ray, team):
    team.version(b"weights")
    with httpx.Client(base_url=in_ray, timeout=60) as client:
        ana, nobody = (Caller(client=client, token=token) for token in (team.ana._token, None))

        refused = ana.ask("POST", "/v1/models/fraud/versions/1/promote", 403, json={"stage": "Production"})
        found = ana.ask("GET", "/api/2.0/mlflow/model-versions/get", params={"name": "fraud", "version": "1"})
        content = ana.send("GET", f"{found['model_version']['source']}/model.safetensors").content
        untold = nobody.ask("GET", "/api/2.0/mlflow/registered-models/search", 401)

    assert refused["missing"]["roles"] == ["ml_engineer", "risk_officer"]
    assert (content, untold["error_code"]) == (b"weights", "UNAUTHENTICATED")
