"""The schema goes up and down, and is what the tables say."""

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, inspect
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from mlray.errors import ConfigError
from mlray.registry.client import Registry
from mlray.registry.database import Database, absolute_database_url
from mlray.registry.migrations import downgrade, upgrade
from mlray.registry.tables import RegistryTable

TABLES = {"models", "model_versions", "aliases", "audit", "audit_head"}


def test_the_migrations_make_the_tables_that_the_code_uses(urls):
    with Database(urls[0]).read() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_server_default": True})
        assert compare_metadata(context, RegistryTable.metadata) == []
        assert set(inspect(session.connection()).get_table_names()) >= TABLES


def test_a_database_with_data_goes_down_and_up_again(registry, make_run, urls):
    registry.register("flights", make_run(), alias="candidate")
    engine = create_engine(urls[0])

    with engine.begin() as connection:
        downgrade(connection, "base")
        assert not TABLES & set(inspect(connection).get_table_names())
    with engine.begin() as connection:
        upgrade(connection)
    engine.dispose()

    assert registry.models() == []
    assert registry.register("flights", make_run()).version == 1


def test_an_existing_database_is_opened_with_its_data(registry, make_run, urls):
    version = registry.register("flights", make_run(), alias="candidate")

    assert Registry.connect(*urls, embedded=True).get("flights@candidate") == version


def test_a_database_of_a_newer_mlray_is_refused_untouched(registry, urls):
    registry.models()
    path = urls[0].removeprefix("sqlite:///")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()

    with pytest.raises(ConfigError, match="has schema 9999; this mlray knows 0001: it was written by a newer mlray"):
        Registry.connect(*urls, embedded=True).models()


def test_sqlite_runs_with_wal_full_sync_and_foreign_keys(urls):
    with Database(urls[0]).read() as session:
        settings = [
            session.connection().exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert settings == ["wal", 2, 1]


def test_the_tables_can_be_made_in_postgresql():
    statements = [
        str(CreateTable(table).compile(dialect=postgresql.dialect())) for table in RegistryTable.metadata.sorted_tables
    ]
    assert len(statements) == len(TABLES)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://", "lives in memory"),
        ("sqlite:///:memory:", "lives in memory"),
        ("registry.db", "is no database URL; write sqlite:////absolute/path.db"),
        ("sqlit:///registry.db", "called 'sqlit'.*did you mean 'sqlite'"),
        ("mysql://user@host/name", "no registry database is called 'mysql'.*known are postgresql, sqlite"),
    ],
)
def test_a_database_url_that_cannot_work_is_refused(url, message):
    with pytest.raises(ConfigError, match=message):
        absolute_database_url(url)


def test_a_relative_path_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert absolute_database_url("sqlite:///here/registry.db") == f"sqlite:///{Path.cwd()}/here/registry.db"
