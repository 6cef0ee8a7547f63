"""Who asks for a change. The rules take nobody's word: they look the token up themselves, on every call.

A token is 256 random bits. The registry keeps its SHA-256; a slow hash would add nothing to that many bits. As long
as a registry has no user at all, whoever reaches it acts as `os:<name of the operating system>`, without any role;
from the first user on, a change needs a token. No user can be called `os:...`.
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlmodel import Session, select

from mlray.errors import Forbidden, Unauthenticated
from mlray.registry.canonical import sha256_text
from mlray.registry.tables import RoleRow, UserRow

ADMIN = "admin"
"""The role that adds users, grants roles and puts policies in force."""
UNPROVEN = "os:"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call that changes something. `request` names it: its repetition changes nothing.

    `user` is what the caller says about itself; it counts only where the registry has no users. `why` goes into the
    audit.
    """

    request: str
    token: str | None = field(default=None, repr=False)
    user: str = ""
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who it is, by the registry's own look at the token."""

    name: str
    roles: frozenset[str]

    @property
    def proven(self) -> bool:
        return not self.name.startswith(UNPROVEN)

    def require(self, roles: Iterable[str], what: str) -> None:
        """Forbidden unless the caller holds one of the roles."""
        wanted = sorted(set(roles))
        if not self.roles.intersection(wanted):
            held = ", ".join(sorted(self.roles)) or "no role"
            raise Forbidden(
                f"{self.name} may not {what}: that takes the role {' or '.join(wanted)}, and {self.name} has {held}"
                + ("" if self.proven else "; roles go with tokens: `mlray user add` makes the first user")
            )


def new_token() -> str:
    """A fresh token of 256 random bits."""
    return f"mlray_{secrets.token_urlsafe(32)}"


def authenticated(session: Session, call: Call) -> Caller:
    """The caller; Unauthenticated without a token that an active user holds, unless there are no users yet."""
    if call.token is None:
        if has_users(session):
            raise Unauthenticated(
                "this registry has users, so a change needs a token: set MLRAY_TOKEN, or Settings(token=...); "
                "an admin makes one with `mlray user token NAME`"
            )
        return Caller(name=f"{UNPROVEN}{call.user}", roles=frozenset())
    found = select(UserRow).where(UserRow.token_sha256 == sha256_text(call.token))
    user = session.exec(found).one_or_none()
    if user is None or user.disabled:
        raise Unauthenticated("no active user holds this token; an admin makes a new one with `mlray user token NAME`")
    roles = session.exec(select(RoleRow.role).where(RoleRow.name == user.name))
    return Caller(name=user.name, roles=frozenset(roles))


def has_users(session: Session) -> bool:
    """Whether anybody was ever added."""
    return session.exec(select(UserRow.name).limit(1)).first() is not None
