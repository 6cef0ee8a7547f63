"""The schema goes up and down, and is what the tables say."""

from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import NullPool, create_engine, inspect

from mlray.errors import ConfigError, Forbidden
from mlray.registry.client import Registry
from mlray.registry.database import Database, absolute_database_url
from mlray.registry.migrations import downgrade, upgrade
from mlray.registry.tables import RegistryTable

FIRST = {"models", "model_versions", "aliases", "audit", "audit_head"}
SECOND = FIRST | {"users", "user_roles", "policies", "promotions", "approvals"}
TABLES = SECOND | {"authors", "retired_names", "model_tags", "version_tags"}


def test_the_migrations_make_the_tables_that_the_code_uses(urls):
    with Database(urls[0]).read() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_server_default": True})
        assert compare_metadata(context, RegistryTable.metadata) == []
        assert set(inspect(session.connection()).get_table_names()) >= TABLES


def test_of_a_database_that_others_use_only_our_tables_are_counted(postgres):
    with postgres.database() as url:
        engine = create_engine(url, poolclass=NullPool)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE theirs AS SELECT generate_series(1, 100) AS n")
            downgrade(connection, "0003")
            upgrade(connection)
            counted = connection.exec_driver_sql("SELECT tablename FROM pg_stats").scalars().all()
            connection.exec_driver_sql("DROP TABLE theirs")
    assert ("audit_head" in counted, "theirs" in counted) == (True, False)


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


def test_what_the_first_schema_held_is_there_after_going_down_and_up_again(team, urls):
    version = team.production()
    audit = team.ana.audit("fraud")
    engine = create_engine(urls[0], poolclass=NullPool)

    with engine.begin() as connection:
        downgrade(connection, "0001")
        assert set(inspect(connection).get_table_names()) == FIRST | {"alembic_version"}
        authors = connection.exec_driver_sql("SELECT author FROM model_versions").scalars().all()
    with engine.begin() as connection:
        upgrade(connection)

    again = Registry.connect(*urls, embedded=True)
    assert authors == ["ana"]
    first = {"stage": "None", "row_version": 0, "author": "os:ana"}
    assert again.get("fraud/1") == replace(version, **first)
    assert (again.audit("fraud"), again.users.list()) == (audit, [])


def test_what_the_second_schema_held_is_there_after_going_down_and_up_again(team, urls):
    version, other = team.production(b"1"), team.version(b"2")
    engine = create_engine(urls[0], poolclass=NullPool)

    with engine.begin() as connection:
        downgrade(connection, "0002")
        assert set(inspect(connection).get_table_names()) == SECOND | {"alembic_version"}
    with engine.begin() as connection:
        upgrade(connection)

    assert team.ana.list("fraud") == [version, other]  # and when they changed last, as the audit tells
    assert [one.void for one in team.ana.approvals(version)] == ["an earlier promotion has used it"] * 2
    team.root.users.grant("ana", "ml_engineer")
    with pytest.raises(Forbidden, match="ana registered fraud/2, or the same bytes"):
        team.ana.approve(other, stage="Canary", role="ml_engineer")
    assert team.ana.check_audit() is None


def test_the_indexes_of_the_third_schema_come_and_go_with_all_data_in_place(team, urls):
    team.production(b"1")
    versions = [team.ana.get("fraud/1"), team.version(b"2")]
    engine = create_engine(urls[0], poolclass=NullPool)

    def sorted_by(connection):
        found = {one["name"]: one["column_names"] for one in inspect(connection).get_indexes("model_versions")}
        return found["ix_model_versions_created_at"], found.get("ix_model_versions_newest_first")

    with engine.begin() as connection:
        downgrade(connection, "0003")
        assert sorted_by(connection) == (["created_at"], None)
    assert Registry.connect(*urls, embedded=True).list("fraud") == versions
    with engine.begin() as connection:
        assert sorted_by(connection) == (["created_at", "model", "version"], ["model", "version"])

    assert (team.ana.list("fraud"), team.ana.check_audit()) == (versions, None)


def test_the_audit_names_what_a_way_down_has_lost(team, urls):
    team.ana.create("fraud", tags={"team": "risk"})
    engine = create_engine(urls[0], poolclass=NullPool)

    with engine.begin() as connection:
        downgrade(connection, "0002")
    with engine.begin() as connection:
        upgrade(connection)

    assert team.ana.check_audit() == (
        "tag fraud/team was changed without a row: the rows say risk, the table says nothing"
    )


def test_an_author_of_the_first_schema_counts_as_one_without_a_token(registry, make_run, urls):
    version = registry.register("flights", make_run(), alias="candidate")
    engine = create_engine(urls[0], poolclass=NullPool)

    with engine.begin() as connection:
        downgrade(connection, "0001")
        [author] = connection.exec_driver_sql("SELECT author FROM model_versions").scalars()
    assert f"os:{author}" == version.author

    assert Registry.connect(*urls, embedded=True).get("flights/1") == version
    assert registry.check_audit() is None


def test_an_existing_database_is_opened_with_its_data(registry, make_run, urls):
    version = registry.register("flights", make_run(), alias="candidate")

    assert Registry.connect(*urls, embedded=True).get("flights@candidate") == version


def test_a_database_of_a_newer_mlray_is_refused_untouched(registry, urls, execute):
    registry.models()
    execute("UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(ConfigError, match="has schema 9999; this mlray knows 0001, 0002, 0003, 0004: it was"):
        Registry.connect(*urls, embedded=True).models()


def test_sqlite_runs_with_wal_full_sync_and_foreign_keys(tmp_path):
    with Database(f"sqlite:///{tmp_path}/registry.db").read() as session:
        settings = [
            session.connection().exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert settings == ["wal", 2, 1]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://", "lives in memory"),
        ("sqlite:///:memory:", "lives in memory"),
        ("registry.db", "is no database URL; write sqlite:////absolute/path.db"),
        ("postgresql:/ana:secret@host/db", r"'postgresql:\*\*\*@host/db' is no database URL"),
        ("postgresql://ana:secret@host:port/db", r"'postgresql:\*\*\*@host:port/db' is no database URL"),
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
