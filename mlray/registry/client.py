"""`Registry`: what a notebook, a job and a Serve replica use, the same everywhere."""

import builtins
import getpass
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from mlray.errors import CorruptArtifact, SchemaError, UnknownName
from mlray.registry.artifacts import ArtifactStore
from mlray.registry.clock import utc_now
from mlray.registry.database import Database
from mlray.registry.model_registry import ModelRegistry
from mlray.registry.model_version import ModelVersion, RunLike, record_of
from mlray.registry.reference import checked_name

if TYPE_CHECKING:
    from mlray.registry.actor import RemoteRegistry

SIGNATURE_FILE = "signature.json"


class Registry:
    """Versions of models by name, and their checkpoints by content.

    Bytes go between the caller and the artifact store; the rules see only digests. Every change is named by a
    random request unless the caller names it, so that a repetition by the transport changes nothing twice.
    """

    def __init__(self, rules: "ModelRegistry | RemoteRegistry", artifacts: ArtifactStore) -> None:
        self._rules = rules
        self._artifacts = artifacts

    @classmethod
    def connect(cls, database_url: str, artifacts_url: str, *, embedded: bool = False) -> Self:
        """The registry over a database and an artifact store, by the cluster's actor.

        `embedded=True` runs the rules in this process, without Ray. ConfigError for a URL that cannot work, where
        Ray is not initialised, and where the cluster's actor serves other URLs.
        """
        artifacts = ArtifactStore(artifacts_url)
        if embedded:
            return cls(ModelRegistry(Database(database_url), artifacts, clock=utc_now), artifacts)
        from mlray.registry.actor import RemoteRegistry  # Ray takes over a second to import

        return cls(RemoteRegistry(database_url, artifacts.url), artifacts)

    def register(
        self, name: str, run: RunLike, *, alias: str | None = None, idempotency_key: str | None = None
    ) -> ModelVersion:
        """Uploads the run's checkpoint and gives it the next version of `name`; `alias` points at it from then on.

        The same `idempotency_key` (1 to 255 characters, per model) with the same checkpoint answers the version
        made the first time; with another checkpoint it is a Conflict.
        """
        checked_name("model", name)
        if alias is not None:
            checked_name("alias", alias)
        signature = _signature(Path(run.checkpoint))
        record = record_of(run, digest=self._artifacts.upload(run.checkpoint), signature=signature)
        request = _request() if idempotency_key is None else idempotency_key
        return self._rules.register(name, record, alias=alias, request=request, who=_os_user())

    def get(self, reference: str) -> ModelVersion:
        """The version that `flights/3` or `flights@candidate` names."""
        return self._rules.get(reference)

    def list(self, name: str | None = None) -> builtins.list[ModelVersion]:
        """The versions of one model, or of all, by name and number."""
        return self._rules.versions(name)

    def models(self) -> builtins.list[str]:
        """The names of all models, sorted."""
        return self._rules.models()

    def set_alias(self, name: str, alias: str, version: int) -> ModelVersion:
        """Points `alias` at a version of `name`, from wherever it pointed before."""
        return self._rules.set_alias(name, alias, version, request=_request(), who=_os_user())

    def remove_alias(self, name: str, alias: str) -> None:
        """Forgets an alias of `name`."""
        self._rules.remove_alias(name, alias, request=_request(), who=_os_user())

    def download(self, version: ModelVersion | str, directory: str | Path) -> Path:
        """A copy of the checkpoint at `directory`, every byte verified; it appears whole or not at all.

        A directory that already holds this checkpoint is verified and kept. CorruptArtifact names the file, the
        SHA-256 wanted and the one got.
        """
        known = self.get(version) if isinstance(version, str) else version
        try:
            return self._artifacts.download(known.digest, directory)
        except (CorruptArtifact, UnknownName) as error:
            raise CorruptArtifact(f"{known.reference}: {error}") from error

    def audit(self, name: str | None = None) -> builtins.list[dict[str, Any]]:
        """The changes of one model, or of all, oldest first."""
        return self._rules.audit(name)

    def check_audit(self) -> str | None:
        """What is wrong first with the chain of changes; None for a whole one."""
        return self._rules.check_audit()


def _signature(checkpoint: Path) -> Mapping[str, Any]:
    path = checkpoint / SIGNATURE_FILE
    try:
        signature = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SchemaError(f"{path} cannot be read ({error}); a checkpoint says there what the model takes") from error
    if not isinstance(signature, dict):
        raise SchemaError(f"{path} holds a JSON {type(signature).__name__}; a signature is an object")
    return signature


def _request() -> str:
    return uuid4().hex


def _os_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user id without a name
        return f"uid {os.getuid()}"
