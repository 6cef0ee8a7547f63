"""Every way into Production but the one: each passes the same rules. One test per way."""

import inspect

import pytest
import ray

from mlray.errors import Forbidden, NotApproved, Unauthenticated
from mlray.registry import actor as registry_actor
from mlray.registry.actor import ACTOR_NAME, METHODS, NAMESPACE
from mlray.registry.client import Registry
from mlray.registry.identity import Call
from mlray.registry.model_registry import ModelRegistry
from mlray.registry.model_version import record_of


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
    taken = set(inspect.signature(ModelRegistry.register).parameters)
    record = record_of(team.make_run(b"1"), digest="0" * 64, signature={})

    assert taken == {"self", "name", "record", "alias", "description", "tags", "call"}
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
    reads.add("check_audit")

    assert {name for name in METHODS if "call" in inspect.signature(getattr(ModelRegistry, name)).parameters} == (
        METHODS - reads
    )
