"""Every change leaves a row, and no row changes or leaves unseen."""

import re
import tracemalloc
from contextlib import contextmanager

import pytest
from sqlalchemy import Boolean, Integer, NullPool, create_engine, text

from mlray.errors import Conflict, RegistryUnavailable, UnknownName
from mlray.registry.audit import Change, append, row_hash
from mlray.registry.database import Database
from mlray.registry.tables import AuditRow, JsonText, RegistryTable


@pytest.fixture
def changed(registry, make_run):
    """A registry with four changes: two registrations, an alias that moves once."""
    registry.register("flights", make_run(b"1"), alias="candidate")
    registry.register("flights", make_run(b"2"))
    registry.set_alias("flights", "candidate", 2)
    return registry


def test_each_change_is_one_row_with_before_and_after(changed):
    rows = changed.audit("flights")

    assert [(row["sequence"], row["action"]) for row in rows] == [
        (1, "register"),
        (2, "set_alias"),
        (3, "register"),
        (4, "set_alias"),
    ]
    assert rows[0]["after"]["digest"] == changed.get("flights/1").digest
    assert rows[3]["before"] == {"alias": "candidate", "version": 1}
    assert rows[3]["after"] == {"alias": "candidate", "version": 2}
    assert rows[3]["at"] >= rows[0]["at"]


def test_a_long_audit_comes_one_change_after_the_other_and_is_never_all_in_memory(changed, execute):
    execute("INSERT INTO audit WITH RECURSIVE n(i) AS (SELECT 5 UNION ALL SELECT i + 1 FROM n WHERE i < 12000) "
            "SELECT i, at, who, action, model, 'r' || i, before, after, previous_hash, hash FROM n, "
            "(SELECT * FROM audit WHERE sequence = 4) AS one")

    tracemalloc.start()
    for expected, row in zip(range(1, 12001), changed.each_change("flights"), strict=True):
        assert row["sequence"] == expected
    assert tracemalloc.get_traced_memory()[1] < 12 << 20
    tracemalloc.stop()


def test_a_refused_change_leaves_no_row(changed):
    with pytest.raises(UnknownName):
        changed.set_alias("flights", "candidate", 9)

    assert len(changed.audit()) == 4


def test_an_untouched_chain_is_whole(changed):
    assert changed.check_audit() is None


@pytest.mark.parametrize(
    ("tampering", "finding"),
    [
        ("UPDATE audit SET who = 'somebody' WHERE sequence = 2", "audit row 2 was changed"),
        ("DELETE FROM audit WHERE sequence = 2", "audit row 2 is missing"),
        ("DELETE FROM audit WHERE sequence = 4", "audit ends at row 3; 4 were written"),
    ],
)
def test_a_changed_or_missing_row_is_found(changed, execute, tampering, finding):
    execute(tampering)

    assert changed.check_audit() == finding


def test_a_failure_after_the_state_was_written_undoes_it(changed, execute, make_run):
    execute("INSERT INTO audit SELECT 5, at, who, action, model, request || 'x', before, after, '', '' FROM audit "
            "WHERE sequence = 4")

    with pytest.raises(Conflict, match="the database refused the change"):
        changed.register("flights", make_run(b"3"))

    assert execute("SELECT max(version) FROM model_versions") == 2


def test_without_the_end_of_the_chain_nothing_is_changed(changed, execute, make_run):
    execute("DELETE FROM audit_head")

    with pytest.raises(RegistryUnavailable, match="the audit chain has no head"):
        changed.register("flights", make_run(b"3"))

    assert execute("SELECT max(version) FROM model_versions") == 2


@pytest.mark.parametrize(
    ("tampering", "finding"),
    [
        ("UPDATE model_versions SET stage = 'Canary' WHERE version = 2", "version fraud/2 was changed without a row"),
        ("UPDATE model_versions SET author = 'eve' WHERE version = 2", "version fraud/2 was changed without a row"),
        ("UPDATE model_versions SET digest = '00' WHERE version = 1", "version fraud/1 was changed without a row"),
        ("DELETE FROM approvals WHERE id = (SELECT min(id) FROM approvals)", "approval .* was changed without a row"),
        ("UPDATE approvals SET promotion = NULL", "approval .* was changed without a row"),
        ("UPDATE promotions SET ended = 'replaced'", "promotion .* was changed without a row"),
        ("INSERT INTO user_roles VALUES ('ana', 'risk_officer', 1)", "role ana/risk_officer was changed without a row"),
        ("UPDATE users SET token_sha256 = '00' WHERE name = 'cleo'", "user cleo was changed without a row"),
        ("INSERT INTO aliases VALUES ('fraud', 'champion', 2)", "alias fraud/champion was changed without a row"),
        ("INSERT INTO policies VALUES (99, '', '{}')", "policy 99 was changed without a row: the rows say nothing"),
        ("UPDATE models SET last_version = 7", "model fraud was changed without a row: the rows say 2"),
        ("UPDATE models SET description = 'tested'", "description fraud was changed without a row: the rows say cards"),
        ("UPDATE model_versions SET description = 'x' WHERE version = 2", "description fraud/2 was changed without a"),
        ("UPDATE model_versions SET metrics = '{\"auc\":1.0}' WHERE version = 2", "record fraud/2 was changed without"),
        ("UPDATE model_versions SET source = 's3://other'", "record fraud/1 was changed without a row"),
        ("DELETE FROM authors WHERE author = 'ana'", "author .* was changed without a row: the rows say {'ana'}"),
        ("INSERT INTO authors VALUES ('00', 'eve')", "author 00 was changed without a row: the rows say nothing"),
        ("UPDATE model_tags SET value = 'x'", "tag fraud/team was changed without a row: the rows say risk"),
        ("DELETE FROM version_tags", "tag fraud/1/data was changed without a row: .* the table says nothing"),
        ("UPDATE retired_names SET last_version = 7", "retired name old was changed without a row"),
        ("UPDATE retired_names SET became = NULL", "retired name old was changed without a row"),
        ("UPDATE approvals SET at = at - 1", "approval .* was changed without a row"),
        ("UPDATE model_versions SET created_at = 7 WHERE version = 2", "creation of fraud/2 was changed without a row"),
        ("UPDATE model_versions SET config = 'x'", "a table was changed without a row: it holds 'x' where JSON is due"),
    ],
)
def test_a_table_that_was_changed_without_a_row_is_found(team, execute, tampering, finding):
    team.ana.create("old", description="cards", tags={"team": "risk"})
    team.ana.rename("old", "fraud")
    team.production(b"1")
    team.ana.tag("fraud/1", "data", "2026")
    team.version(b"2")
    assert team.ana.check_audit() is None

    execute(tampering)

    assert re.match(finding, team.ana.check_audit())


APART = {"audit", "audit_head"}  # the chain, which is held against itself


def another(column):
    """Another value of the column's kind than it holds, in SQL."""
    if isinstance(column.type, JsonText):
        return "'[7]'" if column.name == "features" else "'{\"x\":7}'"
    if isinstance(column.type, Boolean):
        return f"NOT {column.name}"
    return f"coalesce({column.name}, 0) + 1000" if isinstance(column.type, Integer) else "'x'"


@pytest.fixture
def owner(urls):
    """Opens a transaction of the owner of the database, at whom foreign keys look away."""
    engine = create_engine(urls[0], poolclass=NullPool)

    @contextmanager
    def begin():
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql("SET session_replication_role = replica")
            yield connection

    return begin


def put_back(connection, table, rows):
    names = list(rows[0])
    connection.exec_driver_sql(f"DELETE FROM {table.name}")
    values = ", ".join(f":{name}" for name in names)
    connection.execute(text(f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({values})"), rows)


def test_no_column_of_any_table_changes_unseen(team, owner):
    team.ana.create("old", tags={"team": "risk"})
    team.ana.rename("old", "fraud")
    team.root.set_policy(team.root.policy().model_copy(update={"withdraw": ("operator",)}))
    team.production(b"1")
    team.ana.set_alias("fraud", "champion", 1)
    team.ana.tag("fraud/1", "data", "2026")
    unseen = []

    for table in RegistryTable.metadata.sorted_tables:
        for column in table.columns if table.name not in APART else ():
            with owner() as connection:
                rows = [dict(row._mapping) for row in connection.exec_driver_sql(f"SELECT * FROM {table.name}")]
                connection.exec_driver_sql(
                    f"UPDATE {table.name} SET {column.name} = {another(column)} WHERE {table.columns.keys()[0]} = "
                    f"(SELECT max({table.columns.keys()[0]}) FROM {table.name})"
                )
            unseen += [] if team.ana.check_audit() else [str(column)]
            with owner() as connection:
                put_back(connection, table, rows)

    assert unseen == []
    assert team.ana.check_audit() is None


def test_all_that_can_be_done_agrees_with_its_rows(team):
    team.production(b"1")
    team.ana.set_alias("fraud", "champion", 1)
    team.production(b"2")
    team.ben.rollback("fraud")
    team.cleo.revoke_approval("fraud/1", stage="Production")
    team.root.users.revoke("cleo", "risk_officer")
    team.root.users.grant("cleo", "risk_officer")
    team.root.users.disable("eve")
    team.root.set_policy(team.root.policy().model_copy(update={"withdraw": ("operator", "ml_engineer")}))
    team.ana.users.renew_token("ana")
    team.ben.promote("fraud/1", stage="Archived")

    assert team.ben.check_audit() is None


def test_all_that_can_be_done_with_models_and_versions_agrees_with_its_rows(team):
    team.ana.create("empty", description="none yet", tags={"a": "1"})
    team.production(b"1")
    team.ana.tag("fraud", "a", "1")
    team.ana.describe("fraud/1", "the first")
    team.ana.copy("fraud/1", "other")
    team.ana.register_source("far", "runs:/1/model", tags={"a": "1"})
    team.ben.rename("fraud", "cards")
    team.production(b"2")
    team.ben.rename("cards", "cards-eu")
    team.ana.untag("cards-eu", "a")
    team.ana.set_alias("cards-eu", "candidate", 1)
    team.ben.delete_version("cards-eu/1")
    team.ana.set_alias("other", "candidate", 1)
    team.ana.delete("other")
    team.ana.delete("empty")
    team.version(b"3", model="other")
    team.ben.delete("fraud")
    team.version(b"4", model="cards")

    assert team.ben.check_audit() is None


def test_a_row_that_the_owner_of_the_database_appends_is_held_against_those_before(team, urls):
    team.production(b"1")
    after = {"version": 9, "stage": "Production"}
    forged = Change(who="cleo", action="promote", model="fraud", request="r", after=after)
    with Database(urls[0]).write() as session:
        append(session, forged, at=0)

    assert re.match("audit row .* tells of something that the rows before it do not know", team.ana.check_audit())


def test_a_row_that_is_changed_along_with_its_own_hash_is_found_by_the_next(team):
    team.version()
    team.ana.tag("fraud/1", "data", "2026")
    with team.root._rules._database.write() as session:
        row = session.get(AuditRow, 2)
        row.request = "another"
        row.hash = row_hash(row)
        session.add(row)

    assert team.root.check_audit() == "audit row 3 was changed"
