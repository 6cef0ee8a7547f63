"""The rules of the registry over its tables. Every change writes state and audit row in one transaction.

A change goes through `_changing`, which looks at the caller's token before anything else. Numbers are never taken
back: versions are 1, 2, 3 without gaps. Every change carries a `request`, the name of the call: the same request
again (a retry whose first answer was lost) changes nothing and answers what the first one did.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import Session

from mlray.features.thing import Thing
from mlray.registry import (
    aliases,
    approvals,
    creation,
    definitions,
    janitor,
    labels,
    lifecycle,
    lookup,
    policies,
    stages,
    users,
)
from mlray.registry.answers import Answers
from mlray.registry.artifacts import ArtifactStore
from mlray.registry.audit import applied
from mlray.registry.database import Database
from mlray.registry.definitions import Applying, Done, Dropping
from mlray.registry.evidence import Evidence, evidence_for
from mlray.registry.gates import gates_of, refuse_stopped
from mlray.registry.identity import Call, authenticated
from mlray.registry.janitor import Sweeps, Swept
from mlray.registry.lookup import microseconds, model_row, policy_in_force, seen, version_row
from mlray.registry.model_version import ModelVersion, RegisteredModel, VersionRecord
from mlray.registry.pickles import pickles_of, with_pickles
from mlray.registry.policy import Policy, checked_stage
from mlray.registry.record import checked_record
from mlray.registry.reference import checked_name
from mlray.registry.stages import PRODUCTION
from mlray.registry.transaction import Transaction

NO_TAGS: Mapping[str, str] = {}


class ModelRegistry(Answers):
    """Answers, and changes: of versions, stages, aliases, labels, people, the policy. `clock` tells the aware time of
    a change.
    """

    def __init__(self, database: Database, artifacts: ArtifactStore, *, clock: Callable[[], datetime]) -> None:
        super().__init__(database)
        self._artifacts = artifacts
        self._clock = clock

    def register(
        self,
        name: str,
        record: VersionRecord,
        *,
        alias: str | None,
        description: str = "",
        tags: Mapping[str, str] = NO_TAGS,
        allow_pickle: bool = False,
        call: Call,
    ) -> ModelVersion:
        """The next version of `name`, at which `alias` points from then on.

        Needs the whole artifact in the store, and no pickle in it unless `allow_pickle`. A request that was served
        before answers the version of that time; Conflict where it comes again with another digest.
        """
        checked_name("model", name)
        if alias is not None:
            checked_name("alias", alias)
        creation.refuse_claims(record)
        told = creation.Labels(description=description, tags=tags)
        sweeps = self._sweeps(call)
        manifest = self._artifacts.require(checked_record(record).digest)
        refuse_stopped(gates_of(self._artifacts, manifest, record.run_id), record.run_id)
        record = with_pickles(record, pickles_of(self._artifacts, manifest), allow_pickle)
        with self._changing(call) as tx:
            if (earlier := tx.repeated("register", model=name)) is not None:
                return seen(tx.session, creation.made_before(tx, earlier, digest=record.digest))
            if sweeps.beside(tx.session):
                self._artifacts.require(record.digest)
            row = creation.add_version(tx, "register", name, record, told)
            if alias is not None:
                aliases.set_alias(tx, row, alias)
            return seen(tx.session, row)

    def register_source(
        self,
        name: str,
        source: str,
        *,
        run_id: str = "",
        description: str = "",
        tags: Mapping[str, str] = NO_TAGS,
        call: Call,
    ) -> ModelVersion:
        """The next version of `name`, of bytes that nobody has verified: `source`, a URI, says where they are.

        It stays in None unless the policy says `unverified_sources`. A request that was served before answers the
        version of that time; Conflict where it comes again and says anything else.
        """
        record = checked_record(creation.source_record(source, run_id))
        told = creation.Labels(description=description, tags=tags)
        with self._changing(call) as tx:
            if (earlier := tx.repeated("register_source", model=name)) is not None:
                same = {"source": source, "run_id": run_id, **told.asked()}
                return seen(tx.session, creation.made_before(tx, earlier, **same))
            return seen(tx.session, creation.add_version(tx, "register_source", name, record, told))

    def copy(self, name: str, version: int, to: str, *, call: Call) -> ModelVersion:
        """The version's bytes as the next version of `to`: in stage None, without approvals and aliases.

        Description and tags come along; `copy_of` in its provenance names what it is a copy of.
        """
        with self._changing(call) as tx:
            if (earlier := tx.repeated("copy", model=to)) is not None:
                return seen(tx.session, creation.made_before(tx, earlier, copy_of=f"{name}/{version}"))
            return seen(tx.session, creation.copy_version(tx, version_row(tx.session, name, version), to))

    def create_model(
        self, name: str, *, description: str = "", tags: Mapping[str, str] = NO_TAGS, call: Call
    ) -> RegisteredModel:
        """A model without versions; AlreadyExists where it is there."""
        told = creation.Labels(description=description, tags=tags)
        with self._changing(call) as tx:
            if tx.repeated("create_model", model=name, **told.asked()) is None:
                creation.create_model(tx, name, told)
            return lookup.models(tx.session, [model_row(tx.session, name)])[0]

    def rename_model(self, name: str, new_name: str, *, call: Call) -> RegisteredModel:
        """The model under another name, with its numbers, stages, approvals, aliases, tags and history.

        Where a version takes traffic, or has, it takes a role in `withdraw`. Conflict for a name that another model has
        or had.
        """
        with self._changing(call) as tx:
            if tx.repeated("rename_model", model=name, name=new_name) is None:
                lifecycle.rename_model(tx, model_row(tx.session, name), new_name)
            return lookup.models(tx.session, [model_row(tx.session, new_name)])[0]

    def delete_model(self, name: str, *, call: Call) -> None:
        """Ends a model and its versions; the numbers go on where one of this name is made again.

        Where a version takes traffic, or has, it takes a role in `withdraw`.
        """
        with self._changing(call) as tx:
            if tx.repeated("delete_model", model=name) is None:
                lifecycle.delete_model(tx, model_row(tx.session, name))

    def delete_version(self, name: str, version: int, *, row_version: int | None = None, call: Call) -> None:
        """Ends a version, with its aliases, tags and approvals; its number is not given again.

        Where it takes traffic, or has, it takes a role in `withdraw`. `row_version`: as in `promote`.
        """
        with self._changing(call) as tx:
            if tx.repeated("delete_version", model=name, version=version) is None:
                lifecycle.delete_version(tx, version_row(tx.session, name, version), row_version)

    def describe(self, name: str, description: str, *, version: int | None = None, call: Call) -> None:
        """Another description of a model, or of one of its versions."""
        with self._changing(call) as tx:
            if tx.repeated("describe", model=name, version=version, description=description) is None:
                labels.describe(tx, labels.labelled(tx.session, name, version), description)

    def set_tag(self, name: str, key: str, value: str, *, version: int | None = None, call: Call) -> None:
        """A tag of a model, or of one of its versions, over the one of this key. No rule reads it."""
        with self._changing(call) as tx:
            if tx.repeated("set_tag", model=name, version=version, key=key, value=value) is None:
                labels.set_tag(tx, labels.labelled(tx.session, name, version), key, value)

    def delete_tag(self, name: str, key: str, *, version: int | None = None, call: Call) -> None:
        """Forgets a tag; UnknownName where there is none of this key."""
        with self._changing(call) as tx:
            if tx.repeated("delete_tag", model=name, version=version, key=key) is None:
                labels.delete_tag(tx, labels.labelled(tx.session, name, version), key)

    def set_alias(self, name: str, alias: str, version: int, *, call: Call) -> ModelVersion:
        """Points `alias` at a version of `name`, from wherever it pointed before."""
        checked_name("alias", alias)
        with self._changing(call) as tx:
            row = version_row(tx.session, name, version)
            if tx.repeated("set_alias", model=name, alias=alias, version=version) is None:
                aliases.set_alias(tx, row, alias)
            return seen(tx.session, row)

    def remove_alias(self, name: str, alias: str, *, call: Call) -> None:
        """Forgets `alias`; UnknownName where `name` has none of that name."""
        with self._changing(call) as tx:
            model_row(tx.session, name)
            if tx.repeated("remove_alias", model=name, alias=alias) is None:
                aliases.remove_alias(tx, name, alias)

    def promote(self, name: str, version: int, *, stage: str, row_version: int | None, call: Call) -> ModelVersion:
        """Moves a version to a stage as the policy allows; what it replaces there is archived in the same change.

        row_version: the caller's reading of the version, Conflict where it has moved since; None: any. NotApproved
        says what the version lacks.
        """
        checked_stage(stage)
        evidence = self._evidence(name, version, stage, call)
        with self._changing(call) as tx:
            row = version_row(tx.session, name, version)
            if tx.repeated("promote", model=name, version=version, stage=stage) is None:
                stages.promote(tx, policy_in_force(tx.session), row, stage, evidence, row_version)
            return seen(tx.session, row)

    def rollback(
        self, name: str, *, version: int | None = None, row_version: int | None = None, call: Call
    ) -> ModelVersion:
        """Puts the last approved Production back, and archives the one that is there. Needs no new approval.

        version, row_version: the caller's reading of Production, Conflict where it has changed since; None: any, and
        Conflict right after another rollback.
        """
        with self._reading_for(call) as session:
            model_row(session, name)
            repeated = applied(session, model=name, action="rollback", request=call.request)
            target = None if repeated else stages.rollback_target(session, name)[0]
        if target is not None and target.digest:
            manifest = self._artifacts.verify(target.digest)
            stages.require_no_pickles(f"{name}/{target.version}", PRODUCTION, pickles_of(self._artifacts, manifest))
        with self._changing(call) as tx:
            earlier = tx.repeated("rollback", model=name)
            if earlier is not None or target is None:
                done = (earlier.after or {}) if earlier is not None else {}
                return seen(tx.session, version_row(tx.session, name, done["version"]))
            policy = policy_in_force(tx.session)
            tx.caller.require(policy.withdraw, f"roll {name} back")
            known = stages.InProduction(version=version, row_version=row_version)
            return seen(tx.session, stages.roll_back(tx, policy, name, target.id, known))

    def approve(self, name: str, version: int, *, stage: str, role: str, call: Call) -> None:
        """The caller's approval, in a role that the caller holds, of the version's bytes for a stage."""
        checked_stage(stage)
        evidence = self._evidence(name, version, stage, call)
        with self._changing(call) as tx:
            row = version_row(tx.session, name, version)
            if tx.repeated("approve", model=name, version=version, stage=stage, role=role) is None:
                policy = policy_in_force(tx.session)
                stages.require_verified(row, evidence)
                stages.require_bytes(policy, row, stage)
                approvals.approve(tx, policy, row, stage, role)

    def revoke_approval(self, name: str, version: int, *, stage: str, call: Call) -> None:
        """Takes back what the caller approved; UnknownName where that is nothing."""
        checked_stage(stage)
        with self._changing(call) as tx:
            row = version_row(tx.session, name, version)
            if tx.repeated("revoke_approval", model=name, version=version, stage=stage) is None:
                approvals.revoke_approval(tx, row, stage)

    def set_policy(self, document: Mapping[str, Any], *, call: Call) -> Policy:
        """Puts a policy in force, by an admin; what was approved before no longer counts. The policy in force then.

        Conflict where an alias that it protects points elsewhere than at Production.
        """
        policy = Policy.parse(document)
        with self._changing(call) as tx:
            if tx.repeated("set_policy", policy=policy.revision) is None:
                policies.put_in_force(tx, policy)
            return policy_in_force(tx.session)

    def drop_definition(self, thing: Thing, catalog: Dropping[Done], *, call: Call) -> Done:
        """Takes a view, a source or a service out of force; what `catalog` answers. Conflict where a version in
        Production or Canary reads it; none that reads it gets there until it is applied again.
        """
        return definitions.drop(lambda: self._changing(call), thing, catalog)

    def apply_again(self, definition: str, catalog: Applying[Done], *, call: Call) -> Done:
        """Puts a service in force, by its text, of which something was dropped; what `catalog` answers."""
        return definitions.apply_again(lambda: self._changing(call), definition, catalog)

    def add_user(self, name: str, token_sha256: str, roles: tuple[str, ...], *, call: Call) -> None:
        """A user with roles; the first one of a registry is an admin besides, and may be added by anybody."""
        with self._database.write() as session:
            # Asked first: repeated, the call that made the first user would need the token that it made.
            if applied(session, model="", action="add_user", request=call.request) is None:
                users.add_user(Transaction(session, call, at=self._now()), name, token_sha256, roles)

    def renew_token(self, name: str, token_sha256: str, *, call: Call) -> None:
        """Another token for a user, whose earlier one ends."""
        with self._changing(call) as tx:
            if tx.repeated("renew_token", user=name, token_sha256=token_sha256) is None:
                users.renew_token(tx, name, token_sha256)

    def grant(self, name: str, role: str, *, call: Call) -> None:
        """A role for a user."""
        with self._changing(call) as tx:
            if tx.repeated("grant", user=name, role=role) is None:
                users.grant(tx, name, role)

    def revoke(self, name: str, role: str, *, call: Call) -> None:
        """Takes a role away, and with it what was approved in it and not yet used."""
        with self._changing(call) as tx:
            if tx.repeated("revoke", user=name, role=role) is None:
                users.revoke(tx, name, role)

    def disable(self, name: str, *, call: Call) -> None:
        """Ends a user."""
        with self._changing(call) as tx:
            if tx.repeated("disable", user=name) is None:
                users.disable(tx, name)

    def sweep(self, *, grace: timedelta, dry_run: bool, call: Call) -> Swept:
        """Removes from the artifact store what is older than `grace` and no version names, by an admin; what a deleted
        version named stays for as long. dry_run: only tells.
        """
        return janitor.sweep(self._artifacts, lambda: self._changing(call), self._clock() - grace, dry_run)

    def _evidence(self, name: str, version: int, stage: str, call: Call) -> Evidence:
        with self._reading_for(call) as session:
            row = version_row(session, name, version)
            digest, run_id = row.digest, row.run_id
        return evidence_for(self._artifacts, digest, run_id, stage)

    def _sweeps(self, call: Call) -> Sweeps:
        with self._reading_for(call) as session:
            return Sweeps.seen(session)

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
