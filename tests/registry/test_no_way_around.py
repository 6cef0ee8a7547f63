"""Every way into Production but the one: each passes the same rules. One test per way."""

import inspect

import pytest
import ray

from mlray.errors import Conflict, Forbidden, NotApproved, SchemaError, Unauthenticated, UnknownName
from mlray.registry import actor as registry_actor
from mlray.registry.actor import ACTOR_NAME, METHODS, NAMESPACE
from mlray.registry.client import Registry
from mlray.registry.identity import Call
from mlray.registry.model_registry import ModelRegistry
from mlray.registry.model_version import record_of
from mlray.registry.policy import Policy
from tests.registry.conftest import PASSED


def test_the_protected_alias_points_at_production_only(team):
    team.production(b"1")
    team.ana.set_alias("fraud", "champion", 1)
    team.version(b"2")

    with pytest.raises(NotApproved, match=r"fraud@champion is a protected alias.*promote it first, which takes an"):
        team.ana.set_alias("fraud", "champion", 2)
    assert team.ana.get("fraud@champion").version == 1
    assert team.ana.set_alias("fraud", "candidate", 2).aliases == ("candidate",)


def test_the_protected_alias_is_not_given_at_registration(team):
    with pytest.raises(NotApproved, match="fraud@champion is a protected alias"):
        team.ana.register("fraud", team.make_run(b"1"), alias="champion")
    assert team.ana.models() == []


def test_the_protected_alias_follows_production(team):
    team.production(b"1")
    team.ana.set_alias("fraud", "champion", 1)

    team.production(b"2")
    assert team.ana.get("fraud@champion").version == 2
    team.ben.rollback("fraud")
    assert team.ana.get("fraud@champion").version == 1
    team.ben.promote("fraud/1", stage="Archived")
    assert [version.aliases for version in team.ana.list("fraud")] == [(), ()]


def test_taking_the_protected_alias_away_takes_a_role(team):
    team.production()
    team.ana.set_alias("fraud", "champion", 1)

    with pytest.raises(Forbidden, match="ana may not remove the protected alias fraud@champion"):
        team.ana.remove_alias("fraud", "champion")
    team.ben.remove_alias("fraud", "champion")


def test_the_same_bytes_under_another_name_start_from_nothing(team):
    team.approved(b"1")

    copy = team.ben.register("other", team.make_run(b"1"))

    with pytest.raises(NotApproved, match="other/1 may not enter Production, it lacks an approval as ml_engineer"):
        team.ben.promote(copy, stage="Production")


def test_a_record_cannot_bring_its_author_stage_or_approvals_along(team):
    taken = set(inspect.signature(ModelRegistry.register).parameters) - {"_ray_trace_ctx"}  # Ray's, in an actor's class
    record = record_of(team.make_run(b"1"), digest="0" * 64, signature={})

    assert taken == {"self", "name", "record", "alias", "description", "tags", "allow_pickle", "call"}
    assert not vars(record).keys() & {"author", "stage", "row_version", "approvals", "version", "created_at"}


def test_an_anonymous_caller_cannot_pass_for_the_author(team):
    nobody = team.ana.acting(None)

    for change in (
        lambda: nobody.register("fraud", team.make_run(b"1")),
        lambda: nobody.promote(team.version(), stage="Staging"),
        lambda: nobody.users.add("mallory", ["admin"]),
    ):
        with pytest.raises(Unauthenticated):
            change()


def test_a_copy_brings_no_approval_along(team):
    team.approved(b"1")

    copy = team.eve.copy("fraud/1", "other")

    with pytest.raises(NotApproved, match="other/1 may not enter Production, it lacks an approval as ml_engineer"):
        team.eve.promote(copy, stage="Production")
    with pytest.raises(NotApproved, match="other@champion is a protected alias"):
        team.eve.set_alias("other", "champion", 1)


def test_a_copy_by_another_does_not_wash_the_author_off(team):
    team.root.users.grant("ana", "ml_engineer")
    team.version()

    copy = team.eve.copy("fraud/1", "other")

    for author in (team.ana, team.eve):
        with pytest.raises(Forbidden, match="registered other/1, or the same bytes, and cannot approve it"):
            author.approve(copy, stage="Production", role="ml_engineer")


def test_deleting_a_version_does_not_wash_its_author_off(team):
    team.root.users.grant("ana", "ml_engineer")
    team.version(b"1")
    team.ana.delete("fraud")
    again = team.eve.register("other", team.make_run(b"1", gates={"evaluation": PASSED}))

    with pytest.raises(Forbidden, match="ana registered other/1, or the same bytes, and cannot approve it"):
        team.ana.approve(again, stage="Production", role="ml_engineer")


def test_a_rename_brings_no_model_to_a_name_that_another_had(team):
    team.production(b"1")
    team.version(b"2", model="toy")
    team.ben.rename("fraud", "cards")

    with pytest.raises(Conflict, match="another model was called 'fraud'"):
        team.ana.rename("toy", "fraud")
    with pytest.raises(NotApproved, match="toy/1 may not enter Production"):
        team.ana.promote("toy/1", stage="Production")


def test_a_model_made_again_has_no_production_no_champion_and_no_approval(team):
    team.production(b"1")
    team.ana.set_alias("fraud", "champion", 1)
    team.ben.delete("fraud")
    again = team.version(b"1")

    assert (again.version, again.stage, again.aliases) == (2, "None", ())
    with pytest.raises(NotApproved, match="fraud/2 may not enter Production"):
        team.ana.promote(again, stage="Production")
    with pytest.raises(Conflict, match="fraud has no earlier approved Production to go back to"):
        team.ben.rollback("fraud")


def test_tags_and_descriptions_are_no_gates_approvals_or_aliases(team):
    tags = {"evaluation": "passed", "approval": "risk_officer", "alias": "champion", "stage": "Production"}
    version = team.ana.register("fraud", team.make_run(b"1"), tags=tags, description="approved by cleo")
    for key, value in tags.items():
        team.ana.tag("fraud", key, value)

    with pytest.raises(NotApproved, match="an approval as risk_officer; gate 'data_validation': the run left no"):
        team.ana.promote(version, stage="Production")
    with pytest.raises(UnknownName, match="there is no alias"):
        team.ana.get("fraud@champion")


def test_a_version_without_verified_bytes_does_not_leave_none(team):
    team.ana.register_source("fraud", "runs:/1/model", run_id="1")
    team.eve.copy("fraud/1", "other")

    for reference in ("fraud/1", "other/1"):
        for stage in ("Staging", "Canary", "Production", "Archived"):
            with pytest.raises(NotApproved, match="was registered from runs:/1/model and nobody has verified"):
                team.ben.promote(reference, stage=stage)
    with pytest.raises(NotApproved, match="nobody has verified its bytes"):
        team.ben.approve("fraud/1", stage="Canary", role="ml_engineer")
    with pytest.raises(NotApproved, match="fraud@champion is a protected alias"):
        team.ana.set_alias("fraud", "champion", 1)
    with pytest.raises(UnknownName, match="its bytes are not in the artifact store"):
        team.ana.download("fraud/1", "copy")


def test_an_open_policy_lets_a_version_without_verified_bytes_go_on_with_its_approvals(team):
    team.ana.register_source("fraud", "runs:/1/model")
    stages = {"Canary": {"approvals": ["ml_engineer"]}}
    team.root.set_policy(Policy.parse({"unverified_sources": True, "stages": stages}))
    with pytest.raises(NotApproved, match="fraud/1 may not enter Canary, it lacks an approval as ml_engineer"):
        team.ana.promote("fraud/1", stage="Canary")
    team.ben.approve("fraud/1", stage="Canary", role="ml_engineer")
    assert team.ana.promote("fraud/1", stage="Canary").stage == "Canary"

    team.root.set_policy(Policy.parse({"stages": stages}))

    assert team.ben.promote("fraud/1", stage="Archived").stage == "Archived"  # out of traffic at any time
    with pytest.raises(NotApproved, match="it cannot enter Staging"):
        team.ana.promote("fraud/1", stage="Staging")


def test_who_copies_a_source_that_nobody_has_verified_does_not_wash_its_author_off(team):
    team.root.users.grant("ana", "ml_engineer")
    team.ana.register_source("fraud", "runs:/1/model")
    team.eve.copy("fraud/1", "other")
    stages = {"Canary": {"approvals": ["ml_engineer"]}}
    team.root.set_policy(Policy.parse({"unverified_sources": True, "stages": stages}))

    with pytest.raises(Forbidden, match="ana registered other/1, or the same bytes"):
        team.ana.approve("other/1", stage="Canary", role="ml_engineer")


def test_bytes_come_with_a_digest_or_by_another_way(team):
    record = record_of(team.make_run(b"1"), digest="", signature={})

    with pytest.raises(UnknownName, match="'' is no digest of an artifact"):
        team.ana._rules.register("fraud", record, alias=None, call=team.ana._call())


@pytest.fixture
def actor(ray_cluster, team, urls):  # noqa: ARG001
    """The cluster's actor over the team's registry, as anybody in the cluster can reach it."""
    registry_actor.stop()
    Registry.connect(*urls)
    yield ray.get_actor(ACTOR_NAME, namespace=NAMESPACE)
    registry_actor.stop()


def test_a_direct_call_of_the_actor_passes_the_same_rules(actor, team):
    team.approved(b"1")
    team.version(b"2")
    claim = Call(request="r", user="root")

    def promote(call):
        return ray.get(actor.promote.remote("fraud", 2, stage="Production", row_version=None, call=call))

    with pytest.raises(Unauthenticated):
        promote(claim)
    with pytest.raises(NotApproved):
        promote(Call(request="r", token=team.dan._token))
    with pytest.raises(Unauthenticated):
        ray.get(actor.grant.remote("ana", "risk_officer", call=claim))


def test_every_method_that_the_actor_offers_reads_or_takes_a_call():
    reads = {"get", "model", "models", "search_models", "search_versions", "approvals", "policy", "users", "audit"}
    reads |= {"check_audit", "whoami", "latest_versions"}

    assert {name for name in METHODS if "call" in inspect.signature(getattr(ModelRegistry, name)).parameters} == (
        METHODS - reads
    )


def test_nobody_but_the_registry_says_what_is_a_copy(team):
    team.production(b"1")
    run = team.make_run(b"2", provenance={"commit": None, "copy_of": "fraud/1"})

    with pytest.raises(SchemaError, match="provenance says copy_of='fraud/1': that is the registry's own word"):
        team.ana.register("fraud", run)
    assert team.ana.copy("fraud/1", "fraud").provenance["copy_of"] == "fraud/1"


def test_a_policy_that_protects_an_alias_is_refused_where_the_alias_points_elsewhere(team):
    team.production(b"1")
    team.version(b"2")
    team.ana.set_alias("fraud", "live", 2)
    stricter = team.root.policy().model_copy(update={"protected_aliases": ("champion", "live")})

    with pytest.raises(Conflict, match=r"the policy protects fraud@live \(fraud/2 is in None\): .* or remove it first"):
        team.root.set_policy(stricter)
    assert team.root.policy() == Policy()
    team.ana.set_alias("fraud", "live", 1)
    assert team.root.set_policy(stricter) == stricter
    with pytest.raises(NotApproved, match="fraud@live is a protected alias"):
        team.ana.set_alias("fraud", "live", 2)
