"""Models and versions come, are copied, renamed and deleted; no number ever means two things."""

import pytest
from sqlalchemy import Engine, event

from mlray.errors import AlreadyExists, Conflict, Forbidden, InvalidName, UnknownName
from mlray.registry.client import Registry

SQLITE_DEFAULT = -2000
"""Its `cache_size`: so many KiB of pages."""


def test_a_model_can_be_there_before_its_first_version(team):
    model = team.ana.create("fraud", description="card fraud", tags={"team": "risk"})

    assert (model.name, model.description, model.tags) == ("fraud", "card fraud", {"team": "risk"})
    assert (model.last_version, model.aliases) == (0, {})
    assert model.created_at == model.updated_at
    assert (team.ana.models(), team.ana.list("fraud")) == (["fraud"], [])
    assert team.version().version == 1
    assert team.ana.model("fraud").updated_at > model.updated_at
    with pytest.raises(AlreadyExists, match="there is a model 'fraud' already"):
        team.ana.create("fraud")


def test_a_version_bears_its_description_and_tags_from_the_first_moment(team):
    run = team.make_run(b"1")
    made = team.ana.register("fraud", run, description="no country", tags={"data": "2026"})

    assert team.ana.get("fraud/1") == made
    assert (made.description, made.tags, made.created_at) == ("no country", {"data": "2026"}, made.updated_at)
    assert team.ana.check_audit() is None


def test_sqlite_keeps_many_pages_only_while_a_model_is_renamed(tmp_path):
    registry = Registry.connect(f"sqlite:///{tmp_path}/registry.db", str(tmp_path), embedded=True)
    registry.create("fraud")
    said = []
    event.listen(Engine, "before_cursor_execute", listener := lambda *call: said.append(call[2]))
    registry.rename("fraud", "cards")
    event.remove(Engine, "before_cursor_execute", listener)

    with registry._rules._database.read() as session:
        assert session.connection().exec_driver_sql("PRAGMA cache_size").scalar() == SQLITE_DEFAULT
    at = [said.index(one) for one in said if one.startswith(("PRAGMA cache_size=", "UPDATE models"))]
    assert [said[one].partition(" SET")[0] for one in at] == [
        "PRAGMA cache_size=-65536", "UPDATE models", f"PRAGMA cache_size={SQLITE_DEFAULT}",
    ]


def test_a_copy_starts_from_nothing_and_names_its_original(team):
    team.production(b"1")
    team.ana.tag("fraud/1", "data", "2026")
    original = team.ana.get("fraud/1")

    copy = team.ben.copy("fraud/Production", "fraud-eu")

    assert (copy.reference, copy.stage, copy.aliases, copy.author) == ("fraud-eu/1", "None", (), "ben")
    assert copy.provenance == original.provenance | {"copy_of": "fraud/1"}
    assert (copy.digest, copy.metrics, copy.run_id, copy.tags) == (
        original.digest, original.metrics, original.run_id, {"data": "2026"}
    )  # fmt: skip
    assert team.ana.approvals(copy) == []
    assert team.ana.get("fraud/1") == original


def test_a_copy_of_a_copy_within_its_own_model_is_one_more_version(team):
    team.version()
    team.ben.copy("fraud/1", "fraud")

    assert team.ana.copy("fraud/2", "fraud").provenance["copy_of"] == "fraud/2"
    assert [version.version for version in team.ana.list("fraud")] == [1, 2, 3]


def test_a_renamed_model_keeps_numbers_stages_approvals_aliases_tags_and_history(team):
    team.production(b"1")
    team.ana.set_alias("fraud", "champion", 1)
    team.ana.tag("fraud/1", "data", "2026")
    team.ana.tag("fraud", "team", "risk")
    approvals, before = [(one.who, one.void) for one in team.ana.approvals("fraud/1")], team.ana.audit("fraud")

    model = team.ben.rename("fraud", "fraud-cards", why="two kinds of fraud")

    version = team.ana.get("fraud-cards@champion")
    assert (version.version, version.stage, version.tags) == (1, "Production", {"data": "2026"})
    assert (model.tags, model.aliases, model.last_version) == ({"team": "risk"}, {"champion": 1}, 1)
    assert [(one.who, one.void) for one in team.ana.approvals("fraud-cards/1")] == approvals
    assert team.ana.audit("fraud-cards")[: len(before)] == before
    assert team.version(b"2", model="fraud-cards").version == 2


def test_who_asks_for_an_earlier_name_is_told_the_present_one(team):
    team.version()
    team.ana.rename("fraud", "fraud-cards")
    team.ana.rename("fraud-cards", "cards")

    with pytest.raises(UnknownName, match="there is no model 'fraud' any more: it is called 'cards' now"):
        team.ana.get("fraud/1")


def test_a_name_that_another_model_has_or_had_is_taken(team):
    team.version(b"1")
    team.version(b"2", model="toy")
    with pytest.raises(AlreadyExists, match="there is a model 'fraud' already; toy needs a name of its own"):
        team.ana.rename("toy", "fraud")
    team.ana.delete("fraud")

    with pytest.raises(Conflict, match="another model was called 'fraud' and had versions up to 1: fraud/1 would mean"):
        team.ana.rename("toy", "fraud")


def test_a_model_can_take_its_own_earlier_name_back(team):
    team.version(b"1")
    team.ana.rename("fraud", "cards")
    team.version(b"2", model="cards")

    assert team.ana.rename("cards", "fraud").last_version == 2
    assert [row["action"] for row in team.ana.audit("fraud")] == [
        "register", "rename_model", "renamed", "register", "rename_model", "renamed",
    ]  # fmt: skip
    assert team.ana.check_audit() is None


def test_a_new_model_under_a_name_that_was_given_up_goes_on_with_its_numbers(team):
    team.version(b"1")
    team.version(b"2")
    team.ana.rename("fraud", "cards")

    assert team.version(b"3").reference == "fraud/3"
    with pytest.raises(Conflict, match="there is a model 'fraud' already"):
        team.ana.rename("cards", "fraud")


def test_the_number_of_a_deleted_version_is_not_given_again(team):
    team.version(b"1")
    team.version(b"2")
    team.ana.set_alias("fraud", "candidate", 2)
    team.ana.delete_version("fraud/2", why="wrong data")

    assert team.version(b"3").version == 3
    assert [version.version for version in team.ana.list("fraud")] == [1, 3]
    assert team.ana.model("fraud").aliases == {}
    last = next(row for row in team.ana.audit("fraud") if row["action"] == "delete_version")
    assert (last["before"]["version"], last["before"]["author"], last["why"]) == (2, "ana", "wrong data")


def test_a_deleted_model_made_again_goes_on_with_its_numbers_and_brings_nothing_back(team):
    team.approved(b"1")
    team.ana.set_alias("fraud", "candidate", 1)
    team.ana.tag("fraud", "team", "risk")
    team.ana.delete("fraud")
    assert team.ana.models() == []

    again = team.version(b"1")

    assert (again.version, again.stage, again.aliases) == (2, "None", ())
    assert (team.ana.approvals(again), team.ana.model("fraud").tags) == ([], {})
    assert team.ana.check_audit() is None


@pytest.mark.parametrize("change", ["rename", "delete", "delete_version"])
def test_what_takes_traffic_is_renamed_or_deleted_only_by_who_may_withdraw_it(team, change):
    team.production()
    arguments = {"rename": ("fraud", "cards"), "delete": ("fraud",), "delete_version": ("fraud/1",)}[change]

    with pytest.raises(Forbidden, match=r"ana may not (rename|delete) fraud.*takes the role ml_engineer or operator"):
        getattr(team.ana, change)(*arguments)
    assert team.stages() == ["Production"]
    getattr(team.ben, change)(*arguments)


def test_what_took_traffic_once_is_renamed_only_by_who_may_withdraw(team):
    team.production()
    team.ben.promote("fraud/1", stage="Archived")

    with pytest.raises(Forbidden, match="ana may not rename fraud, of which a version takes traffic or has"):
        team.ana.rename("fraud", "cards")
    team.ben.rename("fraud", "cards")


def test_what_took_traffic_once_is_deleted_only_by_who_may_withdraw(team):
    team.production(b"1")
    team.production(b"2")  # and 1 is what a rollback returns to

    with pytest.raises(Forbidden, match="ana may not delete fraud/1, which takes traffic or has"):
        team.ana.delete_version("fraud/1")
    team.ben.delete_version("fraud/1")
    with pytest.raises(Conflict, match="no earlier approved Production"):
        team.ben.rollback("fraud")


def test_who_looked_before_a_move_does_not_delete_what_moved(team):
    seen = team.version()
    team.ana.promote(seen, stage="Staging")

    with pytest.raises(Conflict, match="fraud/1 is in Staging now, it has changed since you looked"):
        team.ana.delete_version(seen)


def test_the_key_of_a_version_that_is_deleted_is_used_up(team):
    run = team.make_run(b"1")
    team.ana.register("fraud", run, idempotency_key="nightly")
    team.ana.delete_version("fraud/1")

    with pytest.raises(Conflict, match="'nightly' stands for fraud/1, which is deleted or renamed; use a new key"):
        team.ana.register("fraud", run, idempotency_key="nightly")


def test_a_repeated_call_changes_nothing_twice(team):
    team.version()
    rules, call = team.ana._rules, team.ana._call(request="once")
    changes = [
        lambda: rules.copy("fraud", 1, "other", call=call),
        lambda: rules.register_source("far", "runs:/1/model", call=call),
        lambda: rules.create_model("empty", call=call),
        lambda: rules.set_tag("fraud", "team", "risk", call=call),
        lambda: rules.delete_tag("fraud", "team", call=call),
        lambda: rules.describe("fraud", "cards", call=call),
        lambda: rules.delete_version("other", 1, call=call),
        lambda: rules.rename_model("fraud", "cards", call=call),
        lambda: rules.delete_model("cards", call=call),
    ]
    for change in changes:
        first, rows = change(), len(team.ana.audit())
        assert change() == first
        assert len(team.ana.audit()) == rows


@pytest.mark.parametrize("name", ["Cards", "..", "latest", "a%2fb", ""])
def test_another_name_obeys_the_one_rule_of_names(team, name):
    team.version()

    for change in (
        lambda: team.ana.rename("fraud", name),
        lambda: team.ana.copy("fraud/1", name),
        lambda: team.ana.create(name),
        lambda: team.ana.register_source(name, "runs:/1/model"),
    ):
        with pytest.raises(InvalidName, match="is refused: a name starts with a lower-case ASCII letter"):
            change()
