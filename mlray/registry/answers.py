"""What is asked of the registry's tables: nothing here changes anything, and nobody needs a token for it."""

from collections.abc import Sequence
from typing import Any

from mlray.registry import approvals, history, lookup, search, users
from mlray.registry.database import Database
from mlray.registry.identity import Call, Caller, authenticated
from mlray.registry.lookup import model_row, policy_in_force, seen, version_row
from mlray.registry.model_version import ModelVersion, RegisteredModel
from mlray.registry.people import Approval, User
from mlray.registry.policy import Policy
from mlray.registry.query import ModelQuery, Page, VersionQuery
from mlray.registry.reference import Reference


class Answers:
    """Reads of the registry, each in one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, reference: str) -> ModelVersion:
        """The version that `reference` names; UnknownName where there is none."""
        parsed = Reference.parse(reference)
        with self._database.read() as session:
            return seen(session, lookup.named(session, parsed))

    def model(self, name: str) -> RegisteredModel:
        """The model of this name; UnknownName where there is none."""
        with self._database.read() as session:
            return lookup.models(session, [model_row(session, name)])[0]

    def models(self) -> list[str]:
        """The names of all models, sorted."""
        with self._database.read() as session:
            return lookup.names(session)

    def search_models(self, query: ModelQuery) -> Page[RegisteredModel]:
        """A page of the models that the query asks for."""
        with self._database.read() as session:
            return search.models(session, query)

    def search_versions(self, query: VersionQuery) -> Page[ModelVersion]:
        """A page of the versions that the query asks for."""
        with self._database.read() as session:
            return search.versions(session, query)

    def latest_versions(self, names: Sequence[str]) -> list[ModelVersion]:
        """Of each of these models the newest version in each stage that one is in, by name and number."""
        with self._database.read() as session:
            return search.latest(session, names)

    def approvals(self, name: str, version: int) -> list[Approval]:
        """All that was ever approved of the version, oldest first, and what of it counts now."""
        with self._database.read() as session:
            return approvals.approvals(session, policy_in_force(session), version_row(session, name, version))

    def policy(self) -> Policy:
        """The policy in force."""
        with self._database.read() as session:
            return policy_in_force(session)

    def whoami(self, token: str | None) -> Caller:
        """Who holds the token, and the roles; Unauthenticated for one that no active user holds, and for none where
        there are users.
        """
        with self._database.read() as session:
            return authenticated(session, Call(request="whoami", token=token))

    def users(self) -> list[User]:
        """Everybody who was ever added, by name."""
        with self._database.read() as session:
            return users.users(session)

    def audit(self, name: str | None = None, *, after: int = 0, limit: int | None = None) -> list[dict[str, Any]]:
        """The changes of one model, under all names that it has had, or all, oldest first: a mapping per audit row,
        `at` an aware datetime, `why` the reason that was given. At most `limit`, behind the row `after`.
        """
        with self._database.read() as session:
            return history.changes(session, name, after, limit)

    def check_audit(self) -> str | None:
        """What is wrong first with the audit chain, or with the tables against what it tells; None for nothing."""
        with self._database.read() as session:
            return history.what_is_wrong(session)
