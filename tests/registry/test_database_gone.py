"""A database that goes away: an error that says so, no half of a change, and on with it when it is back."""

import pytest
from postgres_server import running_postgres

from mlray.errors import RegistryUnavailable
from mlray.registry.client import Registry


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
