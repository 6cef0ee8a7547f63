"""Users, their tokens and roles; the policy; the audit."""

from typing import Annotated

from fastapi import APIRouter, Query

from mlray.errors import ConfigError, SchemaError
from mlray.registry_server.desk import Changing, Desk, Joining, Reading
from mlray.registry_server.kinds import InPath, Name
from mlray.registry_server.problems import CHANGE, READ
from mlray.registry_server.shapes import (
    Audit,
    AuditCheck,
    AuditEntry,
    Me,
    NewToken,
    NewUser,
    People,
    Person,
    PolicyChange,
    PolicyInForce,
)

router = APIRouter(prefix="/v1")


@router.get("/me", response_model=Me, responses=READ, tags=["people"])
def me(desk: Reading) -> Me:
    """Who the token's holder is."""
    return Me.of(desk.rules.whoami(desk.token))


@router.get("/users", response_model=People, responses=READ, tags=["people"])
def users(desk: Reading) -> People:
    """Everybody who was ever added."""
    return _people(desk)


@router.post("/users", response_model=People, status_code=201, responses=CHANGE, tags=["people"])
def add_user(desk: Joining, body: NewUser) -> People:
    """Adds a user, by an admin, and answers that one alone. The first one is an admin, and may be added by anybody.

    A repetition under the same Idempotency-Key needs no token, for the first one has none but the one that it makes.
    """
    desk.rules.add_user(body.name, body.token_sha256, tuple(body.roles), call=desk.call())
    return People(users=[Person.of(one) for one in desk.rules.users() if one.name == body.name])


@router.put("/users/{name}/token", response_model=People, responses=CHANGE, tags=["people"])
def renew_token(desk: Changing, name: InPath, body: NewToken) -> People:
    """Another token, by an admin or the user; the earlier one ends."""
    desk.rules.renew_token(name, body.token_sha256, call=desk.call())
    return _people(desk)


@router.put("/users/{name}/roles/{role}", response_model=People, responses=CHANGE, tags=["people"])
def grant(desk: Changing, name: InPath, role: InPath) -> People:
    """Gives a user a role, by an admin."""
    desk.rules.grant(name, role, call=desk.call())
    return _people(desk)


@router.delete("/users/{name}/roles/{role}", response_model=People, responses=CHANGE, tags=["people"])
def revoke(desk: Changing, name: InPath, role: InPath) -> People:
    """Takes a role away, by an admin, and with it what was approved in it and not yet used."""
    desk.rules.revoke(name, role, call=desk.call())
    return _people(desk)


@router.delete("/users/{name}", response_model=People, responses=CHANGE, tags=["people"])
def disable(desk: Changing, name: InPath) -> People:
    """Ends a user, by an admin; the name stays known."""
    desk.rules.disable(name, call=desk.call())
    return _people(desk)


@router.get("/policy", response_model=PolicyInForce, responses=READ, tags=["policy"])
def policy(desk: Reading) -> PolicyInForce:
    """What each stage asks for."""
    now = desk.rules.policy()
    return PolicyInForce(revision=now.revision, policy=now.to_json())


@router.put("/policy", response_model=PolicyInForce, responses=CHANGE, tags=["policy"])
def set_policy(desk: Changing, body: PolicyChange) -> PolicyInForce:
    """Puts a policy in force, by an admin. Approvals given under another one no longer count."""
    try:
        desk.rules.set_policy(body.policy, call=desk.call(body.why))
    except ConfigError as error:  # of the policy: it is the caller's here
        raise SchemaError(str(error)) from error
    now = desk.rules.policy()
    return PolicyInForce(revision=now.revision, policy=now.to_json())


@router.get("/audit", response_model=Audit, responses=READ, tags=["audit"])
def audit(
    desk: Reading,
    model: Annotated[Name | None, Query(description="of one model; none: everything")] = None,
    after: Annotated[int, Query(ge=0, lt=2**31, description="rows with a higher sequence")] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> Audit:
    """Who changed what, when and why, oldest first."""
    return Audit(rows=[AuditEntry.model_validate(row) for row in desk.rules.audit(model, after=after, limit=limit)])


@router.get("/audit/check", response_model=AuditCheck, responses=READ, tags=["audit"])
def check_audit(desk: Reading) -> AuditCheck:
    """Whether the chain is whole and the tables are what it says."""
    broken = desk.rules.check_audit()
    return AuditCheck(whole=broken is None, broken=broken)


def _people(desk: Desk) -> People:
    return People(users=[Person.of(one) for one in desk.rules.users()])
