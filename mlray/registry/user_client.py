"""`registry.users`: adding people and services, and what they may do."""

import builtins
from collections.abc import Callable, Iterable

from mlray.registry.canonical import sha256_text
from mlray.registry.identity import Call, new_token
from mlray.registry.model_registry import ModelRegistry
from mlray.registry.people import User


class Users:
    """The users of a registry. Tokens are made here, on the caller's side; the registry learns their SHA-256 only."""

    def __init__(self, rules: ModelRegistry, call: Callable[[], Call]) -> None:
        self._rules = rules
        self._call = call

    def add(self, name: str, roles: Iterable[str] = ()) -> str:
        """A new user with roles; the token, which nobody can show again. The first user is an `admin` besides."""
        token = new_token()
        self._rules.add_user(name, sha256_text(token), tuple(roles), call=self._call())
        return token

    def renew_token(self, name: str) -> str:
        """Another token for a user, whose earlier one ends; by an admin or the user."""
        token = new_token()
        self._rules.renew_token(name, sha256_text(token), call=self._call())
        return token

    def grant(self, name: str, role: str) -> None:
        """A role for a user."""
        self._rules.grant(name, role, call=self._call())

    def revoke(self, name: str, role: str) -> None:
        """Takes a role away; what was approved in it and not yet used no longer counts."""
        self._rules.revoke(name, role, call=self._call())

    def disable(self, name: str) -> None:
        """Ends a user for good; unused approvals no longer count."""
        self._rules.disable(name, call=self._call())

    def list(self) -> builtins.list[User]:
        """Everybody who was ever added, by name."""
        return self._rules.users()
