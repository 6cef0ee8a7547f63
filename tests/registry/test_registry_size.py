"""A hundred thousand versions: a page, a look-up and a search take their way through an index, in under 100 ms."""

import itertools
import time
from dataclasses import replace

import pytest
from sqlalchemy import create_engine, event, text

from mlray.registry.client import Registry
from mlray.registry.query import ModelQuery, Order, TagWhere, VersionQuery, Where
from mlray.registry.tables import VersionRow
from tests.registry.conftest import SomeRun

VERSIONS = 100_000
SECONDS = 0.1
SEEN = "SELECT count(*) > 0 FROM pg_stats WHERE tablename = 'model_versions'"
NO_STATISTICS = "SELECT count(*) = 0 FROM sqlite_master WHERE name = 'sqlite_stat1'"
NUMBERS = f"WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {VERSIONS}) "
OF_A_VERSION = {
    "version": "i", "digest": "CAST(i AS text)", "run_id": "'run-' || i",
    "created_at": "i", "updated_at": "i * CAST(7919 AS bigint) % 100000",
    "model": "CASE WHEN i % 100 = 0 THEN 'other' ELSE 'fraud' END",
    "stage": "CASE WHEN i % 1000 = 1 THEN 'Staging' WHEN i % 7 = 0 THEN 'Archived' ELSE 'None' END",
}  # fmt: skip


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def registry(request, tmp_path_factory):
    """A registry of 100,000 versions, each with one tag that all have and one of its own."""
    folder = tmp_path_factory.mktemp("size")
    url = f"sqlite:///{folder}/registry.db"
    if request.param == "postgresql":
        postgres = request.getfixturevalue("postgres")
        postgres.execute("CREATE DATABASE size TEMPLATE registry")
        url = postgres.url("size")
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "signature.json").write_text("{}")
    registry = Registry.connect(url, str(folder / "artifacts"), embedded=True)
    registry.register("fraud", SomeRun(checkpoint=str(checkpoint)))
    registry.create("other")
    columns = [column.name for column in VersionRow.__table__.columns]
    values = ", ".join(OF_A_VERSION.get(name, name) for name in columns)
    with create_engine(registry._rules._database.url).begin() as connection:
        for statement in (
            f"INSERT INTO model_versions ({', '.join(columns)}) {NUMBERS} "
            f"SELECT {values} FROM n, (SELECT * FROM model_versions) AS one",
            "INSERT INTO version_tags SELECT model, version, 'team', 'risk', 'risk' FROM model_versions",
            "INSERT INTO version_tags SELECT model, version, 'own', run_id, run_id FROM model_versions",
            "INSERT INTO aliases VALUES ('fraud', 'candidate', 5001)",
        ):
            connection.execute(text(statement))
    connection.engine.dispose()
    opened = Registry.connect(url, str(folder / "artifacts"), embedded=True)  # as after an import or a restoration
    opened.models()
    yield opened
    if request.param == "postgresql":
        postgres.execute("DROP DATABASE size WITH (FORCE)")


def plans(registry, ask):
    """How the database answers each statement of `ask`."""
    engine, statements, found = registry._rules._database._engine, [], []

    def listen(_connection, _cursor, statement, parameters, *_):
        statements.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", listen)
    ask()
    event.remove(engine, "before_cursor_execute", listen)
    explain = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    with engine.connect() as connection:
        for statement, parameters in statements:
            if statement.startswith("SELECT"):
                found += [row[-1] for row in connection.exec_driver_sql(f"{explain} {statement}", parameters)]
    return found


def whole_tables(steps):
    """The steps of a plan that read all versions or all of their tags as they lie."""
    scanned = ("SCAN model_versions", "SCAN version_tags", "Seq Scan on model_versions", "Seq Scan on version_tags")
    return [step for step in steps if any(one in step for one in scanned) and "INDEX" not in step]


NAME = Where(field="name", operator="=", value="fraud")
TEAM = TagWhere(key="team", operator="=", value="risk")
PREFIX = Where(field="name", operator="LIKE", value="fr%")
STAGE = Where(field="stage", operator="=", value="None")
FEW = Where(field="stage", operator="=", value="Staging")
NEWEST = (Order(field="updated_at", descending=True),)
NO_PROMPT = TagWhere(key="mlflow.prompt.is_prompt", operator="=", value="false", or_absent=True)
MLFLOW = (*NEWEST, Order(field="name"), Order(field="version", descending=True))
MOST = (
    Where(field="source", operator="=", value=""), Where(field="run_id", operator="LIKE", value="run-%"),
    Where(field="name", operator="ILIKE", value="%RAU%"), Where(field="service", operator="!=", value="taxis"),
)  # fmt: skip
ASKED = {
    "a model's page": VersionQuery(where=(NAME,)),
    "a model's newest": VersionQuery(where=(NAME,), order_by=NEWEST),
    "as MLflow's client asks": VersionQuery(where=(NAME, NO_PROMPT), order_by=MLFLOW),
    "the newest of all": VersionQuery(order_by=NEWEST),
    "a run": VersionQuery(where=(Where(field="run_id", operator="=", value="run-77"),)),
    "a prefix": VersionQuery(where=(Where(field="name", operator="LIKE", value="oth%"),)),
    "two directions": VersionQuery(order_by=(Order(field="name"), Order(field="version", descending=True))),
    "a prefix, newest first": VersionQuery(where=(PREFIX,), order_by=MLFLOW),
    "a part of the name": VersionQuery(where=(Where(field="name", operator="ILIKE", value="%TH%"),), order_by=MLFLOW),
    "a stage": VersionQuery(where=(STAGE,)),
    "a stage, newest first": VersionQuery(where=(STAGE,), order_by=NEWEST),
    "what few are in, newest first": VersionQuery(where=(NAME, FEW), order_by=NEWEST),
    "two that many meet": VersionQuery(where=(Where(field="source", operator="=", value=""), STAGE), order_by=MLFLOW),
    "an alias": VersionQuery(where=(Where(field="alias", operator="=", value="candidate"),)),
    "a tag of one": VersionQuery(where=(TagWhere(key="own", operator="=", value="run-77777"),)),
    "a tag of all": VersionQuery(where=(TEAM,)),
    "a tag of all, newest first": VersionQuery(where=(TEAM,), order_by=NEWEST),
    "five that most meet": VersionQuery(where=(STAGE, *MOST), order_by=NEWEST),
    "two tags of all": VersionQuery(where=(TEAM, TagWhere(key="own", operator="LIKE", value="run-%"))),
}  # fmt: skip


@pytest.mark.parametrize("asked", ASKED)
def test_a_search_walks_an_index_and_answers_in_time(registry, asked):
    query = ASKED[asked]
    found = plans(registry, lambda: registry.search(query))

    page = registry.search(query)
    assert page.items
    if is_sqlite(registry):  # PostgreSQL reads a table where that is quicker
        assert not whole_tables(found), found
    assert_quick(registry, lambda: registry.search(query))
    if page.next_page_token is not None:
        assert_quick(registry, lambda: registry.search(replace(query, page_token=page.next_page_token)))


@pytest.mark.parametrize("asked", ["five that most meet", "two tags of all"])
def test_what_most_rows_meet_is_asked_along_an_index_until_there_is_a_page(registry, asked):
    query = ASKED[asked]
    query = replace(query, page_token=registry.search(query).next_page_token)

    found = plans(registry, lambda: registry.search(query))

    page, way = ("MATERIALIZE", "INDEX") if is_sqlite(registry) else ("Limit", "Scan")
    under = [after for step, after in itertools.pairwise(found) if page in step]
    assert under
    assert all(way in step for step in under), found
    assert "hashed" not in str(found), found  # all that meet a condition would be kept first


def test_postgresql_sorts_the_few_that_meet_what_no_index_answers_and_compiles_nothing(registry):
    found = plans(registry, lambda: registry.search(ASKED["a part of the name"]))

    assert any("Sort Key: ((model_versions_1.updated_at" in step for step in found) is not is_sqlite(registry)
    if not is_sqlite(registry):
        with registry._rules._database.read() as session:
            assert session.connection().exec_driver_sql("SHOW jit").scalar() == "off"


def test_postgresql_has_looked_at_what_was_imported_and_sqlite_plans_without_statistics(registry):
    with registry._rules._database.read() as session:
        assert session.connection().exec_driver_sql(NO_STATISTICS if is_sqlite(registry) else SEEN).scalar()


def test_a_version_a_model_and_the_next_page_are_there_in_time(registry):
    token = registry.search(ASKED["a model's page"]).next_page_token
    next_page = VersionQuery(where=(NAME,), page_token=token)

    for ask in (
        lambda: registry.get("fraud/50001"),
        lambda: registry.get("fraud@candidate"),
        lambda: registry.model("fraud"),
        lambda: registry.search_models(ModelQuery()),
        lambda: registry._rules.latest_versions(["fraud", "other"]),
        lambda: registry.search(next_page),
    ):
        assert_quick(registry, ask)


@pytest.mark.parametrize("asked", ["a model's page", "a model's newest", "as MLflow's client asks"])
def test_a_page_far_down_starts_where_the_one_before_ended(registry, asked):
    token = registry.search(ASKED[asked]).next_page_token

    found = plans(registry, lambda: registry.search(replace(ASKED[asked], page_token=token)))

    if not is_sqlite(registry):
        assert [step for step in found if "Index Cond" in step], found
        return
    key = "version>?" if asked == "a model's page" else "(updated_at,version)<(?,?)"
    assert [step for step in found if step.startswith("SEARCH model_versions") and key in step], found


def test_versions_come_one_after_the_other_without_waiting_for_all(registry):
    assert_quick(registry, lambda: list(itertools.islice(registry.each("fraud"), 10)), 5)


def is_sqlite(registry):
    return registry._rules._database.url.startswith("sqlite")


def assert_quick(registry, ask, times=1):
    """In processor time, where the database is in this process; a server's is measured by the clock, which on a shared
    machine is no measure: what it takes on a quiet one stands in docs/design/registry.md.
    """
    clock, limit = (time.process_time, SECONDS) if is_sqlite(registry) else (time.perf_counter, 10 * SECONDS)
    taken = []
    for _ in range(3):
        started = clock()
        ask()
        taken.append(clock() - started)
    assert min(taken) < times * limit
