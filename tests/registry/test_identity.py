"""Who may change anything: tokens, roles, and the first user of a registry."""

import getpass
import inspect
from datetime import UTC, datetime, timedelta

import pytest

from mlray.errors import Conflict, Forbidden, InvalidName, Unauthenticated, UnknownName
from mlray.registry.artifacts import ArtifactStore
from mlray.registry.canonical import sha256_text
from mlray.registry.database import Database
from mlray.registry.identity import Call, Caller, new_token
from mlray.registry.model_registry import ModelRegistry
from mlray.registry.people import User


@pytest.fixture
def rules(urls):
    """The rules themselves, as the actor runs them."""
    return ModelRegistry(Database(urls[0]), ArtifactStore(urls[1]), clock=lambda: datetime(2026, 1, 31, tzinfo=UTC))


def test_without_users_the_operating_system_s_user_works_without_set_up(registry, make_run):
    version = registry.register("fraud", make_run(), alias="candidate")

    assert version.author == f"os:{getpass.getuser()}"
    assert registry.promote(version, stage="Staging").stage == "Staging"
    assert registry.audit("fraud")[0]["who"] == version.author


def test_without_users_nobody_can_approve(registry, make_run):
    version = registry.register("fraud", make_run())

    with pytest.raises(Forbidden, match=r"takes the role ml_engineer, and os:.* has no role; roles go with tokens"):
        registry.approve(version, stage="Canary", role="ml_engineer")


def test_the_first_user_is_an_admin_and_from_then_on_a_change_needs_a_token(registry, make_run):
    token = registry.users.add("root", ["ml_engineer"])

    assert registry.users.list() == [User(name="root", roles=("admin", "ml_engineer"), disabled=False)]
    with pytest.raises(Unauthenticated, match=r"needs a token: set MLRAY_TOKEN, or Settings\(token=...\)"):
        registry.register("fraud", make_run())
    with pytest.raises(Unauthenticated, match=r"needs a token"):
        registry.users.add("intruder", ["admin"])
    assert registry.acting(token).register("fraud", make_run()).author == "root"
    assert registry.get("fraud/1").author == "root"


def test_every_change_looks_at_the_token(rules, registry):
    registry.users.add("root")
    changes = {name: method for name, method in inspect.getmembers(rules, inspect.ismethod)
               if "call" in inspect.signature(method).parameters and not name.startswith("_")}
    assert len(changes) >= 21
    rejected = []
    for name, method in changes.items():
        parameters = inspect.signature(method).parameters
        call = Call(request=name, token=new_token(), user="root")
        named = [one for one in parameters if one != "_ray_trace_ctx"]  # Ray's, in a process that has made an actor
        arguments = {one: _something(one) for one in named} | {"call": call}
        if name == "register":
            continue  # needs an artifact first: see above
        with pytest.raises(Unauthenticated, match=r"no active user holds this token"):
            method(**arguments)
        rejected.append(name)
    assert sorted(rejected) == sorted(changes.keys() - {"register"})


def _something(parameter):
    known = {"version": 1, "stage": "Staging", "row_version": None, "roles": (), "document": {},
             "token_sha256": "0" * 64, "name": "fraud", "alias": "candidate", "role": "ml_engineer",
             "source": "runs:/1/model", "run_id": "1", "description": "", "tags": {}, "to": "other",
             "new_name": "other", "key": "team", "value": "risk", "grace": timedelta(0), "dry_run": False}
    return known.get(parameter)


def test_the_claim_to_be_somebody_counts_for_nothing_once_there_are_users(rules, registry):
    registry.users.add("root")

    with pytest.raises(Unauthenticated, match=r"needs a token"):
        rules.grant("root", "risk_officer", call=Call(request="r", user="root"))


def test_the_registry_keeps_the_sha256_of_a_token_and_not_the_token(registry, execute):
    token = registry.users.add("root")

    assert execute("SELECT token_sha256 FROM users") == sha256_text(token)
    assert token not in str(registry.audit())
    assert len(token.removeprefix("mlray_")) == 43  # 256 bits in base64
    assert token not in repr(Call(request="r", token=token))


def test_only_an_admin_adds_grants_revokes_and_disables(team):
    for change in (
        lambda: team.ben.users.add("mallory"),
        lambda: team.ben.users.grant("ben", "risk_officer"),
        lambda: team.ben.users.revoke("cleo", "risk_officer"),
        lambda: team.ben.users.disable("cleo"),
        lambda: team.ben.users.renew_token("cleo"),
        lambda: team.ben.set_policy(team.ben.policy().model_copy(update={"withdraw": ()})),
    ):
        with pytest.raises(Forbidden, match=r"that takes the role admin, and ben has ml_engineer"):
            change()


def test_a_renewed_token_ends_the_earlier_one(team, make_run):
    renewed = team.ana.acting(team.ana.users.renew_token("ana"))

    with pytest.raises(Unauthenticated, match=r"no active user holds this token"):
        team.ana.register("fraud", make_run())
    assert renewed.register("fraud", make_run()).author == "ana"


def test_a_disabled_user_can_do_nothing_and_cannot_come_back(team, make_run):
    team.root.users.disable("ana")

    with pytest.raises(Unauthenticated, match=r"no active user"):
        team.ana.register("fraud", make_run())
    with pytest.raises(Forbidden, match=r"user ana was disabled"):
        team.root.users.renew_token("ana")
    with pytest.raises(Conflict, match=r"there is a user ana already"):
        team.root.users.add("ana")


def test_somebody_stays_admin(team):
    with pytest.raises(Conflict, match=r"root is the only admin"):
        team.root.users.revoke("root", "admin")
    with pytest.raises(Conflict, match=r"root is the only admin"):
        team.root.users.disable("root")

    team.root.users.grant("dan", "admin")
    team.dan.users.disable("root")
    assert [user.name for user in team.dan.users.list() if "admin" in user.roles and not user.disabled] == ["dan"]


@pytest.mark.parametrize("name", ["os:ana", "Ana", "", "ana ", "latest"])
def test_a_user_has_a_plain_name(registry, name):
    with pytest.raises(InvalidName, match=r"user .* is refused"):
        registry.users.add(name)


def test_an_unknown_user_or_role_points_at_the_nearest(team):
    with pytest.raises(UnknownName, match=r"no user 'cloe'.*did you mean 'cleo'"):
        team.root.users.grant("cloe", "ml_engineer")
    with pytest.raises(UnknownName, match=r"no role of cleo 'risk_oficer'.*did you mean 'risk_officer'"):
        team.root.users.revoke("cleo", "risk_oficer")


def test_a_repeated_call_adds_nobody_twice_even_if_it_made_the_first_user(rules):
    call = Call(request="same", user="somebody")
    for _ in range(2):
        rules.add_user("root", "0" * 64, (), call=call)

    assert [user.name for user in rules.users()] == ["root"]
    assert [row["action"] for row in rules.audit()] == ["add_user"]


def test_changes_of_users_are_in_the_audit(team):
    team.root.users.revoke("cleo", "risk_officer")
    last = team.root.audit()[-1]

    assert (last["who"], last["action"], last["before"]) == ("root", "revoke", {"user": "cleo", "role": "risk_officer"})
    assert team.root.check_audit() is None


def test_who_holds_a_token_is_told_to_whoever_shows_it(team):
    rules = team.ana._rules

    assert rules.whoami(team.dan._token) == Caller(name="dan", roles=frozenset({"ml_engineer", "risk_officer"}))
    for token in (None, "mlray_nobody"):
        with pytest.raises(Unauthenticated):
            rules.whoami(token)
