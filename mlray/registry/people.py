"""Users and their approvals as callers see them; needs neither a database nor Ray."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class User:
    """Somebody who holds a token. A disabled user stays known and can do nothing."""

    name: str
    roles: tuple[str, ...]
    disabled: bool


@dataclass(frozen=True, kw_only=True)
class Approval:
    """Somebody's word that a version may enter a stage. `void` says why it does not count, None where it does."""

    model: str
    version: int
    stage: str
    role: str
    who: str
    at: datetime
    digest: str
    policy_revision: str
    void: str | None
