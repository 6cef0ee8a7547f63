"""Users, their tokens and roles: who may be anybody here is decided by an admin. The first user added is one."""

from sqlmodel import Session, select

from mlray.errors import Conflict, Forbidden, InvalidName, UnknownName
from mlray.registry.identity import ADMIN, has_users
from mlray.registry.manifest import DIGEST
from mlray.registry.people import User
from mlray.registry.reference import checked_name, is_name
from mlray.registry.tables import RoleRow, UserRow
from mlray.registry.transaction import Transaction


def add_user(tx: Transaction, name: str, token_sha256: str, roles: tuple[str, ...]) -> None:
    """A new user. The first one of a registry may be added by anybody, and is an admin."""
    checked_name("user", name)
    if has_users(tx.session):
        tx.caller.require([ADMIN], f"add user {name}")
    else:
        roles = (*roles, ADMIN)
    if tx.session.get(UserRow, name) is not None:
        raise Conflict(f"there is a user {name} already; `mlray user token {name}` renews a lost token")
    digest = _checked_digest(token_sha256)
    tx.session.add(UserRow(name=name, token_sha256=digest, disabled=False, created_at=tx.at))
    granted = sorted({checked_name("role", role) for role in roles})
    number = tx.note("add_user", after={"user": name, "roles": granted, "token_sha256": digest})
    tx.session.add_all(RoleRow(name=name, role=role, granted=number) for role in granted)


def renew_token(tx: Transaction, name: str, token_sha256: str) -> None:
    """Another token for a user, whose earlier one ends; by an admin or the user."""
    if tx.caller.name != name:
        tx.caller.require([ADMIN], f"renew the token of {name}")
    user = _active(tx.session, name)
    user.token_sha256 = _checked_digest(token_sha256)
    tx.session.add(user)
    tx.note("renew_token", after={"user": name, "token_sha256": user.token_sha256})


def grant(tx: Transaction, name: str, role: str) -> None:
    """A role for a user, from now on; nothing where the user holds it."""
    tx.caller.require([ADMIN], f"grant a role to {name}")
    user = _active(tx.session, name)
    if tx.session.get(RoleRow, (user.name, checked_name("role", role))) is not None:
        tx.unchanged("grant", after={"user": name, "role": role})
    else:
        number = tx.note("grant", after={"user": name, "role": role})
        tx.session.add(RoleRow(name=name, role=role, granted=number))


def revoke(tx: Transaction, name: str, role: str) -> None:
    """Takes a role away; approvals given in it and not yet used for a promotion no longer count."""
    tx.caller.require([ADMIN], f"revoke a role of {name}")
    user = _active(tx.session, name)
    held = tx.session.get(RoleRow, (user.name, role)) if is_name(role) else None
    if held is None:
        raise UnknownName.of(f"role of {name}", role, _roles(tx.session, name))
    if role == ADMIN:
        _keep_an_admin(tx.session, name)
    tx.session.delete(held)
    tx.note("revoke", before={"user": name, "role": role})


def disable(tx: Transaction, name: str) -> None:
    """Ends a user: the token no longer opens anything, and unused approvals no longer count."""
    tx.caller.require([ADMIN], f"disable {name}")
    user = _active(tx.session, name)
    _keep_an_admin(tx.session, name)
    user.disabled = True
    tx.session.add(user)
    tx.note("disable", before={"user": name, "roles": _roles(tx.session, name)})


def users(session: Session) -> list[User]:
    """Everybody, by name."""
    rows = sorted(session.exec(select(UserRow)), key=lambda row: row.name)
    return [User(name=row.name, roles=tuple(_roles(session, row.name)), disabled=row.disabled) for row in rows]


def _active(session: Session, name: str) -> UserRow:
    user = session.get(UserRow, name) if is_name(name) else None
    if user is None:
        raise UnknownName.of("user", name, session.exec(select(UserRow.name)))
    if user.disabled:
        raise Forbidden(f"user {name} was disabled; add another one")
    return user


def _roles(session: Session, name: str) -> list[str]:
    return sorted(session.exec(select(RoleRow.role).where(RoleRow.name == name)))


def _keep_an_admin(session: Session, leaving: str) -> None:
    """Conflict where nobody else could administer the registry."""
    admins = [user.name for user in users(session) if ADMIN in user.roles and not user.disabled]
    if admins == [leaving]:
        raise Conflict(f"{leaving} is the only admin; make another one first: `mlray user grant NAME {ADMIN}`")


def _checked_digest(token_sha256: str) -> str:
    if DIGEST.fullmatch(token_sha256) is None:
        raise InvalidName("a token is told to the registry as its SHA-256, 64 hexadecimal digits")
    return token_sha256
