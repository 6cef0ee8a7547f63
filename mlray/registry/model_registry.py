"""The rules of the registry over its tables. Every change writes state and audit row in one transaction.

A change goes through `_changing`, which looks at the caller's token before anything else. Numbers are never taken
back: versions are 1, 2, 3 without gaps. Every change carries a `request`, the name of the call: the same request
again (a retry whose first answer was lost) changes nothing and answers what the first one did.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Any

from sqlmodel import Session, col, select

from mlray.errors import Conflict
from mlray.registry import approvals, stages, users
from mlray.registry.artifacts import ArtifactStore
from mlray.registry.audit import applied, first_break
from mlray.registry.database import Database
from mlray.registry.gates import gates_of
from mlray.registry.identity import ADMIN, Call, authenticated
from mlray.registry.lookup import (
    alias_row,
    aliases,
    columns,
    instant,
    microseconds,
    model_row,
    model_to_extend,
    named,
    names,
    policy_in_force,
    seen,
    version_row,
    view,
)
from mlray.registry.model_version import ModelVersion, VersionRecord
from mlray.registry.people import Approval, User
from mlray.registry.policy import Policy, checked_stage
from mlray.registry.reference import Reference, checked_name
from mlray.registry.replay import state_break
from mlray.registry.stages import Evidence
from mlray.registry.tables import AliasRow, AuditHead, AuditRow, PolicyRow, VersionRow
from mlray.registry.transaction import Transaction


class ModelRegistry:
    """Registers versions, resolves references, moves aliases and stages. `clock` tells the aware time of a change."""

    def __init__(self, database: Database, artifacts: ArtifactStore, *, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._artifacts = artifacts
        self._clock = clock

    def register(self, name: str, record: VersionRecord, *, alias: str | None, call: Call) -> ModelVersion:
        """The next version of `name`, at which `alias` points from then on.

        Needs the whole artifact in the store. A request that was served before answers the version of that
        time; Conflict where it comes again with another digest.
        """
        checked_name("model", name)
        if alias is not None:
            checked_name("alias", alias)
        gates_of(self._artifacts, self._artifacts.require(record.digest), record.run_id)
        with self._changing(call) as tx:
            if (earlier := tx.repeated("register", model=name)) is not None:
                return _repeated(tx.session, earlier, record.digest)
            return _add_version(tx, name, record, alias)

    def get(self, reference: str) -> ModelVersion:
        """The version that `reference` names; UnknownName where there is none."""
        parsed = Reference.parse(reference)
        with self._database.read() as session:
            return seen(session, named(session, parsed))

    def versions(self, name: str | None = None) -> list[ModelVersion]:
        """The versions of one model, or of all, by name and number."""
        query = select(VersionRow)
        with self._database.read() as session:
            if name is not None:
                model_row(session, name)
                query = query.where(VersionRow.model == name)
            pointing = aliases(session, name)
            rows = sorted(session.exec(query), key=lambda row: (row.model, row.version))
            return [view(row, pointing.get((row.model, row.version), ())) for row in rows]

    def models(self) -> list[str]:
        """The names of all models, sorted."""
        with self._database.read() as session:
            return names(session)

    def set_alias(self, name: str, alias: str, version: int, *, call: Call) -> ModelVersion:
        """Points `alias` at a version of `name`, from wherever it pointed before."""
        checked_name("alias", alias)
        with self._changing(call) as tx:
            row = version_row(tx.session, name, version)
            if tx.repeated("set_alias", model=name) is None:
                _point(tx, row, alias)
            return seen(tx.session, row)

    def remove_alias(self, name: str, alias: str, *, call: Call) -> None:
        """Forgets `alias`; UnknownName where `name` has none of that name."""
        with self._changing(call) as tx:
            model_row(tx.session, name)
            if tx.repeated("remove_alias", model=name) is not None:
                return
            row = alias_row(tx.session, name, alias)
            policy = policy_in_force(tx.session)
            if alias in policy.protected_aliases:
                tx.caller.require(policy.withdraw, f"remove the protected alias {name}@{alias}")
            before = {"alias": alias, "version": row.version}
            tx.session.delete(row)
            tx.note("remove_alias", model=name, before=before)

    def promote(self, name: str, version: int, *, stage: str, row_version: int | None, call: Call) -> ModelVersion:
        """Moves a version to a stage as the policy allows; what it replaces there is archived in the same change.

        row_version: the caller's reading of the version, Conflict where it has moved since; None: any. NotApproved
        says what the version lacks.
        """
        checked_stage(stage)
        evidence = self._evidence(name, version, stage, call)
        with self._changing(call) as tx:
            row = version_row(tx.session, name, version)
            if tx.repeated("promote", model=name) is None:
                stages.promote(tx, policy_in_force(tx.session), row, stage, evidence, row_version)
            return seen(tx.session, row)

    def rollback(self, name: str, *, call: Call) -> ModelVersion:
        """Puts the last approved Production back, and archives the one that is there. Needs no new approval."""
        with self._reading_for(call) as session:
            model_row(session, name)
            repeated = applied(session, model=name, action="rollback", request=call.request)
            target = None if repeated else stages.rollback_target(session, name)[0]
        if target is not None:
            self._artifacts.verify(target.digest)
        with self._changing(call) as tx:
            earlier = tx.repeated("rollback", model=name)
            if earlier is not None or target is None:
                done = (earlier.after or {}) if earlier is not None else {}
                return seen(tx.session, version_row(tx.session, name, done["version"]))
            policy = policy_in_force(tx.session)
            tx.caller.require(policy.withdraw, f"roll {name} back")
            found, row = stages.rollback_target(tx.session, name)
            if found.id != target.id:
                raise Conflict(f"somebody else promoted or rolled back {name} at the same moment; look again")
            stages.roll_back(tx, policy, found, row)
            return seen(tx.session, row)

    def approve(self, name: str, version: int, *, stage: str, role: str, call: Call) -> None:
        """The caller's approval, in a role that the caller holds, of the version's bytes for a stage."""
        checked_stage(stage)
        evidence = self._evidence(name, version, stage, call)
        with self._changing(call) as tx:
            row = version_row(tx.session, name, version)
            if tx.repeated("approve", model=name) is None:
                stages.require_verified(row, evidence)
                approvals.approve(tx, policy_in_force(tx.session), row, stage, role)

    def revoke_approval(self, name: str, version: int, *, stage: str, call: Call) -> None:
        """Takes back what the caller approved; UnknownName where that is nothing."""
        checked_stage(stage)
        with self._changing(call) as tx:
            row = version_row(tx.session, name, version)
            if tx.repeated("revoke_approval", model=name) is None:
                approvals.revoke_approval(tx, row, stage)

    def approvals(self, name: str, version: int) -> list[Approval]:
        """All that was ever approved of the version, oldest first, and what of it counts now."""
        with self._database.read() as session:
            return approvals.approvals(session, policy_in_force(session), version_row(session, name, version))

    def policy(self) -> Policy:
        """The policy in force."""
        with self._database.read() as session:
            return policy_in_force(session)

    def set_policy(self, document: Mapping[str, Any], *, call: Call) -> Policy:
        """Puts a policy in force, by an admin; approvals given under another one no longer count."""
        policy = Policy.parse(document)
        with self._changing(call) as tx:
            before = policy_in_force(tx.session)
            if tx.repeated("set_policy") is not None or policy == before:
                return before
            if tx.caller.proven:
                tx.caller.require([ADMIN], "put a policy in force")
            after = {"policy": policy.revision, "document": policy.to_json()}
            number = tx.note("set_policy", before={"policy": before.revision}, after=after)
            tx.session.add(PolicyRow(id=number, revision=policy.revision, document=policy.to_json()))
            return policy

    def add_user(self, name: str, token_sha256: str, roles: tuple[str, ...], *, call: Call) -> None:
        """A user with roles; the first one of a registry is an admin besides, and may be added by anybody."""
        with self._database.write() as session:
            # Asked first: repeated, the call that made the first user would need the token that it made.
            if applied(session, model="", action="add_user", request=call.request) is None:
                users.add_user(Transaction(session, call, at=self._now()), name, token_sha256, roles)

    def renew_token(self, name: str, token_sha256: str, *, call: Call) -> None:
        """Another token for a user, whose earlier one ends."""
        with self._changing(call) as tx:
            if tx.repeated("renew_token") is None:
                users.renew_token(tx, name, token_sha256)

    def grant(self, name: str, role: str, *, call: Call) -> None:
        """A role for a user."""
        with self._changing(call) as tx:
            if tx.repeated("grant") is None:
                users.grant(tx, name, role)

    def revoke(self, name: str, role: str, *, call: Call) -> None:
        """Takes a role away, and with it what was approved in it and not yet used."""
        with self._changing(call) as tx:
            if tx.repeated("revoke") is None:
                users.revoke(tx, name, role)

    def disable(self, name: str, *, call: Call) -> None:
        """Ends a user."""
        with self._changing(call) as tx:
            if tx.repeated("disable") is None:
                users.disable(tx, name)

    def users(self) -> list[User]:
        """Everybody who was ever added, by name."""
        with self._database.read() as session:
            return users.users(session)

    def audit(self, name: str | None = None) -> list[dict[str, Any]]:
        """The changes of one model or all, oldest first: a mapping per audit row, `at` an aware datetime, `why` the
        reason that was given.
        """
        query = select(AuditRow).order_by(col(AuditRow.sequence))
        if name is not None:
            query = query.where(AuditRow.model == name)
        with self._database.read() as session:
            return [_told(row) for row in session.exec(query)]

    def check_audit(self) -> str | None:
        """What is wrong first with the audit chain, or with the tables against what it tells; None for nothing."""
        rows = select(AuditRow).order_by(col(AuditRow.sequence)).execution_options(yield_per=1000)
        with self._database.read() as session:
            with closing(session.exec(rows)) as chain:
                broken = first_break(chain, session.exec(select(AuditHead)).one_or_none())
            if broken is not None:
                return broken
            with closing(session.exec(rows)) as chain:
                return state_break(session, chain)

    def _evidence(self, name: str, version: int, stage: str, call: Call) -> Evidence:
        """What the artifact says, read before the transaction: bytes take longer than a lock should be held."""
        with self._reading_for(call) as session:
            row = version_row(session, name, version)
            digest, run_id = row.digest, row.run_id
        if stage == "Archived":  # the way out is open to a damaged artifact too
            return Evidence(digest=digest, gates={})
        return Evidence(digest=digest, gates=gates_of(self._artifacts, self._artifacts.verify(digest), run_id))

    @contextmanager
    def _reading_for(self, call: Call) -> Iterator[Session]:
        with self._database.read() as session:
            authenticated(session, call)
            yield session

    @contextmanager
    def _changing(self, call: Call) -> Iterator[Transaction]:
        with self._database.write() as session:
            yield Transaction(session, call, at=self._now())

    def _now(self) -> int:
        return microseconds(self._clock())


def _add_version(tx: Transaction, name: str, record: VersionRecord, alias: str | None) -> ModelVersion:
    model = model_to_extend(tx.session, name, at=tx.at)
    model.last_version += 1
    row = VersionRow(model=name, version=model.last_version, author=tx.caller.name, created_at=tx.at, **columns(record))
    tx.session.add_all([model, row])
    tx.note("register", model=name, after={"version": row.version, "digest": row.digest, "run_id": row.run_id})
    if alias is not None:
        _point(tx, row, alias)
    return seen(tx.session, row)


def _point(tx: Transaction, row: VersionRow, alias: str) -> None:
    stages.require_production(tx.session, policy_in_force(tx.session), row, alias)
    pointing = tx.session.get(AliasRow, (row.model, alias))
    before = None if pointing is None else {"alias": alias, "version": pointing.version}
    pointing = pointing or AliasRow(model=row.model, alias=alias, version=row.version)
    pointing.version = row.version
    tx.session.add(pointing)
    tx.note("set_alias", model=row.model, before=before, after={"alias": alias, "version": row.version})


def _told(row: AuditRow) -> dict[str, Any]:
    after = dict(row.after or {})
    return row.model_dump() | {"at": instant(row.at), "why": after.pop("why", ""), "after": after or None}


def _repeated(session: Session, earlier: AuditRow, digest: str) -> ModelVersion:
    row = version_row(session, earlier.model, (earlier.after or {})["version"])
    if row.digest != digest:
        raise Conflict(
            f"{row.model}: the idempotency key {earlier.request!r} stands for version {row.version} with "
            f"digest {row.digest}; it came again with digest {digest}; use a new key for a new checkpoint"
        )
    return seen(session, row)
