"""`Registry`: what a notebook, a job and a Serve replica use, the same everywhere."""

import getpass
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Self, TypedDict, TypeVar, cast
from uuid import uuid4

from mlray.errors import CorruptArtifact, SchemaError, UnknownName
from mlray.features.thing import Thing
from mlray.registry.artifacts import ArtifactStore
from mlray.registry.clock import utc_now
from mlray.registry.database import Database
from mlray.registry.definitions import Applying, Dropping
from mlray.registry.identity import Call
from mlray.registry.janitor import Swept
from mlray.registry.model_registry import ModelRegistry
from mlray.registry.model_version import ModelVersion, RegisteredModel, RunLike, record_of
from mlray.registry.policy import Policy
from mlray.registry.reader import Reader
from mlray.registry.record import checked_record
from mlray.registry.reference import checked_name
from mlray.registry.user_client import Users

SIGNATURE_FILE = "signature.json"
GRACE = timedelta(days=7)
Done = TypeVar("Done")


class Said(TypedDict):
    """What is said about a version when it is made."""

    description: str
    tags: Mapping[str, str]


class Registry(Reader):
    """What a caller can look at and change.

    Bytes go between the caller and the artifact store; the rules see only digests. Every change is named by a
    random request unless the caller names it, so that a repetition by the transport changes nothing twice.
    """

    def __init__(self, rules: ModelRegistry, artifacts: ArtifactStore, token: str | None = None) -> None:
        super().__init__(rules, artifacts)
        self._token = token

    @classmethod
    def connect(
        cls, database_url: str, artifacts_url: str, *, embedded: bool = False, token: str | None = None
    ) -> Self:
        """The registry over a database and an artifact store, by the cluster's actor.

        `embedded=True` runs the rules in this process, without Ray. `token` says who asks for changes; a registry
        without any user takes them without one. ConfigError for a URL that cannot work, where Ray is not
        initialised, and where the cluster's actor serves other URLs.
        """
        artifacts = ArtifactStore(artifacts_url)
        if embedded:
            return cls(ModelRegistry(Database(database_url), artifacts, clock=utc_now), artifacts, token)
        from mlray.registry.actor import RemoteRegistry  # Ray takes over a second to import

        return cls(cast(ModelRegistry, RemoteRegistry(database_url, artifacts.url)), artifacts, token)

    def acting(self, token: str | None) -> Self:
        """The same registry for the holder of another token."""
        return type(self)(self._rules, self._artifacts, token)

    @property
    def users(self) -> Users:
        """Who may do what: added, granted, revoked, disabled by an admin."""
        return Users(self._rules, self._call)

    def create(self, name: str, *, description: str = "", tags: Mapping[str, str] | None = None) -> RegisteredModel:
        """A model without versions, to describe it before the first; AlreadyExists where it is there."""
        return self._rules.create_model(name, description=description, tags=tags or {}, call=self._call())

    def register(
        self,
        name: str,
        run: RunLike,
        *,
        alias: str | None = None,
        description: str = "",
        tags: Mapping[str, str] | None = None,
        allow_pickle: bool = False,
        idempotency_key: str | None = None,
    ) -> ModelVersion:
        """Uploads the run's checkpoint and gives it the next version of `name`; `alias` points at it from then on.

        The same `idempotency_key` (1 to 255 characters, per model) with the same checkpoint answers the version
        made the first time; with another checkpoint, or of another user, it is a Conflict. PickleRefused for a
        checkpoint that holds a pickle, unless `allow_pickle`: such a version never goes beyond Staging.
        """
        checked_name("model", name)
        if alias is not None:
            checked_name("alias", alias)
        record = checked_record(record_of(run, digest="", signature=_signature(Path(run.checkpoint))))
        said: Said = {"description": description, "tags": tags or {}}
        call = self._call(request=idempotency_key)

        def register() -> ModelVersion:
            whole = replace(record, digest=self._artifacts.upload(run.checkpoint))
            return self._rules.register(name, whole, alias=alias, allow_pickle=allow_pickle, call=call, **said)

        try:
            return register()
        except (CorruptArtifact, UnknownName):  # a janitor took what was there already: now it is uploaded anew
            return register()

    def register_source(
        self,
        name: str,
        source: str,
        *,
        run_id: str = "",
        description: str = "",
        tags: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> ModelVersion:
        """The next version of `name`, whose bytes lie at `source`, such as `runs:/abc/model`, and nobody has verified.

        It cannot leave None unless the policy says `unverified_sources`.
        """
        said: Said = {"description": description, "tags": tags or {}}
        call = self._call(request=idempotency_key)
        return self._rules.register_source(name, source, run_id=run_id, call=call, **said)

    def copy(self, version: ModelVersion | str, to: str) -> ModelVersion:
        """The version's bytes as the next version of another model, where they start anew: no stage, no approval, no
        alias. Who registered them is an author of the copy too.
        """
        known = self._known(version)
        return self._rules.copy(known.name, known.version, to, call=self._call())

    def rename(self, name: str, new_name: str, *, why: str = "") -> RegisteredModel:
        """The same model under another name, which no other has or had; all else stays. What serves `fraud/Production`
        asks for the old name: where a version takes traffic, or has, it takes one of the policy's roles in `withdraw`.
        """
        return self._rules.rename_model(name, new_name, call=self._call(why))

    def delete(self, name: str, *, why: str = "") -> None:
        """Ends a model and its versions; what remains is the audit. Its numbers go on where the name is used again.

        Where a version takes traffic, or has, it takes one of the roles in `withdraw`.
        """
        self._rules.delete_model(name, call=self._call(why))

    def delete_version(self, version: ModelVersion | str, *, why: str = "") -> None:
        """Ends a version; its number is not given again. Roles as in `delete`; Conflict where a ModelVersion has moved
        since.
        """
        known, seen = self._known(version), self._seen(version)
        self._rules.delete_version(known.name, known.version, row_version=seen, call=self._call(why))

    def describe(self, what: ModelVersion | str, description: str) -> None:
        """Another description of a model (`fraud`) or of a version (`fraud/3`)."""
        name, version = self._named(what)
        self._rules.describe(name, description, version=version, call=self._call())

    def tag(self, what: ModelVersion | str, key: str, value: str) -> None:
        """A tag of a model (`fraud`) or of a version (`fraud/3`), over the one of this key. No rule reads it."""
        name, version = self._named(what)
        self._rules.set_tag(name, key, value, version=version, call=self._call())

    def untag(self, what: ModelVersion | str, key: str) -> None:
        """Forgets a tag; UnknownName where there is none of this key."""
        name, version = self._named(what)
        self._rules.delete_tag(name, key, version=version, call=self._call())

    def set_alias(self, name: str, alias: str, version: int) -> ModelVersion:
        """Points `alias` at a version of `name`, from wherever it pointed before."""
        return self._rules.set_alias(name, alias, version, call=self._call())

    def remove_alias(self, name: str, alias: str) -> None:
        """Forgets an alias of `name`."""
        self._rules.remove_alias(name, alias, call=self._call())

    def approve(self, version: ModelVersion | str, *, stage: str, role: str, why: str = "") -> None:
        """The token's user says, in a role that the policy asks for, that this version may enter the stage.

        It holds for these very bytes under this policy, and for one promotion. Forbidden for an author of the bytes
        and for who does not hold the role.
        """
        known = self._known(version)
        self._rules.approve(known.name, known.version, stage=stage, role=role, call=self._call(why))

    def revoke_approval(self, version: ModelVersion | str, *, stage: str, why: str = "") -> None:
        """Takes the caller's own approval back. A promotion that has used it stands; no rollback returns to it."""
        known = self._known(version)
        self._rules.revoke_approval(known.name, known.version, stage=stage, call=self._call(why))

    def promote(self, version: ModelVersion | str, *, stage: str, why: str = "") -> ModelVersion:
        """Moves a version to a stage; in Canary and Production it replaces the one that is there, which is archived.

        NotApproved says what is missing. A ModelVersion stands for what the caller has seen: Conflict where it has
        moved since. A reference stands for whatever it names now.
        """
        known, seen = self._known(version), self._seen(version)
        return self._rules.promote(known.name, known.version, stage=stage, row_version=seen, call=self._call(why))

    def rollback(self, what: ModelVersion | str, *, why: str = "") -> ModelVersion:
        """Puts the last approved Production of a model (`fraud`) back, without new approvals; the present one is
        archived. A version (`fraud/3`) says which one that is: Conflict where it is another. Right after a rollback
        only a version is taken, so that one which is repeated goes back once.
        """
        (name, version), seen = self._named(what), self._seen(what)
        return self._rules.rollback(name, version=version, row_version=seen, call=self._call(why))

    def set_policy(self, policy: Policy, *, why: str = "") -> Policy:
        """Puts a policy in force, by an admin. Approvals given under another one no longer count."""
        return self._rules.set_policy(policy.to_json(), call=self._call(why))

    def drop_definition(self, thing: Thing, catalog: Dropping[Done]) -> Done:
        """Takes a view, a source or a service out of force, by what `catalog` does; see `mlray.discovery.drop`."""
        return self._rules.drop_definition(thing, catalog, call=self._call())

    def apply_again(self, definition: str, catalog: Applying[Done]) -> Done:
        """Puts a service in force of which something was dropped, by what `catalog` does: see `mlray.discovery`."""
        return self._rules.apply_again(definition, catalog, call=self._call())

    def janitor(self, *, grace: timedelta = GRACE, dry_run: bool = False, why: str = "") -> Swept:
        """Removes the bytes that no version names and that are older than the grace period, by an admin; what a deleted
        version named stays for as long. dry_run: only tells what would go.
        """
        return self._rules.sweep(grace=grace, dry_run=dry_run, call=self._call(why))

    def _seen(self, version: ModelVersion | str) -> int | None:
        return None if isinstance(version, str) else version.row_version

    def _named(self, what: ModelVersion | str) -> tuple[str, int | None]:
        if isinstance(what, str) and "/" not in what and "@" not in what:
            return what, None
        known = self._known(what)
        return known.name, known.version

    def _call(self, why: str = "", *, request: str | None = None) -> Call:
        name = uuid4().hex if request is None else request
        return Call(request=name, token=self._token, user=_os_user(), why=why)


def _signature(checkpoint: Path) -> Mapping[str, Any]:
    path = checkpoint / SIGNATURE_FILE
    try:
        signature = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise SchemaError(f"{path} cannot be read ({error}); a checkpoint says there what the model takes") from error
    if not isinstance(signature, dict):
        raise SchemaError(f"{path} holds a JSON {type(signature).__name__}; a signature is an object")
    return signature


def _os_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user id without a name
        return f"uid {os.getuid()}"
