"""A database that goes away: an error that says so, no half of a change, and on with it when it is back."""

import httpx
import pytest
from http_server import Caller, listening, record
from postgres_server import running_postgres

from mlray.errors import RegistryUnavailable
from mlray.registry.client import Registry
from mlray.registry_server.alone import embedded
from mlray.registry_server.app import create_app
from mlray.registry_server.config import Config


@pytest.fixture
def server():
    """A server of this test's own, which it may stop."""
    with running_postgres() as server:
        yield server


def test_a_server_that_crashes_and_returns_has_all_or_nothing_of_a_change(server, make_run, tmp_path):
    registry = Registry.connect(server.url("registry"), str(tmp_path / "artifacts"), embedded=True)
    registry.register("fraud", make_run(b"1"), idempotency_key="first")

    server.stop()
    with pytest.raises(RegistryUnavailable, match=r"database postgresql.*@127.0.0.1.*does not answer"):
        registry.register("fraud", make_run(b"2"), idempotency_key="second")
    with pytest.raises(RegistryUnavailable, match="does not answer"):
        registry.get("fraud/1")
    server.start()

    assert registry.register("fraud", make_run(b"2"), idempotency_key="second").version == 2
    assert registry.register("fraud", make_run(b"1"), idempotency_key="first").version == 1
    assert registry.check_audit() is None


def test_a_connection_that_ends_within_a_change_leaves_nothing_of_it(server, make_run, tmp_path):
    registry = Registry.connect(server.url("registry"), str(tmp_path / "artifacts"), embedded=True)
    version = registry.register("fraud", make_run(b"1"))
    database = registry._rules._database

    def change_while_the_server_hangs_up():
        with database.write() as session:
            session.connection().exec_driver_sql("UPDATE model_versions SET stage = 'Production'")
            server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'registry'")

    with pytest.raises(RegistryUnavailable, match="does not answer"):
        change_while_the_server_hangs_up()

    assert registry.get("fraud/1") == version
    assert registry.check_audit() is None


def test_over_http_it_is_a_503_that_says_when_to_come_back_and_no_half_of_a_change(server, make_run, tmp_path):
    backend = embedded(server.url("registry"), str(tmp_path / "artifacts"), Config())
    digest = backend.artifacts.upload(make_run(b"1").checkpoint)

    with listening(create_app(backend)) as url, httpx.Client(base_url=url, timeout=60) as client:
        caller = Caller(client=client, token=None)
        body, key = record(make_run(b"1"), digest), {"Idempotency-Key": "first"}
        caller.ask("GET", "/readyz")
        server.stop()
        answers = [
            caller.send("GET", "/v1/models"),
            caller.send("GET", "/readyz"),
            caller.send("GET", "/api/2.0/mlflow/registered-models/search"),
            caller.send("POST", "/v1/models/fraud/versions", json=body, headers=key),
        ]
        caller.ask("GET", "/healthz")
        server.start()
        made = caller.ask("POST", "/v1/models/fraud/versions", json=body, headers=key)
        assert caller.ask("GET", "/v1/audit/check")["whole"]

    assert [(one.status_code, one.headers["Retry-After"]) for one in answers] == [(503, "5")] * 4
    assert answers[0].json()["error"] == "RegistryUnavailable"
    assert answers[2].json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
    assert (made["version"], made["author"]) == (1, "os:http")
